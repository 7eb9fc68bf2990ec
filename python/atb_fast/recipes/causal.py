"""A recipe that knows nothing of the future, and aims at returns rather than at prices.

Features are returns, ratios and ranges, so they keep their range as prices grow. They are
standardized by the rows of the training windows; the target is the log return over the horizon, in
root mean squares of the training windows' returns. Windows that choose the epoch and windows that
are tested share no row with those before them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atb_fast._core import Feature, FeaturePipeline, MinMaxScaler
from atb_fast.config import TrainingConfig
from atb_fast.errors import DataError
from atb_fast.features.hashing import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.returns import PRICE_COLUMNS, SENTIMENT_COLUMNS, SETTLED, columns
from atb_fast.features.sentiment import assess
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Predict, Recipe
from atb_fast.recipes.shrinkage import shrinkage_factor
from atb_fast.recipes.split import before, embargo

log = logging.getLogger(__name__)

#: Rows before the longest average has a value.
_WARMUP = 29
#: 0 or 1, and not scaled: one day in years would be dozens of deviations.
_FLAGS = ("sentiment_extreme_positive", "sentiment_extreme_negative", "sentiment_missing")

#: Of the windows, newest ones, that are tested.
_TEST_SHARE = 0.2
#: Columns without a scaler yet.
_UNSCALED = MinMaxScaler(0.0, 1.0)


class CausalRecipe(Recipe):
    """Returns, ratios and ranges; the target is the log return over the horizon."""

    def prepare(
        self,
        market: Market,
        config: TrainingConfig,
        *,
        now: datetime | None = None,
        cache: Path | None = None,
    ) -> PreparedData:
        """Return features that are not scaled yet. No candle behind the warm-up is left out."""
        candles = market.candles
        least = SETTLED + config.sequence_length + config.horizon
        if len(candles) < least:
            raise DataError(
                f"{len(candles)} candles are in the range, expected at least {least}: "
                f"{SETTLED} until an RSI has settled, a window of {config.sequence_length} and the "
                f"horizon of {config.horizon}; use a longer range"
            )
        index = None if config.force_price_only else market.sentiment
        assessment = None
        sha256 = {"candles": content_hash(candles)}
        if index is not None:
            last = candles["timestamp"][-1]
            end = config.end or last.replace(hour=23, minute=59, second=59)
            # No feature sees a later day, which may be there today and was not yesterday.
            known = index.filter(pl.col("timestamp") <= min(last, end))
            assessment = assess(candles, known, force=config.force_sentiment, now=end)
            if assessment.recommendation == "price_only":
                log.warning(
                    "sentiment covers little of the candles (score %.2f): most of its columns are "
                    "filled; --force-price-only leaves them out",
                    assessment.score,
                )
            sha256["sentiment"] = content_hash(known)
        frame = columns(candles, index, lag_days=config.sentiment_lag_days)
        names = [*PRICE_COLUMNS] if index is None else [*PRICE_COLUMNS, *SENTIMENT_COLUMNS]
        if index is not None:
            _report_missing(frame)
        pipeline = FeaturePipeline(
            [Feature(name, name) for name in names], scalers=[_UNSCALED] * len(names)
        )
        matrix = pipeline.transform(frame)
        source = {"recipe": "causal", "sentiment_lag_days": config.sentiment_lag_days}
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
            gaps=len(gaps(candles["timestamp"], config.bar_ms)),
            sha256=sha256,
        )

    def parts(self, prepared: PreparedData, config: TrainingConfig) -> Parts:
        """Split in time, without a row in common and with an embargo between the parts."""
        starts = self.starts(prepared, config)
        first, rows = len(starts) - int(len(starts) * _TEST_SHARE), embargo(prepared, config)
        parts = before(starts[:first], starts[first:], config, rows)
        if not parts.complete:
            raise DataError(
                f"{len(prepared.matrix)} complete rows give {len(parts.train)} windows of "
                f"{config.sequence_length} bars to train, {len(parts.validation)} to validate and "
                f"{len(parts.test)} to test; between the parts a window, the horizon and an "
                f"embargo of {rows} bars are left out; use a longer range, or a shorter "
                "--sequence-length"
            )
        return parts

    def windows(self, prepared: PreparedData, config: TrainingConfig, parts: Parts) -> WindowedData:
        """Scale by what the training windows have, and give each row the return up to it."""
        assert prepared.pipeline is not None  # prepare saw to it
        length, horizon = config.sequence_length, config.horizon
        first, last = self.fitted_rows(parts, config)
        values = prepared.pipeline.transform_float64(prepared.frame)[first : last + 1]
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        # `(x - mean) / deviation` is a min-max scaler from the mean to a deviation above it.
        scalers = [
            _UNSCALED if name in _FLAGS else MinMaxScaler(m, m + (d or 1.0))
            for name, m, d in zip(prepared.pipeline.names, mean, deviation, strict=True)
        ]
        pipeline = FeaturePipeline(prepared.pipeline.features, scalers=scalers)
        scaled = replace(prepared, matrix=pipeline.transform(prepared.frame), pipeline=pipeline)
        returns = np.full(len(prepared.close), np.nan)
        logs = np.log(prepared.close)
        # Under the row behind a window: what happens from the window's last close on.
        reach = len(logs) - horizon
        returns[1 : reach + 1] = logs[horizon:] - logs[:reach]
        scale = float(np.sqrt(np.mean(np.square(returns[parts.train + length])))) or 1.0
        price_scale = PriceScale.log_return(scale, horizon=horizon)
        return WindowedData(scaled, length, parts, returns / scale, price_scale)

    def fitted_rows(self, parts: Parts, config: TrainingConfig) -> tuple[int, int]:
        """Return the first and the last row that scalers are fitted on."""
        return int(parts.train[0]), int(parts.train[-1]) + config.sequence_length - 1

    def build(self, length: int, features: int, *, dtype_policy: str = "float32") -> Any:
        """Return the legacy network, which starts with the forecast "no change"."""
        from atb_fast.recipes.networks import build_model

        return build_model(length, features, dtype_policy=dtype_policy, start_at_zero=True)

    def shrinkage(self, data: WindowedData, predict: Predict) -> float:
        """Estimate the factor on the validation windows; see `shrinkage_factor`."""
        returns = data.labels[data.validation + data.length]
        return shrinkage_factor(predict(data.validation), returns, data.horizon)


def _report_missing(frame: pl.DataFrame) -> None:
    missing = frame["sentiment_missing"].to_numpy()
    if missing.all():
        raise DataError(
            "the sentiment has no day of the candles; give the index of their range, or "
            "--force-price-only for a model without it"
        )
    if missing.any():
        log.info(
            "%d of %d candles lack the index of their day: it is filled forward and flagged",
            int(missing.sum()),
            len(missing),
        )
