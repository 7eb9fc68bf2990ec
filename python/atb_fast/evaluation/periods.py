"""Where a model is better than its reference: over time, by month, and by level of volatility."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.scoring import LogVolatility, Scoring, Tested
from atb_fast.evaluation.significance import equal, wilson_interval
from atb_fast.evaluation.volatility import qlike
from atb_fast.features.frames import epoch_ms
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.quality import bar_length

#: A mean over fewer windows than this is not reliable.
FEW = 20
#: One calendar month. From NumPy 2.5 on, adding a bare 1 to a date is deprecated.
MONTH = np.timedelta64(1, "M")
#: The rolling error covers the test windows divided by this number.
_PARTS = 12


class Losses(NamedTuple):
    """The losses of a model and of its reference for the same windows.

    Attributes:
        model: Shape (windows,).
        reference: Shape (windows,).
        mean: Returns the error of forecasts with given losses; see `Scoring.mean`.
        unit: Unit of the error.
    """

    model: NDArray[np.float64]
    reference: NDArray[np.float64]
    mean: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    unit: str = ""

    @property
    def equal(self) -> bool:
        """Whether the model has the losses of its reference, except for rounding."""
        return equal(self.model, self.reference)

    def error(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the error of forecasts with each of these mean losses."""
        return self.mean(losses[..., None])


def losses_by_name(scoring: Scoring, tested: Tested) -> dict[str, Losses]:
    """Return the losses by the name of the error: that of the verdict and, for volatility, QLIKE.

    The QLIKE of each forecast is computed with its own variance factor; see `LogVolatility`.
    """
    reference = scoring.reference(tested)
    pair = (tested.forecasts, tested.baselines[reference])
    own, other = (scoring.losses_of(tested, each) for each in pair)
    found = {scoring.name: Losses(own, other, scoring.mean, scoring.unit)}
    if isinstance(scoring, LogVolatility) and "scaled" in tested.further:
        scaled = (tested.further[name] for name in ("scaled", f"{reference}_scaled"))
        # A forecast that is far too low has an infinite loss.
        with np.errstate(over="ignore"):
            own, other = (qlike(tested.actual, each) for each in scaled)
        found["QLIKE"] = Losses(own, other, lambda values: np.asarray(np.mean(values, axis=-1)))
    return found


class Rolling(NamedTuple):
    """Errors over the last windows up to each one; arrays have shape (windows,).

    Attributes:
        windows: Number of windows that each error covers.
        model: Errors of the model; NaN for the first `windows - 1`.
        reference: Errors of the reference.
    """

    windows: int
    model: NDArray[np.float64]
    reference: NDArray[np.float64]


def rolling(losses: Losses) -> Rolling | None:
    """Return the rolling errors over a twelfth of the windows, but at least 20 of them.

    An infinite loss makes only the errors over its window infinite. None if there are fewer than
    twice as many windows.
    """
    count = len(losses.model)
    windows = max(FEW, count // _PARTS)
    if count < 2 * windows:
        return None

    def errors(values: NDArray[np.float64]) -> NDArray[np.float64]:
        known = np.isfinite(values)
        sums, counts = (
            np.cumsum(np.append(0.0, each)) for each in (np.where(known, values, 0.0), known)
        )
        # Rounding could make a sum negative.
        means = np.maximum(sums[windows:] - sums[:-windows], 0.0) / windows
        means[counts[windows:] - counts[:-windows] < windows] = np.inf
        return np.append(np.full(windows - 1, np.nan), losses.error(means))

    return Rolling(windows, errors(losses.model), errors(losses.reference))


@dataclass(frozen=True)
class Groups:
    """How good a model is in each group of test windows; arrays have shape (groups,).

    Attributes:
        windows: Number of windows.
        ratios: Error of the model divided by that of its reference, by name of the error; NaN
            without windows, or if the error of the reference is 0.
        share: Directional accuracy, or accuracy of classes, 0..1. NaN if no bar counts.
        low: Lower end of its 95% interval; see `significance.wilson_interval`.
        high: Upper end of that interval.
        counted: Number of windows that count for it; see `Scoring.hits`.
        bars: Number of those whose horizons do not overlap, at least 1 if any counts. The interval
            is that of so many independent bars.
    """

    windows: NDArray[np.int64]
    ratios: Mapping[str, NDArray[np.float64]]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counted: NDArray[np.int64]
    bars: NDArray[np.int64]


def by_group(scoring: Scoring, tested: Tested, group: NDArray[np.int64], count: int) -> Groups:
    """Return how good a model is in each of `count` groups of the test windows.

    Args:
        scoring: How the forecasts are scored.
        tested: The forecasts.
        group: Number of the group of each window, shape (windows,); -1 for none.
        count: Number of groups.
    """
    member = group >= 0
    at = group[member]
    windows = np.bincount(at, minlength=count)
    ratios = {}
    for name, losses in losses_by_name(scoring, tested).items():
        sums = (
            np.bincount(at, weights=values[member], minlength=count)
            for values in (losses.model, losses.reference)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            own, other = (losses.error(total / windows) for total in sums)
            ratios[name] = np.where(other > 0.0, own / other, np.nan)
    hits = scoring.hits(tested)
    counted = member & ~np.isnan(hits)
    total = np.bincount(group[counted], minlength=count)
    right = np.bincount(group[counted], weights=hits[counted], minlength=count)
    bars = np.bincount(group[counted & tested.apart], minlength=count)
    bars = np.where(total > 0, np.maximum(bars, 1), 0)
    share, low, high = np.full((3, count), np.nan)
    for i in np.flatnonzero(total):
        share[i] = right[i] / total[i]
        low[i], high[i] = wilson_interval(float(share[i]), int(bars[i]))
    return Groups(windows, ratios, share, low, high, total, bars)


def months(times: NDArray[np.datetime64]) -> tuple[NDArray[np.datetime64], NDArray[np.int64]]:
    """Return the calendar months from the first to the last time, and the number of that of each.

    Args:
        times: UTC, ascending, shape (windows,).

    Returns:
        Months, `datetime64[M]`, shape (months,), and numbers, shape (windows,).
    """
    month = times.astype("datetime64[M]")
    return np.arange(month[0], month[-1] + MONTH), (month - month[0]).astype(np.int64)


class Regimes(NamedTuple):
    """The level of volatility before each test window.

    Attributes:
        bars: Number of bars that volatility is measured over.
        limits: Volatility per bar, 0.01 for 1%, that separates the three levels, shape (2,): the
            terciles of the training windows.
        level: 0 for low, 1 for medium, 2 for high, shape (windows,); -1 if it is unknown.
    """

    bars: int
    limits: NDArray[np.float64]
    level: NDArray[np.int64]


def regimes(data: WindowedData) -> Regimes | None:
    """Return the level of volatility that was known at the time of each test forecast.

    It is the realized volatility over the bars of the input window, but at least 20: the root of
    the mean squared log return of their closes (T. Andersen, T. Bollerslev, F. Diebold and P.
    Labys, Modeling and Forecasting Realized Volatility, 2003). It ends with the last bar of the
    window, and the limits are those of the training windows, so there is no look-ahead bias.
    Returns over gaps do not count. If fewer than half of the returns are left, the level is
    unknown.

    Returns:
        None if no training window has a known level.
    """
    bars = max(FEW, data.length)
    trained, tested = (_realized(data, starts, bars) for starts in (data.train, data.test))
    known = trained[~np.isnan(trained)]
    if not len(known):
        return None
    limits = np.quantile(known, [1 / 3, 2 / 3])
    level = np.searchsorted(limits, tested, side="left")
    return Regimes(bars, limits, np.where(np.isnan(tested), -1, level))


def _realized(data: WindowedData, starts: NDArray[np.int64], bars: int) -> NDArray[np.float64]:
    """Return the realized volatility of the last `bars` returns of each window; NaN if unknown."""
    frame = data.prepared.frame
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.square(np.diff(np.log(frame["close"].to_numpy()), prepend=np.nan))
    squares[1:][np.diff(epoch_ms(frame["timestamp"])) != bar_length(frame)] = np.nan
    known = np.isfinite(squares)
    sums = np.cumsum(np.append(0.0, np.where(known, squares, 0.0)))
    counts = np.cumsum(np.append(0, known))
    end = data.prepared.matrix.rows[starts + data.length - 1] + 1
    begin = np.maximum(end - bars, 0)
    found = counts[end] - counts[begin]
    total = np.maximum(sums[end] - sums[begin], 0.0)
    return np.where(2 * found >= bars, np.sqrt(total / np.maximum(found, 1)), np.nan)
