"""The charts that show when a model beats its reference: over time, and by month."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.periods import (
    FEW,
    MONTH,
    Groups,
    Losses,
    by_group,
    losses_by_name,
    months,
    rolling,
)
from atb_fast.evaluation.scoring import Scoring, Tested
from atb_fast.reports.charts.drawing import Chart, Line, note, over_time
from atb_fast.reports.charts.values import Readout, Series
from atb_fast.reports.style import LIGHT, number_axis, time_axis

#: Color and marker of the ratio of each error.
_ERRORS = (("model", "o"), ("other", "s"))
#: With more months than this, markers are smaller.
_MANY = 36


def period_charts(
    scoring: Scoring, tested: Tested, name: str, edges: Sequence[np.datetime64] = ()
) -> dict[str, Chart]:
    """Return the charts of the test windows over time by name, in page order.

    If the model has the same losses as the reference, there are none.

    Args:
        scoring: How the forecasts are scored.
        tested: The forecasts.
        name: Name of the reference, without an article.
        edges: When each fold except the first begins.
    """
    times = tested.times.to_numpy()
    losses = losses_by_name(scoring, tested)
    if losses[scoring.name].equal:
        return {}
    # The last one is QLIKE for volatility, otherwise the error that the verdict uses.
    error, rolled = list(losses.items())[-1]
    numbers, number = months(times)
    groups = by_group(scoring, tested, number, len(numbers))
    found = {
        "gains": gain_chart(times, losses[scoring.name], edges=edges, name=name),
        "rolling": Chart(
            f"Rolling {error}", lambda axis: rolling_error(axis, times, error, rolled, name)
        ),
        "months": Chart(
            f"Ratio to {name} by month",
            lambda axis: ratios_by_month(axis, numbers, times, groups, name),
        ),
    }
    if scoring.kind != "volatility":
        what = "accuracy" if scoring.kind == "classes" else "directional accuracy"
        found["shares"] = Chart(
            "Accuracy by month", lambda axis: shares_by_month(axis, numbers, times, groups, what)
        )
    return found


def gain_chart(
    times: NDArray[np.datetime64],
    losses: Losses,
    *,
    edges: Sequence[np.datetime64],
    name: str,
) -> Chart:
    """Return the chart of the cumulative difference of the losses.

    Args:
        times: Time of each bar, ascending, shape (bars,).
        losses: Losses of the model and of the reference for each bar.
        edges: When each fold except the first begins.
        name: Name of the reference.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = 100.0 * np.cumsum(losses.reference - losses.model) / np.sum(losses.reference)

    def draw(axis: Any) -> None:
        axis.axhline(0.0, color=LIGHT["persistence"], linestyle="--", label=name)
        for edge in edges:
            axis.axvline(edge, color=LIGHT["muted"], linewidth=0.7, linestyle=":")
        line = Line("model", gains, {"color": LIGHT["model"], "linewidth": 1.4})
        over_time(axis, times, [line], "cumulative gain, % of the reference's total loss")

    return Chart("Cumulative gain", draw)


def rolling_error(
    axis: Any, times: NDArray[np.datetime64], error: str, losses: Losses, name: str
) -> None:
    """Draw the error of the model and of the reference over the last windows.

    Args:
        axis: Where.
        times: Time of each window.
        error: Name of the error.
        losses: Losses of both.
        name: Name of the reference.
    """
    found = rolling(losses)
    if found is None:
        note(axis, f"too few test windows ({len(times):,}, needs {2 * FEW})")
        return
    lines = [
        Line(name, found.reference, {"color": LIGHT["persistence"], "linestyle": "--"}),
        Line("model", found.model, {"color": LIGHT["model"]}),
    ]
    factor, unit = (100.0, "%") if losses.unit == "return" else (1.0, losses.unit)
    scaled = [line._replace(values=factor * line.values) for line in lines]
    label = f"{error} of the last {found.windows:,} windows" + (f", {unit}" if unit else "")
    over_time(axis, times, scaled, label)


def ratios_by_month(
    axis: Any,
    numbers: NDArray[np.datetime64],
    times: NDArray[np.datetime64],
    groups: Groups,
    name: str,
) -> None:
    """Draw the ratio of each error to that of the reference by month.

    Months with fewer than `FEW` windows have hollow markers.

    Args:
        axis: Where.
        numbers: The months, `datetime64[M]`.
        times: Time of each window.
        groups: How good the model is in each month.
        name: Name of the reference.
    """
    axis.axhline(1.0, color=LIGHT["persistence"], linestyle="--", label=name)
    series = []
    for (error, values), (color, marker) in zip(groups.ratios.items(), _ERRORS, strict=False):
        style = {"color": LIGHT[color], "marker": marker}
        _by_month(axis, numbers, values, groups.windows, {"label": error, **style})
        series.append(Series(error, LIGHT[color], values))
    axis.readout = Readout(_middles(numbers), series, titles=numbers.astype(str).tolist())
    axis.set_ylabel(f"error ÷ error of {name}")
    _month_axis(axis, numbers, times)


def shares_by_month(
    axis: Any,
    numbers: NDArray[np.datetime64],
    times: NDArray[np.datetime64],
    groups: Groups,
    what: str,
) -> None:
    """Draw the accuracy of each month with its 95% interval; see `ratios_by_month`.

    Args:
        axis: Where.
        numbers: The months, `datetime64[M]`.
        times: Time of each window.
        groups: How good the model is in each month.
        what: Name of the accuracy.
    """
    if not groups.bars.any():
        note(axis, "the model predicts no move, or the price never moves")
        return
    at = _middles(numbers)
    share, low, high = (100.0 * each for each in (groups.share, groups.low, groups.high))
    axis.plot([at, at], [low, high], color=LIGHT["muted"], linewidth=1)
    every = float(np.nansum(share * groups.counted) / groups.counted.sum())
    axis.axhline(every, color=LIGHT["other"], linestyle=":", label="all months")
    series = [
        Series(what, LIGHT["model"], share, low, high),
        Series("all months", LIGHT["other"], np.full(len(at), every)),
    ]
    axis.readout = Readout(at, series, titles=numbers.astype(str).tolist())
    style = {"label": what, "color": LIGHT["model"], "marker": "o", "linestyle": "none"}
    _by_month(axis, numbers, share, groups.bars, style)
    axis.set_ylabel(f"{what}, %, 95% interval")
    _month_axis(axis, numbers, times)


def _middles(numbers: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Return the middle of each month."""
    first, after = (each.astype("datetime64[ms]") for each in (numbers, numbers + MONTH))
    return np.asarray(first + (after - first) // 2)


def _by_month(
    axis: Any,
    numbers: NDArray[np.datetime64],
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    style: dict[str, Any],
) -> None:
    """Draw a value for each month; months with few windows have hollow markers."""
    at = _middles(numbers)
    size = 3.0 if len(numbers) > _MANY else 4.5
    few = counts < FEW
    solid = np.flatnonzero(~few).tolist()
    axis.plot(at, values, linewidth=0.8, markersize=size, markevery=solid, **style)
    if few.any():
        hollow = {**style, "label": None, "linestyle": "none", "markerfacecolor": "none"}
        axis.plot(at[few], values[few], markersize=size, **hollow)


def _month_axis(axis: Any, numbers: NDArray[np.datetime64], times: NDArray[np.datetime64]) -> None:
    axis.margins(y=0.12)
    number_axis(axis.yaxis)
    time_axis(axis, times)
    ends = np.array([numbers[0], numbers[-1] + MONTH]).astype("datetime64[ms]")
    axis.set_xlim(*ends)
