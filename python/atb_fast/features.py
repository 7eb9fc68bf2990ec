"""Frames in, feature matrix out, with what is needed to make the same features again.

The legacy recipe has features, scaling and target of the trainer that atb-fast replaces. It scales
with the future (the scalers see the test rows) and aims at raw prices; both are kept because
existing models were made that way. The basic recipe leaves the candles as they are: their windows
are scaled one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast import _core, feature_cache
from atb_fast.config import CANDLE_COLUMNS, TIMEFRAMES, TrainingConfig
from atb_fast.errors import DataError
from atb_fast.feature_cache import Features, content_hash
from atb_fast.ingestion.sources import Market, gaps

log = logging.getLogger(__name__)

#: Features of a price model, in channel order; a sentiment model has `SENTIMENT_FEATURE` behind.
PRICE_FEATURES = (
    *(_core.Feature(f"{name}_scaled", name) for name in CANDLE_COLUMNS),
    *(_core.Feature(f"sma_{n}_scaled", "close", sma=n) for n in (7, 14, 30)),
    _core.Feature("rsi_scaled", "close", rsi=14),
)
SENTIMENT_FEATURE = _core.Feature("sentiment_momentum_scaled", "sentiment_momentum", null_as=0.0)

#: What a basic model sees, in channel order; see `CandleMatrix`.
CANDLE_FEATURES = {
    f"{name}_normalized": name for name in ("close", "volume", "high", "low", "open")
}

#: Rows before the longest average has a value.
_WARMUP = max(feature.sma or feature.rsi or 1 for feature in PRICE_FEATURES) - 1

Recommendation = Literal["full_sentiment", "hybrid_with_fallback", "price_only"]


@dataclass(frozen=True)
class SentimentAssessment:
    """How well sentiment covers the candles, and what follows.

    Attributes:
        recommendation: Which model the data allows.
        score: `0.6 * min(2 * coverage, 1) + 0.4 * max(0, 1 - freshness_days / 365)`, 0..1.
        coverage: Seconds that both cover over seconds that the candles cover, 0..1.
        freshness_days: Whole days from the last sentiment row to `assessed_at`.
        gaps: First and last day of each run of days without sentiment inside of its range.
        assessed_at: UTC time of the assessment: the score depends on it.
    """

    recommendation: Recommendation
    score: float
    coverage: float
    freshness_days: int | None
    gaps: tuple[tuple[str, str], ...]
    assessed_at: str

    def to_dict(self) -> dict[str, Any]:
        """Return the assessment as something JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class PreparedData:
    """What a model is trained on, and how it was made.

    Attributes:
        matrix: Scaled features, float32, shape (rows, features); of a basic model raw candles,
            float64, whose windows are scaled one by one.
        close: Raw close of each row in quote currency, float64, shape (rows,).
        timestamps: Open time of each row, UTC.
        frame: What the features are made of: the candles, with sentiment_momentum if it is used.
        index: The Fear & Greed index, timestamp and value, of all history; None if it is not used.
        pipeline: The features and their fitted scalers; None for a basic model.
        assessment: Of the sentiment; None if price only was asked for.
        candles: Number of candles that went in; those without every feature were dropped.
        gaps: Number of steps between two candles that are longer than a bar.
        sha256: Content of the `candles`, and of the `sentiment` if it is used, as
            `feature_cache.content_hash` defines it.
    """

    matrix: _core.FeatureMatrix | _core.CandleMatrix
    close: NDArray[np.float64]
    timestamps: pl.Series
    frame: pl.DataFrame
    index: pl.DataFrame | None
    pipeline: _core.FeaturePipeline | None
    assessment: SentimentAssessment | None
    candles: int
    gaps: int
    sha256: dict[str, str]

    @property
    def model_type(self) -> Literal["sentiment", "price", "basic"]:
        """Which kind of model these features make."""
        if self.pipeline is None:
            return "basic"
        return "sentiment" if SENTIMENT_FEATURE.name in self.matrix.names else "price"

    @property
    def lookback(self) -> int:
        """Candles before a row that its features depend on."""
        return 0 if self.pipeline is None else _WARMUP


def prepare(
    market: Market,
    config: TrainingConfig,
    *,
    now: datetime | None = None,
    cache: Path | None = None,
) -> PreparedData:
    """Return the features and closes of `market`.

    Args:
        market: Candles of the range, and the whole sentiment history.
        config: Recipe, timeframe, range, and whether sentiment is wanted.
        now: The time that the age of the sentiment is judged against, default the clock.
        cache: Directory to keep the features in, and to take them from if they were prepared
            before and `config.force_refresh` is off.

    Raises:
        DataError: No row has every feature, or sentiment was forced and there is none.
    """
    frame = market.candles
    if config.recipe == "basic":
        return _raw_candles(frame, config)
    if len(frame) <= _WARMUP:
        raise DataError(
            f"{len(frame)} candles are in the range, expected more than the {_WARMUP} that the "
            "longest average takes to fill up"
        )
    features = PRICE_FEATURES
    assessment = sentiment = None
    if not config.force_price_only:
        assert market.sentiment is not None  # load_market saw to it
        sentiment = _in_range(sentiment_features(market.sentiment), frame, config)
        assessment = _assess(sentiment, market, config, now)
        if assessment.recommendation == "price_only":
            sentiment = None
        else:
            features = (*PRICE_FEATURES, SENTIMENT_FEATURE)
    sha256 = {"candles": content_hash(frame)}
    if sentiment is not None:
        sha256["sentiment"] = content_hash(sentiment)
        frame = merge_sentiment(frame, sentiment, config.timeframe)

    prepared = None
    name = feature_cache.key(recipe="legacy", timeframe=config.timeframe, data=sha256)
    if cache and not config.force_refresh:
        prepared = feature_cache.load(cache, name, features)
    if prepared:
        log.info(
            "features: prepared before, from the cache: %d of %d candles have all of them",
            len(prepared.matrix),
            len(frame),
        )
    else:
        prepared = _features(frame, features)
        if cache:
            feature_cache.save(cache, name, prepared)
    return PreparedData(
        matrix=prepared.matrix,
        close=prepared.close,
        timestamps=prepared.timestamps,
        frame=frame,
        index=None if sentiment is None else market.sentiment,
        pipeline=prepared.pipeline,
        assessment=assessment,
        candles=len(frame),
        gaps=len(gaps(frame["timestamp"], config.bar_ms)),
        sha256=sha256,
    )


def _raw_candles(frame: pl.DataFrame, config: TrainingConfig) -> PreparedData:
    return PreparedData(
        matrix=_core.CandleMatrix(frame, list(CANDLE_FEATURES.values())),
        close=frame["close"].to_numpy(),
        timestamps=frame["timestamp"],
        frame=frame,
        index=None,
        pipeline=None,
        assessment=None,
        candles=len(frame),
        gaps=len(gaps(frame["timestamp"], config.bar_ms)),
        sha256={"candles": content_hash(frame)},
    )


def _assess(
    sentiment: pl.DataFrame, market: Market, config: TrainingConfig, now: datetime | None
) -> SentimentAssessment:
    if config.force_sentiment and sentiment.is_empty():
        assert market.sentiment is not None
        first, last = _ends(market.sentiment)
        raise DataError(
            f"--force-sentiment, but the sentiment ({first:%Y-%m-%d} to {last:%Y-%m-%d}) has "
            "no day in the range of the candles; give sentiment of that range"
        )
    assessment = assess(market.candles, sentiment, force=config.force_sentiment, now=now)
    if assessment.recommendation == "price_only":
        log.warning(
            "sentiment covers too little of the candles (score %.2f, 0.40 is needed): training "
            "a price model without it; --force-sentiment trains with it all the same",
            assessment.score,
        )
    return assessment


def _features(frame: pl.DataFrame, features: tuple[_core.Feature, ...]) -> Features:
    pipeline = _core.FeaturePipeline(features).fit(frame)
    matrix = pipeline.transform(frame)
    kept = frame[matrix.rows]
    _report_dropped(frame, len(matrix))
    return Features(matrix, kept["close"].to_numpy(), kept["timestamp"], pipeline)


def windows(
    frame: Any, length: int, columns: Sequence[str] = CANDLE_COLUMNS
) -> NDArray[np.float32]:
    """Return every window of `length` rows of `frame`, unscaled.

    Args:
        frame: A Polars, pyarrow or pandas frame with float64 `columns`; rows with a null are left
            out.
        length: Rows in a window.
        columns: What to take, in this order.

    Returns:
        Shape (rows - length + 1, length, columns), float32. A read-only view: the windows share
        the memory of one copy of the columns.

    Raises:
        DataError: A column is missing, is not float64, or has NaN or infinities; or there are fewer
            rows than a window has.
    """
    unscaled = _core.MinMaxScaler(0.0, 1.0)
    features = [_core.Feature(name, name) for name in columns]
    pipeline = _core.FeaturePipeline(features, scalers=[unscaled] * len(features))
    return pipeline.transform(frame).windows(length)


def sentiment_features(sentiment: pl.DataFrame) -> pl.DataFrame:
    """Return timestamp and sentiment_momentum, the relative change of the index over one row.

    0 in the first row and where the row before was 0.
    """
    primary = np.clip(sentiment["value"].to_numpy(), 0.0, 100.0) / 100.0
    with np.errstate(divide="ignore", invalid="ignore"):
        change = primary[1:] / primary[:-1] - 1.0
    momentum = np.zeros(len(primary))
    momentum[1:] = np.where(np.isfinite(change), change, 0.0)
    return pl.DataFrame(
        {"timestamp": sentiment["timestamp"], "sentiment_momentum": momentum},
    )


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
        now: Default the clock.
    """
    now = now or datetime.now(UTC)
    assessed_at = now.isoformat(timespec="seconds")
    if sentiment.is_empty():
        return SentimentAssessment("price_only", 0.0, 0.0, None, (), assessed_at)
    price_first, price_last = _ends(candles)
    first, last = _ends(sentiment)
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
    """Return `candles` with sentiment_momentum, null where a candle has none.

    Daily candles take the row of their day; shorter ones the newest row, until the midnight of the
    last one, as the legacy recipe has it, or with `whole_last_day` until that day ends.

    Nothing here starts Polars' threads: scoring must work in a forked process, which lacks them.
    """
    columns = ["sentiment_momentum"]
    if whole_last_day and len(sentiment):
        times, momentum = epoch_ms(sentiment["timestamp"]), sentiment[columns[0]].to_numpy()
        # Stamps during a day count for that day, as `read_sentiment` has it.
        times -= times % TIMEFRAMES["1d"]
        rest = TIMEFRAMES["1d"] - TIMEFRAMES[timeframe]
        if rest:
            times, momentum = (
                np.append(times, times[-1] + rest),
                np.append(momentum, momentum[-1]),
            )
        sentiment = pl.DataFrame({"timestamp": times, columns[0]: momentum})
    if timeframe == "1d":
        merged = _core.merge(candles, sentiment, columns, how="exact")
    else:
        merged = _core.merge(
            candles, sentiment, columns, how="resampled", step_ms=TIMEFRAMES[timeframe]
        )
    return candles.hstack(pl.DataFrame(merged))


def epoch_ms(times: pl.Series) -> NDArray[np.int64]:
    """Return times, or whole milliseconds, as milliseconds since 1970."""
    if times.dtype.is_integer():
        return times.cast(pl.Int64).to_numpy().copy()
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    milliseconds = times.cast(pl.Datetime("ms", zone)).cast(pl.Int64)
    return milliseconds.to_numpy().copy()


def _in_range(
    sentiment: pl.DataFrame, candles: pl.DataFrame, config: TrainingConfig
) -> pl.DataFrame:
    """Cut to the days of the range; the last one counts from its midnight only."""
    first, last = _ends(candles)
    start = config.start or first.replace(hour=0, minute=0, second=0, microsecond=0)
    end = config.end or last
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return sentiment.filter(pl.col("timestamp").is_between(start, midnight))


def _ends(frame: pl.DataFrame) -> tuple[datetime, datetime]:
    times = frame["timestamp"]
    return cast(datetime, times[0]), cast(datetime, times[-1])


def _gaps(sentiment: pl.DataFrame) -> tuple[tuple[str, str], ...]:
    times = sentiment["timestamp"].to_list()
    day = timedelta(days=1)
    return tuple(
        ((before + day).date().isoformat(), (after - day).date().isoformat())
        for before, after in pairwise(times)
        if after - before > day
    )


def _report_dropped(frame: pl.DataFrame, rows: int) -> None:
    dropped = len(frame) - rows
    warmup = min(len(frame), _WARMUP)
    without = 0
    if "sentiment_momentum" in frame.columns:
        without = frame["sentiment_momentum"][warmup:].null_count()
    flat = dropped - warmup - without
    reasons = [f"{warmup} while averages fill up"]
    if without:
        reasons.append(f"{without} without sentiment")
    if flat > 0:
        reasons.append(f"{flat} whose RSI is undefined because prices stood still")
    text = f"{dropped} of {len(frame)} candles dropped: {', '.join(reasons)}"
    if rows == 0:
        first, _ = _ends(frame)
        raise DataError(
            f"no candle has every feature; {text} (sentiment is stamped 00:00 UTC, the first "
            f"candle {first:%H:%M})"
        )
    log.info("%s", text)
