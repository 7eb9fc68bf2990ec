"""Error metrics, directional accuracy, metrics of classes, and returns by decile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.significance import Z95, wilson_interval

#: The smallest probability that a loss is computed from.
_LEAST = 1e-7


def rmse(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the root mean squared error, in the unit of the inputs."""
    return float(np.sqrt(np.mean(np.square(predicted - actual))))


def mape(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the mean absolute percentage error, in percent of `actual`."""
    return float(np.mean(np.abs((predicted - actual) / actual))) * 100.0


@dataclass(frozen=True)
class Direction:
    """Directional accuracy: how often the predicted direction from the last close is right.

    Bars that do not move and predictions of no move do not count.

    Attributes:
        share: Share of correct directions, 0..1.
        low: Lower end of its 95% interval; see `significance.wilson_interval`.
        high: Upper end of that interval.
        bars: Number of bars that count.
        up_share: Share of them whose price rose: the accuracy of always predicting up.
    """

    share: float
    low: float
    high: float
    bars: int
    up_share: float


def directional_accuracy(
    last: NDArray[np.float64], actual: NDArray[np.float64], predicted: NDArray[np.float64]
) -> Direction | None:
    """Return the directional accuracy of `predicted`; None if no bar counts.

    Args:
        last: Last close of each window, shape (windows,).
        actual: Actual close of each predicted bar, shape (windows,).
        predicted: Predicted close, shape (windows,).
    """
    moved = (actual != last) & (predicted != last)
    count = int(moved.sum())
    if count == 0:
        return None
    hits = np.sign(predicted - last)[moved] == np.sign(actual - last)[moved]
    share = float(np.mean(hits))
    low, high = wilson_interval(share, count)
    return Direction(share, low, high, count, float(np.mean((actual > last)[moved])))


def log_losses(
    actual: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the log loss of each forecast: minus the log of the probability of what happened.

    Probabilities below 1e-7 count as 1e-7, as in Keras. Otherwise, one output that float32 rounds
    to 0 or 1 could make the mean infinite.

    Args:
        actual: Index of the class, shape (windows,).
        probabilities: Shape (windows, classes).
    """
    found = np.take_along_axis(probabilities, actual[:, None], axis=1)[:, 0]
    return np.asarray(-np.log(np.clip(found, _LEAST, 1.0)))


def brier_losses(
    actual: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the squared error of the probabilities of each forecast, shape (windows,).

    Their mean is the Brier score. For two classes, it is that of one of them; for more, the sum
    over all classes (G. Brier, Verification of Forecasts Expressed in Terms of Probability, 1950).

    Args:
        actual: Index of the class, shape (windows,).
        probabilities: Shape (windows, classes).
    """
    classes = probabilities.shape[1]
    total = np.sum(np.square(probabilities - np.eye(classes)[actual]), axis=1)
    return np.asarray(total / (2.0 if classes == 2 else 1.0))


def confusion_matrix(
    actual: NDArray[np.int64], chosen: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Return the number of windows by actual class (rows) and chosen class (columns).

    Args:
        actual: Index of the class, shape (windows,).
        chosen: Index of the class that is forecast, shape (windows,).
        classes: Number of classes.
    """
    counts = np.bincount(actual * classes + chosen, minlength=classes * classes)
    return counts.reshape(classes, classes)


def balanced_accuracy(actual: NDArray[np.int64], chosen: NDArray[np.int64]) -> float:
    """Return the mean share of correct forecasts over the classes that happened."""
    return float(np.mean([np.mean(chosen[actual == each] == each) for each in np.unique(actual)]))


@dataclass(frozen=True)
class Deciles:
    """Returns by decile of the predicted return, 0.01 for 1%; arrays have shape (deciles,).

    Attributes:
        predicted: Mean predicted return.
        actual: Mean actual return of the same windows.
        half_width: Half the width of the 95% interval of `actual` (1.96 standard errors), assuming
            that windows whose horizons do not overlap are independent.
        left_out: Number of windows without a predicted return, because a price is not positive.
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
    """Return predicted and actual returns by decile of the predicted return.

    A return is `price / last - 1`. Deciles with fewer than two windows are omitted because they
    have no standard error.

    Args:
        last: Last close of each window, shape (windows,).
        actual: Actual close of each predicted bar, shape (windows,).
        predicted: Predicted close, shape (windows,).
        horizon: Bars that a return spans. Returns overlap, so standard errors grow with it.
    """
    usable = (predicted > 0) & (actual > 0) & (last > 0)
    expected, got = (values[usable] / last[usable] - 1 for values in (predicted, actual))
    rows = []
    if len(expected):
        # Intervals are closed on the right, like those of pandas.qcut.
        inner = np.quantile(expected, np.arange(1, 10) / 10)
        decile = np.searchsorted(inner, expected, side="left")
        for i in range(10):
            of = decile == i
            if of.sum() >= 2:
                error = np.std(got[of], ddof=1) / np.sqrt(of.sum() / horizon)
                rows.append((expected[of].mean(), got[of].mean(), Z95 * error))
    mean_expected, mean_got, half_width = np.array(rows).reshape(-1, 3).T
    return Deciles(mean_expected, mean_got, half_width, int((~usable).sum()))
