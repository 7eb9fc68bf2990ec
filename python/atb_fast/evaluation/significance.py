"""Significance: confidence intervals, and a test against persistence."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData

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


def diebold_mariano(data: WindowedData, predicted: NDArray[np.float64]) -> float:
    """Return by how many standard errors the model beats persistence on the test windows.

    The statistic is the mean difference of the squared errors divided by its standard error, which
    includes the autocovariances of overlapping horizons (F. Diebold and R. Mariano, Comparing
    Predictive Accuracy, 1995). Values from -2 to 2 can be due to chance. It is 0 if the errors are
    equal.

    Args:
        data: The windows.
        predicted: Prediction for each test window, quote currency, shape (windows,).
    """
    actual = data.targets(data.test)
    gain = np.square(data.persistence(data.test) - actual) - np.square(predicted - actual)
    centered = gain - gain.mean()
    variance = float(np.mean(np.square(centered)))
    for lag in range(1, min(data.horizon, len(gain))):
        variance += 2.0 * float(np.sum(centered[lag:] * centered[:-lag])) / len(gain)
    return float(gain.mean() / np.sqrt(variance / len(gain))) if variance > 0.0 else 0.0


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
