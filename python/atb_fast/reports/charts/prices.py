"""The charts of models that predict a price or a return."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.metrics import return_deciles, rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import Scoring, Tested
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts.common import (
    by_epoch,
    epochs_title,
    importance_chart,
    label_unit,
    loss_chart,
)
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
from atb_fast.reports.style import LIGHT
from atb_fast.training.engine import FitResult

#: Line of a forecast that others are compared with.
REFERENCE: dict[str, Any] = {"color": LIGHT["persistence"], "linestyle": (0, (1, 1))}


class Quantity(NamedTuple):
    """What is predicted, in words.

    Attributes:
        name: The quantity and its unit.
        unit: Unit of differences.
        factor: Forecasts are drawn multiplied by it.
    """

    name: str
    unit: str
    factor: float = 1.0


PRICE = Quantity("close, quote currency", "quote currency")
RETURN = Quantity("return, %", "%", 100.0)


def charts(record: RunRecord, unshrunk: NDArray[np.float64] | None) -> dict[str, Chart]:
    """Return the charts by name, in page order; see `draw_charts`."""
    data, found, importance = record.data, record.evaluation, importance_chart(record)
    own = forecast_charts(found.scoring, found.tested, unshrunk)
    # The last two are shown side by side.
    own["deciles"] = own["deciles"]._replace(height=importance.height)
    drawn = partial(rmse_by_epoch, data=data, fitted=record.fitted)
    rmses = Chart(epochs_title("RMSE", record), drawn)
    return {"loss": loss_chart(record), "rmse": rmses, **own, "importance": importance}


def forecast_charts(
    scoring: Scoring, tested: Tested, unshrunk: NDArray[np.float64] | None = None
) -> dict[str, Chart]:
    """Return the charts of forecasts for test windows by name.

    For `unshrunk`, see `draw_charts`.
    """
    what = RETURN if scoring.kind == "returns" else PRICE
    times, actual, predictions = tested.times.to_numpy(), tested.actual, tested.forecasts
    last, part = tested.baselines["persistence"], slice(-ZOOM, None)
    zoom = times[part], actual[part], last[part], predictions[part]
    close_up = None if unshrunk is None else unshrunk[part]
    # A model that always predicts no move has no deciles, but its network has.
    still = np.array_equal(predictions, last)
    returned = unshrunk if unshrunk is not None and still else predictions
    levels = last, actual, returned
    if what is RETURN:
        levels = 1 + last, 1 + actual, 1 + returned
    return {
        "test": Chart(
            "Test predictions",
            lambda axis: prices(
                axis, times, actual, last, predictions, what=what, unshrunk=unshrunk
            ),
        ),
        "zoom": Chart(
            f"Last {len(zoom[0])} test predictions",
            lambda axis: prices(axis, *zoom, what=what, unshrunk=close_up),
        ),
        "residuals": Chart(
            "Residuals over time",
            lambda axis: residuals_over_time(axis, times, predictions - actual, what),
        ),
        "histogram": Chart("Distribution of returns", lambda axis: distribution(axis, *levels)),
        "deciles": Chart("Returns by decile", lambda axis: deciles(axis, *levels, tested.horizon)),
    }


def rmse_by_epoch(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    """Draw training and validation RMSE, and that of persistence on the validation windows."""
    starts = data.validation
    moves = data.fitted(starts)
    if not isinstance(data.output, PriceScale) or data.output.kind != "log_return":
        ones = np.ones(len(starts))
        size = data.forecasts(starts, ones) - data.forecasts(starts, 0.0 * ones)
        moves = (data.persistence(starts) - data.targets(starts)) / size
    level = rmse(np.zeros(len(starts)), moves)
    by_epoch(axis, fitted, "rmse", f"RMSE, {label_unit(data)}", {"persistence": level})


def prices(
    axis: Any,
    times: NDArray[np.datetime64],
    actual: NDArray[np.float64],
    last: NDArray[np.float64],
    predicted: NDArray[np.float64],
    *,
    what: Quantity = PRICE,
    unshrunk: NDArray[np.float64] | None = None,
) -> None:
    """Draw actual and predicted values, persistence, and the predictions before shrinkage."""
    lines = [Line("actual", actual, {"color": LIGHT["ink"], "linewidth": 1.4})]
    if unshrunk is not None:
        lines.append(Line("unshrunk", unshrunk, {"color": LIGHT["other"]}))
    if np.array_equal(predicted, last):  # one line would hide the other
        lines.append(Line("model = persistence", last, REFERENCE))
    else:
        lines.append(Line("persistence", last, REFERENCE))
        lines.append(Line("model", predicted, {"color": LIGHT["model"]}))
    scaled = [line._replace(values=line.values * what.factor) for line in lines]
    over_time(axis, times, scaled, what.name)


def residuals_over_time(
    axis: Any,
    times: NDArray[np.datetime64],
    residuals: NDArray[np.float64],
    what: Quantity = PRICE,
) -> None:
    """Draw predicted minus actual values."""
    axis.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    line = Line("", residuals * what.factor, {"color": LIGHT["model"], "linewidth": 0.8})
    over_time(axis, times, [line], f"predicted − actual, {what.unit}")


def distribution(
    axis: Any,
    last: NDArray[np.float64],
    actual: NDArray[np.float64],
    predicted: NDArray[np.float64],
) -> None:
    """Draw the distribution of predicted and of actual returns, on the same bins.

    The bins cover the middle 99% of both. The first and last bins include everything outside.

    Args:
        axis: Where.
        last: Last close of each window; 1 if the others are 1 plus a return.
        actual: Actual close.
        predicted: Predicted close.
    """
    usable = (last > 0) & (actual > 0) & (predicted > 0)
    if not usable.any():
        note(axis, "no window has a predicted return")
        return
    returns = [100.0 * (each[usable] / last[usable] - 1.0) for each in (actual, predicted)]
    ends = np.array([np.quantile(each, [0.005, 0.995]) for each in returns])
    clipped = [np.clip(each, ends[:, 0].min(), ends[:, 1].max()) for each in returns]
    names = ("actual", "ink"), ("predicted", "model")
    drawn = [
        Distribution(name, values, LIGHT[color])
        for (name, color), values in zip(names, clipped, strict=True)
    ]
    histograms(axis, drawn, "return, %")


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
        note(axis, f"{why}{omitted}")
        return
    axis.set(xlabel="mean predicted return, %", ylabel=f"mean actual return, %{omitted}")
    axis.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    half = found.half_width * 100
    predicted, mean = found.predicted * 100, found.actual * 100
    ends = mean - half, mean + half
    points = Points("decile mean, 95% interval", predicted, mean, *ends, LIGHT["model"])
    calibrations(axis, [points])
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, -100.0), high)  # no price falls by more than 100%
