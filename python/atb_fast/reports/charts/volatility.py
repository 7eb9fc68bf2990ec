"""The charts of models that predict volatility."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.calibration import Calibration, quantile_shares
from atb_fast.evaluation.metrics import rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import NAMES, LogVolatility, Scoring, Tested
from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts.common import by_epoch, epochs_title, importance_chart, loss_chart
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
from atb_fast.reports.charts.prices import REFERENCE
from atb_fast.reports.charts.values import Readout, Series
from atb_fast.reports.style import LIGHT, number_axis
from atb_fast.training.engine import FitResult

#: Number of windows in the scatter plot; more would only hide each other.
_DOTS = 1000


def charts(
    record: RunRecord,
    unshrunk: NDArray[np.float64] | None,  # noqa: ARG001
) -> dict[str, Chart]:
    """Return the charts by name, in page order; see `draw_charts`.

    The network before shrinkage has no variance factor, so its level is unknown.
    """
    found, importance = record.evaluation, importance_chart(record)
    own = forecast_charts(found.scoring, found.tested)
    if "bands" in own:  # it is next to the importance
        own["bands"] = own["bands"]._replace(height=importance.height)
    rmses = Chart(
        epochs_title("RMSE", record),
        lambda axis: rmse_by_epoch(axis, record.data, record.fitted),
        legend=3,
    )
    return {"loss": loss_chart(record), "rmse": rmses, **own, "importance": importance}


def forecast_charts(scoring: Scoring, tested: Tested) -> dict[str, Chart]:
    """Return the charts of forecasts for test windows by name."""
    assert isinstance(scoring, LogVolatility)
    times, actual, further = tested.times.to_numpy(), tested.actual, tested.further
    reference = scoring.reference(tested)
    name = NAMES[reference]
    # Each forecast has its own factor on the variance; see `LogSigma`.
    scaled = {name: further[f"{reference}_scaled"], "model": further["scaled"]}
    sigma = [np.exp(each) for each in (actual, scaled["model"], scaled[name])]
    part = slice(-ZOOM, None)
    zoom = times[part], *(each[part] for each in sigma)
    found = {
        "test": Chart(
            "Realized and predicted volatility",
            lambda axis: sigmas(axis, times, *sigma, name=name),
        ),
        "zoom": Chart(
            f"Last {len(zoom[0])} test predictions",
            lambda axis: sigmas(axis, *zoom, name=name),
        ),
        "realized": Chart(
            "Realized by predicted volatility", lambda axis: realized_by_predicted(axis, *sigma[:2])
        ),
        "histogram": Chart(
            "Distribution of volatility", lambda axis: distribution(axis, actual, scaled["model"])
        ),
    }
    if scoring.levels:
        shares = quantile_shares(tested, scoring.levels)
        found["bands"] = Chart("Calibration of the bands", lambda axis: bands(axis, shares))
    return found


def rmse_by_epoch(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    """Draw training and validation RMSE, and those of the baselines on the validation windows."""
    actual = data.targets(data.validation)
    levels = {"persistence": rmse(actual, data.persistence(data.validation))}
    if data.labels.base is not None:
        levels["HAR"] = rmse(actual, data.base(data.validation))
    by_epoch(axis, fitted, "rmse", f"RMSE, {data.output.unit}", levels)


def sigmas(
    axis: Any,
    times: NDArray[np.datetime64],
    realized: NDArray[np.float64],
    predicted: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    name: str,
) -> None:
    """Draw realized and predicted volatility.

    Args:
        axis: Where.
        times: Time of each window.
        realized: Realized sigma of each window, 0.01 for 1%.
        predicted: Its forecast.
        other: That of the reference.
        name: Name of the reference.
    """
    lines = [Line("realized", realized, {"color": LIGHT["muted"], "linewidth": 0.8})]
    if _alike(predicted, other):  # one line would hide the other
        lines.append(Line(f"model = {name}", other, {"color": LIGHT["persistence"]}))
    else:
        lines.append(Line(name, other, REFERENCE))
        lines.append(Line("model", predicted, {"color": LIGHT["model"]}))
    percent = [line._replace(values=100.0 * line.values) for line in lines]
    over_time(axis, times, percent, "volatility (sigma), %, logarithmic", log=True)


def _alike(predicted: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether a model equals its reference, except for float32 rounding."""
    return np.allclose(predicted, other, rtol=1e-5, atol=0.0)


def realized_by_predicted(
    axis: Any, realized: NDArray[np.float64], predicted: NDArray[np.float64]
) -> None:
    """Draw realized against predicted volatility on logarithmic axes, for some of the windows."""
    step = -(-len(realized) // _DOTS)
    label = "test window" if step == 1 else f"one in {step:,} test windows"
    shown = 100.0 * predicted[::step], 100.0 * realized[::step]
    style = {"color": LIGHT["model"], "alpha": 0.45, "markersize": 2.5, "markeredgewidth": 0}
    axis.plot(*shown, "o", label=label, **style)
    axis.readout = Readout(shown[0], [Series(label, LIGHT["model"], shown[1])], points=True)
    limits = [100.0 * end(predicted) for end in (np.min, np.max)]
    axis.plot(limits, limits, color=LIGHT["other"], linestyle="--", label="realized = predicted")
    axis.set(xscale="log", yscale="log")
    axis.set(xlabel="predicted volatility, %", ylabel="realized volatility, %")
    number_axis(axis.xaxis, log=True)
    number_axis(axis.yaxis, log=True)


def distribution(axis: Any, realized: NDArray[np.float64], predicted: NDArray[np.float64]) -> None:
    """Draw the distribution of realized and of predicted log volatility, on the same bins."""
    drawn = [
        Distribution("realized", realized, LIGHT["muted"]),
        Distribution("predicted", predicted, LIGHT["model"]),
    ]
    histograms(axis, drawn, "log sigma")


def bands(axis: Any, found: Calibration) -> None:
    """Draw the share of returns below each predicted quantile against its level."""
    if not len(found.predicted):
        note(axis, "no test window has a return")
        return
    axis.set(xlabel="level of the quantile, %", ylabel="share of returns below it, %, 95% interval")
    middles = 100.0 * found.predicted, 100.0 * found.observed
    ends = 100.0 * found.low, 100.0 * found.high
    calibrations(axis, [Points("quantile", *middles, *ends, LIGHT["model"])])
