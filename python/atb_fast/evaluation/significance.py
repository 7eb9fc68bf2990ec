"""Significance: confidence intervals, and a test of two forecasts."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

#: 95% of a normal distribution lie within this many standard deviations of its mean.
Z95 = NormalDist().inv_cdf(0.975)
#: A difference of this many standard errors or more is significant.
_SIGNIFICANT = 2.0


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95% confidence interval of a share, 0..1.

    Assumes independent observations (E. Wilson, Probable Inference, 1927).

    Args:
        share: Observed share of hits, 0..1.
        count: Number of observations, at least 1.
    """
    extra = Z95**2 / count
    center = (share + extra / 2) / (1 + extra)
    half = (share * (1 - share) * extra + extra**2 / 4) ** 0.5 / (1 + extra)
    # For a share of 0 or 1 rounding could lead out of 0..1.
    return max(center - half, 0.0), min(center + half, 1.0)


def diebold_mariano(
    actual: NDArray[np.float64],
    predicted: NDArray[np.float64],
    other: NDArray[np.float64],
    horizon: int = 1,
) -> float:
    """Return by how many standard errors a forecast beats another one.

    The statistic is the mean difference of the squared errors divided by its standard error, which
    includes the autocovariances of overlapping horizons (F. Diebold and R. Mariano, Comparing
    Predictive Accuracy, 1995). Values from -2 to 2 can be due to chance. It is 0 if the errors are
    equal, or if the differences have no variance to measure chance by.

    Args:
        actual: Actual price of each bar, ascending in time, shape (bars,).
        predicted: The forecast, shape (bars,).
        other: The forecast that it is compared with, shape (bars,).
        horizon: Bars that both forecasts look ahead.
    """
    gain = np.square(other - actual) - np.square(predicted - actual)
    centered = gain - gain.mean()
    variance = float(np.mean(np.square(centered)))
    for lag in range(1, min(horizon, len(gain))):
        variance += 2.0 * float(np.sum(centered[lag:] * centered[:-lag])) / len(gain)
    return float(gain.mean() / np.sqrt(variance / len(gain))) if variance > 0.0 else 0.0


def is_worse(error: float, other: float, statistic: float) -> bool:
    """Return whether a forecast is worse than another one by more than chance.

    A statistic of 0 with a larger error is not chance: the difference has no variance.

    Args:
        error: RMSE of the forecast.
        other: RMSE of the other one on the same bars.
        statistic: See `diebold_mariano`.
    """
    return error > other and (statistic <= -_SIGNIFICANT or statistic == 0.0)


def verdict(error: float, persistence: float, statistic: float) -> str:
    """Return how a model compares with persistence, the forecast "no change".

    `better than no change` and `worse than no change` are significant differences. `hardly better
    than no change` (a smaller error) and `no better than no change` (a larger error) are
    statistically indistinguishable from it. `as good as no change` means the same error.

    Args:
        error: Test RMSE of the model.
        persistence: Test RMSE of persistence.
        statistic: See `diebold_mariano`.
    """
    if error == persistence:
        return "as good as no change"
    if abs(statistic) < _SIGNIFICANT:
        return f"{'hardly' if error < persistence else 'no'} better than no change"
    return f"{'better' if error < persistence else 'worse'} than no change"
