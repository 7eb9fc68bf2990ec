"""Targets that are prices: the model predicts a close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix
from atb_fast.config import RecipeOptions
from atb_fast.errors import DataError
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Labels, Parts
from atb_fast.recipes.keys import key
from atb_fast.recipes.targets.base import Target, log_left_out

#: Minimum range of the closes in a window, relative to the price. Prices that do not move for 120
#: bars are an outage, and any move after it would have a label in the thousands.
_LEAST_RANGE = 1e-4


@dataclass(frozen=True)
class Close(Target):
    """The close of the next bar, in quote currency."""

    kind = "close"
    price = True

    def labels(
        self,
        prepared: PreparedData,
        options: RecipeOptions,
        parts: Parts,
        lag: int = 0,
    ) -> Labels:
        """Return the closes. The row after a window is the one that it predicts."""
        labels = np.full(len(prepared.close), np.nan)
        labels[: len(labels) - options.horizon + 1] = prepared.close[options.horizon - 1 :]
        return Labels.of_prices(prepared.close, labels, PriceScale.linear(horizon=options.horizon))


@dataclass(frozen=True)
class WindowClose(Target):
    """The close of the next bar as a position in the range of the window's closes."""

    kind = "window_close"
    price = True
    scaled_by_window = True

    def usable(
        self,
        prepared: PreparedData,
        starts: NDArray[np.int64],
        options: RecipeOptions,
        lag: int = 0,
    ) -> NDArray[np.int64]:
        """Return the windows that engines accept and in which the close moves."""
        if not len(starts):
            return starts
        matrix, every = _raw(prepared), len(starts)
        usable = matrix.usable(options.sequence_length)
        starts = np.intersect1d(starts, usable, assume_unique=True)
        low, high = matrix.ranges("close", starts, options.sequence_length)
        moving = starts[high - low > _LEAST_RANGE * high]
        counts = {
            "with a value that is missing, 0 or negative, which engines reject": every
            - len(starts),
            "in which the close does not move": len(starts) - len(moving),
        }
        log_left_out(every, counts)
        if every >= 2 and len(moving) < 2:
            raise DataError(
                f"only {len(moving):,} of {every:,} windows of {options.sequence_length:,} bars "
                "are usable: in the others, a value is missing, 0 or negative, or the close does "
                "not move; use candles of a market that trades"
            )
        return moving

    def labels(
        self,
        prepared: PreparedData,
        options: RecipeOptions,
        parts: Parts,
        lag: int = 0,
    ) -> Labels:
        """Return `(close - low) / (high - low)` with the range of the window before it."""
        length, starts = options.sequence_length, parts.every
        low, high = _raw(prepared).ranges("close", starts, length)
        labels = np.full(len(prepared.close), np.nan)
        labels[starts + length] = (prepared.close[starts + length] - low) / (high - low)
        return Labels.of_prices(prepared.close, labels, PriceScale.rolling_minmax(length))


@dataclass(frozen=True)
class LogReturn(Target):
    """The log return over the horizon, divided by the root mean square of the training returns.

    Attributes:
        horizon: Bars that the return spans.
    """

    kind = "log_return"
    price = True
    relative = True

    horizon: int = key(1, minimum=1, maximum=1 << 20)

    def labels(
        self,
        prepared: PreparedData,
        options: RecipeOptions,
        parts: Parts,
        lag: int = 0,
    ) -> Labels:
        """Return the return from the last close of each window."""
        horizon = options.horizon
        returns = np.full(len(prepared.close), np.nan)
        logs = np.log(prepared.close)
        # The label of a window is at the row after the window.
        reach = len(logs) - horizon
        returns[1 : reach + 1] = logs[horizon:] - logs[:reach]
        trained = returns[parts.train + options.sequence_length]
        scale = float(np.sqrt(np.mean(np.square(trained)))) or 1.0
        return Labels.of_prices(
            prepared.close, returns / scale, PriceScale.log_return(scale, horizon=horizon)
        )


def _raw(prepared: PreparedData) -> CandleMatrix:
    assert isinstance(prepared.matrix, CandleMatrix)  # such recipes are scaled by window
    return prepared.matrix
