"""How much of a predicted return to keep."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shrinkage_factor(
    outputs: NDArray[np.float64], returns: NDArray[np.float64], horizon: int
) -> float:
    """Return the factor for predicted returns that windows which were not fitted bear out.

    It is the slope of least squares of returns on predictions, less two standard errors, within
    0..1. Returns are mostly noise, and a network that has learned noise is worse than "no change",
    which is the factor 0. One error (L. Breiman et al., Classification and Regression Trees, 1984,
    section 3.4.3) is not enough: the same windows have chosen the epoch.

    Args:
        outputs: Predicted, shape (windows,).
        returns: What came, in the same unit.
        horizon: Bars that a return goes over: so many neighbours know what one does.
    """
    power = float(np.sum(np.square(outputs)))
    if power == 0.0:
        return 0.0
    slope = float(np.sum(outputs * returns)) / power
    rest = returns - slope * outputs
    variance = float(np.sum(np.square(rest))) / max(1, len(rest) - 1) * horizon
    return float(min(1.0, max(0.0, slope - 2.0 * np.sqrt(variance / power))))
