"""training.png: the main charts of a training run in one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.metrics import rmse
from atb_fast.features.windows import WindowedData
from atb_fast.reports import charts
from atb_fast.reports.style import LIGHT, STYLE
from atb_fast.training.engine import FitResult


def plot_training(
    path: Path,
    *,
    title: str,
    fitted: FitResult,
    data: WindowedData,
    test_predictions: NDArray[np.float64],
    importance: dict[str, float],
    deviation: dict[str, float],
    unshrunk: NDArray[np.float64] | None = None,
) -> None:
    """Write a PNG with loss, RMSE, permutation importance, and the last test predictions.

    Args:
        path: The file.
        title: Title of the image.
        fitted: The fit, whose history is drawn.
        data: What the model was trained and tested on.
        test_predictions: Prediction for each test window, quote currency, shape (windows,).
        importance: RMSE increase by column, quote currency.
        deviation: Standard deviation of each increase, drawn as error bars.
        unshrunk: The predictions before shrinkage; None if the model is not shrunk.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with rc_context(STYLE):
        figure = training_figure(
            title=title,
            fitted=fitted,
            data=data,
            test_predictions=test_predictions,
            importance=importance,
            deviation=deviation,
            unshrunk=unshrunk,
        )
        FigureCanvasAgg(figure)  # needs no window system and no global state
        figure.savefig(path, dpi=110)


def training_figure(
    *,
    title: str,
    fitted: FitResult,
    data: WindowedData,
    test_predictions: NDArray[np.float64],
    importance: dict[str, float],
    deviation: dict[str, float],
    unshrunk: NDArray[np.float64] | None = None,
) -> Any:
    """Return the matplotlib figure of `plot_training`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(13, 8.5), layout=layout, facecolor="white")
    figure.suptitle(title, fontsize=14)
    loss, error, rises, last = figure.subplots(2, 2).flat
    charts.loss_by_epoch(loss, data, fitted)
    charts.rmse_by_epoch(error, data, fitted)
    times, actual, persistence = charts.tested_closes(data)
    charts.importances(rises, importance, deviation, rmse(actual, test_predictions))
    zoom = slice(-charts.ZOOM, None)
    before = None if unshrunk is None else unshrunk[zoom]
    shown = times[zoom], actual[zoom], persistence[zoom], test_predictions[zoom]
    charts.prices(last, *shown, unshrunk=before)
    for axis, name in (
        (loss, "Loss by epoch"),
        (error, "RMSE by epoch"),
        (rises, "Permutation importance on the test windows"),
        (last, f"Last {len(times[zoom])} test predictions"),
    ):
        axis.set_title(name, loc="left", fontsize=12, color=LIGHT["ink"])
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return figure
