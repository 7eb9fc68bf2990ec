"""The charts of a training run.

Each chart is a function that draws into a matplotlib axes object. `draw_charts` renders them as SVG
for the page; `picture.plot_training` draws four of them into training.png.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.metrics import return_deciles, rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData
from atb_fast.reports.style import LIGHT, PARTS, STYLE, number_axis, thinned, time_axis
from atb_fast.training.engine import FitResult

#: Width and height in inches. Narrow, so that 10-point text stays readable on a phone.
_SIZE = (4.8, 3.0)
#: Number of bars in the close-up of the last test predictions.
ZOOM = 100
#: A price range wider than this factor gets a logarithmic scale.
_LOG_SPAN = 8.0

#: Names of the charts, in page order.
CHARTS = (
    *("market", "loss", "rmse", "test", "zoom", "residuals", "histogram", "deciles"),
    "importance",
)


def draw_charts(record: RunRecord, predictions: NDArray[np.float64]) -> dict[str, str]:
    """Return the charts of a run by name, each an `<svg>` as `markupsafe.Markup`.

    Colors are CSS variables that the page must define, one for each key of `style.LIGHT`. The same
    run always gives the same bytes.

    Args:
        record: The run, with its importance measured.
        predictions: Prediction for each test window, quote currency, shape (windows,).
    """
    data, fitted = record.data, record.fitted
    importance, deviation = record.importance or {}, record.importance_deviation
    times, actual, last = tested_closes(data)
    part = slice(-ZOOM, None)
    zoom = times[part], actual[part], last[part], predictions[part]
    residuals, persistence = predictions - actual, last - actual
    return {
        "market": _svg("Closing prices and split", market, data, record.config.bar_ms),
        "loss": _svg("Loss by epoch", loss_by_epoch, data, fitted),
        "rmse": _svg("RMSE by epoch", rmse_by_epoch, data, fitted),
        "test": _svg("Test predictions", prices, times, actual, last, predictions),
        "zoom": _svg(f"Last {len(zoom[0])} test predictions", prices, *zoom),
        "residuals": _svg("Residuals over time", residuals_over_time, times, residuals),
        "histogram": _svg("Distribution of residuals", histogram, residuals, persistence),
        "deciles": _svg("Returns by decile", deciles, last, actual, predictions, data.horizon),
        "importance": _svg(
            "Permutation importance",
            *(importances, importance, deviation),
            left=0.06 + 0.016 * max(map(len, importance), default=0),
            height=max(_SIZE[1], 0.9 + 0.19 * len(importance)),
        ),
    }


def _svg(
    label: str,
    chart: Callable[..., None],
    *arguments: Any,
    left: float = 0.17,
    height: float = _SIZE[1],
) -> str:
    """Return what `chart` draws as inline SVG; screen readers read out `label`."""
    from markupsafe import Markup
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # matplotlib derives the ids of clip paths and markers from the salt. Charts of one page must
    # not share ids, and the same run must give the same ids.
    with rc_context({**STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(_SIZE[0], height))
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        chart(axis, *arguments)
        # An automatic layout would measure every text, which takes longer than drawing.
        handles, _ = axis.get_legend_handles_labels()
        if handles:
            figure.legend(loc="upper left", ncols=5, borderaxespad=0, borderpad=0.1)
        top = 1 - (0.47 if handles else 0.25) / height
        bottom = 0.5 / height
        figure.subplots_adjust(left=left, right=0.97, bottom=bottom, top=top)
        # The y label goes above the axis, where it takes no width.
        axis.set_title(axis.get_ylabel(), loc="left", color=LIGHT["muted"], y=1.0, pad=5)
        axis.set_ylabel("")
        axis.xaxis.set_label_coords(0.5, -0.34 / (height * (top - bottom)))
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    return Markup(_inline(file.getvalue(), label))


def _inline(document: str, label: str) -> str:
    """Return an SVG document as an element for an HTML page."""
    root = ElementTree.fromstring(document)
    for element in root.iter():
        # HTML knows the namespaces of SVG, so they need not be declared.
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
        if element.tag == "g":
            element.attrib.pop("id", None)  # every chart has an "axes_1"
        for child in element.findall("{*}style"):
            element.remove(child)  # its rule would apply to the whole page
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    text = ElementTree.tostring(root, encoding="unicode")
    for name, color in LIGHT.items():
        text = text.replace(color, f"var(--{name})")
    return text


def _local(name: str) -> str:
    """Return the name of a tag or an attribute without its `{namespace}`."""
    return name.rpartition("}")[2]


def target_times(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Return the open time of the bar that each window predicts, UTC, shape (windows,)."""
    return data.times(starts).to_numpy()


def tested_closes(
    data: WindowedData,
) -> tuple[NDArray[np.datetime64], NDArray[np.float64], NDArray[np.float64]]:
    """Return open time and close of each predicted test bar, and the last close of its window."""
    return target_times(data, data.test), data.targets(data.test), data.persistence(data.test)


def label_unit(data: WindowedData) -> str:
    """Return the unit of the loss (before squaring)."""
    scale = data.price_scale
    if scale.kind == "log_return":
        return f"log return ÷ {scale.scale:.2g}"
    return "range of a window's closes" if scale.kind == "rolling_minmax" else "quote currency"


def market(axis: Any, data: WindowedData, bar_ms: int) -> None:
    """Draw closes, low-high ranges, gaps, and the part that each bar belongs to."""
    frame = data.prepared.frame
    times = frame["timestamp"].to_numpy()
    low, high = frame["low"].to_numpy(), frame["high"].to_numpy()
    step = -(-len(times) // PARTS)
    at = np.arange(0, len(times), step)
    # fmin and fmax ignore NaN: a candle may lack a value.
    low, high = np.fmin.reduceat(low, at), np.fmax.reduceat(high, at)
    axis.fill_between(times[at], low, high, color=LIGHT["muted"], alpha=0.45, linewidth=0)
    axis.plot(
        *thinned(times, frame["close"].to_numpy()), color=LIGHT["ink"], linewidth=0.8, label="close"
    )
    log = bool(np.nanmin(low) > 0 and np.nanmax(high) > _LOG_SPAN * np.nanmin(low))
    if log:
        axis.set_yscale("log")

    parts = [("train", "train", data.train)]
    if np.array_equal(data.validation, data.test):
        parts.append(("test", "validation = test", data.test))
    else:
        parts += [("validation", "validation", data.validation), ("test", "test", data.test)]
    for role, label, starts in parts:
        first, last = target_times(data, starts[[0, -1]])
        axis.axvspan(first, last, color=LIGHT[role], alpha=0.22, linewidth=0, label=label)
    holes = times[:-1][np.diff(times) > np.timedelta64(bar_ms, "ms")]
    if len(holes):
        # Draw one mark for all gaps that would overlap.
        share = (holes - times[0]) / (times[-1] - times[0])
        _, shown = np.unique((share * PARTS).astype(int), return_index=True)
        axis.plot(
            holes[shown],
            np.full(len(shown), 0.03),
            "|",
            color=LIGHT["other"],
            markersize=9,
            markeredgewidth=1.5,
            transform=axis.get_xaxis_transform(),
            label=f"gap ({len(holes):,})",
        )
    axis.set_ylabel("price, quote currency" + ", logarithmic" * log)
    axis.margins(x=0.01)
    number_axis(axis.yaxis, log=log)
    time_axis(axis)


def loss_by_epoch(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    """Draw training and validation loss."""
    _by_epoch(axis, fitted, "loss", f"mean squared error, ({label_unit(data)})²")


def rmse_by_epoch(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    """Draw training and validation RMSE, and the RMSE of persistence on the validation windows."""
    starts = data.validation
    moves = data.labels[starts + data.length]
    if data.price_scale.kind != "log_return":
        ones = np.ones(len(starts))
        size = data.prices(starts, ones) - data.prices(starts, 0.0 * ones)
        moves = (data.persistence(starts) - data.targets(starts)) / size
    level = rmse(np.zeros(len(starts)), moves)
    _by_epoch(axis, fitted, "rmse", f"RMSE, {label_unit(data)}", persistence=level)


def _by_epoch(
    axis: Any, fitted: FitResult, name: str, label: str, persistence: float | None = None
) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, fitted.epochs + 1)
    marker = "o" if fitted.epochs < 30 else ""
    style: dict[str, Any] = {"marker": marker, "markersize": 3}
    axis.plot(epochs, fitted.history[name], color=LIGHT["other"], label="training", **style)
    validation = fitted.history[f"val_{name}"]
    axis.plot(epochs, validation, color=LIGHT["model"], label="validation", **style)
    axis.axvline(fitted.best_epoch, color=LIGHT["ink"], linestyle=":", label="best epoch")
    if persistence is not None:
        axis.axhline(persistence, color=LIGHT["persistence"], linestyle="--", label="persistence")
    axis.set(yscale="log", xlabel="epoch", ylabel=label)
    number_axis(axis.yaxis, log=True)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def prices(
    axis: Any,
    times: NDArray[np.datetime64],
    actual: NDArray[np.float64],
    last: NDArray[np.float64],
    predicted: NDArray[np.float64],
) -> None:
    """Draw actual and predicted closes, and persistence."""
    lines: dict[str, tuple[NDArray[np.float64], dict[str, Any]]] = {
        "actual": (actual, {"color": LIGHT["ink"], "linewidth": 1.4}),
        "persistence": (last, {"color": LIGHT["persistence"], "linestyle": (0, (1, 1))}),
        "model": (predicted, {"color": LIGHT["model"]}),
    }
    for label, (values, style) in lines.items():
        axis.plot(*thinned(times, values), label=label, **style)
    axis.set_ylabel("close, quote currency")
    number_axis(axis.yaxis)
    time_axis(axis)


def residuals_over_time(
    axis: Any, times: NDArray[np.datetime64], residuals: NDArray[np.float64]
) -> None:
    """Draw predicted minus actual close."""
    axis.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.plot(*thinned(times, residuals), color=LIGHT["model"], linewidth=0.8)
    axis.set_ylabel("predicted − actual, quote currency")
    number_axis(axis.yaxis)
    time_axis(axis)


def histogram(axis: Any, residuals: NDArray[np.float64], persistence: NDArray[np.float64]) -> None:
    """Draw the distribution of the residuals of the model and of persistence."""
    edges = np.histogram_bin_edges(np.concatenate([residuals, persistence]), 40)
    for values, color, label in (
        (residuals, LIGHT["model"], "model"),
        (persistence, LIGHT["persistence"], "persistence"),
    ):
        counts, _ = np.histogram(values, edges)
        axis.stairs(counts, edges, color=color, alpha=0.3, fill=True)
        axis.stairs(counts, edges, color=color, linewidth=1.2, label=label)
    axis.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.set(xlabel="predicted − actual, quote currency", ylabel="test windows")
    axis.xaxis.get_major_locator().set_params(nbins=4)
    number_axis(axis.xaxis)


def deciles(
    axis: Any,
    last: NDArray[np.float64],
    actual: NDArray[np.float64],
    predicted: NDArray[np.float64],
    horizon: int,
) -> None:
    """Draw mean actual return by decile of the predicted return."""
    found = return_deciles(last, actual, predicted, horizon)
    axis.set(xlabel="mean predicted return, %", ylabel="mean actual return, %")
    number_axis(axis.xaxis)
    number_axis(axis.yaxis)
    if found.left_out:
        axis.set_ylabel(f"{axis.get_ylabel()} ({found.left_out:,} predictions ≤ 0 omitted)")
    if not len(found.actual):
        axis.text(0.5, 0.5, "too few test windows", ha="center", transform=axis.transAxes)
        return
    axis.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.errorbar(
        found.predicted * 100,
        found.actual * 100,
        found.half_width * 100,
        fmt="o",
        color=LIGHT["model"],
        markersize=4,
        elinewidth=1,
        capsize=2.5,
        label="decile mean, 95% interval",
    )
    axis.margins(x=0.06)
    axis.autoscale_view()
    limits = axis.get_xlim(), axis.get_ylim()
    if max(low for low, _ in limits) < min(high for _, high in limits):
        axis.plot(
            limits[0], limits[0], color=LIGHT["other"], linestyle="--", label="perfect calibration"
        )
    axis.set(xlim=limits[0], ylim=limits[1])


def importances(axis: Any, importance: dict[str, float], deviation: dict[str, float]) -> None:
    """Draw the RMSE increase of each column, largest on top; error bars are one `deviation`."""
    names = sorted(importance, key=lambda name: importance[name])
    axis.barh(
        [name.removesuffix("_scaled").removesuffix("_normalized") for name in names],
        [importance[name] for name in names],
        xerr=[deviation[name] for name in names],
        color=LIGHT["model"],
        height=0.65,
        error_kw={"ecolor": LIGHT["ink"], "elinewidth": 1, "capsize": 2.5},
    )
    axis.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("RMSE increase, quote currency")
    axis.xaxis.get_major_locator().set_params(nbins=4)
    number_axis(axis.xaxis)
