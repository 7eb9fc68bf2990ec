"""How the same work is done without atb-fast: pandas with scikit-learn, Polars, NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from sklearn.preprocessing import MinMaxScaler

COLUMNS = ["open", "high", "low", "close", "volume"]
FEATURES = [*COLUMNS, "sma_7", "sma_14", "sma_30", "rsi", "sentiment_momentum"]


def pandas_features(candles: pd.DataFrame, sentiment: pd.DataFrame, timeframe: str) -> Any:
    """Return the legacy feature matrix, float32: merge, averages, RSI, scaling, dropped rows.

    Both frames have their timestamps as index; sentiment has the column value.
    """
    primary = sentiment["value"].clip(0, 100) / 100
    change = primary.pct_change().replace([np.inf, -np.inf], np.nan).fillna(0.0)
    momentum = change.rename("sentiment_momentum").to_frame()
    if timeframe != "1d":
        momentum = momentum.resample({"1h": "1h", "1m": "1min"}[timeframe]).ffill()
    frame = candles.join(momentum, how="left")
    for window in (7, 14, 30):
        frame[f"sma_{window}"] = frame["close"].rolling(window).mean()
    delta = frame["close"].diff()
    gain = delta.where(delta > 0, 0.0).rolling(14).mean()
    loss = (-delta.where(delta < 0, 0.0)).rolling(14).mean()
    frame["rsi"] = 100 - 100 / (1 + gain / loss)
    known = frame["sentiment_momentum"].notna()
    for name in FEATURES:
        column = frame[name].fillna(0.0) if name == "sentiment_momentum" else frame[name]
        present = column.notna()
        scaled = pd.Series(np.nan, index=frame.index)
        scaled[present] = MinMaxScaler().fit_transform(column[present].to_numpy()[:, None])[:, 0]
        frame[f"{name}_scaled"] = scaled
    frame = frame[known].dropna()
    return frame[[f"{name}_scaled" for name in FEATURES]].to_numpy(dtype=np.float32)


def polars_features(candles: pl.DataFrame, sentiment: pl.DataFrame) -> Any:
    """Return the same from one lazy Polars query."""
    primary = pl.col("value").clip(0, 100) / 100
    change = primary / primary.shift(1) - 1
    last = sentiment["timestamp"][-1]
    momentum = sentiment.lazy().select(
        "timestamp",
        pl.when(change.is_finite()).then(change).otherwise(0.0).alias("sentiment_momentum"),
    )
    delta = pl.col("close").diff().fill_null(0.0)
    gain = delta.clip(lower_bound=0.0).rolling_mean(14)
    loss = (-delta).clip(lower_bound=0.0).rolling_mean(14)
    close = pl.col("close")

    def scaled(name: str) -> pl.Expr:
        column = pl.col(name)
        return ((column - column.min()) / (column.max() - column.min())).cast(pl.Float32)

    query = (
        candles.lazy()
        .join_asof(momentum, on="timestamp")
        .with_columns(
            pl.when(pl.col("timestamp") <= last).then(pl.col("sentiment_momentum")),
            sma_7=close.rolling_mean(7),
            sma_14=close.rolling_mean(14),
            sma_30=close.rolling_mean(30),
            rsi=100 - 100 / (1 + gain / loss),
        )
        .select(scaled(name) for name in FEATURES)
        .filter(pl.all_horizontal(pl.all().is_not_null() & pl.all().is_not_nan()))
    )
    return query.collect().to_numpy(order="c")


def to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """Return `frame` with its timestamps as index."""
    index = pd.to_datetime(frame["timestamp"].dt.epoch("ms").to_numpy(), unit="ms", utc=True)
    names = [name for name in frame.columns if name != "timestamp"]
    return pd.DataFrame({name: frame[name].to_numpy() for name in names}, index=index)
