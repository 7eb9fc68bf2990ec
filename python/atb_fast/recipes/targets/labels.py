"""Labels of bars, computed from the `horizon` bars after each of them.

A label is NaN where it is not known. `_core.triple_barrier` computes the third kind of label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import sma


def binary_direction(
    timestamps: NDArray[np.int64], close: NDArray[np.float64], *, bar_ms: int, horizon: int
) -> NDArray[np.float64]:
    """Return 1 where the close is higher `horizon` bars later, else 0, also where it is equal.

    NaN where no bar opens exactly `horizon` bars later in the row that should have it, or one of
    the two closes is missing, not finite, zero or negative.

    Args:
        timestamps: Open times, milliseconds since 1970, shape (n,), strictly ascending.
        close: Shape (n,).
        bar_ms: Length of a bar, milliseconds.
        horizon: Bars from a close to the one that it is compared with, at least 1.

    Returns:
        Shape (n,): 0, 1 or NaN.
    """
    price = _prices(close)
    later = _later(timestamps, price, bar_ms, horizon)
    return np.where(np.isnan(price) | np.isnan(later), np.nan, later > price)


def smoothed_return(
    timestamps: NDArray[np.int64], close: NDArray[np.float64], *, bar_ms: int, horizon: int
) -> NDArray[np.float64]:
    """Return `mean(close[t + 1], ..., close[t + horizon]) / close[t] - 1`.

    NaN where the row of the last of these bars does not open exactly `horizon` bars later, or one
    of the closes is missing, not finite, zero or negative.

    Args:
        timestamps: Open times, milliseconds since 1970, shape (n,), strictly ascending.
        close: Shape (n,).
        bar_ms: Length of a bar, milliseconds.
        horizon: Closes in the mean, at least 1.

    Returns:
        Shape (n,), a fraction: 0.01 is 1%.
    """
    price = _prices(close)
    return _later(timestamps, sma(price, horizon), bar_ms, horizon) / price - 1


def _prices(close: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((close > 0) & np.isfinite(close), close, np.nan)


def _later(
    timestamps: NDArray[np.int64], values: NDArray[np.float64], bar_ms: int, horizon: int
) -> NDArray[np.float64]:
    """Return the value `horizon` rows later; NaN unless its bar opens as many bars later."""
    on_time = timestamps[horizon:] - timestamps[:-horizon] == horizon * bar_ms
    later = np.full(len(values), np.nan)
    later[:-horizon] = np.where(on_time, values[horizon:], np.nan)
    return later
