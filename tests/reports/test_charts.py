"""What the chart functions draw, read from matplotlib's axes, and the SVG for the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from relabelling import relabelled

from atb_fast import TrainingConfig
from atb_fast.evaluation.metrics import return_deciles, rmse
from atb_fast.evaluation.periods import Groups, months
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts import common, draw_charts, periods, prices
from atb_fast.reports.charts.drawing import Distribution, histograms
from atb_fast.reports.style import LIGHT, extremes, number_text
from atb_fast.training.engine import FitResult


@pytest.fixture
def axis() -> Any:
    return Figure().subplots()


def drawn(axis: Any) -> dict[str, Any]:
    """The values of each labeled line."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}


def spans(axis: Any) -> dict[str, tuple[float, float]]:
    """The horizontal extent of each labeled span."""
    return {patch.get_label(): extent(patch) for patch in axis.patches if patch.get_label()}


def extent(patch: Any) -> tuple[float, float]:
    return patch.get_x(), patch.get_x() + patch.get_width()


def ticks(axis: Any, which: str = "y") -> list[float]:
    """The visible ticks of an axis."""
    low, high = sorted(getattr(axis, f"get_{which}lim")())
    locations = getattr(axis, f"{which}axis").get_majorticklocs()
    return [tick for tick in locations if low <= tick <= high]


def texts(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_market_shows_closes_parts_and_gaps(axis: Any, data: WindowedData) -> None:
    common.market(axis, data, 86_400_000)
    frame = data.prepared.frame
    closes = frame["close"].to_numpy()
    assert axis.get_yscale() == "linear"
    np.testing.assert_array_equal(drawn(axis)["close"], closes)
    for label, starts in (("train", data.train), ("validation = test", data.test)):
        first, last = date2num(data.times(starts[[0, -1]]).to_numpy())
        assert spans(axis)[label] == pytest.approx((first, last + 1))  # until the bar is over
    assert set(spans(axis)) == {"left out", "train", "validation = test"}
    (gap,) = (line for line in axis.lines if line.get_label() == "gap (1)")
    before = frame["timestamp"].to_numpy()[:-1][np.diff(frame["timestamp"].to_numpy()).argmax()]
    assert list(gap.get_xdata()) == [before]


def test_market_of_a_wide_range_is_logarithmic(axis: Any, data: WindowedData) -> None:
    growing = pl.col("low", "high", "close") * pl.int_range(pl.len()).add(1)
    frame = data.prepared.frame.with_columns(growing)
    own = replace(data.parts, validation=data.train[-50:])
    wide = replace(data, prepared=replace(data.prepared, frame=frame), parts=own)
    common.market(axis, wide, 86_400_000)
    assert axis.get_yscale() == "log"
    assert axis.get_ylabel() == "price, quote currency, logarithmic"
    assert {"train", "validation", "test"} < set(spans(axis))


@pytest.mark.parametrize("embargo", [0, 20])
def test_no_part_of_the_market_is_blank(axis: Any, data: WindowedData, embargo: int) -> None:
    parts = replace(data.parts, validation=data.train[-50:], train=data.train[: -50 - embargo])
    common.market(axis, replace(data, parts=parts), 86_400_000)
    extents = sorted(extent(patch) for patch in axis.patches if isinstance(patch, Rectangle))
    times = date2num(data.prepared.frame["timestamp"].to_numpy())
    assert extents[0][0] == times[0]
    assert extents[-1][1] == times[-1] + 1
    for (_, end), (start, _) in pairwise(extents):
        assert end == start
    hatched = [patch for patch in axis.patches if patch.get_hatch()]
    # The first bars, and those between training and validation, with one entry in the legend.
    assert len(hatched) == 1 + (embargo > 0)
    assert axis.get_legend_handles_labels()[1].count("left out") == 1


@pytest.mark.parametrize("low", [1e-9, 3.0, 740.0, 2.9e6])
@pytest.mark.parametrize("span", [1.0001, 1.05, 3.0, 6.0, 60.0, 130.0, 5e3, 1e8])
def test_logarithmic_axes_have_few_ticks(
    axis: Any, data: WindowedData, fitted: FitResult, low: float, span: float
) -> None:
    history = {name: [low * span, low] for name in fitted.history}
    common.loss_by_epoch(axis, data, replace(fitted, history=history))
    assert axis.get_yscale() == "log"
    assert 2 <= len(ticks(axis)) <= 7
    assert min(ticks(axis, "x")) >= 1
    labels = [axis.yaxis.get_major_formatter()(tick) for tick in ticks(axis)]
    assert len(set(labels)) == len(labels)


def test_a_loss_of_0_cannot_be_drawn_on_a_logarithmic_axis(
    axis: Any, data: WindowedData, fitted: FitResult
) -> None:
    history = {name: [2.0, 0.0] for name in fitted.history}
    common.loss_by_epoch(axis, data, replace(fitted, history=history))
    assert axis.get_yscale() == "linear"
    assert axis.get_ylim()[0] == 0
    still = Figure().subplots()
    history = {name: [0.0, 0.0] for name in fitted.history}
    prices.rmse_by_epoch(still, data, replace(fitted, history=history))
    assert texts(still) == ["the loss is 0 in every epoch"]


def test_curves_show_the_history(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    common.loss_by_epoch(axis, data, fitted)
    assert list(drawn(axis)["training"]) == fitted.history["loss"]
    assert list(drawn(axis)["validation"]) == fitted.history["val_loss"]
    assert axis.get_ylabel() == "mean squared error, (quote currency)²"
    (best,) = (line for line in axis.lines if line.get_label() == "best epoch")
    assert list(best.get_xdata()) == [2, 2]


@pytest.mark.parametrize("unit", ["quote currency", "log return ÷ 0.05"])
def test_rmse_is_compared_with_persistence_in_its_unit(
    axis: Any, data: WindowedData, fitted: FitResult, unit: str
) -> None:
    last, actual = data.persistence(data.validation), data.targets(data.validation)
    expected = rmse(actual, last)
    if unit != "quote currency":
        labels = np.full(len(data.prepared.close), np.nan)
        labels[data.validation + data.length] = np.log(actual / last) / 0.05
        data = relabelled(data, PriceScale.log_return(0.05), labels)
        expected = float(np.sqrt(np.mean(np.log(actual / last) ** 2))) / 0.05
    prices.rmse_by_epoch(axis, data, fitted)
    lines = drawn(axis)
    assert list(lines["persistence"]) == pytest.approx([expected] * 2)
    assert list(lines["validation"]) == fitted.history["val_rmse"]
    assert axis.get_ylabel() == f"RMSE, {unit}"


def of_test(data: WindowedData) -> tuple[Any, Any, Any]:
    """Time and actual value of each test bar, and persistence."""
    return data.times(data.test).to_numpy(), data.targets(data.test), data.persistence(data.test)


def test_prices_and_residuals_are_those_of_the_model(axis: Any, data: WindowedData) -> None:
    times, actual, last = of_test(data)
    predicted = actual * 1.1
    prices.prices(axis, times, actual, last, predicted)
    for label, values in (("actual", actual), ("persistence", last), ("model", predicted)):
        np.testing.assert_array_equal(drawn(axis)[label], values)
    other = Figure().subplots()
    prices.residuals_over_time(other, times, predicted - actual)
    np.testing.assert_array_equal(other.lines[1].get_ydata(), predicted - actual)


def test_a_model_that_predicts_no_move_is_one_line_with_persistence(
    axis: Any, data: WindowedData
) -> None:
    times, actual, last = of_test(data)
    prices.prices(axis, times, actual, last, last, unshrunk=last * 1.01)
    assert set(drawn(axis)) == {"actual", "model = persistence", "unshrunk"}
    np.testing.assert_array_equal(drawn(axis)["unshrunk"], last * 1.01)


@pytest.mark.parametrize("value", [0.0, 5.0, 5e-300, -1e20])
def test_a_histogram_of_equal_values(axis: Any, value: float) -> None:
    pair = np.full(9, value), np.nextafter(np.full(9, value), 0)
    histograms(axis, [Distribution("x", each, LIGHT["model"]) for each in pair], "x")
    counts = axis.patches[0].get_data()
    assert counts.values.sum() == 9
    assert counts.edges[0] < value < counts.edges[-1]


def test_returns_are_counted_on_the_same_bins(axis: Any) -> None:
    rng = np.random.default_rng(1)
    last, returns = rng.uniform(50, 100, 1000), rng.normal(0, 0.03, 1000)
    returns[:3] = [-0.9, 5.0, 9.0]  # far outside of the bins
    predicted = rng.normal(0.001, 1e-5, 1000)
    predicted[3] = -2.0  # not a price
    prices.distribution(axis, last, last * (1 + returns), last * (1 + predicted))
    stairs = {patch.get_label(): patch.get_data() for patch in axis.patches if patch.get_label()}
    assert list(stairs) == ["actual", "predicted"]
    np.testing.assert_array_equal(stairs["actual"].edges, stairs["predicted"].edges)
    edges = stairs["actual"].edges
    low, high = np.quantile(100 * np.delete(returns, 3), [0.005, 0.995])
    assert (edges[0], edges[-1]) == pytest.approx((low, high))
    expected, _ = np.histogram(np.clip(100 * np.delete(returns, 3), *edges[[0, -1]]), edges)
    np.testing.assert_array_equal(stairs["actual"].values, expected)
    assert stairs["actual"].values.sum() == 999
    assert stairs["predicted"].values.max() == 999  # a spike


def test_months_without_windows_are_gaps(axis: Any) -> None:
    days = np.arange("2023-11-01", "2024-03-06", dtype="datetime64[D]")
    known = (days < np.datetime64("2023-12-11")) | (days >= np.datetime64("2024-02-01"))
    times = days[known].astype("datetime64[ms]")
    found, number = months(times)
    counts = np.bincount(number, minlength=len(found))
    share = np.where(counts > 0, 0.5, np.nan)
    ratios = {"RMSE": np.where(counts > 0, 1.1, np.nan)}
    groups = Groups(counts, ratios, share, share - 0.1, share + 0.1, counts, counts)
    periods.shares_by_month(axis, found, times, groups, "accuracy")
    np.testing.assert_allclose(drawn(axis)["accuracy"], [50, 50, np.nan, 50, 50])
    other = Figure().subplots()
    periods.ratios_by_month(other, found, times, groups, "HAR")
    np.testing.assert_allclose(drawn(other)["RMSE"], [1.1, 1.1, np.nan, 1.1, 1.1])
    few = [line for line in other.lines if line.get_markerfacecolor() == "none"]
    assert [len(np.asarray(line.get_xdata())) for line in few] == [
        3
    ]  # December, March and the empty month


def test_returns_of_prices_that_are_not_positive(axis: Any) -> None:
    prices.distribution(axis, np.ones(5), np.ones(5), -np.ones(5))
    assert texts(axis) == ["no window has a predicted return"]


def test_deciles_show_returns_in_percent(axis: Any) -> None:
    rng = np.random.default_rng(2)
    last = rng.uniform(50, 100, 200)
    actual, predicted = (last * np.exp(rng.normal(0, 0.05, 200)) for _ in range(2))
    predicted[0] = -1.0
    prices.deciles(axis, last, actual, predicted, 1)
    expected = return_deciles(last, actual, predicted)
    (bars,) = axis.containers
    np.testing.assert_allclose(bars.lines[0].get_xdata(), 100 * expected.predicted)
    np.testing.assert_allclose(bars.lines[0].get_ydata(), 100 * expected.actual)
    assert axis.get_ylabel() == "mean actual return, % (1 predictions ≤ 0 omitted)"


def test_deciles_of_too_few_windows_say_so(axis: Any) -> None:
    prices.deciles(axis, np.ones(3), np.ones(3), -np.ones(3), 1)
    assert texts(axis) == ["too few test windows (3 predictions ≤ 0 omitted)"]


def test_deciles_of_equal_returns_say_so(axis: Any) -> None:
    prices.deciles(axis, np.ones(50), np.linspace(1, 2, 50), np.ones(50), 1)
    assert texts(axis) == ["all predicted returns are equal"]


def test_predicted_prices_near_0_are_returns_above_minus_100_percent(axis: Any) -> None:
    rng = np.random.default_rng(2)
    last, predicted = rng.uniform(50, 100, 200), rng.uniform(0.01, 0.2, 200)
    prices.deciles(axis, last, last * 1.01, predicted, 1)
    assert axis.get_xlim()[0] >= -100
    # Neither the legend nor the page may name a line that is not there.
    assert axis.get_legend_handles_labels()[1] == ["decile mean, 95% interval"]


def test_importance_within_its_deviation_or_float_noise_has_no_bar(axis: Any) -> None:
    importance = {"used": 3.0, "unsure": 1.0, "noise": 1e-9, "worse": -2.0}
    deviation = {"used": 0.5, "unsure": 1.5, "noise": 1e-11, "worse": 0.1}
    common.importances(axis, importance, deviation, 100.0)
    labels = [label.get_text() for label in axis.get_yticklabels()]
    bars = [bar.get_width() for bar in axis.patches]
    assert dict(zip(labels, bars, strict=True)) == {
        "used": 3.0,
        "unsure": 0.0,
        "noise": 0.0,
        "worse": -2.0,
    }


@pytest.mark.parametrize("error", [100.0, 0.0])
def test_importance_that_is_only_float_noise_is_not_drawn(axis: Any, error: float) -> None:
    values = {"a": -1e-12 * error, "b": 2e-12 * error}
    common.importances(axis, values, {"a": 0.0, "b": 1e-12 * error}, error)
    assert texts(axis) == ["no column has a measurable importance"]
    assert len(axis.patches) == 0


def test_importances_are_sorted(axis: Any) -> None:
    common.importances(
        axis, {"b_scaled": 1.0, "a": 3.0, "c": 2.0}, {"a": 0.1, "b_scaled": 0, "c": 0}, 1.0
    )
    assert [bar.get_width() for bar in axis.patches] == [1.0, 2.0, 3.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "c", "a"]
    (segments,) = axis.containers[-1].lines[2]
    assert segments.get_segments()[-1][:, 0].tolist() == pytest.approx([2.9, 3.1])


def test_every_axis_names_its_unit(charts: dict[str, str]) -> None:
    written = {
        name: " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
        for name, svg in charts.items()
    }
    expected = {
        "gains": ["% of the reference", "UTC", "model", "persistence"],
        "rolling": ["RMSE of the last 20 windows, quote currency", "UTC", "model", "persistence"],
        "months": ["error ÷ error of persistence", "UTC", "RMSE"],
        "shares": ["directional accuracy, %, 95% interval", "UTC", "all months"],
        "market": ["quote currency", "UTC", "train", "validation = test", "left out", "gap (1)"],
        "loss": ["mean squared error, (quote currency)²", "epoch", "training", "validation"],
        "rmse": ["RMSE, quote currency", "epoch", "best epoch", "persistence"],
        "test": ["quote currency", "UTC", "actual", "model", "persistence"],
        "zoom": ["quote currency", "UTC", "actual", "model", "persistence"],
        "residuals": ["predicted − actual, quote currency", "UTC"],
        "histogram": ["return, %", "test windows", "actual", "predicted"],
        "deciles": ["mean predicted return, %", "mean actual return, %", "95% interval"],
        "importance": ["RMSE increase, quote currency", "sentiment_momentum"],
    }
    assert list(charts) == list(expected)
    for name, units in expected.items():
        for unit in units:
            assert unit in written[name], (name, unit)


def test_the_page_chooses_every_color(charts: dict[str, str]) -> None:
    assert len(set(LIGHT.values())) == len(LIGHT)  # otherwise, two roles would become one variable
    for svg in charts.values():
        assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_the_same_run_gives_the_same_charts(
    data: WindowedData, make_record: Callable[..., RunRecord], charts: dict[str, str]
) -> None:
    assert draw_charts(make_record()) == charts


def test_charts_of_few_windows_and_of_predictions_that_have_no_return(
    data: WindowedData, config: TrainingConfig, make_record: Callable[..., RunRecord]
) -> None:
    for count in (1, 25):
        few = replace(data, parts=replace(data.parts, test=data.test[:count]))
        predictions = -few.targets(few.test)
        drawings = draw_charts(make_record(predictions, few))
        assert "too few test windows" in drawings["deciles"]
        assert f"{count} predictions ≤ 0 omitted" in drawings["deciles"]


def test_charts_of_a_market_that_does_not_move(
    data: WindowedData, make_record: Callable[..., RunRecord]
) -> None:
    """Warnings are errors in these tests."""
    columns = ("open", "high", "low", "close")
    frame = data.prepared.frame.with_columns(pl.lit(100.0).alias(name) for name in columns)
    close = np.full(len(data.prepared.close), 100.0)
    still = replace(data, prepared=replace(data.prepared, frame=frame, close=close))
    still = relabelled(still, PriceScale.log_return(1e-6), np.zeros(len(close)))
    predictions = still.persistence(still.test)
    record = make_record(predictions, still)
    history = {name: [0.0, 0.0] for name in record.fitted.history}
    record = replace(
        record,
        fitted=replace(record.fitted, history=history),
        importance=dict.fromkeys(record.importance or {}, 0.0),
        importance_deviation=dict.fromkeys(record.importance or {}, 0.0),
    )
    drawings = draw_charts(record, predictions)
    assert "the loss is 0 in every epoch" in drawings["loss"]
    assert "all predicted returns are equal" in drawings["deciles"]
    assert "no column has a measurable importance" in drawings["importance"]


def test_long_series_keep_their_extremes() -> None:
    values = np.random.default_rng(0).standard_normal(100_003)
    for columns in ([values], [values, values[::-1]]):
        kept = extremes(columns)
        assert 700 < len(kept) <= 800
        assert (np.diff(kept) > 0).all()
        assert {0, values.argmin(), values.argmax(), len(values) - 1} <= set(kept)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0"), (1234.5, "1,234.5"), (-0.25, "−0.25"), (2e9, "2e9"), (1.5e-4, "1.5e−4")),
        (1e6, "1e6"),
    ],
)
def test_numbers_on_axes(value: float, text: str) -> None:
    assert number_text(value) == text


def test_times_are_labeled_with_their_own_range(axis: Any) -> None:
    times = np.arange("2024-12-20T19", "2025-01-01T00", dtype="datetime64[h]")
    prices.residuals_over_time(axis, times, np.arange(float(len(times))))
    axis.figure.canvas.draw()
    assert axis.get_xlabel() == "open time, UTC, 2024-12-20 to 2024-12-31"
    assert axis.xaxis.get_offset_text().get_text() == ""  # it would say 2025-Jan
    still = Figure().subplots()
    prices.residuals_over_time(still, times[:5], np.zeros(5))
    assert still.get_xlabel() == "open time, UTC, 2024-12-20"
