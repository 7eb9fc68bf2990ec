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
class WindowedData:
    """The windows of a matrix, split in time, and the labels that a model is fitted to.

    The window that starts at row `s` has the rows `s` to `s + length - 1`. The model predicts the
    close `horizon` rows after the last of them, in the unit of `price_scale`.

    Attributes:
        prepared: Features and closes by row.
        length: Rows in a window.
        parts: The training, validation and test windows.
        labels: The targets in the unit of the outputs, float64, shape (rows,). The label of window
            `s` is at `s + length`, for any horizon; NaN in rows that are not the label of a window.
        price_scale: How outputs and labels are converted to prices.
    """

    prepared: PreparedData
    length: int
    parts: Parts
    labels: NDArray[np.float64]
    price_scale: PriceScale

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
    def horizon(self) -> int:
        """Rows from the last row of a window to the row whose close is predicted."""
        return self.price_scale.horizon

    @property
    def scaled_by_window(self) -> bool:
        """Whether each window is scaled by its own values."""
        return isinstance(self.prepared.matrix, CandleMatrix)

    def targets(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the actual close that each window predicts, quote currency, shape (windows,)."""
        return self.prepared.close[starts + self.length - 1 + self.horizon]

    def times(self, starts: NDArray[np.int64]) -> pl.Series:
        """Return the open times of the predicted bars, UTC."""
        return self.prepared.timestamps.gather(starts + self.length - 1 + self.horizon)

    def persistence(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the last close of each window, which is the forecast "no change"."""
        return self.prepared.close[starts + self.length - 1]

    def prices(
        self, starts: NDArray[np.int64], outputs: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the outputs of a model for the windows as prices, quote currency."""
        matrix, last = self.prepared.matrix, self.persistence(starts)
        return self.price_scale.to_prices(outputs, matrix, starts, last)

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
