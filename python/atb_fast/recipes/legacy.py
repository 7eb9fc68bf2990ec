"""The recipe of the trainer that atb-fast replaces.

It scales with the future (the scalers see the test rows), lets the test windows choose the epoch
and aims at raw prices. It is kept because existing models were made that way.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from atb_fast._core import Feature, FeaturePipeline
from atb_fast.config import CANDLE_COLUMNS, TrainingConfig
from atb_fast.errors import DataError
from atb_fast.features import cache as feature_cache
from atb_fast.features import sentiment as sentiment_code
from atb_fast.features.cache import Features
from atb_fast.features.frames import ends
from atb_fast.features.hashing import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.features.sentiment import (
    SentimentAssessment,
    assess,
    merge_sentiment,
    sentiment_features,
)
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Recipe

log = logging.getLogger(__name__)

#: Features of a price model, in channel order; a sentiment model has `SENTIMENT_FEATURE` behind.
PRICE_FEATURES = (
    *(Feature(f"{name}_scaled", name) for name in CANDLE_COLUMNS),
    *(Feature(f"sma_{n}_scaled", "close", sma=n) for n in (7, 14, 30)),
    Feature("rsi_scaled", "close", rsi=14),
)
SENTIMENT_FEATURE = Feature("sentiment_momentum_scaled", "sentiment_momentum", null_as=0.0)

#: Rows before the longest average has a value.
_WARMUP = max(feature.sma or feature.rsi or 1 for feature in PRICE_FEATURES) - 1


class LegacyRecipe(Recipe):
    """Nine features of prices, one of sentiment; the target is the next close."""

    def prepare(
        self,
        market: Market,
        config: TrainingConfig,
        *,
        now: datetime | None = None,
        cache: Path | None = None,
    ) -> PreparedData:
        """Return scaled features; without sentiment if there is too little and it is not forced."""
        frame = market.candles
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
        name = feature_cache.key(
            (__file__, sentiment_code.__file__),
            recipe="legacy",
            timeframe=config.timeframe,
            data=sha256,
        )
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
            model_type="price" if sentiment is None else "sentiment",
            matrix=prepared.matrix,
            close=prepared.close,
            timestamps=prepared.timestamps,
            frame=frame,
            index=None if sentiment is None else market.sentiment,
            pipeline=prepared.pipeline,
            sources={feature.name: _source(feature) for feature in features},
            lookback=_WARMUP,
            assessment=assessment,
            candles=len(frame),
            gaps=len(gaps(frame["timestamp"], config.bar_ms)),
            sha256=sha256,
        )


def _source(feature: Feature) -> dict[str, Any]:
    """Return how a feature is made, as feature_schema.json has it."""
    source: dict[str, Any] = {"column": feature.source}
    if feature.sma:
        source |= {"transform": "sma", "window": feature.sma}
    if feature.rsi:
        source |= {"transform": "rsi_simple_mean", "window": feature.rsi}
    return source


def _assess(
    sentiment: pl.DataFrame, market: Market, config: TrainingConfig, now: datetime | None
) -> SentimentAssessment:
    if config.force_sentiment and sentiment.is_empty():
        assert market.sentiment is not None
        first, last = ends(market.sentiment)
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


def _features(frame: pl.DataFrame, features: tuple[Feature, ...]) -> Features:
    pipeline = FeaturePipeline(features).fit(frame)
    matrix = pipeline.transform(frame)
    kept = frame[matrix.rows]
    _report_dropped(frame, len(matrix))
    return Features(matrix, kept["close"].to_numpy(), kept["timestamp"], pipeline)


def _in_range(
    sentiment: pl.DataFrame, candles: pl.DataFrame, config: TrainingConfig
) -> pl.DataFrame:
    """Cut to the days of the range; the last one counts from its midnight only."""
    first, last = ends(candles)
    start = config.start or first.replace(hour=0, minute=0, second=0, microsecond=0)
    end = config.end or last
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return sentiment.filter(pl.col("timestamp").is_between(start, midnight))


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
        first, _ = ends(frame)
        raise DataError(
            f"no candle has every feature; {text} (sentiment is stamped 00:00 UTC, the first "
            f"candle {first:%H:%M})"
        )
    log.info("%s", text)
