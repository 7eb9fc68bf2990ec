"""The values of a chart that the script of the page needs for hovering and zooming.

They are read from the axes that a chart was drawn into, so charts need no code for it. A series is
named after its label; labels that start with an underscore are not in the legend. Series without a
label are drawn and zoomed, but their values are not shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.reports.style import LIGHT, PARTS, number_text, thinned

#: Points that all lines of a chart keep for zooming. Unzoomed lines have at most `2 * PARTS`.
MOST = 3000
_DAY = 86_400_000
#: Beginnings of the labels that matplotlib makes up.
_UNNAMED = ("_child", "_nolegend_", "_container")

_Floats = NDArray[np.float64]


@dataclass
class _Series:
    """What an artist shows; arrays, shape (values,).

    Attributes:
        artist: The artist.
        kind: `line`, `step`, `points`, `bins` (x has one more value, their edges), `level` (has no
            x), `mark` (has no values) or `band` (has only `low` and `high`).
        name: Its label; None if it has none.
        color: Its color.
        x: The x values.
        y: The values.
        low: Lower ends of intervals, if there are any.
        high: Upper ends.
    """

    artist: Any
    kind: str
    name: str | None
    color: Any
    x: _Floats
    y: _Floats
    low: _Floats | None = None
    high: _Floats | None = None


def read_values(axis: Any) -> dict[str, Any] | None:
    """Return the values of a chart, ready for JSON; None if there are none to show.

    It also sets the ids of the artists that move when the chart is zoomed: `zoom-`, the directions
    in which they follow the data, `-`, and the number of their series. Collections that are not
    drawn as marks end with `-area`.

    Args:
        axis: Axes with everything drawn, before `shorten`.

    Returns:
        `mode`: what is nearest to the pointer: an `x`, one of the `bins`, a `point` or a `row`.
        `zoom`: whether the x axis can be zoomed. `margins`: shares of the y axis that are empty
        below and above the values. `thinned`: whether some values are missing. `x`, `y`: `limits`,
        `label`, and `scale`, which is `linear`, `log`, `time` (milliseconds since 1970), `names`,
        or `none` if it has no ticks. `xs`: the different x values of the series; if they are times,
        `unit` in milliseconds, and `steps` in that unit, the first one since 1970. `series`:
        `name`, `color`, `kind`, `x` (position of its x values in `xs`), `y`, and, if there are
        intervals, `low` and `high`.
    """
    x, y = _describe(axis.xaxis), _describe(axis.yaxis)
    rows = y["scale"] == "names"
    shown = _named(list(_series(axis)))
    values = [each.y for each in shown if each.name is not None and each.kind != "level"]
    if not any(_visible(each, y).any() for each in values):
        return None
    zoom = not rows and x["scale"] != "names"
    if zoom:
        _mark(axis, shown)
    missing = _thin_together([series for series in shown if series.kind == "line"])
    margins = _margins(shown, y) if zoom else None
    xs: list[_Floats] = []
    written = [_written(each, _position(xs, each.x), y, x if rows else y) for each in shown]
    return {
        "mode": _mode(shown, rows=rows, over_time=x["scale"] == "time"),
        "zoom": zoom,
        "margins": margins,
        "thinned": missing,
        "x": x,
        "y": y,
        "xs": [_times(each) if x["scale"] == "time" else _numbers(each, x) for each in xs],
        "series": written,
    }


def to_json(values: Any) -> str:
    """Return a value as JSON that cannot end the `<script>` that it is written into."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def shorten(axis: Any) -> None:
    """Thin the long lines of a chart to as many points as can be seen."""
    limits = axis.get_xlim(), axis.get_ylim()
    for line in axis.lines:
        x, y = _data(line)
        if len(x) > 2 * PARTS and _joined(line) and _ascending(x):
            line.set_data(*thinned(x, y))
    axis.set(xlim=limits[0], ylim=limits[1])


def _describe(axis: Any) -> dict[str, Any]:
    """Return limits, scale and label of one axis."""
    from matplotlib.dates import DateLocator
    from matplotlib.ticker import FixedLocator

    label = axis.get_label_text().replace(", logarithmic", "")
    limits = [float(each) for each in axis.get_view_interval()]
    locator = axis.get_major_locator()
    if isinstance(locator, DateLocator):
        return {"scale": "time", "limits": [round(each * _DAY) for each in limits], "label": label}
    if isinstance(locator, FixedLocator):
        places = [float(each) for each in axis.get_majorticklocs()]
        names = axis.get_major_formatter().format_ticks(places)
        if not places:
            return {"scale": "none", "limits": limits, "label": label}
        if places == list(range(len(places))) and names != list(map(number_text, places)):
            return {"scale": "names", "limits": limits, "label": label, "names": names}
    return {"scale": axis.get_scale(), "limits": limits, "label": label}


def _series(axis: Any) -> Iterator[_Series]:
    """Yield everything in the axes that shows values."""
    from matplotlib.collections import PolyCollection
    from matplotlib.container import BarContainer, ErrorbarContainer
    from matplotlib.patches import StepPatch

    with_errors = [each for each in axis.containers if isinstance(each, ErrorbarContainer)]
    parts = {part for each in with_errors for part in (each.lines[0], *each.lines[1])}
    intervals: dict[float, tuple[float, float]] = {}
    for container in with_errors:
        line, at, low, high = container.lines[0], *_intervals(container)
        if line is None:  # they are those of the bars
            intervals |= {where: ends for where, *ends in zip(at, low, high, strict=True)}
        else:
            name, color = _name(container), line.get_color()
            yield _Series(line, "points", name, color, *_data(line), low, high)
    for container in axis.containers:
        if isinstance(container, BarContainer) and container.patches:
            yield _bars(container, intervals)
    for line in axis.lines:
        if line not in parts and len(line.get_xdata()):
            yield from _line(axis, line)
    for patch in axis.patches:
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            edges, values = np.asarray(edges, np.float64), np.asarray(values, np.float64)
            yield _Series(patch, "bins", _name(patch), patch.get_edgecolor(), edges, values)
    for area in axis.collections:
        if isinstance(area, PolyCollection) and area.get_paths():
            points = np.concatenate([path.vertices for path in area.get_paths()])
            x, places = np.unique(points[:, 0], return_inverse=True)
            low, high = np.full(len(x), np.inf), np.full(len(x), -np.inf)
            np.minimum.at(low, places, points[:, 1])
            np.maximum.at(high, places, points[:, 1])
            yield _Series(area, "band", None, LIGHT["muted"], x, np.empty(0), low, high)


def _line(axis: Any, line: Any) -> Iterator[_Series]:
    """Yield what a line shows: a series, a horizontal line, or marks at the edge."""
    (x, y), directions = _data(line), _directions(axis, line)
    name, color = _name(line), line.get_color()
    if directions == "xy":
        straight = line.get_drawstyle() == "default" and _ascending(x)
        kind = "points" if not _joined(line) else "line" if straight else "step"
        yield _Series(line, kind, name, color, x, y)
    elif directions == "y":
        yield _Series(line, "level", name, color, np.empty(0), y[:1])
    elif directions == "x" and not _joined(line):
        yield _Series(line, "mark", name, color, x, np.empty(0))


def _bars(container: Any, intervals: dict[float, tuple[float, float]]) -> _Series:
    """Return the bars of a container, with intervals by the place of the bar."""
    boxes = np.array([bar.get_bbox().get_points() for bar in container])
    flat = container.orientation == "horizontal"
    places = boxes[:, :, 1 if flat else 0].mean(axis=1)
    lengths = [bar.get_width() if flat else bar.get_height() for bar in container]
    color, values = container.patches[0].get_facecolor(), np.array(lengths, np.float64)
    x, y = (values, places) if flat else (places, values)
    series = _Series(container, "points", _name(container), color, x, y)
    if intervals:
        ends = np.array([intervals.get(place, (np.nan, np.nan)) for place in places])
        series.low, series.high = ends[:, 0], ends[:, 1]
    return series


def _intervals(container: Any) -> tuple[_Floats, _Floats, _Floats]:
    """Return where the error bars of a container are, and their lower and upper ends."""
    paths = [path.vertices for bars in container.lines[2] for path in bars.get_paths()]
    segments = np.array(paths).reshape(-1, 2, 2)
    along = 0 if container.has_xerr else 1
    ends = segments[:, :, along]
    return segments[:, 0, 1 - along], ends.min(axis=1), ends.max(axis=1)


def _data(line: Any) -> tuple[_Floats, _Floats]:
    """Return the values of a line; times are days since 1970."""
    x, y = line.get_xdata(orig=False), line.get_ydata(orig=False)
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def _joined(line: Any) -> bool:
    return str(line.get_linestyle()) != "None"


def _name(artist: Any) -> str | None:
    text = str(artist.get_label())
    return None if not text or text.startswith(_UNNAMED) else text.removeprefix("_")


def _named(found: list[_Series]) -> list[_Series]:
    """Return the series with names, and bands; if nothing has a name, the first needs none."""
    shown = [series for series in found if series.name is not None or series.kind == "band"]
    if all(series.kind == "band" for series in shown):
        first = [each for each in found if each.kind in {"line", "step", "points", "bins"}][:1]
        for series in first:
            series.name = ""
        shown += first
    return shown


def _directions(axis: Any, artist: Any) -> str:
    """Return the directions in which an artist follows the data: some of `xy`."""
    placed = artist in axis.collections and _placed(axis, artist)
    transform = artist.get_offset_transform() if placed else artist.get_transform()
    follows = transform.contains_branch_seperately(axis.transData)
    return "".join(name for name, known in zip("xy", follows, strict=True) if known)


def _placed(axis: Any, collection: Any) -> bool:
    """Return whether a collection is a mark at each of some points, as in `axis.scatter`."""
    return bool(collection.get_offset_transform().contains_branch(axis.transData))


def _mark(axis: Any, shown: Sequence[_Series]) -> None:
    """Set the ids of everything that moves when the chart is zoomed."""
    numbers = {id(series.artist): number for number, series in enumerate(shown)}
    for artist in (*axis.lines, *axis.patches, *axis.collections):
        area = "-area" if artist in axis.collections and not _placed(axis, artist) else ""
        number = numbers.get(id(artist), "")
        artist.set_gid(f"zoom-{_directions(axis, artist)}-{number}{area}")


def _mode(shown: Sequence[_Series], *, rows: bool, over_time: bool) -> str:
    """Return what is nearest to the pointer; see `read_values`."""
    if rows:
        single = all(len(set(series.y.tolist())) == len(series.y) for series in shown)
        return "row" if single else "point"
    if any(series.kind == "bins" for series in shown):
        return "bins"
    points = [series for series in shown if series.kind == "points"]
    scattered = any(each.low is not None or not _ascending(each.x) for each in points)
    return "point" if scattered and not over_time else "x"


def _ascending(values: _Floats) -> bool:
    return bool((np.diff(values) > 0).all())


def _thin_together(lines: Sequence[_Series]) -> bool:
    """Thin long lines; those with the same x values keep the same. Return whether any are long."""
    groups: dict[bytes, list[_Series]] = {}
    for line in lines:
        if len(line.x) > MOST:
            groups.setdefault(line.x.tobytes(), []).append(line)
    for group in groups.values():
        parts = np.array_split(np.arange(len(group[0].x)), MOST // (2 * len(group)))
        # argmin and argmax return the position of a NaN if there is one, so missing values show.
        kept = np.unique(
            [
                part[0] + end
                for part in parts
                for line in group
                for end in (line.y[part].argmin(), line.y[part].argmax())
            ]
        )
        for line in group:
            line.x, line.y = line.x[kept], line.y[kept]
    return bool(groups)


def _position(xs: list[_Floats], x: _Floats) -> int:
    """Return the position of equal x values in `xs`, to which new ones are added."""
    for position, known in enumerate(xs):
        if np.array_equal(known, x):
            return position
    xs.append(x)
    return len(xs) - 1


def _margins(shown: Sequence[_Series], axis: dict[str, Any]) -> list[float]:
    """Return the shares of the y axis below and above all values."""
    parts = [each for one in shown if one.kind != "level" for each in (one.y, one.low, one.high)]
    values = np.concatenate([each for each in parts if each is not None])
    values = values[_visible(values, axis)]
    ends = np.array([*axis["limits"], values.min(), values.max()])
    low, high, least, most = np.log10(ends) if axis["scale"] == "log" else ends
    margins = np.array([least - low, high - most]) / (high - low)
    return [round(each, 3) for each in np.clip(margins, 0.0, 0.4).tolist()]


def _written(
    series: _Series, position: int, y: dict[str, Any], values: dict[str, Any]
) -> dict[str, Any]:
    """Return a series ready for JSON; `values` is the axis along which its intervals are."""
    from matplotlib.colors import to_hex

    color = to_hex(series.color)
    role = next((role for role, value in LIGHT.items() if value == color), "ink")
    found: dict[str, Any] = {"name": series.name, "color": role, "kind": series.kind, "x": position}
    found["y"] = _numbers(series.y, y)
    if series.low is not None and series.high is not None:
        found |= {"low": _numbers(series.low, values), "high": _numbers(series.high, values)}
    return found


def _times(days: _Floats) -> dict[str, Any]:
    """Return days since 1970 as steps of a common unit."""
    times = np.rint(days * _DAY).astype(np.int64)
    steps = np.diff(times, prepend=0)
    unit = int(np.gcd.reduce(steps)) or 1
    return {"unit": unit, "steps": (steps // unit).tolist()}


def _visible(values: _Floats, axis: dict[str, Any]) -> NDArray[np.bool_]:
    """Return which values the scale of an axis can show."""
    return np.isfinite(values) & (values > (0.0 if axis["scale"] == "log" else -np.inf))


def _numbers(values: _Floats, axis: dict[str, Any]) -> list[float | None]:
    """Return values rounded to what can be seen after zooming; None for missing ones."""
    if axis["scale"] == "log":
        shown = _visible(values, axis)
        return [
            float(f"{each:.5g}") if seen else None for each, seen in zip(values, shown, strict=True)
        ]
    low, high = axis["limits"]
    digits = 4 - math.floor(math.log10(abs(high - low) or 1.0))
    kind = int if digits <= 0 else float
    rounded = np.round(values, min(digits, 300)).tolist()
    return [kind(each) if math.isfinite(each) else None for each in rounded]
