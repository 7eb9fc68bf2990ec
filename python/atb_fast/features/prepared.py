"""Features by row, with what is needed to make the same ones again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast import _core
from atb_fast.config import CANDLE_COLUMNS
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
    matrix: _core.FeatureMatrix | _core.CandleMatrix
    close: NDArray[np.float64]
    timestamps: pl.Series
    frame: pl.DataFrame
    index: pl.DataFrame | None
    pipeline: _core.FeaturePipeline | None
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
