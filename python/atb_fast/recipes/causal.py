"""The causal recipe, which has no look-ahead bias and predicts returns rather than prices.

Features are returns, ratios and ranges, so their scale does not change as prices grow. They are
standardized on the rows of the training windows. The target is the log return over the horizon,
divided by the root mean square of the training returns. Training, validation and test windows share
no row.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from atb_fast._core import FeaturePipeline, MinMaxScaler
from atb_fast.config import RecipeOptions
from atb_fast.errors import DataError, counted
from atb_fast.features.hashing import content_hash
from atb_fast.features.indicators import of_column
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.returns import PRICE_COLUMNS, SENTIMENT_COLUMNS, SETTLED, columns
from atb_fast.features.sentiment import assess
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Context, Predict, Recipe, check_moves
from atb_fast.recipes.shrinkage import shrinkage_factor
from atb_fast.recipes.split import before, embargo_rows

log = logging.getLogger(__name__)

#: Columns of 0 and 1, left unscaled: a flag set on one day in years would be dozens of deviations.
_FLAGS = ("sentiment_extreme_positive", "sentiment_extreme_negative", "sentiment_missing")

#: Share of the windows, newest first, that are the test part.
_TEST_SHARE = 0.2
#: A scaler that leaves a column as it is.
_UNSCALED = MinMaxScaler(0.0, 1.0)


class CausalRecipe(Recipe):
    """Returns, ratios and ranges; the target is the log return over the horizon."""

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        """Return unscaled features for every candle after the warm-up."""
        candles = market.candles
        check_moves(market)
        least = SETTLED + options.sequence_length + options.horizon
        if len(candles) < least:
            raise DataError(
                f"the range has {counted(len(candles), 'candle')}, expected at least {least}: "
                f"{SETTLED} until the RSI has settled, {options.sequence_length} for a window and "
                f"{options.horizon} for the horizon; use a longer range"
            )
        index = None if context.asked.force_price_only else market.sentiment
        assessment = None
        sha256 = {"candles": content_hash(candles)}
        if index is not None:
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
            sha256["sentiment"] = content_hash(known)
        frame = columns(candles, index, lag_days=options.sentiment_lag_days)
        names = [*PRICE_COLUMNS] if index is None else [*PRICE_COLUMNS, *SENTIMENT_COLUMNS]
        if index is not None:
            _report_missing(frame)
        pipeline = FeaturePipeline(
            [of_column(name, name) for name in names], scalers=[_UNSCALED] * len(names)
        )
        matrix = pipeline.transform(frame)
        source = {"recipe": "causal", "sentiment_lag_days": options.sentiment_lag_days}
        return PreparedData(
            model_type="causal",
            matrix=matrix,
            close=candles["close"].to_numpy()[matrix.rows],
            timestamps=candles["timestamp"].gather(matrix.rows),
            frame=frame,
            index=index,
            pipeline=pipeline,
            sources={name: {"column": name} | source for name in names},
            lookback=SETTLED,
            assessment=assessment,
            candles=len(candles),
            gaps=len(gaps(candles["timestamp"], context.asked.bar_ms)),
            sha256=sha256,
        )

    def parts(self, prepared: PreparedData, options: RecipeOptions) -> Parts:
        """Split by time, with purging and an embargo."""
        starts = self.starts(prepared, options)
        first, rows = len(starts) - int(len(starts) * _TEST_SHARE), embargo_rows(prepared, options)
        parts = before(starts[:first], starts[first:], options, rows)
        if not parts.complete:
            raise DataError(
                f"{len(prepared.matrix)} complete rows give {len(parts.train)} windows of "
                f"{options.sequence_length} bars to train, {len(parts.validation)} to validate and "
                f"{len(parts.test)} to test: a window, the horizon and an embargo of {rows} "
                "bars are dropped between the parts; use a longer range, a shorter "
                "--sequence-length, or a smaller --embargo"
            )
        return parts

    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        """Standardize on the training windows, and label each window with its target."""
        assert prepared.pipeline is not None  # made by prepare
        length, horizon = options.sequence_length, options.horizon
        first, last = self.fitted_rows(parts, options)
        values = prepared.pipeline.transform_float64(prepared.frame)[first : last + 1]
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        # A min-max scaler from mean to mean + deviation computes (x - mean) / deviation.
        scalers = [
            _UNSCALED if name in _FLAGS else MinMaxScaler(m, m + (d or 1.0))
            for name, m, d in zip(prepared.pipeline.names, mean, deviation, strict=True)
        ]
        pipeline = FeaturePipeline(prepared.pipeline.features, scalers=scalers)
        scaled = replace(prepared, matrix=pipeline.transform(prepared.frame), pipeline=pipeline)
        returns = np.full(len(prepared.close), np.nan)
        logs = np.log(prepared.close)
        # The label of a window is at the row after the window: the return from its last close.
        reach = len(logs) - horizon
        returns[1 : reach + 1] = logs[horizon:] - logs[:reach]
        scale = float(np.sqrt(np.mean(np.square(returns[parts.train + length])))) or 1.0
        price_scale = PriceScale.log_return(scale, horizon=horizon)
        return WindowedData(scaled, length, parts, returns / scale, price_scale)

    def fitted_rows(self, parts: Parts, options: RecipeOptions) -> tuple[int, int]:
        """Return the first and the last row that the scalers are fitted on."""
        return int(parts.train[0]), int(parts.train[-1]) + options.sequence_length - 1

    def build(self, length: int, features: int, *, dtype_policy: str = "float32") -> Any:
        """Return the legacy network, initialized to predict no change."""
        from atb_fast.recipes.networks import build_model

        return build_model(length, features, dtype_policy=dtype_policy, start_at_zero=True)

    def shrinkage(self, data: WindowedData, predict: Predict) -> float:
        """Return the factor estimated on the validation windows; see `shrinkage_factor`."""
        returns = data.labels[data.validation + data.length]
        return shrinkage_factor(predict(data.validation), returns, data.horizon)


def _report_missing(frame: pl.DataFrame) -> None:
    missing = frame["sentiment_missing"].to_numpy()
    if missing.all():
        raise DataError(
            "the sentiment has no day in the range of the candles; use sentiment of that range, or "
            "pass --force-price-only to train without it"
        )
    if missing.any():
        log.info(
            "%d of %d candles have no sentiment of their day; it is filled forward and flagged",
            int(missing.sum()),
            len(missing),
        )
