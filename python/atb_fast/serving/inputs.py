"""Turns candles into the windows that a model takes: one class for each kind of input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, Feature, FeatureMatrix, FeaturePipeline
from atb_fast.errors import DataError, counted
from atb_fast.features.frames import MOMENTUM
from atb_fast.features.specs import UNSCALED
from atb_fast.serving.frames import check_prices
from atb_fast.serving.sentiment import Sentiment, with_index, with_momentum

if TYPE_CHECKING:
    import polars as pl

SentimentUse = Literal["required", "optional", "no"]
Matrix = FeatureMatrix | CandleMatrix


class ModelInput(ABC):
    """A kind of input of a model.

    Attributes:
        price_scales: Kinds of `PriceScale` that such a model may have.
    """

    price_scales: ClassVar[tuple[str, ...]] = ("linear",)

    @property
    def uses_sentiment(self) -> SentimentUse:
        """Whether sentiment is required, optional (neutral if it is not given), or not used."""
        return "no"

    @property
    def lookback(self) -> int:
        """Number of rows before a window on which its values may depend."""
        return 0

    def columns(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> pl.DataFrame:
        """Return the columns that the matrix is computed from.

        Raises:
            DataError: The frame or the sentiment cannot be used.
        """
        return table

    @abstractmethod
    def matrix(self, columns: pl.DataFrame) -> Matrix:
        """Return the matrix that windows are cut from.

        Args:
            columns: See `columns`.

        Raises:
            DataError: A column is missing, or has an invalid value.
        """

    def windows(
        self, matrix: Matrix, length: int, horizon: int, bars: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bars of a frame that can be predicted, and the start of each one's window.

        A window ends `horizon` bars before the predicted bar. As in training, it skips rows that
        lack a feature.
        """
        ends = np.arange(length, len(matrix) + 1)
        after = matrix.rows[ends - 1] + horizon
        inside = after < bars
        return after[inside], ends[inside] - length

    def last_window(self, matrix: Matrix, columns: pl.DataFrame, length: int) -> int:
        """Return the start of the window that ends with the last bar.

        Args:
            matrix: See `matrix`.
            columns: See `columns`.
            length: Rows in a window.

        Raises:
            DataError: That window is not complete.
        """
        bars = len(columns)
        start = len(matrix) - length
        if start < 0:
            raise DataError(self._too_few(length, len(matrix), bars))
        if matrix.rows[-1] != bars - 1:
            raise DataError(
                f"the last bar, row {bars - 1}, lacks a feature (last complete row: "
                f"{matrix.rows[-1]}); pass sentiment up to the last bar, and candles without "
                "missing values whose prices move"
            )
        return start

    def _too_few(self, length: int, rows: int, bars: int) -> str:
        return (
            f"a window needs {length:,} complete rows, got {rows:,} from "
            f"{counted(bars, 'candle')}; pass more candles"
        )


@dataclass(frozen=True)
class ScaledWindows(ModelInput):
    """Windows of raw candles, each scaled by its own lowest and highest values, for basic models.

    Attributes:
        names: Columns of the candles, in channel order.
    """

    price_scales = ("linear", "rolling_minmax")

    names: tuple[str, ...]

    def matrix(self, columns: pl.DataFrame) -> CandleMatrix:
        """Return the raw candles."""
        return CandleMatrix(columns, self.names)

    def windows(
        self, matrix: Matrix, length: int, horizon: int, bars: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return bars and windows without a value that is missing, 0 or negative, as engines do."""
        assert isinstance(matrix, CandleMatrix)
        starts = matrix.usable(length)
        after = starts + length - 1 + horizon
        return after[after < bars], starts[after < bars]


@dataclass(frozen=True)
class Join:
    """How the Fear & Greed index is joined to the candles.

    Attributes:
        method: `as_of`: all columns of the index as they were known; see `index_columns`.
            `resampled`: its momentum as in the trainer that atb-fast replaces.
        lag_days: Minimum age of the index in days, for `as_of`.
    """

    method: Literal["as_of", "resampled"]
    lag_days: int = 0


@dataclass(frozen=True)
class FeatureWindows(ModelInput):
    """Windows of features that are computed from the candles and scaled.

    Attributes:
        pipeline: The features and their scalers.
        join: How the index is joined; None if it is not used.
    """

    price_scales: ClassVar[tuple[str, ...]] = ("linear", "log_return")

    pipeline: FeaturePipeline
    join: Join | None = None

    @property
    def uses_sentiment(self) -> SentimentUse:
        """Required if a feature is computed from it."""
        return "required" if self.join else "no"

    @property
    def lookback(self) -> int:
        """Number of earlier rows that a feature depends on."""
        return self.pipeline.lookback

    def columns(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> pl.DataFrame:
        """Return the candles, checked, with the columns of the index."""
        check_prices(table)
        if self.join is None:
            return table
        if self.join.method == "resampled":
            return with_momentum(table, sentiment, timeframe)
        return with_index(table, sentiment, self.join.lag_days)

    def matrix(self, columns: pl.DataFrame) -> FeatureMatrix:
        """Return the scaled features."""
        return self.pipeline.transform(columns)

    def last_window(self, matrix: Matrix, columns: pl.DataFrame, length: int) -> int:
        """Also reject a window that has no sentiment at all."""
        start = super().last_window(matrix, columns, length)
        if self.join and self.join.method == "as_of":
            missing = columns["sentiment_missing"].to_numpy()[matrix.rows[start:]]
            if missing.all():
                raise DataError(
                    "no bar of the last window has the sentiment of its day; pass sentiment up to "
                    "the last bar, or sentiment='neutral'"
                )
        return start

    def _too_few(self, length: int, rows: int, bars: int) -> str:
        return (
            f"a window needs {length:,} complete rows, got {rows:,} from "
            f"{counted(bars, 'candle')}; pass at least {self.pipeline.warmup + length:,} candles "
            f"without missing values, because the first {self.pipeline.warmup:,} are warm-up"
        )


@dataclass(frozen=True)
class CandlesAndSentiment(FeatureWindows):
    """Windows of raw candles for a model.onnx that computes the features; sentiment is optional.

    The pipeline has the columns of the candles, unscaled.
    """

    price_scales = ("linear",)

    @property
    def uses_sentiment(self) -> SentimentUse:
        """Optional, because the graph has a neutral default."""
        return "optional"

    def columns(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> pl.DataFrame:
        """Return the candles, checked, and with the momentum of the index if there is sentiment."""
        check_prices(table)
        return table if sentiment is None else with_momentum(table, sentiment, timeframe)

    def matrix(self, columns: pl.DataFrame) -> FeatureMatrix:
        """Return the candles and, if there is sentiment, its momentum as one more column."""
        if MOMENTUM not in columns.columns:
            return self.pipeline.transform(columns)
        momentum = Feature(MOMENTUM, [("column", (), (MOMENTUM,))])
        pipeline = FeaturePipeline(
            [*self.pipeline.features, momentum], scalers=[*self.pipeline.scalers, UNSCALED]
        )
        return pipeline.transform(columns)
