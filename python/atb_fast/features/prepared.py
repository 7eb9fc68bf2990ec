"""The features that a recipe prepares from a market, and how to compute them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, FeatureMatrix, FeaturePipeline
from atb_fast.features.sentiment import SentimentAssessment


@dataclass(frozen=True)
class PreparedData:
    """The features that a recipe prepares from a market.

    Attributes:
        model_type: `sentiment`, `price`, `basic` or `causal`; a directory in the registry.
        matrix: Shape (rows, features): scaled features, float32; unscaled features, if the recipe
            fits scalers on the training part; or raw candles, float64, if each window is scaled by
            its own values.
        close: Raw close of each row, quote currency, float64, shape (rows,).
        timestamps: Open time of each row, UTC.
        frame: The candles, and the columns that the recipe added to compute features from.
        index: The complete Fear & Greed index, timestamp and value; None if it is not used.
        pipeline: The features and their scalers; None if each window is scaled by its own values.
        sources: How each feature is computed, by its name in feature_schema.json, in channel order.
        lookback: Number of candles before a row that its features depend on.
        assessment: How well sentiment covers the candles; None if sentiment was not requested.
        candles: Number of candles before those without every feature were dropped.
        gaps: Number of gaps between the candles.
        sha256: Content hash of `candles`, and of `sentiment` if it is used; see
            `hashing.content_hash`.
    """

    model_type: str
    matrix: FeatureMatrix | CandleMatrix
    close: NDArray[np.float64]
    timestamps: pl.Series
    frame: pl.DataFrame
    index: pl.DataFrame | None
    pipeline: FeaturePipeline | None
    sources: dict[str, dict[str, Any]]
    lookback: int
    assessment: SentimentAssessment | None
    candles: int
    gaps: int
    sha256: dict[str, str]

    @property
    def has_sentiment(self) -> bool:
        """Whether a feature is computed from the index."""
        return self.index is not None
