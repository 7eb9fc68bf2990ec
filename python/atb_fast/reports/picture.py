"""The picture of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts import label_unit
from atb_fast.training.engine import FitResult

_SHOWN = 100


def plot_training(
    path: Path,
    *,
    title: str,
    fitted: FitResult,
    data: WindowedData,
    test_predictions: NDArray[np.float64],
    importance: dict[str, float],
    deviation: dict[str, float],
) -> None:
    """Draw learning curves, importance, and the first 100 test predictions into a PNG.

    Error bars of the importance are one `deviation`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.5), layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of its own: no window system, no global state
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    _curves(axes[0, 0], fitted, "loss", "Mean squared error")
    unit = label_unit(data)
    _curves(axes[0, 1], fitted, "rmse", f"RMSE ({unit})")
    _importance(axes[1, 0], importance, deviation)
    _predictions(axes[1, 1], data, test_predictions)
    figure.savefig(path, dpi=110)


def _curves(axis: Any, fitted: FitResult, name: str, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, fitted.epochs + 1)
    axis.plot(epochs, fitted.history[name], label="training")
    axis.plot(epochs, fitted.history[f"val_{name}"], label="validation")
    axis.axvline(fitted.best_epoch, color="grey", linestyle=":", label="kept epoch")
    axis.set(title=f"{label} by epoch", xlabel="epoch", ylabel=label, yscale="log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()


def _importance(axis: Any, importance: dict[str, float], deviation: dict[str, float]) -> None:
    names = sorted(importance, key=lambda name: importance[name])
    axis.barh(
        [name.removesuffix("_scaled") for name in names],
        [importance[name] for name in names],
        xerr=[deviation[name] for name in names],
        capsize=3,
    )
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set(
        title="Permutation importance on the test windows",
        xlabel="rise of the RMSE when shuffled (quote currency)",
    )


def _predictions(axis: Any, data: WindowedData, test_predictions: NDArray[np.float64]) -> None:
    starts = data.test[:_SHOWN]
    times = data.times(starts).to_list()
    axis.plot(times, data.targets(starts), label="actual", color="black")
    axis.plot(times, test_predictions[:_SHOWN], label="predicted")
    axis.plot(times, data.persistence(starts), label="persistence", linestyle=":")
    axis.set(
        title=f"First {len(starts)} test predictions", ylabel="close (quote currency)", xlabel="UTC"
    )
    axis.tick_params(axis="x", rotation=30)
    axis.legend()
