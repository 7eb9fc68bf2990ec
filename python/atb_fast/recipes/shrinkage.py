"""The shrinkage factor of predicted returns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shrinkage_factor(
    outputs: NDArray[np.float64], returns: NDArray[np.float64], horizon: int
) -> float:
    """Return the shrinkage factor for predicted returns, estimated on the validation windows.

    It is the least-squares slope of returns on predictions minus two standard errors, clipped to
    0..1. Returns are mostly noise, and a network that has learned noise is worse than persistence,
    which is the factor 0. One standard error (L. Breiman et al., Classification and Regression
    Trees, 1984, section 3.4.3) is not enough, because the same windows select the epoch.

    Args:
        outputs: Predicted returns, shape (windows,).
        returns: Actual returns, in the same unit.
        horizon: Bars that a return spans. The returns of that many consecutive windows overlap, so
            the variance is multiplied by it.
    """
    power = float(np.sum(np.square(outputs)))
    if power == 0.0:
        return 0.0
    slope = float(np.sum(outputs * returns)) / power
    rest = returns - slope * outputs
    variance = float(np.sum(np.square(rest))) / max(1, len(rest) - 1) * horizon
    return float(min(1.0, max(0.0, slope - 2.0 * np.sqrt(variance / power))))
