"""Sequence windows of a matrix, split in time, with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import Feature, FeaturePipeline, MinMaxScaler
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.features.prepared import PreparedData


@dataclass(frozen=True)
class Parts:
    """Starts of windows, int64, ascending: what is fitted, what chooses the epoch, what is tested.

    The latter two may be the same.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def complete(self) -> bool:
        """Whether each part has a window."""
        return all(map(len, (self.train, self.validation, self.test)))

    @property
    def every(self) -> NDArray[np.int64]:
        """All of them, each once."""
        return np.unique(np.concatenate([self.train, self.validation, self.test]))


@dataclass(frozen=True)
class WindowedData:
    """The windows of a matrix, split in time.

    Window `s` is rows `s` to `s + length - 1`; the model is to predict the close `horizon` rows
    behind its last. What it is fitted to is the label of the row behind the window: the close
    itself; or, where windows are scaled one by one, where the close lies in the range of the
    window's closes, 0..1 if inside; or the log return from the window's last close on.

    Attributes:
        prepared: Features and closes by row.
        length: Rows in a window.
        parts: Which windows are fitted, choose the epoch, and are tested.
        labels: By row, float64, shape (rows,); NaN for rows without one.
        ranges: Lowest and highest close of the window before each row, float64, shape (2, rows);
            NaN for rows without a usable window, None if labels are not in these ranges.
        return_scale: A log return of this size is the label 1; None if labels are no returns.
        horizon: Rows from the last of a window to the one that is predicted.
    """

    prepared: PreparedData
    length: int
    parts: Parts
    labels: NDArray[np.float64]
    ranges: NDArray[np.float64] | None = None
    return_scale: float | None = None
    horizon: int = 1

    @property
    def train(self) -> NDArray[np.int64]:
        """Starts of the windows that are fitted."""
        return self.parts.train

    @property
    def validation(self) -> NDArray[np.int64]:
        """Starts of the windows that choose the epoch."""
        return self.parts.validation

    @property
    def test(self) -> NDArray[np.int64]:
        """Starts of the windows that are tested."""
        return self.parts.test

    @property
    def scaled_by_window(self) -> bool:
        """Whether each window is scaled by its own values, in the graph or by Rust."""
        return self.ranges is not None

    def targets(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the close that each window is to predict, quote currency, shape (windows,)."""
        return self.prepared.close[starts + self.length - 1 + self.horizon]

    def times(self, starts: NDArray[np.int64]) -> pl.Series:
        """Return when the predicted bars open, UTC."""
        return self.prepared.timestamps.gather(starts + self.length - 1 + self.horizon)

    def persistence(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the last close inside each window: the forecast "no change"."""
        return self.prepared.close[starts + self.length - 1]

    def prices(
        self, starts: NDArray[np.int64], outputs: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the prices that the model's outputs for the windows stand for."""
        if self.return_scale is not None:
            return self.persistence(starts) * np.exp(outputs * self.return_scale)
        if self.ranges is None:
            return outputs
        low, high = self.ranges[:, starts + self.length]
        return np.asarray(low + outputs * (high - low))

    def windows(self, starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the windows, shape (windows, length, features)."""
        return self.prepared.matrix.gather(starts, self.length)


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
    unscaled = MinMaxScaler(0.0, 1.0)
    features = [Feature(name, name) for name in columns]
    pipeline = FeaturePipeline(features, scalers=[unscaled] * len(features))
    return pipeline.transform(frame).windows(length)
