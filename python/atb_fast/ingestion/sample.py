"""The sample market: synthetic candles and sentiment that need no network.

Prices follow a random walk with volatility clustering (a GARCH(1,1) process, Bollerslev 1986). They
say nothing about any real market. A symbol and a timeframe always give the same candles.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime

import numpy as np
import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.ingestion.spans import DAY_MS

FIRST_DAY = datetime(2018, 1, 1, tzinfo=UTC)
LAST_DAY = datetime(2024, 12, 31, tzinfo=UTC)
_FIRST_SENTIMENT = datetime(2018, 2, 1, tzinfo=UTC)


def candles(symbol: str, timeframe: str) -> pl.DataFrame:
    """Return synthetic candles from `FIRST_DAY` to `LAST_DAY`.

    Returns:
        timestamp (ms, UTC) and open, high, low, close, volume (float64), without gaps.
    """
    step = TIMEFRAMES[timeframe]
    start, end = (int(day.timestamp() * 1000) for day in (FIRST_DAY, LAST_DAY))
    times = np.arange(start, end + DAY_MS, step)
    rng = np.random.default_rng(zlib.crc32(f"{symbol}:{timeframe}".encode()))
    n = len(times)

    shocks = rng.standard_normal(n)
    returns = _garch(shocks, daily_volatility=0.03, bars_per_day=DAY_MS / step)
    close = 8_000.0 * np.exp(np.cumsum(returns))
    open_ = np.concatenate(([8_000.0], close[:-1]))
    # On average, wicks are about half as long as the body.
    wicks = np.abs(rng.standard_normal((2, n))) * 0.5 * np.abs(returns) + 1e-5
    high = np.maximum(open_, close) * np.exp(wicks[0])
    low = np.minimum(open_, close) * np.exp(-wicks[1])
    volume = np.exp(rng.standard_normal(n) * 0.4) * 1_000.0 * (1.0 + 20.0 * np.abs(returns))
    columns = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
    return pl.DataFrame({"timestamp": times, **columns}).with_columns(
        pl.col("timestamp").cast(pl.Datetime("ms", "UTC")),
        pl.col("open", "high", "low", "close").round(2),
        pl.col("volume").round(6),
    )


def sentiment() -> pl.DataFrame:
    """Return a synthetic daily index from 0 to 100 that drifts slowly between fear and greed.

    Returns:
        timestamp (ms, UTC midnight) and value (float64, whole numbers).
    """
    days = pl.datetime_range(_FIRST_SENTIMENT, LAST_DAY, "1d", time_unit="ms", eager=True)
    rng = np.random.default_rng(zlib.crc32(b"fear and greed"))
    walk = np.zeros(len(days))
    for i, shock in enumerate(rng.standard_normal(len(days))[1:], start=1):
        walk[i] = 0.95 * walk[i - 1] + 0.35 * shock
    value = np.clip(np.round(50.0 + 22.0 * walk), 0.0, 100.0)
    return pl.DataFrame({"timestamp": days, "value": value})


def _garch(
    shocks: np.ndarray[tuple[int], np.dtype[np.float64]],
    *,
    daily_volatility: float,
    bars_per_day: float,
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return log returns with the variance `0.02 v + 0.08 r^2 + 0.90 variance`.

    `v` is the long-run variance of a bar; `r` and `variance` are those of the previous bar.
    """
    long_run = daily_volatility**2 / bars_per_day
    returns = np.empty(len(shocks))
    variance = long_run
    for i, shock in enumerate(shocks.tolist()):
        returns[i] = value = shock * variance**0.5
        variance = 0.02 * long_run + 0.08 * value * value + 0.90 * variance
    return returns
