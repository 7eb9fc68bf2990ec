"""Errors, directions, and what chance can do."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData

#: Standard deviations of a normal distribution that hold 95 % of it on either side of the mean.
_Z95 = NormalDist().inv_cdf(0.975)


def rmse(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the root mean squared error, in the unit of the inputs."""
    return float(np.sqrt(np.mean(np.square(predicted - actual))))


def mape(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the mean absolute percentage error, in per cent of `actual`."""
    return float(np.mean(np.abs((predicted - actual) / actual))) * 100.0


@dataclass(frozen=True)
class Direction:
    """How often a prediction lay on the side of the last close that the price went to.

    Bars whose price did not move are left out, and predictions that say it will not. Without any
    bar nothing is known, and the shares are what interval and centre tend to.

    Attributes:
        share: Of the bars, 0..1.
        low: Lower end of its 95 % interval (E. Wilson, Probable Inference, 1927), which takes the
            bars for independent.
        high: Upper end.
        bars: Those that count.
        up_share: Of them, those whose price rose: what always saying so foresees.
    """

    share: float = 0.5
    low: float = 0.0
    high: float = 1.0
    bars: int = 0
    up_share: float = 0.5


def directional_accuracy(
    last: NDArray[np.float64], actual: NDArray[np.float64], predicted: NDArray[np.float64]
) -> Direction:
    """Return how often `predicted` foresaw the direction.

    Args:
        last: Last close inside of each window, shape (windows,).
        actual: The close behind it.
        predicted: The prediction of that.
    """
    moved = (actual != last) & (predicted != last)
    count = int(moved.sum())
    if count == 0:
        return Direction()
    hits = np.sign(predicted - last)[moved] == np.sign(actual - last)[moved]
    share, extra = float(np.mean(hits)), _Z95**2 / count
    centre = (share + extra / 2) / (1 + extra)
    half = (share * (1 - share) * extra + extra**2 / 4) ** 0.5 / (1 + extra)
    # At 0 and 1 they are that end; rounding must not lead beyond.
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return Direction(share, low, high, count, float(np.mean((actual > last)[moved])))


def direction(data: WindowedData, predicted: NDArray[np.float64]) -> Direction:
    """Return `directional_accuracy` of the test windows, of those whose horizons do not overlap."""
    starts = data.test[:: data.horizon]
    last, actual = data.persistence(starts), data.targets(starts)
    return directional_accuracy(last, actual, predicted[:: data.horizon])


def diebold_mariano(data: WindowedData, predicted: NDArray[np.float64]) -> float:
    """Return how far the model is better than "no change" on the test windows, in standard errors.

    The mean of the differences of squared errors over its standard error, with the covariances of
    overlapping horizons (F. Diebold and R. Mariano, Comparing Predictive Accuracy, 1995). Beyond 2
    chance hardly gets; 0 where there is no difference at all.
    """
    actual = data.targets(data.test)
    gain = np.square(data.persistence(data.test) - actual) - np.square(predicted - actual)
    apart = gain - gain.mean()
    variance = float(np.mean(np.square(apart)))
    for lag in range(1, min(data.horizon, len(gain))):
        variance += 2.0 * float(np.sum(apart[lag:] * apart[:-lag])) / len(gain)
    return float(gain.mean() / np.sqrt(variance / len(gain))) if variance > 0.0 else 0.0


@dataclass(frozen=True)
class Deciles:
    """Returns by decile of the predicted return, natural logarithms, each of shape (deciles,).

    Attributes:
        predicted: Mean predicted return.
        actual: Mean actual return of the same windows.
        half_width: Half of the 95 % interval of `actual`, 1.96 standard errors; it takes windows
            whose horizons do not overlap for independent.
        left_out: Windows whose prediction is not above 0, and so has no return.
    """

    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    half_width: NDArray[np.float64]
    left_out: int


def return_deciles(
    last: NDArray[np.float64],
    actual: NDArray[np.float64],
    predicted: NDArray[np.float64],
    horizon: int = 1,
) -> Deciles:
    """Return what the price did, by decile of what was predicted.

    A return is `ln(price / last)`. Deciles with less than two windows are left out, as they have no
    standard error.

    Args:
        last: Last close inside of each window, shape (windows,).
        actual: The close behind it.
        predicted: The prediction of that.
        horizon: Bars that a return goes over: so many neighbours know what one does.
    """
    usable = (predicted > 0) & (actual > 0) & (last > 0)
    expected, got = (np.log(values[usable] / last[usable]) for values in (predicted, actual))
    rows = []
    if len(expected):
        # Right-closed, as of pandas' qcut.
        inner = np.quantile(expected, np.arange(1, 10) / 10)
        decile = np.searchsorted(inner, expected, side="left")
        for i in range(10):
            of = decile == i
            if of.sum() >= 2:
                error = np.std(got[of], ddof=1) / np.sqrt(of.sum() / horizon)
                rows.append((expected[of].mean(), got[of].mean(), _Z95 * error))
    mean_expected, mean_got, half_width = np.array(rows).reshape(-1, 3).T
    return Deciles(mean_expected, mean_got, half_width, int((~usable).sum()))
