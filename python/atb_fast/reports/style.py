"""The style of all charts: colors, line widths, and the ticks of prices and times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Color of each role on a white page. The report declares these as CSS variables and overrides
#: them in its dark theme, so no two roles may share a color.
LIGHT = {
    "ink": "#1b1f24",
    "muted": "#5c6570",
    "grid": "#dfe3e8",
    "model": "#0072b2",
    "other": "#d55e00",
    "persistence": "#009e73",
    "train": "#56b4e9",
    "validation": "#cc79a7",
    "test": "#e69f00",
}

#: matplotlib settings of every chart.
STYLE = {
    "svg.fonttype": "none",  # text stays text: the page chooses the font
    "text.parse_math": False,  # names may contain dollar signs
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', ['{LIGHT['ink']}'])",
    "axes.titlesize": 10,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
}

#: A long series is cut into this many parts; each part keeps its minimum and its maximum.
PARTS = 400


def extremes(columns: Sequence[NDArray[Any]], most: int = 2 * PARTS) -> NDArray[np.int64]:
    """Return the positions of at most `most` rows that look like all rows when they are drawn.

    They are the extremes of each column in equal parts, and both ends.
    """
    length = len(columns[0])
    if length <= most:
        return np.arange(length)
    parts = np.array_split(np.arange(length), most // (2 * len(columns)) - 1)
    # argmin and argmax return the position of a NaN if there is one, so missing values show.
    ends = [
        part[0] + end
        for part in parts
        for column in columns
        for end in (column[part].argmin(), column[part].argmax())
    ]
    return np.unique([0, *ends, length - 1])


def time_axis(axis: Any, times: NDArray[np.datetime64]) -> None:
    """Label the x axis of `axis` with UTC times, and with the range of `times`."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axis.xaxis.set_major_locator(locator)
    # The formatter would name the month or the year of the last tick only.
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    days = dict.fromkeys(np.datetime_as_string(times[[0, -1]], unit="D"))
    axis.set_xlabel(f"open time, UTC, {' to '.join(days)}")


def number_axis(axis: Any, *, log: bool = False) -> None:
    """Label `axis`, an x or a y axis, with plain numbers and thousands separators."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if log:
        low, high = axis.get_view_interval()
        if high <= 5 * low:  # powers of ten would be too far apart
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        else:
            subs = (1, 2, 5) if high <= 100 * low else (1, 3) if high <= 1000 * low else (1,)
            axis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))


def number_text(value: float) -> str:
    """Format a tick label as 1,234.5 or 2e9, with a typographic minus sign."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.10g}".replace("-", "−")
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
