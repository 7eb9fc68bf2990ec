"""158 features modeled on qlib's Alpha158, as expressions of atb-fast, in Polars and in pandas.

They are 9 candle shapes, 4 price ratios, and 29 rolling families over 5 windows. Candles have no
volume-weighted average price, so VWAP0 is the mean of high, low and close. Definitions:
https://github.com/microsoft/qlib, `Alpha158DL`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

WINDOWS = (5, 10, 20, 30, 60)
#: Rows at the start of a frame that lack a feature: 60 changes need 61 rows.
WARMUP = 60
#: Avoids division by zero where a candle, a price or the volume does not move.
TINY = 1e-12

CANDLE = {
    "KMID": "(close - open) / open",
    "KLEN": "(high - low) / open",
    "KMID2": "(close - open) / (high - low + 1e-12)",
    "KUP": "(high - maximum(open, close)) / open",
    "KUP2": "(high - maximum(open, close)) / (high - low + 1e-12)",
    "KLOW": "(minimum(open, close) - low) / open",
    "KLOW2": "(minimum(open, close) - low) / (high - low + 1e-12)",
    "KSFT": "(2 * close - high - low) / open",
    "KSFT2": "(2 * close - high - low) / (high - low + 1e-12)",
    "OPEN0": "open / close",
    "HIGH0": "high / close",
    "LOW0": "low / close",
    "VWAP0": "(high + low + close) / 3 / close",
}
ROLLING = {
    "ROC": "lag(close, {n}) / close",
    "MA": "mean(close, {n}) / close",
    "STD": "std(close, {n}) / close",
    "BETA": "slope(close, {n}) / close",
    "RSQR": "rsquare(close, {n})",
    "RESI": "resid(close, {n}) / close",
    "MAX": "max(high, {n}) / close",
    "MIN": "min(low, {n}) / close",
    "QTLU": "quantile(close, {n}, 0.8) / close",
    "QTLD": "quantile(close, {n}, 0.2) / close",
    "RANK": "rank(close, {n})",
    "RSV": "(close - min(low, {n})) / (max(high, {n}) - min(low, {n}) + 1e-12)",
    "IMAX": "(argmax(high, {n}) + 1) / {n}",
    "IMIN": "(argmin(low, {n}) + 1) / {n}",
    "IMXD": "(argmax(high, {n}) - argmin(low, {n})) / {n}",
    "CORR": "corr(close, log(volume + 1), {n})",
    "CORD": "corr(close / lag(close, 1), log(volume / lag(volume, 1) + 1), {n})",
    "CNTP": "count(close > lag(close, 1), {n}) / {n}",
    "CNTN": "count(close < lag(close, 1), {n}) / {n}",
    "CNTD": "(count(close > lag(close, 1), {n}) - count(close < lag(close, 1), {n})) / {n}",
    "SUMP": "sum(maximum(diff(close, 1), 0), {n}) / (sum(abs(diff(close, 1)), {n}) + 1e-12)",
    "SUMN": "sum(maximum(-diff(close, 1), 0), {n}) / (sum(abs(diff(close, 1)), {n}) + 1e-12)",
    "SUMD": "(sum(maximum(diff(close, 1), 0), {n}) - sum(maximum(-diff(close, 1), 0), {n}))"
    " / (sum(abs(diff(close, 1)), {n}) + 1e-12)",
    "VMA": "mean(volume, {n}) / (volume + 1e-12)",
    "VSTD": "std(volume, {n}) / (volume + 1e-12)",
    "WVMA": "std(abs(close / lag(close, 1) - 1) * volume, {n})"
    " / (mean(abs(close / lag(close, 1) - 1) * volume, {n}) + 1e-12)",
    "VSUMP": "sum(maximum(diff(volume, 1), 0), {n}) / (sum(abs(diff(volume, 1)), {n}) + 1e-12)",
    "VSUMN": "sum(maximum(-diff(volume, 1), 0), {n}) / (sum(abs(diff(volume, 1)), {n}) + 1e-12)",
    "VSUMD": "(sum(maximum(diff(volume, 1), 0), {n}) - sum(maximum(-diff(volume, 1), 0), {n}))"
    " / (sum(abs(diff(volume, 1)), {n}) + 1e-12)",
}
#: The family of each feature, by name.
FAMILIES = {
    **dict.fromkeys(CANDLE, "candle"),
    **{f"{family}{n}": family for family in ROLLING for n in WINDOWS},
}


def texts() -> dict[str, str]:
    """Return the 158 expressions by name."""
    rolling = {f"{family}{n}": t.format(n=n) for family, t in ROLLING.items() for n in WINDOWS}
    return {**CANDLE, **rolling}


def line_weights(n: int) -> NDArray[np.float64]:
    """Return the weights of the last `n` values in their least-squares slope per row."""
    steps = np.arange(n) - (n - 1) / 2
    return steps / (steps @ steps)


@cache
def polars_expressions() -> dict[str, pl.Expr]:
    """Return the same features as Polars expressions by name; they need the row number `row`."""
    opening, high, low, close = map(pl.col, ("open", "high", "low", "close"))
    top, bottom = pl.max_horizontal(opening, close), pl.min_horizontal(opening, close)
    found = _single_bar(opening, high, low, close, top, bottom)
    rolling = {n: _polars_rolling(n) for n in WINDOWS}
    for family in ROLLING:
        for n in WINDOWS:
            found[f"{family}{n}"] = rolling[n][family]
    return found


def _polars_rolling(n: int) -> dict[str, pl.Expr]:
    high, low, close, volume = map(pl.col, ("high", "low", "close", "volume"))
    change, flow = close - close.shift(1), volume - volume.shift(1)
    ratio = close / close.shift(1)
    weighted = (ratio - 1).abs() * volume
    weights = line_weights(n)
    slope = close.rolling_sum(n, weights=weights.tolist())
    moves, flows = change.abs().rolling_sum(n) + TINY, flow.abs().rolling_sum(n) + TINY
    gain, loss = _polars_sides(change, n)
    inflow, outflow = _polars_sides(flow, n)
    up = (change > 0).cast(pl.Float64).rolling_mean(n)
    down = (change < 0).cast(pl.Float64).rolling_mean(n)
    # Polars has no rolling arg_max. The first windows are incomplete.
    whole = pl.col("row") >= n - 1
    imax = pl.when(whole).then(high.arg_max().rolling("row", period=f"{n}i").cast(pl.Float64) + 1)
    imin = pl.when(whole).then(low.arg_min().rolling("row", period=f"{n}i").cast(pl.Float64) + 1)
    lowest, highest = low.rolling_min(n), high.rolling_max(n)
    return {
        "ROC": close.shift(n) / close,
        "MA": close.rolling_mean(n) / close,
        "STD": close.rolling_std(n) / close,
        "BETA": slope / close,
        # The part of the variance that the line explains.
        "RSQR": slope**2 / (weights @ weights * (n - 1)) / close.rolling_var(n),
        "RESI": (close - close.rolling_mean(n) - slope * ((n - 1) / 2)) / close,
        "MAX": highest / close,
        "MIN": lowest / close,
        "QTLU": close.rolling_quantile(0.8, "linear", n) / close,
        "QTLD": close.rolling_quantile(0.2, "linear", n) / close,
        "RANK": close.rolling_rank(n) / n,
        "RSV": (close - lowest) / (highest - lowest + TINY),
        "IMAX": imax / n,
        "IMIN": imin / n,
        "IMXD": (imax - imin) / n,
        "CORR": pl.rolling_corr(close, (volume + 1).log(), window_size=n),
        "CORD": pl.rolling_corr(ratio, (volume / volume.shift(1) + 1).log(), window_size=n),
        "CNTP": up,
        "CNTN": down,
        "CNTD": up - down,
        "SUMP": gain / moves,
        "SUMN": loss / moves,
        "SUMD": (gain - loss) / moves,
        "VMA": volume.rolling_mean(n) / (volume + TINY),
        "VSTD": volume.rolling_std(n) / (volume + TINY),
        "WVMA": weighted.rolling_std(n) / (weighted.rolling_mean(n) + TINY),
        "VSUMP": inflow / flows,
        "VSUMN": outflow / flows,
        "VSUMD": (inflow - outflow) / flows,
    }


def _polars_sides(change: pl.Expr, n: int) -> tuple[pl.Expr, pl.Expr]:
    return change.clip(lower_bound=0).rolling_sum(n), (-change).clip(lower_bound=0).rolling_sum(n)


def pandas_columns(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the same features by name, computed by pandas, and by NumPy where pandas is slow."""
    opening, high, low, close = frame["open"], frame["high"], frame["low"], frame["close"]
    top, bottom = np.maximum(opening, close), np.minimum(opening, close)
    found = _single_bar(opening, high, low, close, top, bottom)
    rolling = {n: _pandas_rolling(frame, n) for n in WINDOWS}
    for family in ROLLING:
        for n in WINDOWS:
            found[f"{family}{n}"] = rolling[n][family]
    return found


def _pandas_rolling(frame: pd.DataFrame, n: int) -> dict[str, pd.Series]:
    high, low, close, volume = frame["high"], frame["low"], frame["close"], frame["volume"]
    change, flow, ratio = close.diff(), volume.diff(), close / close.shift(1)
    weighted = (ratio - 1).abs() * volume
    weights = line_weights(n)
    slope = _late(np.convolve(close, weights[::-1], "valid"), close)
    mean = close.rolling(n).mean()
    moves, flows = change.abs().rolling(n).sum() + TINY, flow.abs().rolling(n).sum() + TINY
    gain, loss = change.clip(lower=0).rolling(n).sum(), (-change).clip(lower=0).rolling(n).sum()
    inflow, outflow = flow.clip(lower=0).rolling(n).sum(), (-flow).clip(lower=0).rolling(n).sum()
    # A comparison with NaN is False, so the first row is excluded explicitly.
    up = (change > 0).where(change.notna()).astype(float).rolling(n).mean()
    down = (change < 0).where(change.notna()).astype(float).rolling(n).mean()
    imax = _late(sliding_window_view(high, n).argmax(axis=1) + 1.0, close)
    imin = _late(sliding_window_view(low, n).argmin(axis=1) + 1.0, close)
    lowest, highest = low.rolling(n).min(), high.rolling(n).max()
    return {
        "ROC": close.shift(n) / close,
        "MA": mean / close,
        "STD": close.rolling(n).std() / close,
        "BETA": slope / close,
        "RSQR": slope**2 / (weights @ weights * (n - 1)) / close.rolling(n).var(),
        "RESI": (close - mean - slope * ((n - 1) / 2)) / close,
        "MAX": highest / close,
        "MIN": lowest / close,
        "QTLU": close.rolling(n).quantile(0.8) / close,
        "QTLD": close.rolling(n).quantile(0.2) / close,
        "RANK": close.rolling(n).rank(pct=True),
        "RSV": (close - lowest) / (highest - lowest + TINY),
        "IMAX": imax / n,
        "IMIN": imin / n,
        "IMXD": (imax - imin) / n,
        "CORR": close.rolling(n).corr(np.log(volume + 1)),
        "CORD": ratio.rolling(n).corr(np.log(volume / volume.shift(1) + 1)),
        "CNTP": up,
        "CNTN": down,
        "CNTD": up - down,
        "SUMP": gain / moves,
        "SUMN": loss / moves,
        "SUMD": (gain - loss) / moves,
        "VMA": volume.rolling(n).mean() / (volume + TINY),
        "VSTD": volume.rolling(n).std() / (volume + TINY),
        "WVMA": weighted.rolling(n).std() / (weighted.rolling(n).mean() + TINY),
        "VSUMP": inflow / flows,
        "VSUMN": outflow / flows,
        "VSUMD": (inflow - outflow) / flows,
    }


def _late(values: NDArray[np.float64], like: pd.Series) -> pd.Series:
    """Return the values of the windows that end in the last rows, NaN before."""
    found = pd.Series(np.nan, index=like.index)
    found.iloc[len(like) - len(values) :] = values
    return found


def polars_query(candles: pl.DataFrame) -> pl.LazyFrame:
    """Return the query for the float32 columns of the complete rows."""
    columns = [e.cast(pl.Float32).alias(name) for name, e in polars_expressions().items()]
    rows = candles.lazy().with_columns(row=pl.int_range(pl.len()))
    return rows.select(columns).filter(pl.all_horizontal(pl.all().is_finite()))


def polars_eager(candles: pl.DataFrame) -> pl.DataFrame:
    """Return the result of `polars_query`, computed step by step."""
    columns = [e.cast(pl.Float32).alias(name) for name, e in polars_expressions().items()]
    computed = candles.with_columns(row=pl.int_range(pl.len())).select(columns)
    return computed.filter(pl.all_horizontal(pl.all().is_finite()))


def pandas_matrix(frame: pd.DataFrame) -> NDArray[np.float32]:
    """Return the float32 matrix of the complete rows."""
    columns = pandas_columns(frame)
    matrix = np.empty((len(frame), len(columns)), np.float32)
    for i, column in enumerate(columns.values()):
        matrix[:, i] = column
    return matrix[np.isfinite(matrix).all(axis=1)]


def _single_bar(
    opening: Any, high: Any, low: Any, close: Any, top: Any, bottom: Any
) -> dict[str, Any]:
    """Return the candle shapes and price ratios by name; `top` and `bottom` are of the body."""
    span = high - low
    return {
        "KMID": (close - opening) / opening,
        "KLEN": span / opening,
        "KMID2": (close - opening) / (span + TINY),
        "KUP": (high - top) / opening,
        "KUP2": (high - top) / (span + TINY),
        "KLOW": (bottom - low) / opening,
        "KLOW2": (bottom - low) / (span + TINY),
        "KSFT": (2 * close - high - low) / opening,
        "KSFT2": (2 * close - high - low) / (span + TINY),
        "OPEN0": opening / close,
        "HIGH0": high / close,
        "LOW0": low / close,
        "VWAP0": (high + low + close) / 3 / close,
    }


def polars_columns(candles: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the features as float64 columns of all rows, NaN for null."""
    rows = candles.lazy().with_columns(row=pl.int_range(pl.len()))
    computed = rows.select(**polars_expressions()).collect()
    return {column.name: column.fill_null(np.nan).to_numpy() for column in computed}
