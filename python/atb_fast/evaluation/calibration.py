"""Calibration: predicted probabilities compared with how often the events happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.scoring import Tested
from atb_fast.evaluation.significance import wilson_interval


@dataclass(frozen=True)
class Calibration:
    """Predicted probabilities and how often the events happened; arrays have shape (groups,).

    Attributes:
        predicted: Predicted probability, the mean of each group.
        observed: Share of the windows of the group in which the event happened.
        low: Lower end of the 95% interval of `observed`; see `significance.wilson_interval`. It
            assumes that windows whose horizons do not overlap are independent.
        high: Upper end of that interval.
        windows: Number of windows of the group.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    windows: NDArray[np.int64]


def calibration_curve(
    happened: NDArray[np.bool_], probability: NDArray[np.float64], horizon: int = 1
) -> Calibration:
    """Return the calibration by decile of the predicted probability.

    Equal probabilities share a decile, so there may be fewer than ten.

    Args:
        happened: Whether the event happened, shape (windows,).
        probability: Its predicted probability, shape (windows,).
        horizon: Bars within which the event is decided. The horizons of consecutive windows
            overlap, so the intervals are wider for longer ones.
    """
    # Groups are closed on the right, like those of pandas.qcut.
    inner = np.quantile(probability, np.arange(1, 10) / 10)
    group = np.searchsorted(inner, probability, side="left")
    groups = [group == i for i in np.unique(group)]
    return calibration(
        np.array([probability[of].mean() for of in groups]),
        [happened[of] for of in groups],
        horizon,
    )


def calibration(
    predicted: NDArray[np.float64], happened: list[NDArray[np.bool_]], horizon: int = 1
) -> Calibration:
    """Return the calibration of groups of windows.

    Args:
        predicted: Predicted probability of each group, shape (groups,).
        happened: Whether the event happened, for the windows of each group; none is empty.
        horizon: See `calibration_curve`.
    """
    counts = np.array([len(of) for of in happened], np.int64)
    observed = np.array([of.mean() for of in happened])
    ends = [
        wilson_interval(float(share), max(1, int(count) // horizon))
        for share, count in zip(observed, counts, strict=True)
    ]
    low, high = np.array(ends).reshape(-1, 2).T
    # Rounding can place the end of an interval beyond a share of 0 or 1.
    return Calibration(
        predicted, observed, np.minimum(low, observed), np.maximum(high, observed), counts
    )


def quantile_shares(tested: Tested, levels: Sequence[float]) -> Calibration:
    """Return how many returns after the test windows are at most each predicted quantile.

    The probability of a quantile is its level. Windows whose return is not known are left out. If
    all are, the result has no groups.

    Args:
        tested: The forecasts of a volatility model with bands.
        levels: Levels of its quantiles, shape (levels,).
    """
    returns, quantiles = tested.further["returns"], tested.further["bands"]
    known = ~np.isnan(returns)
    below = [returns[known] <= quantiles[known, i] for i in range(len(levels) * bool(known.any()))]
    return calibration(np.array(levels[: len(below)]), below, tested.horizon)
