"""Plots the features of a recipe."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl

from atb_fast.errors import ArgumentError
from atb_fast.reports.style import LIGHT, STYLE, extremes

#: Maximum number of features in the plot; more would be unreadable.
MOST = 40
_COLUMNS = 2

log = logging.getLogger(__name__)


def check_plot_name(path: Path) -> None:
    """Raise ArgumentError unless `path` ends with `.png`."""
    if path.suffix.lower() != ".png":
        raise ArgumentError(
            f"--plot is {str(path)!r:.200}, expected a name that ends with .png, for example "
            f"{path.stem[:40] or 'features'}.png"
        )


def plot_features(path: Path, timestamps: pl.Series, values: pl.DataFrame, title: str) -> None:
    """Write a PNG with one chart for each feature, up to `MOST`.

    Args:
        path: The file, which must end with `.png`.
        timestamps: Open time of each candle.
        values: The features by name, before they are scaled.
        title: Title of the image. If there are more than `MOST` features, it also says so.

    Raises:
        ArgumentError: `path` does not end with `.png`.
        OSError: The file cannot be written.
    """
    check_plot_name(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = values.columns[:MOST]
    if len(names) < len(values.columns):
        title += f": the first {MOST} of {len(values.columns):,} features"
        log.info("%s has the first %d of %d features", path, MOST, len(values.columns))
    rows = -(-len(names) // _COLUMNS)
    with rc_context(STYLE):
        figure = Figure(
            figsize=(13, 1.2 + 1.7 * rows), layout=ConstrainedLayoutEngine(), facecolor="white"
        )
        FigureCanvasAgg(figure)  # needs no window system and no global state
        figure.suptitle(title, fontsize=14)
        axes = [*figure.subplots(rows, _COLUMNS, sharex=True).flat]
        for axis, name in zip(axes, names, strict=False):
            column = values[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            kept = extremes([column])
            axis.plot(
                timestamps.to_numpy()[kept], column[kept], color=LIGHT["model"], linewidth=0.8
            )
            axis.set_title(name, loc="left", color=LIGHT["ink"])
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        figure.savefig(path, dpi=100)
