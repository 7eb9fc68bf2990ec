"""Whether a Sharpe ratio shows skill, given the number of strategies that were tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from atb_fast.experiments.luck import series

_NORMAL = NormalDist()


def probabilistic_sharpe(
    sharpe: float,
    bars: int,
    *,
    skewness: float = 0.0,
    kurtosis: float = 3.0,
    benchmark: float = 0.0,
) -> float:
    """Return the probability that the true Sharpe ratio is above a benchmark, 0..1.

    All Sharpe ratios are per bar, not annualized (D. Bailey and M. Lopez de Prado, The Sharpe Ratio
    Efficient Frontier, 2012).

    Args:
        sharpe: Observed Sharpe ratio.
        bars: Number of returns that it was computed from.
        skewness: Skewness of the returns; 0 for a normal distribution.
        kurtosis: Kurtosis of the returns, not the excess; 3 for a normal distribution.
        benchmark: Sharpe ratio to exceed.
    """
    variance = 1.0 - skewness * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2
    excess = (sharpe - benchmark) * math.sqrt(bars - 1)
    if variance <= 0.0:  # returns with only two values, except for rounding
        return 0.5 if excess == 0.0 else float(excess > 0.0)
    return _NORMAL.cdf(excess / math.sqrt(variance))


def expected_best_sharpe(trials: int, variance: float) -> float:
    """Return the expected Sharpe ratio of the best of several strategies without skill.

    It is 0 for one trial (D. Bailey and M. Lopez de Prado, The Deflated Sharpe Ratio, 2014).

    Args:
        trials: Number of independent trials, at least 1.
        variance: Variance of the Sharpe ratios of the trials.
    """
    if trials < 2:
        return 0.0
    tail = _NORMAL.inv_cdf(1.0 - 1.0 / trials), _NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return math.sqrt(variance) * ((1.0 - np.euler_gamma) * tail[0] + np.euler_gamma * tail[1])


def deflated_sharpe(returns: ArrayLike, sharpes: Sequence[float]) -> float:
    """Return the probability that the best of several strategies has skill, 0..1.

    The Sharpe ratio of its returns is compared with the expected Sharpe ratio of the best of as
    many strategies without skill. Skewness and kurtosis of the returns are taken into account (D.
    Bailey and M. Lopez de Prado, The Deflated Sharpe Ratio, 2014). A value below 0.95 can be due to
    chance. The result is NaN for constant returns, which have no Sharpe ratio.

    The formula assumes independent returns and independent strategies. Similar strategies count as
    if they were independent, so for them the result is too low.

    Args:
        returns: Returns of the selected strategy for each bar, after costs, shape (bars,); at least
            3 bars.
        sharpes: Sharpe ratios of all strategies that were tried, including the selected one: mean
            return per bar divided by the standard deviation, not annualized.

    Raises:
        ArgumentError: An argument has the wrong shape, is too short, or is not finite.
    """
    observed, tried = series("returns", returns, 3), series("sharpes", sharpes, 1)
    centered = observed - observed.mean()
    deviation = float(np.sqrt(np.mean(centered**2)))
    if np.ptp(observed) == 0.0 or deviation == 0.0:
        return math.nan
    standardized = centered / deviation
    benchmark = expected_best_sharpe(len(tried), float(tried.var(ddof=1)) if len(tried) > 1 else 0)
    return probabilistic_sharpe(
        float(observed.mean()) / deviation,
        len(observed),
        skewness=float(np.mean(standardized**3)),
        kurtosis=float(np.mean(standardized**4)),
        benchmark=benchmark,
    )
