"""training.png: the main charts of a training run in one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.record import RunRecord
from atb_fast.reports.charts import charts_of
from atb_fast.reports.style import LIGHT, STYLE

#: The charts in the image, by kind of forecast; see `Scoring.kind`.
_SHOWN: dict[str, tuple[str, str, str, str]] = {
    "prices": ("loss", "rmse", "importance", "zoom"),
    "returns": ("loss", "rmse", "importance", "zoom"),
    "classes": ("loss", "confusion", "importance", "calibration"),
    "volatility": ("months", "realized", "importance", "zoom"),
}


def plot_training(
    path: Path, title: str, record: RunRecord, unshrunk: NDArray[np.float64] | None = None
) -> None:
    """Write a PNG with four of the charts of the page; one is the permutation importance.

    Args:
        path: The file.
        title: Title of the image.
        record: The run, with its importance measured.
        unshrunk: The forecasts for the test windows before shrinkage; None if the model is not
            shrunk.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with rc_context(STYLE):
        figure = training_figure(title, record, unshrunk)
        FigureCanvasAgg(figure)  # needs no window system and no global state
        figure.savefig(path, dpi=110)


def training_figure(
    title: str, record: RunRecord, unshrunk: NDArray[np.float64] | None = None
) -> Any:
    """Return the matplotlib figure of `plot_training`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(13, 8.5), layout=layout, facecolor="white")
    figure.suptitle(title, fontsize=14)
    charts = charts_of(record, unshrunk)
    shown = _SHOWN[record.evaluation.scoring.kind]
    for axis, name in zip(figure.subplots(2, 2).flat, shown, strict=True):
        chart = charts.get(name, charts["test"])  # if the model is HAR, there are no months
        chart.draw(axis)
        where = " on the test windows" if name == "importance" else ""
        axis.set_title(chart.label + where, loc="left", fontsize=12, color=LIGHT["ink"])
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return figure
