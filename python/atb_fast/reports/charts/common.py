"""The charts of all models: the market, the fit, and the importance of the columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import scoring_of
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts.drawing import SIZE, Chart, note, target_times
from atb_fast.reports.charts.values import Readout, Series
from atb_fast.reports.style import LIGHT, PARTS, extremes, number_axis, time_axis
from atb_fast.training.engine import FitResult

#: A price range wider than this factor gets a logarithmic scale.
_LOG_SPAN = 8.0
#: An increase of the error below this share of it is rounding noise of float32 outputs.
_NOISE = 1e-5
#: Longer names of columns are cut.
_LONGEST = 30


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
    # Along the lows and back along the highs.
    known = np.isfinite(low + high)
    there, low, high = times[at][known], low[known], high[known]
    edge = np.append(there, there[::-1]), np.append(low, high[::-1])
    axis.fill(*edge, color=LIGHT["muted"], alpha=0.45, linewidth=0)
    close = frame["close"].to_numpy()
    kept = extremes([close])
    style = {"color": LIGHT["ink"], "linewidth": 0.8, "gid": "series_0"}
    axis.plot(times[kept], close[kept], label="close", **style)
    series = [Series("close", LIGHT["ink"], close)]
    log = bool(low.min() > 0 and high.max() > _LOG_SPAN * low.min())
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
    gaps = np.append(np.diff(times) > bar, False)
    if gaps.any():
        holes, label = times[gaps], f"gap ({gaps.sum():,})"
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
            label=label,
            gid="marks",
        )
        series.append(Series(label, LIGHT["other"], gaps))
    axis.readout = Readout(times, series)
    axis.set_ylabel("price, quote currency" + ", logarithmic" * log)
    axis.margins(x=0.01)
    number_axis(axis.yaxis, log=log)
    time_axis(axis, times)


def by_epoch(
    axis: Any, fitted: FitResult, name: str, label: str, levels: Mapping[str, float] | None = None
) -> None:
    """Draw a figure of the history, for the training and the validation windows.

    Args:
        axis: Where.
        fitted: The result of the fit.
        name: Name of the figure in the history, without `val_`.
        label: Label of the y axis.
        levels: Values of baselines on the validation windows, by name; at most two.
    """
    from matplotlib.ticker import MaxNLocator

    levels = levels or {}
    epochs = np.arange(1, fitted.epochs + 1)
    training, validation = (np.array(fitted.history[each]) for each in (name, f"val_{name}"))
    if max(*training, *validation) == 0:
        note(axis, "the loss is 0 in every epoch")
        return
    # A loss is 0 if the price never moves.
    log = min(*training, *validation, *levels.values()) > 0
    marker = "o" if fitted.epochs < 30 else ""
    style: dict[str, Any] = {"marker": marker, "markersize": 3}
    series = [
        Series("training", LIGHT["other"], training),
        Series("validation", LIGHT["model"], validation),
    ]
    for each in series:
        axis.plot(epochs, each.values, color=each.color, label=each.name, **style)
    exact = fitted.engine == "exact"
    if not exact:
        axis.axvline(fitted.best_epoch, color=LIGHT["ink"], linestyle=":", label="best epoch")
    for (reference, level), color in zip(levels.items(), ("persistence", "muted"), strict=False):
        axis.axhline(level, color=LIGHT[color], linestyle="--", label=reference)
        series.append(Series(reference, LIGHT[color], np.full(fitted.epochs, level)))
    along = "solved exactly, without epochs" if exact else "epoch"
    axis.set(xlabel=along, ylabel=label)
    axis.readout = Readout(epochs, series, titles=[along] if exact else None)
    if log:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    number_axis(axis.yaxis, log=log)
    axis.set_xlim(0.5, fitted.epochs + 0.5)  # there is no epoch 0
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if exact:
        axis.set_xticks([])


def loss_chart(record: RunRecord, levels: Mapping[str, float] | None = None) -> Chart:
    """Return the chart of the loss; for `levels`, see `by_epoch`."""
    shown = record.data, record.fitted, levels
    return Chart(epochs_title("Loss", record), lambda axis: loss_by_epoch(axis, *shown))


def epochs_title(name: str, record: RunRecord) -> str:
    """Return the title of a chart of the history."""
    return name if record.fitted.engine == "exact" else f"{name} by epoch"


def loss_by_epoch(
    axis: Any, data: WindowedData, fitted: FitResult, levels: Mapping[str, float] | None = None
) -> None:
    """Draw training and validation loss."""
    label = f"mean squared error, ({label_unit(data)})²"
    if data.output.head.loss != "mse":
        label = f"mean {scoring_of(data).name}"
    by_epoch(axis, fitted, "loss", label, levels)


def measurable(importance: dict[str, float], deviation: dict[str, float], error: float) -> bool:
    """Return whether any increase or its deviation is more than rounding noise."""
    return any(
        max(abs(value), deviation[name]) > _NOISE * error for name, value in importance.items()
    )


def importances(
    axis: Any,
    importance: dict[str, float],
    deviation: dict[str, float],
    error: float,
    *,
    label: str = "RMSE increase, quote currency",
) -> None:
    """Draw the increase of the error by column, largest on top; error bars are one `deviation`.

    A column has no bar if its increase is within its deviation, or is rounding noise compared with
    the `error`.
    """
    if not measurable(importance, deviation, error):
        note(axis, "no column has a measurable importance")
        return
    names = sorted(importance, key=lambda name: importance[name])
    rows, noise = np.arange(len(names)), _NOISE * error
    middles, widths = (
        np.array([each[name] for name in names], np.float64) for each in (importance, deviation)
    )
    bars = np.where(np.abs(middles) > np.maximum(widths, noise), middles, 0.0)
    axis.barh(rows, bars, color=LIGHT["model"], height=0.65)
    widths[widths <= noise] = np.nan
    style: dict[str, Any] = {"ecolor": LIGHT["ink"], "elinewidth": 1, "capsize": 2.5}
    axis.errorbar(middles, rows, xerr=widths, fmt="none", **style)
    labels = [_label(name) for name in names]
    series = Series("", LIGHT["model"], bars, middles - widths, middles + widths)
    axis.readout = Readout(rows, [series], flat=True, titles=labels)
    axis.set_yticks(rows, labels)
    axis.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(label)
    axis.xaxis.get_major_locator().set_params(nbins=4)
    number_axis(axis.xaxis)


def _label(name: str) -> str:
    """Return the name of a column as the chart shows it, short enough to leave room for bars."""
    name = name.removesuffix("_scaled").removesuffix("_normalized")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def importance_chart(record: RunRecord) -> Chart:
    """Return the chart of the importances, high enough for the names of all columns."""
    found, scoring = record.evaluation, record.evaluation.scoring
    importance = dict(record.importance or {})
    shown = importance, dict(record.importance_deviation), found.error
    names = importance if measurable(*shown) else {}
    label = f"{scoring.name} increase" + (f", {scoring.unit}" if scoring.unit else "")
    return Chart(
        "Permutation importance",
        lambda axis: importances(axis, *shown, label=label),
        max(SIZE[1], 0.9 + 0.19 * len(names)),
        0.06 + 0.0185 * min(_LONGEST, max(map(len, names), default=0)),
    )


def market_chart(record: RunRecord) -> Chart:
    """Return the chart of the candles and the parts."""
    shown = record.data, record.config.bar_ms
    return Chart("Closing prices and split", lambda axis: market(axis, *shown))
