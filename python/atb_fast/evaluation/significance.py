"""Significance: confidence intervals, and tests of two forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, isclose, lgamma, log
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

#: 95% of a normal distribution lie within this many standard deviations of its mean.
Z95 = NormalDist().inv_cdf(0.975)
#: A difference of this many standard errors or more is significant.
_SIGNIFICANT = 2.0
#: A difference with a smaller p-value is significant.
LEVEL = 0.05
#: Networks return probabilities and returns as float32. The rounding changes a loss by less than
#: this share of the mean loss.
_ROUNDING = 1e-5


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


def equal(losses: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether two forecasts have the same loss on every bar, except for rounding.

    Args:
        losses: Loss of a forecast for each bar, shape (bars,).
        other: Losses of another one.
    """
    if np.array_equal(losses, other):
        return True
    if not np.isfinite([losses, other]).all():
        return False
    return bool(np.abs(losses - other).max() <= _ROUNDING * np.mean([losses, other]))


def diebold_mariano(
    losses: NDArray[np.float64], other: NDArray[np.float64], horizon: int = 1
) -> float:
    """Return by how many standard errors a forecast beats another one.

    The statistic is the mean difference of the losses divided by its standard error, which includes
    the autocovariances of overlapping horizons (F. Diebold and R. Mariano, Comparing Predictive
    Accuracy, 1995). Where their sum is not positive, which happens with long horizons, they have
    the weights of W. Newey and K. West (1987). Values from -2 to 2 can be due to chance. It is 0 if
    the losses are equal, or if the differences have no variance to measure chance by, except for
    rounding. It is NaN if a loss is not finite, because the mean has no standard error then.

    Args:
        losses: Loss of the forecast for each bar, for example its squared error, ascending in time,
            shape (bars,).
        other: Losses of the forecast that it is compared with, shape (bars,).
        horizon: Bars that both forecasts look ahead.
    """
    if not np.isfinite([losses, other]).all():
        return float("nan")
    if equal(losses, other):
        return 0.0
    gain = other - losses
    centered = gain - gain.mean()
    own = float(np.mean(np.square(centered)))
    variance = weighted = own
    for lag in range(1, min(horizon, len(gain))):
        covariance = 2.0 * float(np.sum(centered[lag:] * centered[:-lag])) / len(gain)
        variance += covariance
        weighted += (1.0 - lag / horizon) * covariance
    if variance <= 0.0:
        variance = weighted
    rounding = float(np.finfo(np.float64).eps * gain.mean() ** 2)
    return float(gain.mean() / np.sqrt(variance / len(gain))) if variance > rounding else 0.0


def p_value(statistic: float) -> float:
    """Return the probability of a statistic at least this far from 0 if both are equally good.

    The test is two-sided and assumes a standard normal distribution, which the statistic of
    `diebold_mariano` has in large samples.
    """
    return erfc(abs(statistic) / 2.0**0.5)


@dataclass(frozen=True)
class McNemar:
    """Whether one of two classifiers is right more often; see `mcnemar`.

    Attributes:
        better: Number of bars on which only the first one is right.
        worse: Number of bars on which only the second one is right.
        p_value: Probability of counts that differ at least so much if both are equally good.
    """

    better: int
    worse: int
    p_value: float

    @property
    def word(self) -> str:
        """`better` or `worse` if the difference is significant, else empty."""
        if self.p_value >= LEVEL:
            return ""
        return "better" if self.better > self.worse else "worse"


def mcnemar(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> McNemar:
    """Return the exact test of Q. McNemar (1947): a two-sided binomial test of a fair coin.

    Args:
        right: Whether the first classifier is right, for each of independent bars, shape (bars,).
        other: The same for the second one.
    """
    better, worse = (int(np.sum(one & ~two)) for one, two in ((right, other), (other, right)))
    count, least = better + worse, min(better, worse)
    # The largest term of the sum has the exponent 0, so nothing overflows.
    logs = [lgamma(count + 1) - lgamma(k + 1) - lgamma(count - k + 1) for k in range(least + 1)]
    tail = sum(exp(each - logs[-1]) for each in logs) * exp(logs[-1] - count * log(2.0))
    return McNemar(better, worse, min(1.0, 2.0 * tail))


def is_worse(error: float, other: float, statistic: float) -> bool:
    """Return whether a forecast is worse than another one by more than chance.

    A statistic of 0 with a larger error is not chance: the difference has no variance. Neither is
    an infinite error, whose statistic is NaN.

    Args:
        error: Error of the forecast.
        other: Error of the other one on the same bars.
        statistic: See `diebold_mariano`.
    """
    if _equal(error, other, statistic):
        return False
    return error > other and not -_SIGNIFICANT < statistic < 0.0


def verdict(error: float, other: float, statistic: float, reference: str) -> str:
    """Return how a model compares with a reference forecast.

    `better than HAR` and `worse than HAR` are significant differences, `statistically
    indistinguishable from HAR` is any other one. `equal to HAR` means the same error, except for
    rounding.

    Args:
        error: Error of the model on the test windows.
        other: Error of the reference on them.
        statistic: See `diebold_mariano`.
        reference: What the reference is called.
    """
    if _equal(error, other, statistic):
        return f"equal to {reference}"
    if abs(statistic) < _SIGNIFICANT:
        return f"statistically indistinguishable from {reference}"
    return f"{'better' if error < other else 'worse'} than {reference}"


def _equal(error: float, other: float, statistic: float) -> bool:
    """Return whether two errors differ by no more than rounding."""
    return error == other or (statistic == 0.0 and isclose(error, other, rel_tol=_ROUNDING))
