"""The charts of models that predict the probabilities of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.calibration import calibration_curve
from atb_fast.evaluation.metrics import confusion_matrix as confusion
from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import ClassProbabilities, Scoring, Tested
from atb_fast.reports.charts.common import importance_chart, loss_chart
from atb_fast.reports.charts.drawing import (
    ZOOM,
    Chart,
    Distribution,
    Line,
    Points,
    calibrations,
    histograms,
    note,
    over_time,
)
from atb_fast.reports.charts.values import Series
from atb_fast.reports.style import LIGHT

#: Color of each class, by number of classes.
_COLORS = {2: ("validation", "model"), 3: ("validation", "muted", "model")}


def charts(
    record: RunRecord,
    unshrunk: NDArray[np.float64] | None,  # noqa: ARG001
) -> dict[str, Chart]:
    """Return the charts by name, in page order; see `draw_charts`."""
    data, found = record.data, record.evaluation
    validation = data.targets(data.validation)
    of_shares = found.tested.baselines["class_shares"][:1]
    level = found.scoring.error(validation, np.repeat(of_shares, len(validation), axis=0))
    importance, own = importance_chart(record), forecast_charts(found.scoring, found.tested)
    # The last two are shown side by side.
    own["calibration"] = own["calibration"]._replace(height=importance.height)
    return {"loss": loss_chart(record, {"class shares": level}), **own, "importance": importance}


def forecast_charts(scoring: Scoring, tested: Tested) -> dict[str, Chart]:
    """Return the charts of forecasts for test windows by name."""
    assert isinstance(scoring, ClassProbabilities)
    names, actual = scoring.names, tested.actual.astype(np.int64)
    predicted, shares = by_class(tested.forecasts), by_class(tested.baselines["class_shares"])
    times, part = tested.times.to_numpy(), slice(-ZOOM, None)
    zoom, last = (times[part], names, predicted[part], shares[part]), actual[part]
    matrix = confusion(actual, predicted.argmax(axis=1), len(names)).tolist()
    return {
        "test": Chart(
            "Predicted probabilities",
            lambda axis: probabilities(axis, times, names, predicted, shares),
        ),
        "zoom": Chart(
            f"Last {len(last)} test predictions",
            lambda axis: probabilities(axis, *zoom, actual=last),
        ),
        "confusion": Chart(
            "Confusion matrix",
            lambda axis: confusion_matrix(axis, names, matrix),
        ),
        "histogram": Chart(
            "Distribution of probabilities",
            lambda axis: distribution(axis, names, actual, predicted),
        ),
        "calibration": Chart(
            "Calibration of probabilities",
            lambda axis: calibration(axis, names, actual, predicted, tested.horizon),
        ),
    }


def by_class(forecasts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of each class, shape (windows, classes); see `Classes`."""
    if forecasts.ndim == 1:
        return np.column_stack([1.0 - forecasts, forecasts])
    return forecasts


def _shown(names: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return index, name and color of the classes whose probability is drawn.

    For two classes, it is only the second one: the other probability is one minus that.
    """
    colors = [LIGHT[role] for role in _COLORS[len(names)]]
    every = list(zip(range(len(names)), names, colors, strict=True))
    return every[1:] if len(every) == 2 else every


def probabilities(
    axis: Any,
    times: NDArray[np.datetime64],
    names: Sequence[str],
    predicted: NDArray[np.float64],
    shares: NDArray[np.float64],
    *,
    actual: NDArray[np.int64] | None = None,
) -> None:
    """Draw predicted probabilities and, in the same colors, the shares of the training windows.

    Args:
        axis: Where.
        times: Time of each window.
        names: Names of the classes.
        predicted: Probability of each class, shape (windows, classes).
        shares: Share of each class in the training windows, shape (windows, classes): each fold of
            a walk-forward evaluation has its own.
        actual: Index of the actual class of each window, to mark it below; None for no marks.
    """
    shown = _shown(names)
    width = 1.2 if len(shown) == 1 else 0.9
    lines = [
        Line(name, predicted[:, i], {"color": color, "linewidth": width})
        for i, name, color in shown
    ]
    over_time(axis, times, lines, "predicted probability")
    for i, _, color in shown:
        style = {"color": color, "linestyle": "--", "linewidth": 0.9}
        if np.ptp(shares[:, i]) == 0.0:
            axis.axhline(shares[0, i], **style)
        else:
            axis.plot(times, shares[:, i], **style)
    color = shown[0][2] if len(shown) == 1 else LIGHT["ink"]
    axis.plot([], [], color=color, linestyle="--", label="share in training")
    if actual is not None:
        colors = [LIGHT[role] for role in _COLORS[len(names)]]
        happened = [(actual == i, color) for i, color in enumerate(colors)]
        mark_outcomes(axis, dict(zip(names, happened, strict=True)))


def mark_outcomes(axis: Any, outcomes: Mapping[str, tuple[NDArray[np.bool_], str]]) -> None:
    """Mark below the probabilities when each class occurred.

    Args:
        axis: The axes with the probabilities.
        outcomes: Whether a class occurred at each place, and the color of its marks, by name of the
            class.
    """
    for row, (name, (happened, color)) in enumerate(outcomes.items()):
        at = axis.readout.places[happened]
        style = {"color": color, "markersize": 6, "transform": axis.get_xaxis_transform()}
        # Each class has its own row, so classes can be distinguished without color.
        heights = np.full(len(at), 0.03 + 0.05 * row)
        axis.plot(at, heights, "|", label=f"was {name}", gid="marks", **style)
        axis.readout.series.append(Series(f"was {name}", color, happened))
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.25 * (high - low), high)
    # No probability is below 0, where the marks may be.
    axis.set_yticks([tick for tick in axis.get_yticks() if max(0.0, low) <= tick <= min(1.0, high)])


def calibration(
    axis: Any,
    names: Sequence[str],
    actual: NDArray[np.int64],
    predicted: NDArray[np.float64],
    horizon: int,
) -> None:
    """Draw how often each class happened, by decile of its predicted probability."""
    series = []
    for i, name, color in _shown(names):
        found = calibration_curve(actual == i, predicted[:, i], horizon)
        series.append(Points(name, found.predicted, found.observed, found.low, found.high, color))
    if all(len(points.predicted) < 2 for points in series):
        note(axis, "all predicted probabilities are equal")
        return
    axis.set(xlabel="mean predicted probability", ylabel="observed share, 95% interval")
    calibrations(axis, series)


def distribution(
    axis: Any, names: Sequence[str], actual: NDArray[np.int64], predicted: NDArray[np.float64]
) -> None:
    """Draw the distribution of the probabilities.

    For two classes, these are the probabilities of the second one, by actual class. For more, they
    are the probabilities of each class.
    """
    colors = [LIGHT[role] for role in _COLORS[len(names)]]
    every = list(zip(range(len(names)), names, colors, strict=True))
    if len(every) == 2:
        drawn = [
            Distribution(f"was {name}", predicted[actual == i, 1], color)
            for i, name, color in every
        ]
        label = f"predicted probability of “{names[1]}”"
    else:
        drawn = [Distribution(name, predicted[:, i], color) for i, name, color in every]
        label = "predicted probability"
    histograms(axis, [each for each in drawn if len(each.values)], label)


def confusion_matrix(axis: Any, names: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Draw the number of windows by actual and predicted class, and their share of the row."""
    from matplotlib.patches import Rectangle

    at = range(len(names))
    for row in at:
        total = sum(counts[row])
        for column in at:
            count = counts[row][column]
            share = count / total if total else 0.0
            cell = Rectangle((column - 0.5, row - 0.5), 1, 1)
            cell.set(facecolor=LIGHT["model"], edgecolor=LIGHT["grid"], alpha=0.6 * share)
            axis.add_patch(cell)
            text = f"{count:,}\n{share:.0%}" if total else f"{count:,}"
            axis.text(column, row, text, ha="center", va="center", color=LIGHT["ink"])
    axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axis.set_xticks(at, names)
    axis.set_yticks(at, names)
    axis.tick_params(length=0)
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set(xlabel="predicted", ylabel="actual, and share of its row")
