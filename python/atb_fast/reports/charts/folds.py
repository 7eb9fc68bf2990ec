"""The chart of a walk-forward evaluation: error by fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from atb_fast.reports.charts.drawing import Chart
from atb_fast.reports.charts.values import Readout, Series
from atb_fast.reports.style import LIGHT, number_axis, time_axis

#: Color and marker of each baseline, in order.
_BASELINES = (("other", "D"), ("validation", "s"), ("test", "^"))


class Ratios(NamedTuple):
    """Errors divided by that of the reference; each sequence has one value for each fold.

    Attributes:
        first: Open time of the first test bar, UTC.
        last: Open time of the last test bar.
        model: Ratios of the model.
        baselines: Ratios of other baselines by name, at most three.
        reference: Name of the reference.
    """

    first: Sequence[np.datetime64]
    last: Sequence[np.datetime64]
    model: Sequence[float]
    baselines: Mapping[str, Sequence[float]]
    reference: str


def ratio_chart(ratios: Ratios, label: str) -> Chart:
    """Return the chart of the ratio of each fold."""
    return Chart(label, lambda axis: by_fold(axis, ratios))


def by_fold(axis: Any, ratios: Ratios) -> None:
    """Draw the ratio of each fold over its test period; 1 is the reference."""
    first, last = np.array(ratios.first), np.array(ratios.last)
    centers = first + (last - first) / 2
    axis.axhline(
        1.0, color=LIGHT["persistence"], linestyle="--", label=ratios.reference, linewidth=1.4
    )
    series = []
    for (name, values), (color, marker) in zip(ratios.baselines.items(), _BASELINES, strict=False):
        style = {"color": LIGHT[color], "marker": marker, "markersize": 4.5, "linestyle": "none"}
        axis.plot(centers, values, label=name, markerfacecolor="none", **style)
        series.append(Series(name, LIGHT[color], np.array(values, np.float64)))
    axis.plot([first, last], [ratios.model, ratios.model], color=LIGHT["model"], linewidth=2.5)
    axis.plot(centers, ratios.model, "o", color=LIGHT["model"], markersize=5, label="model")
    series.append(Series("model", LIGHT["model"], np.array(ratios.model, np.float64)))
    days = (np.datetime_as_string(each, unit="D") for each in (first, last))
    titles = [" to ".join(ends) for ends in zip(*days, strict=True)]
    axis.readout = Readout(centers, series, titles=titles)
    axis.margins(y=0.15)
    axis.set_ylabel(f"error ÷ error of {ratios.reference}")
    number_axis(axis.yaxis)
    time_axis(axis, np.array([first[0], last[-1]]))
