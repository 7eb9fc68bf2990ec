"""The charts of a training run as SVG, for a page that sets their colours.

Text stays text, and colours are CSS variables (`--ink`, `--model`, ...), so that a page can show
them dark or light and in its own font. One run always gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.metrics import return_deciles, rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData

#: Width and height in inches: narrow, so that text of 10 points can be read on a phone, too.
_SIZE = (4.8, 3.0)
#: Parts that a long series is cut into; each keeps its lowest and its highest value.
_PARTS = 400
#: Bars in the closer look at the last test predictions.
ZOOM = 100
#: Prices that span more than this are drawn on a logarithmic scale.
_LOG_SPAN = 8.0

#: Names of the charts, in the order of the page.
CHARTS = (
    *("market", "loss", "rmse", "test", "zoom", "residuals", "histogram", "deciles"),
    "importance",
)

#: CSS variables, and the colours that stand for them while matplotlib draws.
_COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "grid": "#010205",
    "model": "#010206",
    "other": "#010207",
    "persistence": "#010208",
    "train": "#010209",
    "validation": "#01020a",
    "test": "#01020b",
}
_INK, _MUTED, _GRID, _MODEL, _OTHER, _PERSISTENCE, *_PARTS_OF_SPLIT = _COLOURS.values()

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', ['{_INK}'])",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.titlesize": 10,
}


def draw_charts(record: RunRecord, predictions: NDArray[np.float64]) -> dict[str, str]:
    """Return the charts of a run by name, each an `<svg>` to be put into HTML.

    Args:
        record: The run, with its importance measured.
        predictions: Prediction for each test window, quote currency, shape (windows,).
    """
    data = record.data
    actual, last = data.targets(data.test), data.persistence(data.test)
    times = target_times(data, data.test)
    bars = slice(-ZOOM, None)
    zoom = min(ZOOM, len(times))
    return {
        "market": _draw("Closes, and which part each bar belongs to", _market, record),
        "loss": _draw("Loss by epoch", _curves, record, "loss"),
        "rmse": _draw("RMSE by epoch", _curves, record, "rmse"),
        "test": _draw("Test predictions", _prices, times, actual, last, predictions),
        "zoom": _draw(
            f"The last {zoom} test predictions",
            *(_prices, times[bars], actual[bars], last[bars], predictions[bars]),
        ),
        "residuals": _draw("Residuals over time", _residuals, times, predictions - actual),
        "histogram": _draw(
            "Histogram of the residuals", _histogram, predictions - actual, last - actual
        ),
        "deciles": _draw("Returns by decile", _deciles, last, actual, predictions, data.horizon),
        "importance": _draw(
            "Permutation importance",
            *(_importance, record),
            left=0.06 + 0.016 * max(map(len, record.importance or {"": 0})),
            height=max(_SIZE[1], 0.9 + 0.19 * len(record.importance or ())),
        ),
    }


def _draw(
    label: str,
    chart: Callable[..., None],
    *arguments: Any,
    left: float = 0.17,
    height: float = _SIZE[1],
) -> str:
    """Return what `chart` draws, with `label` for those who cannot see it."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Names in the SVG come from the salt; in one page those of two charts must differ.
    with rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(_SIZE[0], height))
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        chart(axis, *arguments)
        # All margins are given: to measure every text takes longer than to draw it.
        handles, _ = axis.get_legend_handles_labels()
        if handles:
            figure.legend(loc="upper left", ncols=5, borderaxespad=0, borderpad=0.1)
        top = 1 - (0.47 if handles else 0.25) / height
        bottom = 0.5 / height
        figure.subplots_adjust(left=left, right=0.97, bottom=bottom, top=top)
        axis.set_title(axis.get_ylabel(), loc="left", color=_MUTED, y=1.0, pad=5)
        axis.set_ylabel("")
        axis.xaxis.set_label_coords(0.5, -0.34 / (height * (top - bottom)))
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    return _for_html(file.getvalue(), label)


def _for_html(svg: str, label: str) -> str:
    """Return `svg` without what HTML needs not: XML's head, style, sizes, names of groups."""
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None  # matplotlib writes one
    body = svg[svg.index(">", box.end()) + 1 :]
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for name, colour in _COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    return f'<svg {box[0]} role="img" aria-label="{escape(label)}">{body}'


def target_times(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Return the open time of the bar that each window is to predict, UTC, shape (windows,)."""
    return data.times(starts).to_numpy()


def label_unit(data: WindowedData) -> str:
    """Return what a loss is measured in."""
    scale = data.price_scale
    if scale.kind == "log_return":
        return f"log returns of {scale.scale:.2g}"
    return "range of a window's closes" if scale.kind == "rolling_minmax" else "quote currency"


def _thinned(times: Any, values: NDArray[np.float64]) -> tuple[Any, NDArray[np.float64]]:
    """Return a series that looks the same at the width of a chart, if it is long."""
    if len(values) <= 2 * _PARTS:
        return times, values
    parts = np.array_split(np.arange(len(values)), _PARTS)
    # argmin of what has a NaN is that NaN: a line shows the hole.
    ends = [(part[0] + values[part].argmin(), part[0] + values[part].argmax()) for part in parts]
    kept = np.unique(ends)
    return times[kept], values[kept]


def _time_axis(axis: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axis.set_xlabel("open time, UTC")


def _numbers(axis: Any, *, log: bool = False) -> None:
    """Write numbers plainly, with commas for thousands."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    def text(value: float, _: int) -> str:
        if value == 0 or 1e-3 <= abs(value) < 1e6:
            written = f"{value:,.10g}"
        else:  # 2e9, where Python writes 2e+09
            written = f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
        return written.replace("-", "−")

    if log:
        low, high = axis.axes.get_ylim()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 5 * low else range(1, 10)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(text))


def _market(axis: Any, record: RunRecord) -> None:
    data, frame = record.data, record.data.prepared.frame
    times = frame["timestamp"].to_numpy()
    low, high = frame["low"].to_numpy(), frame["high"].to_numpy()
    step = -(-len(times) // _PARTS)
    at = np.arange(0, len(times), step)
    # Not `minimum`: a candle may lack a value.
    low, high = np.fmin.reduceat(low, at), np.fmax.reduceat(high, at)
    axis.fill_between(times[at], low, high, color=_MUTED, alpha=0.45, linewidth=0)
    axis.plot(*_thinned(times, frame["close"].to_numpy()), color=_INK, linewidth=0.8, label="close")
    log = bool(np.nanmin(low) > 0 and np.nanmax(high) > _LOG_SPAN * np.nanmin(low))
    if log:
        axis.set_yscale("log")

    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    if np.array_equal(data.validation, data.test):
        del parts["validation"]
        parts = {"train": data.train, "validation = test": data.test}
    for name, starts in parts.items():
        first, last = target_times(data, starts[[0, -1]])
        colour = _COLOURS[name.split()[-1]]
        axis.axvspan(first, last, color=colour, alpha=0.22, linewidth=0, label=name)
    holes = times[:-1][np.diff(times) > np.timedelta64(record.config.bar_ms, "ms")]
    if len(holes):
        # One for those that would lie on each other.
        share = (holes - times[0]) / (times[-1] - times[0])
        _, shown = np.unique((share * _PARTS).astype(int), return_index=True)
        axis.plot(
            holes[shown],
            np.full(len(shown), 0.03),
            "|",
            color=_OTHER,
            markersize=9,
            markeredgewidth=1.5,
            transform=axis.get_xaxis_transform(),
            label=f"gap ({len(holes):,})",
        )
    axis.set_ylabel("price, quote currency" + ", logarithmic" * log)
    axis.margins(x=0.01)
    _numbers(axis.yaxis, log=log)
    _time_axis(axis)


def _curves(axis: Any, record: RunRecord, name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    data, fitted = record.data, record.fitted
    epochs = np.arange(1, fitted.epochs + 1)
    marker = "o" if fitted.epochs < 30 else ""
    style: dict[str, Any] = {"marker": marker, "markersize": 3}
    axis.plot(epochs, fitted.history[name], color=_OTHER, label="training", **style)
    axis.plot(epochs, fitted.history[f"val_{name}"], color=_MODEL, label="validation", **style)
    axis.axvline(fitted.best_epoch, color=_INK, linestyle=":", label="kept epoch")
    if name == "rmse":
        starts = data.validation
        moves = data.labels[starts + data.length]
        if data.price_scale.kind != "log_return":
            ones = np.ones(len(starts))
            size = data.prices(starts, ones) - data.prices(starts, 0.0 * ones)
            moves = (data.persistence(starts) - data.targets(starts)) / size
        level = rmse(np.zeros(len(starts)), moves)
        axis.axhline(level, color=_PERSISTENCE, linestyle="--", label="persistence")
    unit = label_unit(data)
    axis.set(yscale="log", xlabel="epoch")
    axis.set_ylabel(f"RMSE, {unit}" if name == "rmse" else f"mean squared error, ({unit})²")
    _numbers(axis.yaxis, log=True)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _prices(
    axis: Any,
    times: NDArray[np.datetime64],
    actual: NDArray[np.float64],
    last: NDArray[np.float64],
    predicted: NDArray[np.float64],
) -> None:
    lines: dict[str, tuple[NDArray[np.float64], dict[str, Any]]] = {
        "actual": (actual, {"color": _INK, "linewidth": 1.4}),
        "persistence": (last, {"color": _PERSISTENCE, "linestyle": (0, (1, 1))}),
        "model": (predicted, {"color": _MODEL}),
    }
    for label, (values, style) in lines.items():
        axis.plot(*_thinned(times, values), label=label, **style)
    axis.set_ylabel("close, quote currency")
    _numbers(axis.yaxis)
    _time_axis(axis)


def _residuals(axis: Any, times: NDArray[np.datetime64], residuals: NDArray[np.float64]) -> None:
    axis.axhline(0, color=_MUTED, linewidth=0.8)
    axis.plot(*_thinned(times, residuals), color=_MODEL, linewidth=0.8)
    axis.set_ylabel("predicted − actual, quote currency")
    _numbers(axis.yaxis)
    _time_axis(axis)


def _histogram(axis: Any, residuals: NDArray[np.float64], persistence: NDArray[np.float64]) -> None:
    edges = np.histogram_bin_edges(np.concatenate([residuals, persistence]), 40)
    for values, colour, label in (
        (residuals, _MODEL, "model"),
        (persistence, _PERSISTENCE, "persistence"),
    ):
        counts, _ = np.histogram(values, edges)
        axis.stairs(counts, edges, color=colour, alpha=0.3, fill=True)
        axis.stairs(counts, edges, color=colour, linewidth=1.2, label=label)
    axis.axvline(0, color=_MUTED, linewidth=0.8)
    axis.set(xlabel="predicted − actual, quote currency", ylabel="test windows")
    axis.xaxis.get_major_locator().set_params(nbins=4)
    _numbers(axis.xaxis)


def _deciles(
    axis: Any,
    last: NDArray[np.float64],
    actual: NDArray[np.float64],
    predicted: NDArray[np.float64],
    horizon: int,
) -> None:
    deciles = return_deciles(last, actual, predicted, horizon)
    axis.set(xlabel="mean predicted return, %", ylabel="mean actual return, %")
    _numbers(axis.xaxis)
    _numbers(axis.yaxis)
    if deciles.left_out:
        axis.set_ylabel(f"{axis.get_ylabel()} ({deciles.left_out:,} predictions ≤ 0 left out)")
    if not len(deciles.actual):
        axis.text(0.5, 0.5, "too few test windows", ha="center", transform=axis.transAxes)
        return
    axis.axhline(0, color=_MUTED, linewidth=0.8)
    axis.errorbar(
        deciles.predicted * 100,
        deciles.actual * 100,
        deciles.half_width * 100,
        fmt="o",
        color=_MODEL,
        markersize=4,
        elinewidth=1,
        capsize=2.5,
        label="decile: mean, 95 % interval",
    )
    axis.margins(x=0.06)
    axis.autoscale_view()
    limits = axis.get_xlim(), axis.get_ylim()
    if max(low for low, _ in limits) < min(high for _, high in limits):
        axis.plot(limits[0], limits[0], color=_OTHER, linestyle="--", label="as predicted")
    axis.set(xlim=limits[0], ylim=limits[1])


def _importance(axis: Any, record: RunRecord) -> None:
    importance = record.importance or {}
    names = sorted(importance, key=lambda name: importance[name])
    axis.barh(
        [name.removesuffix("_scaled").removesuffix("_normalized") for name in names],
        [importance[name] for name in names],
        xerr=[record.importance_deviation[name] for name in names],
        color=_MODEL,
        height=0.65,
        error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 2.5},
    )
    axis.axvline(0, color=_MUTED, linewidth=0.8)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("rise of the RMSE, quote currency")
    axis.xaxis.get_major_locator().set_params(nbins=4)
    _numbers(axis.xaxis)
