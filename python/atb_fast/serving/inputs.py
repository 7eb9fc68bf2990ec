"""Turns candles into the windows that a model takes: one class for each kind of input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, FeatureMatrix, FeaturePipeline, MinMaxScaler
from atb_fast.errors import DataError, counted
from atb_fast.features.frames import MOMENTUM
from atb_fast.features.indicators import of_column
from atb_fast.serving.frames import check_candles, check_prices
from atb_fast.serving.sentiment import Sentiment, no_day, read_index, with_momentum

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
    def warm_up(self) -> int:
        """Number of rows before a window on which its values may depend."""
        return 0

    @abstractmethod
    def matrix(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> Matrix:
        """Return the matrix that windows are cut from.

        Raises:
            DataError: The frame or the sentiment cannot be used.
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

    def last_window(self, matrix: Matrix, length: int, bars: int) -> int:
        """Return the start of the window that ends with the last bar.

        Raises:
            DataError: That window is not complete.
        """
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
            f"a window needs {length} complete rows, got {rows} from {counted(bars, 'candle')}; "
            "pass more candles"
        )


@dataclass(frozen=True)
class ScaledWindows(ModelInput):
    """Windows of raw candles, each scaled by its own lowest and highest values, for basic models.

    Attributes:
        columns: Columns of the candles, in channel order.
    """

    price_scales = ("linear", "rolling_minmax")

    columns: tuple[str, ...]

    def matrix(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> CandleMatrix:
        """Return the raw candles."""
        return CandleMatrix(table, self.columns)

    def windows(
        self, matrix: Matrix, length: int, horizon: int, bars: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return bars and windows without a value that is missing, 0 or negative, as engines do."""
        assert isinstance(matrix, CandleMatrix)
        starts = matrix.usable(length)
        after = starts + length - 1 + horizon
        return after[after < bars], starts[after < bars]


@dataclass(frozen=True)
class FeatureWindows(ModelInput):
    """Windows of features that are computed from the candles and scaled.

    Attributes:
        pipeline: The features and their scalers.
    """

    pipeline: FeaturePipeline

    @property
    def uses_sentiment(self) -> SentimentUse:
        """Required if a feature is computed from it."""
        columns = {MOMENTUM, "sentiment_missing"} & {*self.pipeline.columns}
        return "required" if columns else "no"

    @property
    def warm_up(self) -> int:
        """Number of earlier rows that a feature depends on."""
        return self.pipeline.lookback

    def matrix(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> FeatureMatrix:
        """Return the scaled features."""
        check_prices(table)
        if self.uses_sentiment != "no":
            table = with_momentum(table, sentiment, timeframe)
        return self.pipeline.transform(table)


@dataclass(frozen=True)
class CandlesAndSentiment(ModelInput):
    """Windows of raw candles for a model.onnx that computes the features; sentiment is optional.

    Attributes:
        pipeline: The columns of the candles, unscaled.
    """

    pipeline: FeaturePipeline

    @property
    def uses_sentiment(self) -> SentimentUse:
        """Optional, because the graph has a neutral default."""
        return "optional"

    def matrix(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> FeatureMatrix:
        """Return the candles and, if there is sentiment, its momentum as one more column."""
        check_prices(table)
        if sentiment is not None:
            table = with_momentum(table, sentiment, timeframe)
        if MOMENTUM not in table.columns:
            return self.pipeline.transform(table)
        features = [*self.pipeline.features, of_column(MOMENTUM, MOMENTUM)]
        scalers = [*self.pipeline.scalers, MinMaxScaler(0.0, 1.0)]
        return FeaturePipeline(features, scalers=scalers).transform(table)


@dataclass(frozen=True)
class CausalFeatures(FeatureWindows):
    """Windows of the features in `features.returns`.

    Attributes:
        lag_days: Minimum age in days of the sentiment for a candle.
    """

    price_scales = ("linear", "log_return")

    lag_days: int

    @property
    def warm_up(self) -> int:
        """Number of rows until the RSI does not depend on earlier ones in any digit."""
        from atb_fast.features.returns import SETTLED

        return 2 * SETTLED

    def matrix(self, table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> FeatureMatrix:
        """Return the scaled features, without rows whose averages have not settled."""
        return self.pipeline.transform(self._columns(table, sentiment))

    def last_window(self, matrix: Matrix, length: int, bars: int) -> int:
        """Also reject a window that has no sentiment at all."""
        start = super().last_window(matrix, length, bars)
        if "sentiment_missing" in matrix.names:
            missing = matrix.values[start:, matrix.names.index("sentiment_missing")]
            if missing.all():
                raise DataError(
                    "no bar of the last window has the sentiment of its day; pass sentiment up to "
                    "the last bar, or sentiment='neutral'"
                )
        return start

    def _too_few(self, length: int, rows: int, bars: int) -> str:
        from atb_fast.features.returns import SETTLED

        return (
            f"the last bar needs {SETTLED + length} candles without a missing value, {SETTLED} of "
            f"them until the RSI has settled; got {bars}, {rows} of them complete; pass "
            "more candles"
        )

    def _columns(self, table: pl.DataFrame, sentiment: Sentiment) -> pl.DataFrame:
        import polars as pl

        from atb_fast.features import returns

        index: pl.DataFrame | Literal["neutral"] | None = None
        if self.uses_sentiment == "required":
            neutral = isinstance(sentiment, str) and sentiment == "neutral"
            index = "neutral" if neutral else read_index(sentiment)
        candles = check_candles(table, timed=isinstance(index, pl.DataFrame))
        made = returns.columns(candles, index, lag_days=self.lag_days)
        if isinstance(index, pl.DataFrame) and len(made) and made["sentiment_missing"].min() == 1.0:
            raise DataError(no_day(index))
        # Wilder's average starts again after a missing close.
        number = np.arange(len(made))
        missing = np.isnan(candles["close"].to_numpy())
        begin = np.maximum.accumulate(np.where(missing, number + 1, 0))
        settled = number - begin >= returns.SETTLED
        rsi = np.where(settled, made["rsi_14"].to_numpy(), np.nan)
        others = [made[name] for name in made.columns if name != "rsi_14"]
        return pl.DataFrame([*others, pl.Series("rsi_14", rsi, nan_to_null=True)])
