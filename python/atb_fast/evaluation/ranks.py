"""Rank correlation of forecasts and outcomes, also called the information coefficient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.scoring import ClassProbabilities, Scoring, Tested
from atb_fast.evaluation.significance import Z95


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation, -1..1; see `rank_correlation`.

    Attributes:
        value: The correlation.
        low: Lower end of its 95% interval.
        high: Upper end of that interval.
        lags: Number of autocovariances in its standard error.
    """

    value: float
    low: float
    high: float
    lags: int


def comparable(
    scoring: Scoring, tested: Tested, forecasts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return forecasts for the windows of `tested`, and outcomes, as values that can be ranked.

    Prices become returns from the last close, or NaN if a price is not positive. Class
    probabilities become the probability of the second of two classes, or that of the last minus
    that of the first of three; their outcomes are the labels. Other values are unchanged.
    """
    actual = tested.actual
    if scoring.kind == "prices":
        last = tested.baselines["persistence"]
        usable = (last > 0) & (actual > 0) & (forecasts > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (np.where(usable, each / last - 1.0, np.nan) for each in (forecasts, actual))
        return next(found), next(found)
    if isinstance(scoring, ClassProbabilities) and forecasts.ndim > 1:
        forecasts = forecasts[:, -1] - forecasts[:, 0]
    return forecasts, actual


def rank_correlation(
    predicted: NDArray[np.float64], actual: NDArray[np.float64], horizon: int = 1
) -> RankCorrelation | None:
    """Return the rank correlation of C. Spearman (1904), with equal values at their mean rank.

    Its standard error is that of the mean of its influence function, which includes the error of
    the ranks (C. Borkowf, Computing the Nonnull Asymptotic Variance and the Asymptotic Relative
    Efficiency of Spearman's Rank Correlation, 2002). The variance of that mean has autocovariances
    with the weights of W. Newey and K. West (1987), because consecutive windows overlap and are
    autocorrelated. There are `4 (n / 100)^(2/9)` of them, or twice as many as the horizons of two
    windows share bars, whichever is more.

    Args:
        predicted: Ascending in time, shape (windows,). Windows with a NaN are left out.
        actual: What happened, shape (windows,).
        horizon: Bars that a forecast covers.

    Returns:
        None if there are fewer than three windows, or if all values of either are equal.
    """
    known = ~(np.isnan(predicted) | np.isnan(actual))
    x, y = predicted[known], actual[known]
    count = len(x)
    if count < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return None
    (places, u, spread), (others, v, other_spread) = (_ranked(each) for each in (x, y))
    value = float(np.mean(u * v))
    # Each window also moves the ranks of those above it.
    influence = u * v + _above(places, v) / spread + _above(others, u) / other_spread
    centered = influence - influence.mean()
    lags = min(count - 1, max(int(4.0 * (count / 100.0) ** (2.0 / 9.0)), 2 * (horizon - 1)))
    variance = float(np.mean(np.square(centered)))
    for lag in range(1, lags + 1):
        covariance = float(np.sum(centered[lag:] * centered[:-lag])) / count
        variance += 2.0 * (1.0 - lag / (lags + 1.0)) * covariance
    half = Z95 * max(variance, 0.0) ** 0.5 / count**0.5
    return RankCorrelation(value, max(value - half, -1.0), min(value + half, 1.0), lags)


def _ranked(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Return the places of values, their standard ranks, and the deviation of the ranks.

    A place is the number of distinct values below. A standard rank is a rank, shifted and scaled to
    a mean of 0 and a variance of 1; the deviation is relative to the number of values.
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    places = places.reshape(-1)
    ranks = (np.cumsum(counts) - 0.5 * (counts - 1))[places]
    deviation = float(np.std(ranks))
    return places, (ranks - ranks.mean()) / deviation, deviation / len(values)


def _above(places: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean score of the values above each place, with half of those at it.

    It is shifted to a mean of 0.
    """
    at = np.bincount(places, weights=scores)
    above = np.cumsum(at[::-1])[::-1] - 0.5 * at
    found = above[places] / len(scores)
    return np.asarray(found - found.mean())
