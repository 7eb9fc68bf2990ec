"""The charts of a comparison of runs: figures with intervals, losses and forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from atb_fast.reports.charts.classes import mark_outcomes
from atb_fast.reports.charts.drawing import Chart, Line, note, over_time
from atb_fast.reports.charts.values import Readout, Series
from atb_fast.reports.style import LIGHT, number_axis

#: Color, line style and marker of each run, in order; they repeat after the last one.
_COLORS = ("model", "other", "persistence", "validation", "test", "train")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "D", "^", "v", "P")
#: Longer names of runs are cut in charts; the table of runs has all of them.
_LONGEST = 18


def style_of(number: int) -> dict[str, Any]:
    """Return the color and the line of a run by its number, from 0.

    The first line is wider, so that it remains visible below an equal one.
    """
    color, line = _COLORS[number % len(_COLORS)], _LINES[number % len(_LINES)]
    return {"color": LIGHT[color], "linestyle": line, "linewidth": 1.4 if number else 2.2}


def metric_chart(metric: Mapping[str, Any], names: Sequence[str]) -> Chart:
    """Return the chart of one figure of all runs, one row for each; see `intervals`."""
    longest = max(min(len(name), _LONGEST) for name in names)
    return Chart(
        str(metric["name"]),
        partial(intervals, metric=metric, names=names),
        height=1.25 + 0.3 * len(names),
        left=0.04 + 0.0205 * longest,
    )


def intervals(axis: Any, *, metric: Mapping[str, Any], names: Sequence[str]) -> None:
    """Draw the mean of each run as a dot, with its interval; the first run is on top.

    Args:
        axis: The axes to draw on.
        metric: `values` has the `mean` for each run and, if there are several seeds, `low` and
            `high`; None for a run without this figure. `level`, if there is one, is a line.
        names: Names of the runs.
    """
    rows, series = np.arange(len(names)), []
    for number, (value, style) in enumerate(
        zip(metric["values"], map(style_of, range(len(names))), strict=True)
    ):
        if value is None:
            continue
        mean, marker = value["mean"], _MARKERS[number % len(_MARKERS)]
        low, high = value.get("low"), value.get("high")
        ends = None if low is None else [[mean - low], [high - mean]]
        shown = {"color": style["color"], "marker": marker, "markersize": 6}
        axis.errorbar([mean], [number], xerr=ends, elinewidth=2, **shown)
        # Each run has its own color and therefore its own column.
        known = np.array([mean, low, high], np.float64)
        columns = [np.where(rows == number, each, np.nan) for each in known]
        series.append(Series("mean", style["color"], *columns))
    labels = [_short(name) for name in names]
    axis.readout = Readout(rows, series, flat=True, titles=labels)
    if metric.get("level") is not None:
        axis.axvline(metric["level"], color=LIGHT["muted"], linestyle="--", linewidth=1)
    axis.set_yticks(rows, labels)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.margins(x=0.12)
    axis.grid(visible=False, axis="y")
    axis.xaxis.get_major_locator().set_params(nbins=4)
    number_axis(axis.xaxis)
    words = [f"{'smaller' if metric['lower_is_better'] else 'larger'} is better"]
    if metric.get("level_name"):
        words.append(f"dashed: {metric['level_name']}")
    axis.set_xlabel("; ".join(words))


def loss_chart(
    losses: Sequence[Mapping[str, Any] | None], names: Sequence[str], part: str
) -> Chart:
    """Return the chart of the `training` or `validation` losses by epoch."""
    draw = partial(by_epoch, losses=losses, names=names, part=part)
    return Chart(f"{part.capitalize()} loss by epoch", draw, legend=_columns(names))


def by_epoch(
    axis: Any, *, losses: Sequence[Mapping[str, Any] | None], names: Sequence[str], part: str
) -> None:
    """Draw the losses of each run by epoch, and a mark at the best epoch."""
    from matplotlib.ticker import MaxNLocator

    drawn: list[float] = []
    series = []
    longest = max((len(loss[part]) for loss in losses if loss), default=0)
    for number, (loss, name) in enumerate(zip(losses, names, strict=True)):
        if loss is None:
            continue
        values = np.array([np.nan if each is None else each for each in loss[part]], np.float64)
        epochs = np.arange(1, len(values) + 1)
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        drawn += known.tolist()
        style = style_of(number)
        axis.plot(epochs, values, label=_short(name), **style)
        padded = np.append(values, np.full(longest - len(values), np.nan))
        series.append(Series(_short(name), style["color"], padded))
        best = loss.get("best_epoch")
        if best and best <= len(values):
            marker = _MARKERS[number % len(_MARKERS)]
            axis.plot([best], [values[best - 1]], marker, color=style["color"], markersize=6)
    if not drawn:
        note(axis, "no run has losses by epoch")
        return
    axis.readout = Readout(np.arange(1, longest + 1), series)
    log = min(drawn) > 0
    if log:
        axis.set_yscale("log")
    number_axis(axis.yaxis, log=log)
    axis.set(xlabel="epoch", ylabel=f"{part} loss", xlim=(0.5, longest + 0.5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def forecast_chart(
    title: str, panel: Mapping[str, Any], names: Mapping[str, tuple[int, str]], newest: int
) -> Chart:
    """Return the chart of the forecasts of the runs.

    Args:
        title: What screen readers read out.
        panel: One of `predictions` of `experiments.compare.compare`.
        names: Number and name of the run of a column.
        newest: Draw only this many of the newest bars.
    """
    frame, unit, of_class = panel["frame"].tail(newest), panel["unit"], panel["class"]

    def draw(axis: Any) -> None:
        times = frame["timestamp"].dt.replace_time_zone(None).to_numpy()
        actual = _values(frame, "actual")
        lines = [] if of_class else [Line("actual", actual, {"color": LIGHT["ink"]})]
        for column, (number, name) in names.items():
            if column in frame.columns:
                lines.append(Line(_short(name), _values(frame, column), style_of(number)))
        over_time(axis, times, lines, f"{unit} of “{of_class}”" if of_class else unit)
        if of_class:
            mark_outcomes(axis, {of_class: (actual == 1.0, LIGHT["ink"])})

    return Chart(title, draw, legend=_columns([name for _, name in names.values()]))


def _columns(names: Sequence[str]) -> int:
    """Return how many names fit next to each other in a legend."""
    return 3 if max(map(len, names)) <= 10 else 2


def _values(frame: pl.DataFrame, column: str) -> Any:
    return frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
