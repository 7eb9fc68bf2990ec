"""Converts a chart to an `<svg>` of the page, and draws the parts that all models share.

A chart is a function that draws into a matplotlib axes object.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts.values import read_values, shorten, to_json
from atb_fast.reports.style import LIGHT, STYLE, number_axis, time_axis

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
    beyond = np.errstate(over="ignore")  # ticks of an axis that ends near the largest float
    with rc_context({**STYLE, "svg.hashsalt": label}), beyond:
        figure = Figure(figsize=(chart.width, height))
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        chart.draw(axis)
        values = read_values(axis) if axis.axison else None
        shorten(axis)
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
        if values:
            corners = axis.get_position().corners() * (chart.width * 72, height * 72)
            # left, top, right and bottom, as SVG counts from the top
            (left, bottom), (right, top) = corners[0], corners[3]
            values["box"] = [
                round(each, 2) for each in (left, 72 * height - top, right, 72 * height - bottom)
            ]
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = _inline(file.getvalue(), label, "chart" if axis.axison else "chart empty")
    if values:
        text += f'<script type="application/json">{to_json(values)}</script>'
    return Markup(text)  # noqa: S704 - ElementTree has escaped all texts, to_json the values


def _inline(document: str, label: str, css_class: str) -> str:
    """Return an SVG document as an element for an HTML page."""
    root = ElementTree.fromstring(document)  # noqa: S314 - Matplotlib has just written it
    for element in root.iter():
        # HTML knows the namespaces of SVG, so they need not be declared.
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        if element.tag == "g":
            _mark(element, element.attrib.pop("id", ""))  # every chart has an "axes_1"
        for name in {"d", "x", "y", "transform"} & element.attrib.keys():
            element.set(name, _short(element.attrib[name]))
        for child in element.findall("{*}style"):
            element.remove(child)  # its rule would apply to the whole page
    known = {"viewBox": root.attrib["viewBox"], "class": css_class}
    root.attrib = known | {"role": "img", "aria-label": label}
    text = ElementTree.tostring(root, encoding="unicode")
    for name, color in LIGHT.items():
        text = text.replace(color, f"var(--{name})")
    return text


def _mark(group: ElementTree.Element, known_as: str) -> None:
    """Mark a `<g>` for the script: axes, ticks, and what moves when the chart is zoomed."""
    kind, _, rest = known_as.partition("-")
    if known_as.startswith("matplotlib.axis_"):
        group.set("data-axis", "xy"[int(known_as[-1]) - 1])
    elif known_as.startswith(("xtick_", "ytick_")):
        group.set("data-tick", "")
    elif kind == "zoom":
        directions, number, *area = rest.split("-")
        group.set("data-zoom", directions)
        if number:
            group.set("data-series", number)
        if area:
            _inline_paths(group)


def _inline_paths(group: ElementTree.Element) -> None:
    """Replace the `<use>` of a path by the path where it is drawn, which is easier to zoom."""
    path, place, use = (group.find(f"{{*}}{name}") for name in ("defs/{*}path", "g", "g/{*}use"))
    if path is None or place is None or use is None:
        return
    x, y = float(use.attrib["x"]), float(use.attrib["y"])

    def moved(found: re.Match[str]) -> str:
        return f"{float(found[1]) + x} {float(found[2]) + y}"

    drawn = re.sub(r"(-?[\d.]+) (-?[\d.]+)", moved, path.attrib["d"])
    kept = {"d": drawn, "clip-path": place.attrib["clip-path"], "style": use.attrib["style"]}
    group[:] = [ElementTree.Element("path", kept)]


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
    """A series over time."""

    label: str
    values: NDArray[np.float64]
    style: dict[str, Any]


def over_time(
    axis: Any, times: NDArray[np.datetime64], lines: Sequence[Line], unit: str, *, log: bool = False
) -> None:
    """Draw series over time, on a logarithmic axis if `log`."""
    for line in lines:
        axis.plot(times, line.values, label=line.label, **line.style)
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
    for name, values, color in drawn:
        counts, _ = np.histogram(values, edges)
        axis.stairs(counts, edges, color=color, alpha=0.3, fill=True)
        axis.stairs(counts, edges, color=color, linewidth=1.2, label=name)
    axis.set(xlabel=label, ylabel="test windows")
    axis.xaxis.get_major_locator().set_params(nbins=5)
    number_axis(axis.xaxis)


class Points(NamedTuple):
    """Observed against predicted values, and their 95% intervals; arrays, shape (points,).

    Attributes:
        label: Name in the legend.
        predicted: The x values.
        observed: The y values.
        below: Length of the interval below them.
        above: Length of the interval above them.
        color: Its color.
    """

    label: str
    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
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
            np.array([points.below, points.above]),
            fmt="o",
            color=points.color,
            markersize=4,
            elinewidth=1,
            capsize=2.5,
            label=points.label,
        )
    axis.margins(x=0.06)
    axis.autoscale_view()
    limits = axis.get_xlim(), axis.get_ylim()
    if max(low for low, _ in limits) < min(high for _, high in limits):
        axis.plot(
            limits[0], limits[0], color=LIGHT["other"], linestyle="--", label="perfect calibration"
        )
    axis.set(xlim=limits[0], ylim=limits[1])
