"""Windows of consecutive rows, split in time, with their targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, Feature
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import ArgumentError
from atb_fast.features.frames import ArrowFrame
from atb_fast.features.heads import Output
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.specs import unscaled


@dataclass(frozen=True)
class Parts:
    """The windows of each part: the row that each window starts at, int64, ascending.

    Attributes:
        train: Windows that the model is fitted to.
        validation: Windows on which the best epoch is selected.
        test: Windows that are only predicted. They may be the same as `validation`.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def complete(self) -> bool:
        """Whether no part is empty."""
        return all(map(len, (self.train, self.validation, self.test)))

    @property
    def every(self) -> NDArray[np.int64]:
        """The windows of all parts, without duplicates."""
        return np.unique(np.concatenate([self.train, self.validation, self.test]))


@dataclass(frozen=True)
class Labels:
    """The values that a model is fitted to, and those its forecasts are compared with, by row.

    The values of window `s` are at row `s + length` for any horizon; rows without a label are NaN.
    All arrays are float64, shape (rows,).

    Attributes:
        values: The labels in the unit of the outputs; for classes, their indices.
        actual: What happened, in the unit of the forecasts; for classes, their indices.
        unchanged: Persistence in that unit; NaN for classes.
        output: How outputs become forecasts.
        weights: The weight of each label in the loss; None if all are 1.
        base: A linear forecast from the last row of a window, in the unit of the outputs: weights,
            shape (features,), and bias. The network learns its error. None for no such forecast.
    """

    values: NDArray[np.float64]
    actual: NDArray[np.float64]
    unchanged: NDArray[np.float64]
    output: Output
    weights: NDArray[np.float64] | None = None
    base: tuple[NDArray[np.float64], float] | None = None

    @classmethod
    def of_prices(
        cls, close: NDArray[np.float64], values: NDArray[np.float64], scale: PriceScale
    ) -> Labels:
        """Return the labels of a model that predicts a close.

        Args:
            close: Raw close of each row, quote currency, shape (rows,).
            values: See `values`.
            scale: How outputs become prices.
        """
        actual, unchanged = np.full(len(close), np.nan), np.full(len(close), np.nan)
        actual[: len(close) - scale.horizon + 1] = close[scale.horizon - 1 :]
        unchanged[1:] = close[:-1]
        return cls(values, actual, unchanged, scale)


@dataclass(frozen=True)
class WindowedData:
    """The windows of a matrix, split in time, and the labels that a model is fitted to.

    The window that starts at row `s` has the rows `s` to `s + length - 1`.

    Attributes:
        prepared: Features and closes by row.
        length: Rows in a window.
        parts: The training, validation and test windows.
        labels: The labels by row.
    """

    prepared: PreparedData
    length: int
    parts: Parts
    labels: Labels

    @property
    def train(self) -> NDArray[np.int64]:
        """Starts of the training windows."""
        return self.parts.train

    @property
    def validation(self) -> NDArray[np.int64]:
        """Starts of the validation windows."""
        return self.parts.validation

    @property
    def test(self) -> NDArray[np.int64]:
        """Starts of the test windows."""
        return self.parts.test

    @property
    def output(self) -> Output:
        """How the outputs of a model become forecasts."""
        return self.labels.output

    @property
    def horizon(self) -> int:
        """Bars that a forecast covers; the horizons of so many consecutive windows overlap."""
        return self.output.horizon

    @property
    def scaled_by_window(self) -> bool:
        """Whether each window is scaled by its own values."""
        return isinstance(self.prepared.matrix, CandleMatrix)

    def fitted(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the label that each window is fitted to, shape (windows,)."""
        return self.labels.values[starts + self.length]

    def weights(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the weight that each window has in the loss, shape (windows,)."""
        given = self.labels.weights
        return np.ones(len(starts)) if given is None else given[starts + self.length]

    def targets(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the actual value that each window forecasts, shape (windows,)."""
        return self.labels.actual[starts + self.length]

    def persistence(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the forecast of persistence for each window; NaN for classes."""
        return self.labels.unchanged[starts + self.length]

    def last_close(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the last close of each window, quote currency."""
        return self.prepared.close[starts + self.length - 1]

    def times(self, starts: NDArray[np.int64]) -> pl.Series:
        """Return the open times of the bars at which forecasts are listed, UTC."""
        last, offset = starts + self.length - 1, self.output.offset
        if isinstance(self.output, PriceScale):  # a close of the matrix, which may skip bars
            return self.prepared.timestamps.gather(last + offset)
        return self.prepared.frame["timestamp"].gather(self.prepared.matrix.rows[last] + offset)

    def ends(self, starts: NDArray[np.int64]) -> pl.Series:
        """Return the open times of the last bars that the labels depend on, UTC."""
        if isinstance(self.output, PriceScale):
            return self.times(starts)
        anchors = self.prepared.matrix.rows[starts + self.length - 1 + self.output.lag]
        times = self.prepared.frame["timestamp"]
        return times.gather(np.minimum(anchors + self.horizon, len(times) - 1))

    def forecasts(
        self, starts: NDArray[np.int64], outputs: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the outputs of a model for the windows as forecasts; see `Output.forecasts`."""
        return self.output.forecasts(outputs, self.prepared.matrix, starts, self.last_close(starts))

    def base(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the linear forecast that the network starts from, in the unit of the outputs."""
        if self.labels.base is None:
            return np.zeros(len(starts))
        weights, bias = self.labels.base
        rows = self.prepared.matrix.values[starts + self.length - 1]
        return np.asarray(rows @ weights + bias)

    def windows(self, starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the windows, shape (windows, length, features)."""
        return self.prepared.matrix.gather(starts, self.length)


def windows(
    frame: ArrowFrame, length: int, columns: str | Iterable[str] = CANDLE_COLUMNS
) -> NDArray[np.float32]:
    """Return every window of `length` rows of `frame`, unscaled.

    Args:
        frame: A frame with float64 `columns`. Rows with a null are skipped.
        length: Rows in a window, at least 1.
        columns: The columns of a window, in order; or the name of one column.

    Returns:
        Shape (rows - length + 1, length, columns), float32. It is a read-only view: the windows
        share the memory of one copy of the columns.

    Raises:
        ArgumentError: `length` is out of range, or `columns` is empty, has a name twice, or
            contains anything but names.
        DataError: `frame` is not a frame; a column is missing, is not float64, or has NaN or
            infinities; or the frame has fewer rows than a window.
    """
    if not isinstance(columns, Iterable):
        raise ArgumentError(f"columns is {columns!r}, expected a name or a list of names")
    names = [columns] if isinstance(columns, str) else columns
    features = [Feature(name, [("column", (), (name,))]) for name in names]
    return unscaled(features).transform(frame).windows(length)
