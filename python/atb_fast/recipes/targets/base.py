"""The interface of a target."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import RecipeOptions
from atb_fast.errors import counted
from atb_fast.features.heads import LINEAR, Head, Output
from atb_fast.features.prepared import PreparedData
from atb_fast.features.specs import Specs
from atb_fast.features.windows import Labels, Parts, WindowedData
from atb_fast.recipes.keys import Part

log = logging.getLogger(__name__)

#: Returns the outputs of a fitted model for the windows at these starts.
Predict = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Target(Part):
    """What a model predicts from a window.

    To add one, subclass this and add the class to `TARGETS`. Its fields are its keys; see `Part`.

    A label starts at an anchor, the bar `lag` bars after the last bar of a window, and depends on
    the next `options.horizon` bars.

    Attributes:
        price: Whether its forecasts are prices. The predicted bar follows the window, so such a
            target has no lag.
        scaled_by_window: Whether it needs windows that are scaled by their own values.
        relative: Whether an output of 0 means persistence. If so, a network is initialized to
            predict 0, and its outputs are multiplied by a shrinkage factor.
    """

    price: ClassVar[bool] = False
    scaled_by_window: ClassVar[bool] = False
    relative: ClassVar[bool] = False

    @property
    def horizon(self) -> int:
        """Bars after the anchor that a label depends on."""
        return 1

    @property
    def head(self) -> Head:
        """The last layer of a network that predicts it."""
        return LINEAR

    def check_features(self, features: Specs) -> None:
        """Raise ArgumentError if the target needs other features; by default, it does not."""

    def usable(
        self,
        prepared: PreparedData,
        starts: NDArray[np.int64],
        options: RecipeOptions,
        lag: int = 0,
    ) -> NDArray[np.int64]:
        """Return those of the windows at `starts` that have a label; by default all.

        Raises:
            DataError: Too few have one.
        """
        return starts

    def history(self, options: RecipeOptions) -> int:
        """Return the number of candles before the last bar of a window that its label needs."""
        return 0

    @abstractmethod
    def labels(
        self, prepared: PreparedData, options: RecipeOptions, parts: Parts, lag: int = 0
    ) -> Labels:
        """Return the label of each row. Estimates use only the training windows of `parts`."""

    def calibrated(self, data: WindowedData, predict: Predict) -> Output:
        """Return how outputs are read after the fit; by default as before it.

        Args:
            data: The windows that the model was fitted to.
            predict: Returns the outputs of the fitted model.
        """
        return data.output


def log_left_out(windows: int, counts: Mapping[str, int]) -> None:
    """Log how many of `windows` are left out, for each reason that applies to any."""
    reasons = [f"{count:,} {reason}" for reason, count in counts.items() if count]
    if reasons:
        left, total = sum(counts.values()), counted(windows, "window")
        log.info("%s of %s left out: %s", f"{left:,}", total, ", ".join(reasons))
