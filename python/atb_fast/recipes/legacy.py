"""The legacy recipe, which is that of the trainer that atb-fast replaces.

It has look-ahead bias: the scalers are fitted on the test rows too, and the best epoch is selected
on the test windows. It predicts raw prices. It is kept so that models stay comparable.
"""

from __future__ import annotations

import logging

import polars as pl

from atb_fast._core import Feature, FeaturePipeline
from atb_fast.config import MarketOptions, RecipeOptions
from atb_fast.errors import DataError, counted
from atb_fast.features import cache as feature_cache
from atb_fast.features import indicators
from atb_fast.features import sentiment as sentiment_code
from atb_fast.features.cache import Features
from atb_fast.features.frames import ends
from atb_fast.features.hashing import content_hash
from atb_fast.features.indicators import PRICE_FEATURES, SENTIMENT_FEATURE, WARMUP, to_source
from atb_fast.features.prepared import PreparedData
from atb_fast.features.sentiment import (
    SentimentAssessment,
    assess,
    merge_sentiment,
    sentiment_features,
)
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Context, Recipe, check_moves

log = logging.getLogger(__name__)


class LegacyRecipe(Recipe):
    """Nine features of candles and one of sentiment; the target is the next close."""

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        """Return scaled features; sentiment is left out if it covers too little, unless forced."""
        asked, frame = context.asked, market.candles
        check_moves(market)
        if len(frame) <= WARMUP:
            raise DataError(
                f"the range has {counted(len(frame), 'candle')}, expected more than the "
                f"{WARMUP} that the longest moving average needs; use a longer range"
            )
        features = PRICE_FEATURES
        assessment = sentiment = None
        if not asked.force_price_only:
            assert market.sentiment is not None  # loaded by load_market
            sentiment = _in_range(sentiment_features(market.sentiment), frame, asked)
            assessment = _assess(sentiment, market, options, context)
            if assessment.recommendation == "price_only":
                sentiment = None
            else:
                features = (*PRICE_FEATURES, SENTIMENT_FEATURE)
        sha256 = {"candles": content_hash(frame)}
        if sentiment is not None:
            sha256["sentiment"] = content_hash(sentiment)
            frame = merge_sentiment(frame, sentiment, asked.timeframe)

        prepared = None
        name = feature_cache.key(
            (__file__, indicators.__file__, sentiment_code.__file__),
            recipe="legacy",
            timeframe=asked.timeframe,
            data=sha256,
        )
        if context.cache and not asked.force_refresh:
            prepared = feature_cache.load(context.cache, name, features)
        if prepared:
            log.info(
                "features: loaded from the cache; %d of %d candles have all of them",
                len(prepared.matrix),
                len(frame),
            )
        else:
            prepared = _features(frame, features)
            if context.cache:
                feature_cache.save(context.cache, name, prepared)
        return PreparedData(
            model_type="price" if sentiment is None else "sentiment",
            matrix=prepared.matrix,
            close=prepared.close,
            timestamps=prepared.timestamps,
            frame=frame,
            index=None if sentiment is None else market.sentiment,
            pipeline=prepared.pipeline,
            sources={feature.name: to_source(feature) for feature in features},
            lookback=WARMUP,
            assessment=assessment,
            candles=len(frame),
            gaps=len(gaps(frame["timestamp"], asked.bar_ms)),
            sha256=sha256,
        )


def _assess(
    sentiment: pl.DataFrame, market: Market, options: RecipeOptions, context: Context
) -> SentimentAssessment:
    if options.force_sentiment and sentiment.is_empty():
        assert market.sentiment is not None
        first, last = ends(market.sentiment)
        raise DataError(
            f"--force-sentiment is set, but the sentiment ({first:%Y-%m-%d} to {last:%Y-%m-%d}) "
            "has no day in the range of the candles; use sentiment of that range"
        )
    assessment = assess(market.candles, sentiment, force=options.force_sentiment, now=context.now)
    if assessment.recommendation == "price_only":
        log.warning(
            "sentiment covers too few of the candles (score %.2f, at least 0.40 required): "
            "training a price model without it; pass --force-sentiment to use it anyway",
            assessment.score,
        )
    return assessment


def _features(frame: pl.DataFrame, features: tuple[Feature, ...]) -> Features:
    pipeline = FeaturePipeline(features).fit(frame)
    matrix = pipeline.transform(frame)
    kept = frame[matrix.rows]
    _report_dropped(frame, len(matrix))
    return Features(matrix, kept["close"].to_numpy(), kept["timestamp"], pipeline)


def _in_range(sentiment: pl.DataFrame, candles: pl.DataFrame, asked: MarketOptions) -> pl.DataFrame:
    """Return the days of the range. The last one is included only if its midnight is."""
    first, last = ends(candles)
    start = asked.start or first.replace(hour=0, minute=0, second=0, microsecond=0)
    end = asked.end or last
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return sentiment.filter(pl.col("timestamp").is_between(start, midnight))


def _report_dropped(frame: pl.DataFrame, rows: int) -> None:
    dropped = len(frame) - rows
    warmup = min(len(frame), WARMUP)
    without = 0
    if "sentiment_momentum" in frame.columns:
        without = frame["sentiment_momentum"][warmup:].null_count()
    flat = dropped - warmup - without
    reasons = [f"{warmup} during the warm-up of the moving averages"]
    if without:
        reasons.append(f"{without} without sentiment")
    if flat > 0:
        reasons.append(f"{flat} whose RSI is undefined because prices did not move")
    text = f"{dropped} of {len(frame)} candles dropped: {', '.join(reasons)}"
    if rows == 0:
        first, _ = ends(frame)
        raise DataError(
            f"no candle has every feature; {text}; use a longer range, or pass --force-price-only "
            f"to train without sentiment (it is joined at 00:00 UTC; the first candle opens at "
            f"{first:%H:%M})"
        )
    log.info("%s", text)
