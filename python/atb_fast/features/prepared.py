"""The features that a recipe prepares from a market, and how to compute them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, FeatureMatrix, FeaturePipeline
from atb_fast.features.sentiment import SentimentAssessment
from atb_fast.features.specs import Specs, further_columns


@dataclass(frozen=True)
class PreparedData:
    """The features that a recipe prepares from a market.

    Attributes:
        model_type: A directory in the registry: `sentiment`, `price`, `basic`, `causal`, or the
            name of the user's recipe.
        matrix: Shape (rows, features): scaled features, float32; unscaled features, if the recipe
            fits scalers on the training part; or raw candles, float64, if each window is scaled by
            its own values.
        close: Raw close of each row, quote currency, float64, shape (rows,).
        timestamps: Open time of each row, UTC.
        frame: The candles, and the columns that the recipe added to compute features from.
        index: The complete Fear & Greed index, timestamp and value; None if it is not used.
        pipeline: The features and their scalers; None if each window is scaled by its own values.
        specs: How each feature is computed and scaled, in channel order.
        join: How the index is joined to the candles, as in feature_schema.json: `as_of` with
            `lag_days`, or `resampled`; None if it is not used.
        lookback: Number of candles before a row that its features depend on.
        assessment: How well sentiment covers the candles; None if sentiment was not requested.
        history: Number of candles before the last bar of a window that its label needs.
        candles: Number of candles before those without every feature were dropped.
        gaps: Number of gaps between the candles.
        sha256: Content hash of `candles`, of `sentiment` if it is used, and of each extra by its
            name. It depends on the names and values of the columns only.
        lags: The columns of extras that features read, each with how much later than its timestamp
            a value is known, in milliseconds.
    """

    model_type: str
    matrix: FeatureMatrix | CandleMatrix
    close: NDArray[np.float64]
    timestamps: pl.Series
    frame: pl.DataFrame
    index: pl.DataFrame | None
    pipeline: FeaturePipeline | None
    specs: Specs
    join: Mapping[str, Any] | None
    lookback: int
    assessment: SentimentAssessment | None
    candles: int
    gaps: int
    sha256: dict[str, str]
    lags: dict[str, int] = field(default_factory=dict)
    history: int = 0

    @property
    def has_sentiment(self) -> bool:
        """Whether a feature is computed from the index."""
        return self.index is not None

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Columns of `frame` that features read, besides those of candles and of the index."""
        return further_columns(self.pipeline.columns) if self.pipeline else ()
