"""What the chart functions draw, read from matplotlib's axes, and the SVG for the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from atb_fast.config import TrainingConfig
from atb_fast.evaluation.metrics import return_deciles, rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.reports import charts as chart
from atb_fast.reports.charts import CHARTS, draw_charts
from atb_fast.reports.style import LIGHT, number_text, thinned
from atb_fast.training.engine import FitResult


@pytest.fixture
def axis() -> Any:
    return Figure().subplots()


def drawn(axis: Any) -> dict[str, Any]:
    """The values of each labeled line."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}


def spans(axis: Any) -> dict[str, tuple[float, float]]:
    """The horizontal extent of each labeled span."""
    return {
        patch.get_label(): (patch.get_x(), patch.get_x() + patch.get_width())
        for patch in axis.patches
    }


def test_market_shows_closes_parts_and_gaps(axis: Any, data: WindowedData) -> None:
    chart.market(axis, data, 86_400_000)
    frame = data.prepared.frame
    closes = frame["close"].to_numpy()
    assert axis.get_yscale() == "linear"
    np.testing.assert_array_equal(drawn(axis)["close"], closes)
    for label, starts in (("train", data.train), ("validation = test", data.test)):
        times = data.times(starts[[0, -1]]).to_numpy()
        assert spans(axis)[label] == pytest.approx(tuple(date2num(times)))
    assert len(spans(axis)) == 2
    (gap,) = (line for line in axis.lines if line.get_label() == "gap (1)")
    before = frame["timestamp"].to_numpy()[:-1][np.diff(frame["timestamp"].to_numpy()).argmax()]
    assert list(gap.get_xdata()) == [before]


def test_market_of_a_wide_range_is_logarithmic(axis: Any, data: WindowedData) -> None:
    growing = pl.col("low", "high", "close") * pl.int_range(pl.len()).add(1)
    frame = data.prepared.frame.with_columns(growing)
    own = replace(data.parts, validation=data.train[-50:])
    wide = replace(data, prepared=replace(data.prepared, frame=frame), parts=own)
    chart.market(axis, wide, 86_400_000)
    assert axis.get_yscale() == "log"
    assert axis.get_ylabel() == "price, quote currency, logarithmic"
    assert list(spans(axis)) == ["train", "validation", "test"]


def test_curves_show_the_history(axis: Any, data: WindowedData, fitted: FitResult) -> None:
    chart.loss_by_epoch(axis, data, fitted)
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
        labels = np.full(len(data.labels), np.nan)
        labels[data.validation + data.length] = np.log(actual / last) / 0.05
        data = replace(data, labels=labels, price_scale=PriceScale.log_return(0.05))
        expected = float(np.sqrt(np.mean(np.log(actual / last) ** 2))) / 0.05
    chart.rmse_by_epoch(axis, data, fitted)
    lines = drawn(axis)
    assert list(lines["persistence"]) == pytest.approx([expected] * 2)
    assert list(lines["validation"]) == fitted.history["val_rmse"]
    assert axis.get_ylabel() == f"RMSE, {unit}"


def test_prices_and_residuals_are_those_of_the_model(axis: Any, data: WindowedData) -> None:
    times, actual, last = chart.tested_closes(data)
    predicted = actual * 1.1
    chart.prices(axis, times, actual, last, predicted)
    for label, values in (("actual", actual), ("persistence", last), ("model", predicted)):
        np.testing.assert_array_equal(drawn(axis)[label], values)
    other = Figure().subplots()
    chart.residuals_over_time(other, times, predicted - actual)
    np.testing.assert_array_equal(other.lines[1].get_ydata(), predicted - actual)


def test_histogram_counts_every_window(axis: Any) -> None:
    rng = np.random.default_rng(1)
    chart.histogram(axis, rng.normal(0, 1, 500), rng.normal(5, 1, 500))
    stairs = {patch.get_label(): patch.get_data() for patch in axis.patches}
    for label, center in (("model", 0), ("persistence", 5)):
        assert stairs[label].values.sum() == 500
        highest = stairs[label].edges[stairs[label].values.argmax()]
        assert abs(highest - center) < 1.5


def test_deciles_show_returns_in_percent(axis: Any) -> None:
    rng = np.random.default_rng(2)
    last = rng.uniform(50, 100, 200)
    actual, predicted = (last * np.exp(rng.normal(0, 0.05, 200)) for _ in range(2))
    predicted[0] = -1.0
    chart.deciles(axis, last, actual, predicted, 1)
    expected = return_deciles(last, actual, predicted)
    (bars,) = axis.containers
    np.testing.assert_allclose(bars.lines[0].get_xdata(), 100 * expected.predicted)
    np.testing.assert_allclose(bars.lines[0].get_ydata(), 100 * expected.actual)
    assert axis.get_ylabel() == "mean actual return, % (1 predictions ≤ 0 omitted)"


def test_deciles_of_too_few_windows_say_so(axis: Any) -> None:
    chart.deciles(axis, np.ones(3), np.ones(3), -np.ones(3), 1)
    assert [text.get_text() for text in axis.texts] == ["too few test windows"]


def test_importances_are_sorted(axis: Any) -> None:
    chart.importances(
        axis, {"b_scaled": 1.0, "a": 3.0, "c": 2.0}, {"a": 0.1, "b_scaled": 0, "c": 0}
    )
    assert [bar.get_width() for bar in axis.patches] == [1.0, 2.0, 3.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "c", "a"]
    (segments,) = axis.containers[-1].errorbar.lines[2]
    assert segments.get_segments()[-1][:, 0].tolist() == pytest.approx([2.9, 3.1])


def test_every_axis_names_its_unit(charts: dict[str, str]) -> None:
    assert tuple(charts) == CHARTS
    for name, units in {
        "market": ["quote currency", "UTC", "train", "validation = test", "gap (1)"],
        "loss": ["mean squared error, (quote currency)²", "epoch", "training", "validation"],
        "rmse": ["RMSE, quote currency", "epoch", "best epoch", "persistence"],
        "test": ["quote currency", "UTC", "actual", "model", "persistence"],
        "zoom": ["quote currency", "UTC", "actual", "model", "persistence"],
        "residuals": ["predicted − actual, quote currency", "UTC"],
        "histogram": ["predicted − actual, quote currency", "test windows"],
        "deciles": ["mean predicted return, %", "mean actual return, %", "95% interval"],
        "importance": ["RMSE increase, quote currency", "sentiment_momentum"],
    }.items():
        written = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", charts[name]))
        for unit in units:
            assert unit in written, (name, unit)


def test_the_page_chooses_every_color(charts: dict[str, str]) -> None:
    assert len(set(LIGHT.values())) == len(LIGHT)  # otherwise, two roles would become one variable
    for svg in charts.values():
        assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_the_same_run_gives_the_same_charts(
    data: WindowedData, make_record: Callable[..., RunRecord], charts: dict[str, str]
) -> None:
    assert draw_charts(make_record(), data.targets(data.test) * 1.2) == charts


def test_charts_of_few_windows_and_of_predictions_that_have_no_return(
    data: WindowedData, config: TrainingConfig, make_record: Callable[..., RunRecord]
) -> None:
    for count in (1, 25):
        few = replace(data, parts=replace(data.parts, test=data.test[:count]))
        predictions = -few.targets(few.test)
        drawings = draw_charts(make_record(predictions, few), predictions)
        assert "too few test windows" in drawings["deciles"]
        assert f"{count} predictions ≤ 0 omitted" in drawings["deciles"]


def test_long_series_keep_their_extremes() -> None:
    values = np.random.default_rng(0).standard_normal(100_003)
    times, kept = thinned(np.arange(len(values)), values)
    assert len(kept) <= 800
    assert {kept.min(), kept.max()} == {values.min(), values.max()}
    assert (np.diff(times) > 0).all()
    np.testing.assert_array_equal(values[times], kept)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0"), (1234.5, "1,234.5"), (-0.25, "−0.25"), (2e9, "2e9"), (1.5e-4, "1.5e−4")),
        (1e6, "1e6"),
    ],
)
def test_numbers_on_axes(value: float, text: str) -> None:
    assert number_text(value) == text
