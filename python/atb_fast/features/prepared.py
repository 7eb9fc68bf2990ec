"""Features by row, with what is needed to make the same ones again."""

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
    """What a recipe makes of a market.

    Attributes:
        model_type: `sentiment`, `price`, `basic` or `causal`: where the registry keeps the model.
        matrix: Features, shape (rows, features): scaled float32; not scaled yet if the recipe
            scales by the training part; or raw candles, float64, whose windows are scaled one by
            one.
        close: Raw close of each row in quote currency, float64, shape (rows,).
        timestamps: Open time of each row, UTC.
        frame: What the features are made of: the candles, with the columns that the recipe adds.
        index: The Fear & Greed index, timestamp and value, of all history; None if it is not used.
        pipeline: The features and their scalers; None if windows are scaled one by one.
        sources: How each feature is made, by its name in feature_schema.json, in channel order.
        lookback: Candles before a row that its features depend on.
        assessment: Of the sentiment; None if price only was asked for.
        candles: Number of candles that went in; those without every feature were dropped.
        gaps: Number of steps between two candles that are longer than a bar.
        sha256: Content of the `candles`, and of the `sentiment` if it is used, as
            `feature_cache.content_hash` defines it.
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
        """Whether a feature is made of the index."""
        return self.index is not None
