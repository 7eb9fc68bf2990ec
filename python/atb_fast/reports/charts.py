"""The charts of a training run.

Each chart is a function that draws into a matplotlib axes object. `draw_charts` renders them as SVG
for the page; `picture.plot_training` draws four of them into training.png.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.metrics import return_deciles, rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.reports.style import LIGHT, PARTS, STYLE, number_axis, thinned, time_axis
from atb_fast.training.engine import FitResult

#: Width and height in inches. Narrow, so that 10-point text stays readable on a phone.
_SIZE = (4.8, 3.0)
#: Number of bars in the close-up of the last test predictions.
ZOOM = 100
#: A price range wider than this factor gets a logarithmic scale.
_LOG_SPAN = 8.0
#: An RMSE increase below this share of the RMSE is rounding noise of float32 outputs.
_NOISE = 1e-5
#: Entries of a legend that fit into one row.
_LEGEND_ROW = 5

#: Names of the charts, in page order.
CHARTS = (
    *("market", "loss", "rmse", "test", "zoom", "residuals", "histogram", "deciles"),
    "importance",
)


def draw_charts(
    record: RunRecord,
    predictions: NDArray[np.float64],
    unshrunk: NDArray[np.float64] | None = None,
) -> dict[str, str]:
    """Return the charts of a run by name, each an `<svg>` as `markupsafe.Markup`.

    Colors are CSS variables that the page must define, one for each key of `style.LIGHT`. The same
    run always gives the same bytes.

    Args:
        record: The run, with its importance measured.
        predictions: Prediction for each test window, quote currency, shape (windows,).
        unshrunk: The predictions before shrinkage; None if the model is not shrunk.
    """
    data, fitted = record.data, record.fitted
    importance, deviation = dict(record.importance or {}), dict(record.importance_deviation)
    error = record.evaluation.test_rmse
    times, actual, last = tested_closes(data)
    part = slice(-ZOOM, None)
    zoom = times[part], actual[part], last[part], predictions[part]
    full = partial(prices, unshrunk=unshrunk)
    close_up = partial(prices, unshrunk=None if unshrunk is None else unshrunk[part])
    residuals, persistence = predictions - actual, last - actual
    # A model that always predicts no change has no deciles, but its network has.
    returned = (
        unshrunk if unshrunk is not None and np.array_equal(predictions, last) else predictions
    )
    # The two charts stand side by side.
    named = importance if _measurable(importance, deviation, error) else {}
    height = max(_SIZE[1], 0.9 + 0.19 * len(named))
    return {
        "market": _svg("Closing prices and split", market, data, record.config.bar_ms),
        "loss": _svg("Loss by epoch", loss_by_epoch, data, fitted),
        "rmse": _svg("RMSE by epoch", rmse_by_epoch, data, fitted),
        "test": _svg("Test predictions", full, times, actual, last, predictions),
        "zoom": _svg(f"Last {len(zoom[0])} test predictions", close_up, *zoom),
        "residuals": _svg("Residuals over time", residuals_over_time, times, residuals),
        "histogram": _svg("Distribution of residuals", histogram, residuals, persistence),
        "deciles": _svg(
            "Returns by decile",
            *(deciles, last, actual, returned, data.horizon),
            height=height,
        ),
        "importance": _svg(
            "Permutation importance",
            *(importances, importance, deviation, error),
            left=0.06 + 0.016 * max(map(len, named), default=0),
            height=height,
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
        if not axis.axison:  # only a note
            left, height = 0.03, 1.0
            figure.set_figheight(height)
        # An automatic layout would measure every text, which takes longer than drawing.
        handles, _ = axis.get_legend_handles_labels()
        lines = -(-len(handles) // _LEGEND_ROW)
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
    return Markup(_inline(file.getvalue(), label, "chart" if axis.axison else "chart empty"))


def _inline(document: str, label: str, css_class: str) -> str:
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
    known = {"viewBox": root.attrib["viewBox"], "class": css_class}
    root.attrib = known | {"role": "img", "aria-label": label}
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
    scale = data.output
    if not isinstance(scale, PriceScale):
        return scale.unit
    if scale.kind == "log_return":
        return f"log return ÷ {scale.scale:.2g}"
    return "range of a window's closes" if scale.kind == "rolling_minmax" else "quote currency"


def market(axis: Any, data: WindowedData, bar_ms: int) -> None:
    """Draw closes, low-high ranges, gaps, and the part that each bar belongs to.

    Bars that belong to no part are hatched: the first ones, and those dropped between two parts.
    """
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

    bar = np.timedelta64(bar_ms, "ms")
    parts = [("train", "train", data.train)]
    if np.array_equal(data.validation, data.test):
        parts.append(("test", "validation = test", data.test))
    else:
        parts += [("validation", "validation", data.validation), ("test", "test", data.test)]
    edges = [times[0]]
    for role, label, starts in parts:
        first, last = target_times(data, starts[[0, -1]])
        # A bar lasts until the next one opens.
        axis.axvspan(first, last + bar, color=LIGHT[role], alpha=0.22, linewidth=0, label=label)
        edges += [first, last + bar]
    edges.append(times[-1] + bar)
    outside = [span for span in zip(edges[::2], edges[1::2], strict=True) if span[0] < span[1]]
    for i, (first, end) in enumerate(outside):
        style = {"facecolor": "none", "edgecolor": LIGHT["muted"], "linewidth": 0, "hatch": "///"}
        axis.axvspan(first, end, alpha=0.5, label="left out" if i == 0 else None, **style)
    holes = times[:-1][np.diff(times) > bar]
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
    time_axis(axis, times)


def _note(axis: Any, text: str) -> None:
    """Write why there is no chart in its place."""
    axis.set_axis_off()
    style = {"ha": "center", "va": "center", "color": LIGHT["muted"]}
    axis.text(0.5, 0.5, text, transform=axis.transAxes, **style)


def loss_by_epoch(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    """Draw training and validation loss."""
    _by_epoch(axis, fitted, "loss", f"mean squared error, ({label_unit(data)})²")


def rmse_by_epoch(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    """Draw training and validation RMSE, and the RMSE of persistence on the validation windows."""
    starts = data.validation
    moves = data.fitted(starts)
    if not isinstance(data.output, PriceScale) or data.output.kind != "log_return":
        ones = np.ones(len(starts))
        size = data.forecasts(starts, ones) - data.forecasts(starts, 0.0 * ones)
        moves = (data.persistence(starts) - data.targets(starts)) / size
    level = rmse(np.zeros(len(starts)), moves)
    _by_epoch(axis, fitted, "rmse", f"RMSE, {label_unit(data)}", persistence=level)


def _by_epoch(
    axis: Any, fitted: FitResult, name: str, label: str, persistence: float | None = None
) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, fitted.epochs + 1)
    training, validation = fitted.history[name], fitted.history[f"val_{name}"]
    if max(*training, *validation) == 0:
        _note(axis, "the loss is 0 in every epoch")
        return
    levels = [] if persistence is None else [persistence]
    log = min(*training, *validation, *levels) > 0  # a loss is 0 if the price never moves
    marker = "o" if fitted.epochs < 30 else ""
    style: dict[str, Any] = {"marker": marker, "markersize": 3}
    axis.plot(epochs, training, color=LIGHT["other"], label="training", **style)
    axis.plot(epochs, validation, color=LIGHT["model"], label="validation", **style)
    axis.axvline(fitted.best_epoch, color=LIGHT["ink"], linestyle=":", label="best epoch")
    if persistence is not None:
        axis.axhline(persistence, color=LIGHT["persistence"], linestyle="--", label="persistence")
    axis.set(xlabel="epoch", ylabel=label)
    if log:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    number_axis(axis.yaxis, log=log)
    axis.set_xlim(0.5, fitted.epochs + 0.5)  # there is no epoch 0
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def prices(
    axis: Any,
    times: NDArray[np.datetime64],
    actual: NDArray[np.float64],
    last: NDArray[np.float64],
    predicted: NDArray[np.float64],
    *,
    unshrunk: NDArray[np.float64] | None = None,
) -> None:
    """Draw actual and predicted closes, persistence, and the predictions before shrinkage."""
    dotted: dict[str, Any] = {"color": LIGHT["persistence"], "linestyle": (0, (1, 1))}
    lines: dict[str, tuple[NDArray[np.float64], dict[str, Any]]] = {
        "actual": (actual, {"color": LIGHT["ink"], "linewidth": 1.4})
    }
    if unshrunk is not None:
        lines["unshrunk"] = unshrunk, {"color": LIGHT["other"]}
    if np.array_equal(predicted, last):  # one line would hide the other
        lines["model = persistence"] = last, dotted
    else:
        lines |= {"persistence": (last, dotted), "model": (predicted, {"color": LIGHT["model"]})}
    for label, (values, style) in lines.items():
        axis.plot(*thinned(times, values), label=label, **style)
    axis.set_ylabel("close, quote currency")
    number_axis(axis.yaxis)
    time_axis(axis, times)


def residuals_over_time(
    axis: Any, times: NDArray[np.datetime64], residuals: NDArray[np.float64]
) -> None:
    """Draw predicted minus actual close."""
    axis.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.plot(*thinned(times, residuals), color=LIGHT["model"], linewidth=0.8)
    axis.set_ylabel("predicted − actual, quote currency")
    number_axis(axis.yaxis)
    time_axis(axis, times)


def histogram(axis: Any, residuals: NDArray[np.float64], persistence: NDArray[np.float64]) -> None:
    """Draw the distribution of the residuals of the model and of persistence."""
    both = np.concatenate([residuals, persistence])
    low, high = both.min(), both.max()
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # too narrow to be divided
        margin = 0.01 * max(abs(low), abs(high)) or 0.5
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, 41)
    drawn = [(residuals, LIGHT["model"], "model")]
    if np.array_equal(residuals, persistence):
        drawn = [(residuals, LIGHT["persistence"], "model = persistence")]
    else:
        drawn.append((persistence, LIGHT["persistence"], "persistence"))
    for values, color, label in drawn:
        counts, _ = np.histogram(values, edges)
        axis.stairs(counts, edges, color=color, alpha=0.3, fill=True)
        axis.stairs(counts, edges, color=color, linewidth=1.2, label=label)
    axis.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.set(xlabel="predicted − actual, quote currency", ylabel="test windows")
    axis.xaxis.get_major_locator().set_params(nbins=5)
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
    omitted = f" ({found.left_out:,} predictions ≤ 0 omitted)" if found.left_out else ""
    if len(found.actual) < 2:
        equal = len(found.actual) == 1
        why = "all predicted returns are equal" if equal else "too few test windows"
        _note(axis, f"{why}{omitted}")
        return
    axis.set(xlabel="mean predicted return, %", ylabel=f"mean actual return, %{omitted}")
    number_axis(axis.xaxis)
    number_axis(axis.yaxis)
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
    # No price falls by more than 100%.
    axis.set(xlim=(max(limits[0][0], -100.0), limits[0][1]), ylim=limits[1])


def _measurable(importance: dict[str, float], deviation: dict[str, float], error: float) -> bool:
    """Return whether any increase or its deviation is more than rounding noise."""
    return any(
        max(abs(value), deviation[name]) > _NOISE * error for name, value in importance.items()
    )


def importances(
    axis: Any, importance: dict[str, float], deviation: dict[str, float], error: float
) -> None:
    """Draw the RMSE increase of each column, largest on top; error bars are one `deviation`.

    A column has no bar if its increase is within its deviation, or is rounding noise compared with
    the RMSE `error`.
    """
    if not _measurable(importance, deviation, error):
        _note(axis, "no column has a measurable importance")
        return
    names = sorted(importance, key=lambda name: importance[name])
    least = {name: max(deviation[name], _NOISE * error) for name in names}
    rows = np.arange(len(names))
    axis.barh(
        rows,
        [importance[name] if abs(importance[name]) > least[name] else 0.0 for name in names],
        color=LIGHT["model"],
        height=0.65,
    )
    shown = [i for i, name in enumerate(names) if deviation[name] > _NOISE * error]
    axis.errorbar(
        [importance[names[i]] for i in shown],
        rows[shown],
        xerr=[deviation[names[i]] for i in shown],
        fmt="none",
        ecolor=LIGHT["ink"],
        elinewidth=1,
        capsize=2.5,
    )
    labels = [name.removesuffix("_scaled").removesuffix("_normalized") for name in names]
    axis.set_yticks(rows, labels)
    axis.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("RMSE increase, quote currency")
    axis.xaxis.get_major_locator().set_params(nbins=4)
    number_axis(axis.xaxis)
