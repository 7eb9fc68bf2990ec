"""The values of a chart that the script of the page reads out.

A chart declares them where it draws them: `axis.readout = Readout(...)`. A chart that declares
nothing shows no values and cannot be zoomed.

Long lines are drawn thinned. A line with the gid `series_0` is drawn again from the values of the
first series when the chart is zoomed; everything else is stretched. Marks with the gid `marks` stay
at the edge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atb_fast.reports.style import extremes

#: Places that a page keeps for zooming; `extremes` draws fewer.
MOST = 3000
_DAY = 86_400_000


class Series(NamedTuple):
    """A column of a readout; arrays, shape (places,).

    Attributes:
        name: Its name; may be empty if it is the only one.
        color: Its color, one of `style.LIGHT`.
        values: The values; NaN for places without one. Booleans only mark places.
        low: Lower ends of intervals, if there are any.
        high: Upper ends.
    """

    name: str
    color: str
    values: NDArray[Any]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


class Readout(NamedTuple):
    """What can be read out of a chart: a table with one row for each place on its x axis.

    Attributes:
        places: Numbers or times, shape (places,).
        series: Its columns.
        flat: Whether the places are on the y axis, and the values on the x axis.
        points: Whether the pointer chooses the nearest point; otherwise the nearest place.
        titles: Titles of the rows. By default, they are times, or numbers with the axis label.
    """

    places: NDArray[Any]
    series: list[Series]
    flat: bool = False
    points: bool = False
    titles: Sequence[str] | None = None


def to_script(axis: Any) -> str:
    """Return the `<script>` element with the readout of a chart; empty if it has no values.

    The JSON has the fields of `Readout` and `Series`, with None for missing values and True for
    marks, and:

    - `unit`, if places are times: `places` are then steps of this many milliseconds, the first one
      since 1970.
    - `x` and `y`: `limits`, `label`, and `scale`, which is `linear`, `log` or `time`.
    - `zoom`: whether the x axis can be zoomed.
    - `thinned`: whether some places are missing.

    Args:
        axis: Axes with everything drawn.
    """
    from matplotlib.ticker import FixedLocator

    readout = getattr(axis, "readout", None)
    if readout is None:
        return ""
    places, kept = readout.places, extremes([each.values for each in readout.series], MOST)
    along, across = (axis.yaxis, axis.xaxis) if readout.flat else (axis.xaxis, axis.yaxis)
    series = [_written(each, kept, across) for each in readout.series]
    if all(value is None or value is True for each in series for value in each["y"]):
        return ""
    over_time = places.dtype.kind == "M"
    written = {
        **(_times(places[kept]) if over_time else {"places": _numbers(places[kept], along)}),
        "series": series,
        "flat": readout.flat,
        "points": readout.points,
        "titles": readout.titles and [readout.titles[position] for position in kept],
        "x": _axis(axis.xaxis, over_time=over_time),
        "y": _axis(axis.yaxis),
        "zoom": not readout.flat and not isinstance(axis.xaxis.get_major_locator(), FixedLocator),
        "thinned": len(kept) < len(places),
    }
    return f'<script type="application/json">{to_json(written)}</script>'


def to_json(values: Any) -> str:
    """Return a value as JSON that cannot end the `<script>` that it is written into."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _axis(axis: Any, *, over_time: bool = False) -> dict[str, Any]:
    limits, scale = axis.get_view_interval().tolist(), axis.get_scale()
    if over_time:
        limits, scale = [round(each * _DAY) for each in limits], "time"
    label = axis.get_label_text().replace(", logarithmic", "")
    return {"limits": limits, "label": label, "scale": scale}


def _written(series: Series, kept: NDArray[np.int64], axis: Any) -> dict[str, Any]:
    """Return the kept values of a series for JSON; `axis` is the one that shows the values."""
    columns = {"y": series.values, "low": series.low, "high": series.high}
    known = {name: _numbers(each[kept], axis) for name, each in columns.items() if each is not None}
    return {"name": series.name, "color": series.color, **known}


def _times(times: NDArray[np.datetime64]) -> dict[str, Any]:
    """Return times as steps of a common unit, which need fewer digits."""
    steps = np.diff(times.astype("datetime64[ms]").astype(np.int64), prepend=0)
    unit = int(np.gcd.reduce(steps)) or 1
    return {"unit": unit, "places": (steps // unit).tolist()}


def _numbers(values: NDArray[Any], axis: Any) -> list[float | bool | None]:
    """Return values rounded to what can be seen after zooming; None for what cannot be seen."""
    if values.dtype == bool:
        return [True if each else None for each in values]
    if axis.get_scale() == "log":
        return [float(f"{each:.5g}") if 0 < each < np.inf else None for each in values.tolist()]
    low, high = axis.get_view_interval()
    digits = 4 - math.floor(math.log10(abs(high - low)))
    kind = int if digits <= 0 else float
    return [kind(round(each, digits)) if math.isfinite(each) else None for each in values.tolist()]
