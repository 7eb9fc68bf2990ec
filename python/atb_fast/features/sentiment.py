"""The Fear & Greed index: its features, its join onto candles, and how well it covers them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import merge
from atb_fast.config import TIMEFRAMES
from atb_fast.features.frames import MOMENTUM, ends, epoch_ms
from atb_fast.features.specs import INDEX_COLUMNS

Recommendation = Literal["full_sentiment", "hybrid_with_fallback", "price_only"]


@dataclass(frozen=True)
class SentimentAssessment:
    """How well sentiment covers the candles, and which model that allows.

    Attributes:
        recommendation: Which model to train.
        score: `0.6 * min(2 * coverage, 1) + 0.4 * max(0, 1 - freshness_days / 365)`, 0..1.
        coverage: Share of the candles' time span that sentiment covers, 0..1.
        freshness_days: Whole days from the last sentiment row to `assessed_at`.
        gaps: First and last day of each gap in the sentiment.
        assessed_at: Time of the assessment, ISO 8601, UTC. The score depends on it.
    """

    recommendation: Recommendation
    score: float
    coverage: float
    freshness_days: int | None
    gaps: tuple[tuple[str, str], ...]
    assessed_at: str

    def to_dict(self) -> dict[str, Any]:
        """Return the assessment as a dictionary for JSON."""
        return asdict(self)


def sentiment_features(sentiment: pl.DataFrame) -> pl.DataFrame:
    """Return timestamp and sentiment_momentum, the relative change of the index from row to row.

    It is 0 in the first row, and in rows that follow an index of 0.
    """
    primary = np.clip(sentiment["value"].to_numpy(), 0.0, 100.0) / 100.0
    with np.errstate(divide="ignore", invalid="ignore"):
        change = primary[1:] / primary[:-1] - 1.0
    momentum = np.zeros(len(primary))
    momentum[1:] = np.where(np.isfinite(change), change, 0.0)
    return pl.DataFrame(
        {"timestamp": sentiment["timestamp"], MOMENTUM: momentum},
    )


def index_features(index: pl.DataFrame) -> pl.DataFrame:
    """Return timestamp and every feature of the index, float64, one row per day.

    - `fear_greed`: the index, 0 to 100.
    - `sentiment_primary`: the index divided by 100.
    - `sentiment_momentum`: its relative change, see `sentiment_features`.
    - `sentiment_volatility`: sample standard deviation of the last 7 rows; 0 in the first row.
    - `sentiment_ma_3`, `_7`, `_14`: mean of the last 3, 7 and 14 rows, or of those that exist.
    - `sentiment_extreme_positive`, `_negative`: 1 where the index is above 80, or below 20.

    A row does not depend on later rows.
    """
    primary = np.clip(index["value"].to_numpy(), 0.0, 100.0) / 100.0

    def last(rows: int) -> NDArray[np.float64]:
        padded = np.concatenate([np.full(rows - 1, np.nan), primary])
        return np.lib.stride_tricks.sliding_window_view(padded, rows)

    columns = {
        "fear_greed": np.clip(index["value"].to_numpy(), 0.0, 100.0),
        "sentiment_primary": primary,
        MOMENTUM: sentiment_features(index)[MOMENTUM].to_numpy(),
        "sentiment_volatility": np.zeros(len(primary)),
        **{f"sentiment_ma_{rows}": np.nanmean(last(rows), axis=1) for rows in (3, 7, 14)},
        "sentiment_extreme_positive": (primary > 0.8).astype(np.float64),
        "sentiment_extreme_negative": (primary < 0.2).astype(np.float64),
    }
    columns["sentiment_volatility"][1:] = np.nanstd(last(7)[1:], axis=1, ddof=1)
    return pl.DataFrame({"timestamp": index["timestamp"], **columns})


def index_columns(
    candles: pl.DataFrame, index: pl.DataFrame | Literal["neutral"], *, lag_days: int
) -> list[pl.Series]:
    """Return `INDEX_COLUMNS` for each candle, float64, without null.

    A candle takes the newest row of the index that was at least `lag_days` old when it opened, or
    neutral values if there is none.

    - `sentiment_missing`: 1 if there is no such row, or if it is at least a day older than the lag
      requires.
    - The others are those of `index_features`.

    This must not use Polars' thread pool, because scoring must work in a forked process.

    Args:
        candles: Ascending. Only `timestamp` is used, and only if there is an index.
        index: The complete Fear & Greed index, timestamp and value; or `neutral` for a constant
            index of 50.
        lag_days: Minimum age in days of a row of the index.
    """
    day = TIMEFRAMES["1d"]
    neutral = {name: neutral_value(name) for name in INDEX_COLUMNS}
    if isinstance(index, str) or index.is_empty():
        neutral["sentiment_missing"] = 0.0 if isinstance(index, str) else 1.0
        return [pl.Series(name, np.full(len(candles), neutral[name])) for name in INDEX_COLUMNS]
    rows = index_features(index)
    stamps = epoch_ms(rows["timestamp"])
    rows = rows.hstack([pl.Series("stamp", stamps.astype(np.float64))])
    names = [name for name in rows.columns if name != "timestamp"]
    merged = pl.DataFrame(merge(candles, rows, names, how="asof", lag_ms=lag_days * day))
    # Milliseconds from the row that was found to the newest midnight that the lag allows.
    due = epoch_ms(candles["timestamp"]) - lag_days * day
    age = due - due % day - merged["stamp"].to_numpy()
    filled = {"sentiment_missing": np.where(age <= 0, 0.0, 1.0)}  # 1 also if the age is NaN
    for name in INDEX_COLUMNS[:-1]:
        values = merged[name].to_numpy()
        filled[name] = np.where(np.isnan(values), neutral[name], values)
    return [pl.Series(name, filled[name]) for name in INDEX_COLUMNS]


def with_neutral_index(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with the values of a constant index of 50 in its columns of the index."""
    names = [name for name in INDEX_COLUMNS if name in frame.columns]
    return frame.with_columns([pl.lit(neutral_value(name)).alias(name) for name in names])


def neutral_value(column: str) -> float:
    """Return the value of one of `INDEX_COLUMNS` for a constant index of 50."""
    if column == "fear_greed":
        return 50.0
    return 0.5 if column.startswith(("sentiment_primary", "sentiment_ma_")) else 0.0


def assess(
    candles: pl.DataFrame,
    sentiment: pl.DataFrame,
    *,
    force: bool = False,
    now: datetime | None = None,
) -> SentimentAssessment:
    """Return how well `sentiment` covers `candles`; see `SentimentAssessment`.

    Args:
        candles: Ascending, at least one row.
        sentiment: Ascending, may be empty.
        force: Recommend `full_sentiment` if there is any sentiment at all.
        now: The time at which freshness is measured. Default: the current time.
    """
    now = now or datetime.now(UTC)
    assessed_at = now.isoformat(timespec="seconds")
    if sentiment.is_empty():
        return SentimentAssessment("price_only", 0.0, 0.0, None, (), assessed_at)
    price_first, price_last = ends(candles)
    first, last = ends(sentiment)
    freshness = (now - last).days
    overlap = (min(price_last, last) - max(price_first, first)).total_seconds()
    span = (price_last - price_first).total_seconds()
    coverage = overlap / span if span > 0 else 0.0
    score = 0.0
    recommendation: Recommendation = "price_only"
    if coverage > 0:
        score = 0.6 * min(2 * coverage, 1.0) + 0.4 * max(0.0, 1.0 - freshness / 365)
        if score >= 0.8:
            recommendation = "full_sentiment"
        elif score >= 0.4:
            recommendation = "hybrid_with_fallback"
    if force:
        recommendation = "full_sentiment"
    return SentimentAssessment(
        recommendation, score, max(coverage, 0.0), freshness, _gaps(sentiment), assessed_at
    )


def merge_sentiment(
    candles: pl.DataFrame,
    sentiment: pl.DataFrame,
    timeframe: str,
    *,
    whole_last_day: bool = False,
) -> pl.DataFrame:
    """Return `candles` with a column sentiment_momentum, null where a candle has none.

    A daily candle takes the sentiment of its day; a shorter one takes the newest sentiment at its
    open time.

    This must not use Polars' thread pool, because scoring must work in a forked process.

    Args:
        candles: Ascending.
        sentiment: From `sentiment_features`.
        timeframe: Length of the candles, for example 1h.
        whole_last_day: Use the last row of the sentiment for all of its day. By default, it is used
            only for the candle at midnight, as in the legacy recipe.
    """
    columns = [MOMENTUM]
    if whole_last_day and len(sentiment):
        times, momentum = epoch_ms(sentiment["timestamp"]), sentiment[columns[0]].to_numpy()
        # A time during a day counts for that day, as in `read_sentiment`.
        times -= times % TIMEFRAMES["1d"]
        rest = TIMEFRAMES["1d"] - TIMEFRAMES[timeframe]
        if rest:
            times, momentum = (
                np.append(times, times[-1] + rest),
                np.append(momentum, momentum[-1]),
            )
        sentiment = pl.DataFrame({"timestamp": times, columns[0]: momentum})
    if timeframe == "1d":
        merged = merge(candles, sentiment, columns, how="exact")
    else:
        merged = merge(candles, sentiment, columns, how="resampled", step_ms=TIMEFRAMES[timeframe])
    return candles.hstack(pl.DataFrame(merged))


def _gaps(sentiment: pl.DataFrame) -> tuple[tuple[str, str], ...]:
    times = sentiment["timestamp"].to_list()
    day = timedelta(days=1)
    return tuple(
        ((before + day).date().isoformat(), (after - day).date().isoformat())
        for before, after in pairwise(times)
        if after - before > day
    )
