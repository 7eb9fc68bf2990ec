"""Converts a chart to an `<svg>` of the page, and draws the parts that all models share.

A chart is a function that draws into a matplotlib axes object.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts.values import Readout, Series, to_script
from atb_fast.reports.style import LIGHT, STYLE, extremes, number_axis, number_text, time_axis

#: Width and height in inches. Narrow, so that 10-point text stays readable on a phone.
SIZE = (4.8, 3.0)
#: Number of bars in the close-up of the last test predictions.
ZOOM = 100


class Chart(NamedTuple):
    """A chart and its size.

    Attributes:
        label: What screen readers read out.
        draw: Draws into an axes object.
        height: Inches.
        left: Width of the labels of the y axis, relative to that of the chart.
        legend: Entries of its legend that fit into one row.
        width: Inches.
    """

    label: str
    draw: Callable[[Any], None]
    height: float = SIZE[1]
    left: float = 0.17
    legend: int = 5
    width: float = SIZE[0]


def svg(chart: Chart) -> str:
    """Return a chart as an `<svg>` and its values for the script, as `markupsafe.Markup`.

    A chart without values to show, for example a note, has no script.
    """
    from markupsafe import Markup
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    label, height, left = chart.label, chart.height, chart.left
    # matplotlib derives the ids of clip paths and markers from the salt. Charts of one page must
    # not share ids, and the same run must give the same ids.
    with rc_context({**STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(chart.width, height))
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        chart.draw(axis)
        script = to_script(axis)
        if not axis.axison:  # only a note
            left, height = 0.03, 1.0
            figure.set_figheight(height)
        # An automatic layout would measure every text, which takes longer than drawing.
        handles, _ = axis.get_legend_handles_labels()
        lines = -(-len(handles) // chart.legend)
        if handles:
            columns = -(-len(handles) // lines)
            figure.legend(loc="upper left", ncols=columns, borderaxespad=0, borderpad=0.1)
        top = 1 - (0.25 + 0.22 * lines) / height
        bottom = 0.5 / height
        figure.subplots_adjust(left=left, right=0.97, bottom=bottom, top=top)
        # The y label goes above the axis, where it takes no width.
        axis.set_title(axis.get_ylabel(), loc="left", color=LIGHT["muted"], y=1.0, pad=5)
        axis.set_ylabel("")
        axis.xaxis.set_label_coords(0.5, -0.34 / (height * (top - bottom)))
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = _inline(file.getvalue(), label, "chart" if axis.axison else "chart empty") + script
    for name, color in LIGHT.items():
        text = text.replace(color, f"var(--{name})")
    return Markup(text)  # noqa: S704 - ElementTree has escaped all texts, to_script the values


def _inline(document: str, label: str, css_class: str) -> str:
    """Return an SVG document as an element for an HTML page."""
    root = ElementTree.fromstring(document)  # noqa: S314 - Matplotlib has just written it
    for element in root.iter():
        # HTML knows the namespaces of SVG, so they need not be declared.
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        if element.tag == "g":
            known_as = element.attrib.pop("id", "")  # every chart has an "axes_1"
            if known_as.startswith(("xtick", "ytick", "series", "marks")):  # the script moves them
                element.set("class", re.sub(r"tick_\d+", "tick", known_as))
        for name in {"d", "x", "y", "transform"} & element.attrib.keys():
            element.set(name, _short(element.attrib[name]))
        for child in element.findall("{*}style"):
            element.remove(child)  # its rule would apply to the whole page
    known = {"viewBox": root.attrib["viewBox"], "class": css_class}
    root.attrib = known | {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _short(numbers: str) -> str:
    """Return the numbers of an attribute with at most two decimals, a hundredth of a point."""
    shorter = re.sub(
        r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), numbers
    )
    return re.sub(r" *([A-Za-z]) *", r"\1", shorter).strip() if shorter[:1] == "M" else shorter


def _local(name: str) -> str:
    """Return the name of a tag or an attribute without its `{namespace}`."""
    return name.rpartition("}")[2]


def target_times(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Return the open time of the bar at which the forecast of each window is listed, UTC."""
    return data.times(starts).to_numpy()


def note(axis: Any, text: str) -> None:
    """Write the reason in place of a chart."""
    axis.set_axis_off()
    style = {"ha": "center", "va": "center", "color": LIGHT["muted"]}
    axis.text(0.5, 0.5, text, transform=axis.transAxes, **style)


class Line(NamedTuple):
    """A series over time; its style has a color."""

    label: str
    values: NDArray[np.float64]
    style: dict[str, Any]


def over_time(
    axis: Any, times: NDArray[np.datetime64], lines: Sequence[Line], unit: str, *, log: bool = False
) -> None:
    """Draw series over time, on a logarithmic axis if `log`."""
    for i, (label, values, style) in enumerate(lines):
        kept = extremes([values])
        axis.plot(times[kept], values[kept], label=label, gid=f"series_{i}", **style)
    series = [Series(label, style["color"], values) for label, values, style in lines]
    axis.readout = Readout(times, series)
    axis.set_ylabel(unit)
    if log:
        axis.set_yscale("log")
    number_axis(axis.yaxis, log=log)
    time_axis(axis, times)


class Distribution(NamedTuple):
    """The values of a histogram."""

    label: str
    values: NDArray[np.float64]
    color: str


def histograms(axis: Any, drawn: Sequence[Distribution], label: str) -> None:
    """Draw distributions; the axis of their values has the `label`."""
    both = np.concatenate([each.values for each in drawn])
    low, high = both.min(), both.max()
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # too narrow to be divided
        margin = 0.01 * max(abs(low), abs(high)) or 0.5
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, 41)
    series = []
    for name, values, color in drawn:
        counts, _ = np.histogram(values, edges)
        axis.stairs(counts, edges, color=color, alpha=0.3, fill=True)
        axis.stairs(counts, edges, color=color, linewidth=1.2, label=name)
        series.append(Series(name, color, counts))
    digits = 2 - math.floor(math.log10(edges[1] - edges[0]))
    ends = [number_text(round(edge, digits) + 0.0) for edge in edges.tolist()]
    titles = [f"{label}: {first} to {last}" for first, last in pairwise(ends)]
    axis.readout = Readout((edges[:-1] + edges[1:]) / 2, series, titles=titles)
    axis.set(xlabel=label, ylabel="test windows")
    axis.xaxis.get_major_locator().set_params(nbins=5)
    number_axis(axis.xaxis)


class Points(NamedTuple):
    """Observed against predicted values, and their 95% intervals; arrays, shape (points,).

    Attributes:
        label: Name in the legend.
        predicted: The x values.
        observed: The y values.
        low: Lower ends of the intervals.
        high: Upper ends.
        color: Its color.
    """

    label: str
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    color: str


def calibrations(axis: Any, series: Sequence[Points]) -> None:
    """Draw observed against predicted values, and the line on which both are equal.

    The line is missing if it is out of range.
    """
    number_axis(axis.xaxis)
    number_axis(axis.yaxis)
    for points in series:
        axis.errorbar(
            points.predicted,
            points.observed,
            np.array([points.observed - points.low, points.high - points.observed]),
            fmt="o",
            color=points.color,
            markersize=4,
            elinewidth=1,
            capsize=2.5,
            label=points.label,
        )
    # One series below the other: each place has the value of one of them.
    places, observed, low, high = np.hstack([points[1:5] for points in series])
    owner = np.repeat(np.arange(len(series)), [len(points.predicted) for points in series])
    columns = [
        Series(points.label, points.color, np.where(owner == i, observed, np.nan), low, high)
        for i, points in enumerate(series)
    ]
    axis.readout = Readout(places, columns, points=True)
    axis.margins(x=0.06)
    axis.autoscale_view()
    limits = axis.get_xlim(), axis.get_ylim()
    if max(low for low, _ in limits) < min(high for _, high in limits):
        axis.plot(
            limits[0], limits[0], color=LIGHT["other"], linestyle="--", label="perfect calibration"
        )
    axis.set(xlim=limits[0], ylim=limits[1])
