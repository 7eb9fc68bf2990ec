"""The charts of a study: the value of each trial, in order and by parameter."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from atb_fast.reports.charts.drawing import Chart, note
from atb_fast.reports.charts.values import Readout, Series
from atb_fast.reports.style import LIGHT, number_axis

#: Width and height of the chart of a parameter, in inches; three fit in a row.
_SMALL = (3.2, 2.5)
#: Up to this many different numbers are spaced evenly.
_FEW = 5
#: Longer names of values are cut.
_LONGEST = 18


class Point(NamedTuple):
    """A trial.

    Attributes:
        number: Its number, from 0.
        state: `complete`, `pruned` or `failed`.
        value: Its mean ratio to the reference; for a pruned trial, over the folds before it
            stopped. None if there is none.
        params: Its parameters by name.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]


def history_chart(trials: Sequence[Point], best: int | None, reference: str) -> Chart:
    """Return the chart of all trials in order; `best` is the number of the best one."""
    draw = partial(history, trials=trials, best=best, reference=reference)
    return Chart("Value of each trial", draw, legend=4)


def history(axis: Any, *, trials: Sequence[Point], best: int | None, reference: str) -> None:
    """Draw the value of each trial, the best value so far, and that of the defaults."""
    from matplotlib.ticker import MaxNLocator

    if not any(trial.value is not None for trial in trials):
        note(axis, "no trial has a value")
        return
    low, high, top = _ends([trial.value for trial in trials if trial.value is not None])
    axis.set_ylim(low, high)
    styles: dict[str, dict[str, Any]] = {
        "complete": {"color": LIGHT["model"], "marker": "o", "markersize": 4},
        "pruned": {"color": LIGHT["muted"], "marker": "v", "markersize": 4},
        "failed": {"color": LIGHT["other"], "marker": "x", "markersize": 5, "zorder": 4},
    }
    numbers = np.array([trial.number for trial in trials])
    values = np.array([trial.value for trial in trials], np.float64)
    # Without a value, a mark at the upper edge shows when it happened.
    inside = values <= top
    heights = np.where(inside, values, top)
    series = []
    for state, style in styles.items():
        shown = np.array([trial.state == state for trial in trials])
        if shown.any():
            hollow = {"markerfacecolor": "none"} if state == "pruned" else {}
            places = numbers[shown], heights[shown]
            axis.plot(*places, linestyle="none", label=state, **style, **hollow)
            series.append(Series(state, style["color"], np.where(shown & inside, values, np.nan)))
            series.append(Series(state, style["color"], shown & ~inside))
    done = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if done:
        complete = [trial.state == "complete" for trial in trials]
        least = np.fmin.accumulate(np.where(complete, values, np.nan))
        style = {"color": LIGHT["model"], "linewidth": 1.0, "label": "best so far"}
        axis.step(numbers, least, where="post", **style)
        series.append(Series("best so far", LIGHT["model"], least))
    if trials[0].value is not None:
        style = {"color": LIGHT["persistence"], "linestyle": "--"}
        axis.axhline(trials[0].value, label="defaults", **style)
        series.append(
            Series("defaults", LIGHT["persistence"], np.full(len(trials), trials[0].value))
        )
    ring = {"color": LIGHT["ink"], "markersize": 10, "markerfacecolor": "none"}
    for trial in done:
        if trial.number == best:
            axis.plot([best], [trial.value], "o", label="best", **ring)
    if low < 1.0 < high:
        axis.axhline(1.0, color=LIGHT["muted"], linestyle=":", label=reference)
    axis.readout = Readout(numbers, series)
    axis.set(xlabel="trial", ylabel=f"error ÷ error of {reference}, mean over the folds")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    number_axis(axis.yaxis)
    axis.margins(x=0.03)


def _ends(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the ends of an axis for the values that matter, and the largest of these.

    A few very bad trials would squeeze all others into a line, so they are drawn at the upper end.
    """
    low, high = min(values), max(values)
    usual = float(np.quantile(values, 0.75))
    top = min(high, low + 3.0 * (usual - low)) if usual > low else high
    margin = 0.08 * (top - low) or 0.01 * abs(low) or 0.01
    return low - margin, top + margin, top


def parameter_charts(
    trials: Sequence[Point], best: int | None, logarithmic: Collection[str] = ()
) -> dict[str, Chart]:
    """Return a chart of the values by each parameter, by name; all have the same value axis.

    Args:
        trials: All trials.
        best: Number of the best trial.
        logarithmic: Names of the parameters whose axis is logarithmic.
    """
    done = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    ends = _ends([trial.value or 0.0 for trial in done]) if done else (0.0, 1.0, 1.0)
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return {
        name: _parameter_chart(name, done, best, ends, log=name in logarithmic) for name in names
    }


def _parameter_chart(
    name: str,
    done: Sequence[Point],
    best: int | None,
    ends: tuple[float, float, float],
    *,
    log: bool,
) -> Chart:
    shown = [trial for trial in done if name in trial.params]
    widest = 0 if _numeric(shown, name) else max(map(len, _labels(shown, name)), default=0)
    width, height = _SMALL
    return Chart(
        f"Value by {name}",
        lambda axis: by_parameter(axis, name, shown, best, ends, log=log),
        height,
        left=max(0.24, 0.05 + 0.026 * widest),
        width=width,
    )


def by_parameter(
    axis: Any,
    name: str,
    trials: Sequence[Point],
    best: int | None,
    ends: tuple[float, float, float],
    *,
    log: bool = False,
) -> None:
    """Draw the value of trials by one parameter: numbers on the x axis, names on the y axis.

    Args:
        axis: The axes to draw on.
        name: Name of the parameter.
        trials: Complete trials that have it.
        best: Number of the best trial, which gets a ring; the defaults get a diamond.
        ends: Ends of the value axis, and the value at which larger ones are drawn.
        log: Whether the axis of numbers is logarithmic. It also is if they differ enough.
    """
    if not trials:
        note(axis, "no complete trial has it")
        return
    numeric = _numeric(trials, name)
    low, high, top = ends
    values = np.array([trial.value for trial in trials], np.float64)
    inside = values <= top
    heights = np.where(inside, values, top)
    places = _places(axis, name, trials, numeric=numeric, log=log)
    axis.readout = Readout(
        np.array(places, np.float64),
        [Series("trial", LIGHT["model"], np.where(inside, values, np.nan))],
        flat=not numeric,
        points=True,
        titles=[f"{name}: {_text(trial.params[name])}" for trial in trials],
    )
    axis.set(**{"ylim" if numeric else "xlim": (low, high)})
    other = axis.yaxis if numeric else axis.xaxis
    other.get_major_locator().set_params(nbins=5 if numeric else 3)
    number_axis(other)
    every = range(len(trials))
    dots: dict[str, Any] = {"color": LIGHT["model"], "alpha": 0.6, "markeredgewidth": 0}
    ring = {"color": LIGHT["ink"], "markersize": 10, "markerfacecolor": "none"}
    for marker, style, shown in (
        ("o", dots, every),
        ("D", {"color": LIGHT["persistence"]}, [i for i in every if trials[i].number == 0]),
        ("o", ring, [i for i in every if trials[i].number == best]),
    ):
        found = [places[i] for i in shown], [heights[i] for i in shown]
        axis.plot(*(found if numeric else found[::-1]), marker, **style)
    axis.set(xlabel=name if numeric else "value", ylabel="value" if numeric else "")


def _numeric(trials: Sequence[Point], name: str) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in (trial.params[name] for trial in trials)
    )


def _labels(trials: Sequence[Point], name: str) -> dict[str, int]:
    """Return the place of each value of a parameter on the axis, by its text."""
    values = [trial.params[name] for trial in trials]
    ordered = sorted(values) if _numeric(trials, name) else values
    known = dict.fromkeys(_text(value) for value in ordered)
    return {text: place for place, text in enumerate(known)}


def _places(
    axis: Any, name: str, trials: Sequence[Point], *, numeric: bool, log: bool
) -> list[float]:
    """Set up the axis of a parameter, and return where each trial is on it."""
    values = [trial.params[name] for trial in trials]
    if numeric and len(set(values)) > _FEW:
        axis.margins(x=0.08)
        log = bool(min(values) > 0 and (log or max(values) >= 30 * min(values)))
        if log:
            axis.set_xscale("log")
            axis.set_xlim(min(values) / 1.3, max(values) * 1.3)
        else:
            axis.xaxis.get_major_locator().set_params(nbins=4)
        number_axis(axis.xaxis, log=log)
        return values
    labels = _labels(trials, name)
    if numeric:
        axis.set_xticks(range(len(labels)), list(labels))
        axis.set_xlim(-0.5, len(labels) - 0.5)
    else:
        axis.set_yticks(range(len(labels)), list(labels))
        axis.set_ylim(len(labels) - 0.5, -0.5)
    return [labels[_text(value)] for value in values]


def _text(value: Any) -> str:
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
