"""The same data preparation without atb-fast: with pandas and scikit-learn, and with Polars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray
from sklearn.preprocessing import MinMaxScaler


@dataclass(frozen=True)
class Case:
    """The data of a benchmark: candles, daily sentiment, and the timeframe."""

    size: str
    timeframe: str
    candles: pl.DataFrame
    sentiment: pl.DataFrame

    def __str__(self) -> str:
        return self.size


COLUMNS = ["open", "high", "low", "close", "volume"]
FEATURES = [*COLUMNS, "sma_7", "sma_14", "sma_30", "rsi", "sentiment_momentum"]


def legacy_frame(
    candles: pd.DataFrame,
    sentiment: pd.DataFrame | None,
    timeframe: str,
    end: pd.Timestamp | None = None,
) -> pd.DataFrame:
    """Return candles, sentiment and scaled features as the old trainer computes them, float64.

    It computes all of its sentiment columns, and drops rows that lack one of them. The index of
    both frames is their timestamp; `sentiment` has the column value, and is cut at `end`.
    """
    frame, names = candles.copy(), FEATURES[:-1]
    if sentiment is not None:
        names = FEATURES
        joined = _legacy_sentiment(sentiment)[:end]
        if timeframe != "1d":
            joined = joined.resample(timeframe.replace("m", "min")).ffill()
        frame = candles.join(joined, how="left")
    for window in (7, 14, 30):
        frame[f"sma_{window}"] = frame["close"].rolling(window).mean()
    delta = frame["close"].diff()
    gain = delta.where(delta > 0, 0.0).rolling(14).mean()
    loss = (-delta.where(delta < 0, 0.0)).rolling(14).mean()
    frame["rsi"] = 100 - 100 / (1 + gain / loss)
    for name in names:
        column = frame[name].fillna(0.0) if name == "sentiment_momentum" else frame[name]
        present = column.notna()
        scaled = pd.Series(np.nan, index=frame.index)
        scaled[present] = MinMaxScaler().fit_transform(column[present].to_numpy()[:, None])[:, 0]
        frame[f"{name}_scaled"] = scaled
    return frame.dropna()


def _legacy_sentiment(sentiment: pd.DataFrame) -> pd.DataFrame:
    index = sentiment["value"].clip(0, 100) / 100
    joined = index.rename("sentiment_primary").to_frame()
    change = index.pct_change().replace([np.inf, -np.inf], np.nan)
    joined["sentiment_momentum"] = change.fillna(0.0)
    joined["sentiment_volatility"] = index.rolling(7, min_periods=2).std().fillna(0.0)
    for days in (3, 7, 14):
        joined[f"sentiment_ma_{days}"] = index.rolling(days, min_periods=1).mean()
    joined["sentiment_extreme_positive"] = (index > 0.8).astype(float)
    joined["sentiment_extreme_negative"] = (index < 0.2).astype(float)
    return joined


def pandas_features(candles: pd.DataFrame, sentiment: pd.DataFrame, timeframe: str) -> Any:
    """Return the legacy feature matrix, float32."""
    frame = legacy_frame(candles, sentiment, timeframe)
    return frame[[f"{name}_scaled" for name in FEATURES]].to_numpy(dtype=np.float32)


def polars_features(candles: pl.DataFrame, sentiment: pl.DataFrame, timeframe: str) -> Any:
    """Return the same matrix from one lazy Polars query, which computes only what it needs."""
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

    if timeframe == "1d":
        joined = candles.lazy().join(momentum, on="timestamp", how="left", maintain_order="left")
    else:
        joined = candles.lazy().join_asof(momentum, on="timestamp")
    query = (
        joined.with_columns(
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
    """Return `frame` as a pandas frame whose index is the timestamp."""
    index = pd.to_datetime(frame["timestamp"].dt.epoch("ms").to_numpy(), unit="ms", utc=True)
    names = [name for name in frame.columns if name != "timestamp"]
    return pd.DataFrame({name: frame[name].to_numpy() for name in names}, index=index)


Array = NDArray[np.float64]


def barriers_by_bar(
    times: NDArray[np.int64],
    high: Array,
    low: Array,
    close: Array,
    *,
    step: int,
    horizon: int,
    take_profit: float,
    stop_loss: float,
) -> Array:
    """Return triple-barrier labels of bars without bad prices, for all rows bar by bar."""
    labels = np.full(len(close), np.nan)
    rows = max(0, len(close) - horizon)
    profit, stop = close[:rows] * (1 + take_profit), close[:rows] * (1 - stop_loss)
    reached = np.zeros(rows)
    for ahead in range(horizon, 0, -1):  # earlier bars overwrite later ones
        np.copyto(reached, 1.0, where=high[ahead : rows + ahead] >= profit)
        np.copyto(reached, -1.0, where=low[ahead : rows + ahead] <= stop)
    whole = times[horizon:] - times[:rows] == horizon * step
    labels[:rows] = np.where(whole, reached, np.nan)
    return labels


def barriers_by_row(
    times: NDArray[np.int64],
    high: Array,
    low: Array,
    close: Array,
    *,
    step: int,
    horizon: int,
    take_profit: float,
    stop_loss: float,
) -> Array:
    """Return triple-barrier labels of bars without bad prices, row by row."""
    labels = np.full(len(close), np.nan)
    for row in range(len(close) - horizon):
        if times[row + horizon] - times[row] == horizon * step:
            ahead = slice(row + 1, row + horizon + 1)
            stops = low[ahead] <= close[row] * (1 - stop_loss)
            wins = high[ahead] >= close[row] * (1 + take_profit)
            stop, win = (int(hits.argmax()) if hits.any() else horizon for hits in (stops, wins))
            labels[row] = 0.0 if stop == win == horizon else 1.0 if win < stop else -1.0
    return labels
