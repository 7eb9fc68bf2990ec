"""How the Fear & Greed index is joined to the candles, and whether it covers enough of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import polars as pl

from atb_fast.config import MarketOptions, RecipeOptions
from atb_fast.errors import DataError, counted
from atb_fast.features.frames import ends
from atb_fast.features.hashing import content_hash
from atb_fast.features.sentiment import (
    SentimentAssessment,
    assess,
    index_columns,
    merge_sentiment,
    sentiment_features,
)
from atb_fast.ingestion.market import Market
from atb_fast.recipes.base import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Joined:
    """Candles with the columns of the index.

    Attributes:
        frame: The candles, and columns of the index if it is used.
        used: Whether it is used.
        join: See `PreparedData.join`.
        assessment: How well it covers the candles; None if it was not requested.
        sha256: Its content hash; None if it is not used.
    """

    frame: pl.DataFrame
    used: bool = False
    join: dict[str, Any] | None = None
    assessment: SentimentAssessment | None = None
    sha256: str | None = None


def as_of(market: Market, options: RecipeOptions, context: Context) -> Joined:
    """Join the newest value that was known when a candle opened; see `index_columns`.

    Raises:
        DataError: The market has no index, or it has no day in the range of the candles.
    """
    candles, index = market.candles, _index_of(market)
    last = candles["timestamp"][-1]
    end = context.asked.end or last.replace(hour=23, minute=59, second=59)
    # No feature uses later days, so they must not change the assessment.
    known = index.filter(pl.col("timestamp") <= min(last, end))
    assessment = assess(candles, known, force=options.force_sentiment, now=end)
    if assessment.recommendation == "price_only":
        log.warning(
            "sentiment covers few of the candles (score %.2f), so most of its values are "
            "filled; pass --force-price-only to train without it",
            assessment.score,
        )
    frame = joined_as_of(market, options)
    _report_missing(frame)
    join = {"method": "as_of", "lag_days": options.sentiment_lag_days}
    return Joined(frame, True, join, assessment, content_hash(known))


def joined_as_of(market: Market, options: RecipeOptions) -> pl.DataFrame:
    """Return the candles with the columns of the index; see `as_of`."""
    lag_days = options.sentiment_lag_days
    frame = market.frame
    return frame.hstack(index_columns(frame, _index_of(market), lag_days=lag_days))


def _index_of(market: Market) -> pl.DataFrame:
    """Return the index of `market`.

    Raises:
        DataError: It has none.
    """
    if market.sentiment is None:
        raise DataError(
            "the market has no sentiment, but the recipe has features of the Fear & Greed index; "
            "pass it as `sentiment` of the Market, or force_price_only=True to train without "
            "sentiment"
        )
    return market.sentiment


def _report_missing(frame: pl.DataFrame) -> None:
    missing = frame["sentiment_missing"].to_numpy()
    if missing.all():
        raise DataError(
            "the sentiment has no day in the range of the candles; use sentiment of that range, or "
            "pass --force-price-only to train without it"
        )
    if missing.any():
        log.info(
            "%s of %s have no sentiment of their day; it is filled forward and flagged",
            f"{int(missing.sum()):,}",
            counted(len(missing), "candle"),
        )


def resampled(market: Market, options: RecipeOptions, context: Context) -> Joined:
    """Join the momentum of the index as in the legacy trainer; see `merge_sentiment`.

    The index is not used if it covers too few of the candles, unless `force_sentiment` is set.

    Raises:
        DataError: The market has no index; or `force_sentiment` is set, and the index has no day in
            the range of the candles.
    """
    asked, candles, index = context.asked, market.candles, _index_of(market)
    sentiment = _in_range(sentiment_features(index), candles, asked)
    if options.force_sentiment and sentiment.is_empty():
        first, last = ends(index)
        raise DataError(
            f"--force-sentiment is set, but the sentiment ({first:%Y-%m-%d} to {last:%Y-%m-%d}) "
            "has no day in the range of the candles; use sentiment of that range"
        )
    assessment = assess(candles, sentiment, force=options.force_sentiment, now=context.now)
    if assessment.recommendation == "price_only":
        log.warning(
            "sentiment covers too few of the candles (score %.2f, at least 0.40 required): "
            "training a price model without it; pass --force-sentiment to use it anyway",
            assessment.score,
        )
        return Joined(market.frame, assessment=assessment)
    frame = merge_sentiment(market.frame, sentiment, asked.timeframe)
    return Joined(frame, True, {"method": "resampled"}, assessment, content_hash(sentiment))


def _in_range(sentiment: pl.DataFrame, candles: pl.DataFrame, asked: MarketOptions) -> pl.DataFrame:
    """Return the days of the range. The last one is included only if its midnight is."""
    first, last = ends(candles)
    start = asked.start or first.replace(hour=0, minute=0, second=0, microsecond=0)
    end = asked.end or last
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return sentiment.filter(pl.col("timestamp").is_between(start, midnight))


#: The joins that a recipe can name.
JOINS = {"as_of": as_of, "resampled": resampled}
