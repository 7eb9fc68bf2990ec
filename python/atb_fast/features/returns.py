"""Features of the causal recipe: returns, ratios and ranges, without look-ahead bias."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from atb_fast._core import merge, rsi, sma
from atb_fast.config import TIMEFRAMES
from atb_fast.features.frames import epoch_ms
from atb_fast.features.sentiment import index_features, neutral_value

PRICE_COLUMNS = (
    *("return_1", "open_to_close", "high_to_close", "low_to_close"),
    *("close_to_sma_7", "close_to_sma_14", "close_to_sma_30", "volume_to_sma_30", "rsi_14"),
)


SENTIMENT_COLUMNS = (
    *("sentiment_primary", "sentiment_momentum", "sentiment_volatility"),
    *("sentiment_ma_3", "sentiment_ma_7", "sentiment_ma_14"),
    *("sentiment_extreme_positive", "sentiment_extreme_negative", "sentiment_missing"),
)


#: Rows until the RSI no longer depends on where the candles begin: by then, the weight of the first
#: value in Wilder's average of 14 is (13/14)^400 = 1e-13. Earlier rows are not scored.
SETTLED = 400


def columns(
    candles: pl.DataFrame, index: pl.DataFrame | Literal["neutral"] | None, *, lag_days: int
) -> pl.DataFrame:
    """Return `candles` with the causal columns, null in rows with too few rows before them.

    - `return_1`: log return since the row before.
    - `open_to_close`, `high_to_close`, `low_to_close`: log of the close divided by each.
    - `close_to_sma_n`: close divided by its mean over n rows, minus 1.
    - `volume_to_sma_30`: log(1 + volume divided by its mean over 30 rows); 0 without volume.
    - `rsi_14`: Wilder's RSI divided by 100.
    - `sentiment_*`: the columns of `sentiment.index_features` in the newest row of the index that
      was at least `lag_days` old when the candle opened; neutral values if there is none.
    - `sentiment_missing`: 1 if there is no such row, or if it is at least a day older than that.

    This must not use Polars' thread pool, because scoring must work in a forked process.

    Args:
        candles: Ascending; open, high, low, close, volume; prices above 0.
        index: The complete Fear & Greed index, timestamp and value; or `neutral`. If None, there
            are no sentiment columns.
        lag_days: Minimum age in days of a row of the index.
    """
    opened, high, low, close, volume = (
        candles[name].to_numpy() for name in ("open", "high", "low", "close", "volume")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(close)
        usual = sma(volume, 30)
        made = {
            "return_1": np.diff(logs, prepend=np.nan),
            "open_to_close": logs - np.log(opened),
            "high_to_close": logs - np.log(high),
            "low_to_close": logs - np.log(low),
            **{f"close_to_sma_{n}": close / sma(close, n) - 1.0 for n in (7, 14, 30)},
            # The ratio is undefined if nothing was traded for 30 bars.
            "volume_to_sma_30": np.log1p(np.where(usual == 0.0, 0.0, volume / usual)),
            "rsi_14": rsi(close, 14, method="wilder") / 100.0,
        }
    added = [pl.Series(name, made[name], nan_to_null=True) for name in PRICE_COLUMNS]
    if index is not None:
        added += _sentiment(candles, index, lag_days)
    return candles.hstack(added)


def _sentiment(
    candles: pl.DataFrame, index: pl.DataFrame | Literal["neutral"], lag_days: int
) -> list[pl.Series]:
    day = TIMEFRAMES["1d"]
    neutral = {name: neutral_value(name) for name in SENTIMENT_COLUMNS}
    if isinstance(index, str) or index.is_empty():
        neutral["sentiment_missing"] = 0.0 if isinstance(index, str) else 1.0
        return [pl.Series(name, np.full(len(candles), neutral[name])) for name in SENTIMENT_COLUMNS]
    rows = index_features(index)
    stamps = epoch_ms(rows["timestamp"])
    rows = rows.hstack([pl.Series("stamp", stamps.astype(np.float64))])
    names = [name for name in rows.columns if name != "timestamp"]
    merged = pl.DataFrame(merge(candles, rows, names, how="asof", lag_ms=lag_days * day))
    # Milliseconds from the row that was found to the newest midnight that the lag allows.
    due = epoch_ms(candles["timestamp"]) - lag_days * day
    age = due - due % day - merged["stamp"].to_numpy()
    filled = {"sentiment_missing": np.where(age <= 0, 0.0, 1.0)}  # 1 also if the age is NaN
    for name in SENTIMENT_COLUMNS[:-1]:
        values = merged[name].to_numpy()
        filled[name] = np.where(np.isnan(values), neutral[name], values)
    return [pl.Series(name, filled[name]) for name in SENTIMENT_COLUMNS]
