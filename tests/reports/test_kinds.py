"""Charts, page and picture of models that predict returns, classes or volatility.

Warnings are errors in these tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_pages import Page, wilson_percent
from scipy.stats import binomtest, norm, spearmanr
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    r2_score,
)

from atb_fast.bundles.contents import metadata
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.outputs import Classes, LogSigma, Return
from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts import charts_of, draw_charts
from atb_fast.reports.page import write_report
from atb_fast.reports.picture import plot_training

RecordOf = Callable[..., RunRecord]
KINDS = ("returns", "two", "three", "volatility")
OVER_TIME = "gains rolling months"
CHARTS = {
    "returns": f"{OVER_TIME} shares market loss rmse test zoom residuals histogram deciles "
    "importance",
    "two": f"{OVER_TIME} shares market loss test zoom confusion histogram calibration importance",
    "three": f"{OVER_TIME} shares market loss test zoom confusion histogram calibration importance",
    "volatility": f"{OVER_TIME} market loss rmse test zoom realized histogram bands importance",
}


def axis_of(record: RunRecord, name: str, unshrunk: Any = None) -> Any:
    """The axes that a chart of a run is drawn into."""
    axis = Figure().subplots()
    charts_of(record, unshrunk)[name].draw(axis)
    return axis


def drawn(axis: Any) -> dict[str, Any]:
    """The values of each labeled line."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}


def texts(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


def points(axis: Any) -> dict[str, tuple[Any, Any, Any]]:
    """The x, y and interval of the points of each error bar, by label."""
    found = {}
    for container in axis.containers:
        line, _, (segments,) = container.lines
        ends = np.array([segment[:, 1] for segment in segments.get_segments()])
        found[container.get_label()] = line.get_xdata(), line.get_ydata(), ends
    return found


def page_of(tmp_path: Path, record: RunRecord, unshrunk: Any = None) -> tuple[Page, dict[str, Any]]:
    record = replace(record, charts=draw_charts(record, unshrunk))
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    document = metadata(record, version="2026-01-02_03h04m05s_v1", created=created)
    path = tmp_path / "report.html"
    write_report(path, record, document, stages={"training": 61.25}, total=70.0)
    page = Page(path.read_text(encoding="utf-8"))
    recipe = document["recipe_document"]
    (row,) = (each for each in page.find("tr") if each.text.startswith("target "))
    assert row.text.split()[1].rstrip(",") == recipe["target"]["kind"]
    for name, value in recipe["network"].items():
        assert name == "kind" or f"{name.replace('_', ' ')} {value}" in page.text
    return page, document


def cells(page: Page) -> dict[str, list[str]]:
    """The cells of the comparison with simple forecasts, by row."""
    table = next(each for each in page.find("table") if "simple forecasts" in each.text)
    rows = [element for element in page.find("tr") if element.text in table.text]
    names = ("model", "class shares", "persistence", "majority class", "contrarian", "EWMA", "HAR")
    found: dict[str, list[str]] = {}
    for row in rows:
        for name in (*names, "linear model"):
            if row.text.startswith(f"{name} "):
                found.setdefault(name, row.text.removeprefix(name).split())
    return found


def test_every_kind_has_its_charts(record_of: RecordOf) -> None:
    for kind, names in CHARTS.items():
        record = record_of(kind)
        charts = draw_charts(record)
        assert list(charts) == names.split()
        assert draw_charts(record) == charts
        for svg in charts.values():
            assert not re.search(r"#[0-9a-f]{6}\b", svg)  # the page chooses every color


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_is_complete(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    page, _ = page_of(tmp_path, record_of(kind))
    names = CHARTS[kind].split()
    labels = [element.attributes["aria-label"] for element in page.find("svg")]
    assert len(labels) == len(set(labels)) == len(names)
    captions = [element.text for element in page.find("figcaption")]
    assert len(captions) == len(set(captions)) == len(names)
    assert "Not drawn" not in page.text
    assert not re.search(r"\b(nan|inf|None|undefined)\b", page.text)
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {str(e.attributes["href"])[1:] for e in page.find("use")} <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_market_is_about_prices(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    page, _ = page_of(tmp_path, record_of(kind))
    figures = [element.text for element in page.find("figure")]
    market = next(text for text in figures if text.startswith("Closing prices"))
    options = page.find("details")[0].text
    rest = page.text.replace(market, "").replace(options, "")
    # Any forecast may be better when prices move more.
    (regimes,) = (b.text for b in page.find("div", "box") if b.text.startswith("By volatility"))
    rest = rest.replace(regimes, "").replace("Over time and by volatility", "")
    # The banner of the sample market is about its candles.
    rest = rest.replace("Prices are simulated.", "")
    words = ["[Pp]rice", "MAPE"]
    if kind != "returns":
        words += ["quote currency", "return of 0"]
    if kind in ("two", "three"):
        words += ["RMSE", "squared", "[Vv]olatility", "HAR"]
    for word in words:
        assert not re.search(rf"\b{word}", rest), word


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("returns", "persistence", 3.0),
        ("two", "the class shares", 0.02),
        ("three", "the class shares", 0.02),
        ("volatility", "HAR", 3.0),
    ],
)
def test_the_verdict_names_the_reference(
    tmp_path: Path, record_of: RecordOf, kind: str, good: str, bad: float
) -> None:
    record = record_of(kind)
    page, document = page_of(tmp_path, record)
    banner = page.find("p", "banner")[0]
    assert banner.text.startswith(f"The model is better than {good}.")
    assert banner.attributes["class"] == "banner good"
    statistic = document["evaluation_results"]["diebold_mariano"]
    assert statistic > 2
    losses = "log losses" if kind in ("two", "three") else "squared errors"
    assert f"The {losses} differ by {statistic:.1f} standard errors" in banner.text
    forecasts = record.evaluation.tested.forecasts
    wrong = forecasts + bad
    if kind == "two":
        wrong = np.where(record.evaluation.tested.actual == 1, bad, 1 - bad)
    elif kind == "three":
        wrong = np.full(forecasts.shape, (1 - bad) / 2)
        wrong[np.arange(len(wrong)), record.evaluation.tested.actual.astype(int)] = bad
    page, _ = page_of(tmp_path, record_of(kind, wrong))
    banner = page.find("p", "banner")[0]
    assert banner.text.startswith(f"The model is worse than {good}.")
    assert banner.attributes["class"] == "banner bad"


@pytest.mark.parametrize("kind", KINDS)
def test_tests_and_ranks_equal_scipy(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    record = record_of(kind)
    tested, results = record.evaluation.tested, record.evaluation.results
    page, _ = page_of(tmp_path, record)
    boxes = [box.text for box in page.find("div", "box")]
    name = {"returns": "persistence", "volatility": "HAR"}.get(kind, "class shares")
    statistic = results["diebold_mariano"]
    chance = 2 * norm.sf(abs(statistic))
    text = f"p = {chance:.2g}" if chance >= 1e-4 else "p < 0.0001"
    (tests,) = (box for box in boxes if box.startswith("The model against each baseline"))
    assert f"{name} {abs(statistic):.1f} standard errors better, {text}" in tests
    assert "linear model " in tests
    (ranks,) = (box for box in boxes if box.startswith("Agreement of predicted and actual "))
    scores = tested.forecasts
    if kind == "three":
        scores = scores[:, 2] - scores[:, 0]
    value = spearmanr(scores, tested.actual).statistic
    assert f"rank correlation {value:.3f}, 95% interval " in ranks
    if kind in ("returns", "volatility"):
        share = np.std(tested.forecasts) / np.std(tested.actual)
        assert f"standard deviation {share:.3f} times that of " in ranks


def test_rank_correlations_that_are_undefined(tmp_path: Path, record_of: RecordOf) -> None:
    data = record_of("two").data
    rises = data.test[data.targets(data.test) == 1.0]
    only = replace(data, parts=replace(data.parts, test=rises))
    page, _ = page_of(tmp_path, record_of("two", None, only))
    assert "undefined: the actual value is the same for all windows" in page.text
    page, _ = page_of(tmp_path, record_of("two", np.full(len(data.test), 0.25), data))
    assert "undefined: the model predicts the same for all windows" in page.text


def test_the_table_of_volatility_counts_every_window(tmp_path: Path, record_of: RecordOf) -> None:
    record = record_of("returns")
    page, _ = page_of(tmp_path, record)
    rows = [
        row.text.removeprefix(level)
        for level in ("low, up to ", "medium, up to ", "high, above ")
        for row in page.find("tr")
        if row.text.startswith(level)
    ]
    counts = [int(row.split()[1]) for row in rows]
    assert sum(counts) == len(record.data.test)
    assert all(
        re.match(r"[\d.]+% \d+ (–|[\d.]+) (–|[\d.]+% \(\d+–\d+, n = \d+\))$", row) for row in rows
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 19, 39])
def test_few_test_windows_are_named(
    tmp_path: Path, record_of: RecordOf, kind: str, count: int
) -> None:
    data = record_of(kind).data
    few = replace(data, parts=replace(data.parts, test=data.test[:count]))
    page, _ = page_of(tmp_path, record_of(kind, None, few))
    assert f"too few test windows ({count}, needs 40)" in page.text
    assert (f"too few windows ({count}, needs 20)" in page.text) == (count < 20)
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


@pytest.mark.parametrize("kind", ["returns", "two"])
def test_a_month_without_windows(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    record = record_of(kind)
    test, times = record.data.test, record.evaluation.tested.times.to_numpy()
    month = times.astype("datetime64[M]")
    kept = test[month != month[0] + np.timedelta64(1, "M")]
    assert len(kept) < len(test)
    data = replace(record.data, parts=replace(record.data.parts, test=kept))
    page, _ = page_of(tmp_path, record_of(kind, None, data))
    labels = [element.attributes.get("aria-label") for element in page.find("svg")]
    assert "Accuracy by month" in labels


# Classes


@pytest.mark.parametrize("kind", ["two", "three"])
def test_tiles_and_table_of_classes_equal_scikit_learn(
    tmp_path: Path, record_of: RecordOf, kind: str
) -> None:
    record = record_of(kind)
    data, tested = record.data, record.evaluation.tested
    page, _ = page_of(tmp_path, record)
    actual, trained = data.targets(data.test).astype(int), data.fitted(data.train).astype(int)
    assert isinstance(data.output, Classes)
    classes = range(len(data.output.labels))

    def full(found: Any) -> Any:
        return found if found.ndim == 2 else np.column_stack([1 - found, found])

    shares = np.tile(np.bincount(trained, minlength=len(classes)) / len(trained), (len(actual), 1))
    own, chosen = full(tested.forecasts), full(tested.forecasts).argmax(axis=1)
    known = np.eye(len(classes))[actual]
    losses = [log_loss(actual, each, labels=list(classes)) for each in (own, shares)]
    briers = [float(np.mean(np.sum((each - known) ** 2, axis=1))) for each in (own, shares)]
    if kind == "two":  # as is usual, half the sum over both classes
        briers = [each / 2 for each in briers]
    majority = float(np.mean(actual == np.bincount(trained).argmax()))
    right = accuracy_score(actual, chosen)
    interval = binomtest(round(right * len(actual)), len(actual)).proportion_ci(method="wilson")
    tiles, rows = page.tiles, cells(page)
    assert tiles["Test log loss"].split()[0] == f"{losses[0]:#.5g}"
    assert tiles["Log loss of the class shares"].split()[0] == f"{losses[1]:#.5g}"
    assert tiles["Log loss ratio to class shares"].split()[0] == f"{losses[0] / losses[1]:.3f}"
    assert tiles["Brier score"] == f"{briers[0]:#.5g} class shares {briers[1]:#.5g}"
    text = f"{right:.1%} of {len(actual):,} bars; 95% interval {interval.low:.1%} to "
    assert tiles["Accuracy"].startswith(f"{text}{interval.high:.1%}; ")
    balanced = balanced_accuracy_score(actual, chosen)
    ratio = f"{losses[0] / losses[1]:.3f}"
    own_row = [f"{losses[0]:#.5g}", ratio, f"{briers[0]:#.5g}", f"{right:.1%}", f"{balanced:.1%}"]
    assert rows["model"] == own_row
    assert rows["class shares"] == [f"{losses[1]:#.5g}", "1.000", f"{briers[1]:#.5g}", "–", "–"]
    assert rows["majority class"] == ["–", "–", "–", f"{majority:.1%}", "–"]
    rows_of_test = data.test + data.length - 1
    last = np.sign(np.diff(data.prepared.close))[rows_of_test - 1]
    opposite = {"two": (last < 0).astype(int), "three": (1 - last).astype(int)}[kind]
    assert rows["contrarian"][3] == f"{np.mean(opposite == actual):.1%}"
    best = max(("majority class", "contrarian"), key=lambda name: float(rows[name][3][:-1]))
    other = {"majority class": np.bincount(trained).argmax(), "contrarian": opposite}[best]
    hit, other_hit = chosen == actual, other == actual
    only = [np.sum(hit & ~other_hit), np.sum(other_hit & ~hit)]
    assert f"only the model gets right: {only[0]:,}, only " in page.text
    assert f"{best}: {only[1]:,}. The difference " in page.text
    p_value = binomtest(int(min(only)), int(sum(only))).pvalue
    assert f"(McNemar test, p = {p_value:.2g})." in page.text


def test_intervals_and_mcnemar_count_bars_whose_horizons_do_not_overlap(
    tmp_path: Path, record_of: RecordOf
) -> None:
    data = record_of("three").data
    far = replace(data, labels=replace(data.labels, output=Classes((-1, 0, 1), 7)))
    record = record_of("three", None, far)
    page, _ = page_of(tmp_path, record)
    count, tested = -(-len(far.test) // 7), record.evaluation.tested
    hits = tested.forecasts.argmax(axis=1) == tested.actual
    low, high = wilson_percent(hits.mean(), count)
    text = f"{hits.mean():.1%} of {len(hits):,} bars; 95% interval {low:.1f}% to {high:.1f}% "
    text += f"from {count} bars whose horizons do not overlap; "
    assert page.tiles["Accuracy"].startswith(text)
    assert f"Of the {count} bars whose horizons do not overlap, those that only the" in page.text


@pytest.mark.parametrize("horizon", [1, 7])
def test_accuracies_by_volatility_say_how_many_windows_their_interval_counts(
    tmp_path: Path, record_of: RecordOf, horizon: int
) -> None:
    data = record_of("three").data
    data = replace(data, labels=replace(data.labels, output=Classes((-1, 0, 1), horizon)))
    page, _ = page_of(tmp_path, record_of("three", None, data))
    table = next(each.text for each in page.find("table") if "accuracy (95%)" in each.text)
    found = re.findall(r"([\d.]+)% \((\d+)–(\d+), n = (\d+)\)", table)
    assert sum(int(count) for *_, count in found) == -(-len(data.test) // horizon)
    assert ("n: test bars whose horizons do not overlap." in page.text) is (horizon > 1)
    for share, low, high, count in found:
        ends = wilson_percent(float(share) / 100, int(count))
        assert ends == pytest.approx((int(low), int(high)), abs=0.6)


@pytest.mark.parametrize(
    ("better", "worse", "p_value", "than", "chance"),
    [
        (0, 5, 0.062, "no better than", "can be due to chance"),
        (14, 34, 0.0055, "worse than", "is significant"),
        (34, 14, 0.0055, "better than", "is significant"),
    ],
)
def test_the_tile_of_the_accuracy_agrees_with_mcnemar(
    tmp_path: Path,
    record_of: RecordOf,
    better: int,
    worse: int,
    p_value: float,
    than: str,
    chance: str,
) -> None:
    record = record_of("three")
    mcnemar = {"other": "majority", "better": better, "worse": worse, "p_value": p_value}
    # The interval alone would call the model worse.
    figures = {"accuracy": 0.1, "accuracy_low": 0.02, "accuracy_high": 0.5, "mcnemar": mcnemar}
    figures["majority_accuracy"] = 0.7
    evaluation = replace(record.evaluation, results={**record.evaluation.results, **figures})
    page, _ = page_of(tmp_path, replace(record, evaluation=evaluation))
    assert page.tiles["Accuracy"].endswith(f"; {than} the majority class (70.0%)")
    assert f"The difference {chance} (McNemar test" in page.text


def test_the_confusion_matrix_equals_scikit_learn(record_of: RecordOf) -> None:
    record = record_of("three")
    axis = axis_of(record, "confusion")
    tested = record.evaluation.tested
    expected = confusion_matrix(tested.actual.astype(int), tested.forecasts.argmax(axis=1))
    shares = expected / expected.sum(axis=1, keepdims=True)
    assert texts(axis) == [
        f"{count:,}\n{share:.0%}" for count, share in zip(expected.flat, shares.flat, strict=True)
    ]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["down", "flat", "up"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["down", "flat", "up"]
    assert axis.get_ylim() == (2.5, -0.5)  # the first class is at the top
    assert [patch.get_alpha() for patch in axis.patches] == pytest.approx(0.6 * shares.ravel())


def test_calibration_is_drawn_for_the_second_class_or_for_all(record_of: RecordOf) -> None:
    two = points(axis_of(record_of("two"), "calibration"))
    assert list(two) == ["up"]
    record = record_of("three")
    tested = record.evaluation.tested
    three = points(axis_of(record, "calibration"))
    assert list(three) == ["down", "flat", "up"]
    for i, (predicted, observed, ends) in enumerate(three.values()):
        groups = pd.qcut(tested.forecasts[:, i], 10)
        frame = pd.DataFrame({"p": tested.forecasts[:, i], "hit": tested.actual == i})
        expected = frame.groupby(groups, observed=True).agg(["mean", "size"])
        np.testing.assert_allclose(predicted, expected["p"]["mean"])
        np.testing.assert_allclose(observed, expected["hit"]["mean"])
        for share, count, (low, high) in zip(observed, expected["hit"]["size"], ends, strict=True):
            interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
            assert (low, high) == pytest.approx((interval.low, interval.high))


def test_probabilities_are_drawn_with_the_shares_of_training(record_of: RecordOf) -> None:
    record = record_of("two")
    data, tested = record.data, record.evaluation.tested
    axis = axis_of(record, "test")
    np.testing.assert_array_equal(drawn(axis)["up"], tested.forecasts)
    assert "down" not in drawn(axis)
    level = next(line for line in axis.lines if line.get_linestyle() == "--").get_ydata()
    assert level == pytest.approx([np.mean(data.fitted(data.train))] * 2)
    zoom = axis_of(record, "zoom")
    np.testing.assert_array_equal(drawn(zoom)["up"], tested.forecasts[-100:])
    times = data.times(data.test).to_numpy()[-100:]
    for index, name in enumerate(("was down", "was up")):
        (marks,) = (line for line in zoom.lines if line.get_label() == name)
        np.testing.assert_array_equal(marks.get_xdata(), times[tested.actual[-100:] == index])
    assert all(0 <= tick <= 1 for tick in zoom.get_yticks())
    lines = drawn(axis_of(record_of("three"), "test"))
    assert {"down", "flat", "up"} < set(lines)


def test_the_loss_is_compared_with_that_of_the_class_shares(record_of: RecordOf) -> None:
    record = record_of("three")
    data = record.data
    axis = axis_of(record, "loss")
    trained, labels = (data.fitted(part).astype(int) for part in (data.train, data.validation))
    shares = np.bincount(trained, minlength=3) / len(trained)
    expected = log_loss(labels, np.tile(shares, (len(labels), 1)), labels=[0, 1, 2])
    assert drawn(axis)["class shares"] == pytest.approx([expected] * 2)
    assert list(drawn(axis)["validation"]) == record.fitted.history["val_loss"]
    assert axis.get_ylabel() == "mean log loss"
    weights = np.ones(len(data.prepared.close))
    weighted = replace(data, labels=replace(data.labels, weights=weights))
    axis = axis_of(replace(record, data=weighted), "loss")
    assert axis.get_ylabel() == "mean weighted log loss"


def test_the_shares_of_balanced_classes_are_weighted(tmp_path: Path, record_of: RecordOf) -> None:
    data = record_of("three").data
    page, _ = page_of(tmp_path, record_of("three"))
    assert "share of each class in the training windows." in page.text
    weights = np.ones(len(data.prepared.close))
    data = replace(data, labels=replace(data.labels, weights=weights))
    page, _ = page_of(tmp_path, record_of("three", None, data))
    assert "share of each class in the training windows, weighted by class." in page.text


def weighted(data: WindowedData, *of_class: float) -> WindowedData:
    """The same windows, with a weight for each class."""
    values = np.nan_to_num(data.labels.values).astype(int)
    return replace(data, labels=replace(data.labels, weights=np.array(of_class)[values]))


def test_a_verdict_with_weights_names_the_figures_that_contradict_it(
    tmp_path: Path, record_of: RecordOf
) -> None:
    data = record_of("two").data
    up = data.targets(data.test) == 1
    # With a large weight of "up", a model that nearly always expects it is better.
    record = record_of("two", np.where(up, 0.97, 0.9), weighted(data, 0.2, 5.0))
    page, document = page_of(tmp_path, record)
    found = document["evaluation_results"]
    assert found["diebold_mariano"] > 2
    assert found["brier_score"] > 1.2 * found["class_shares_brier_score"]
    banner = page.find("p", "banner")[0]
    title = "The model is better than the class shares in weighted log loss."
    assert banner.text.startswith(f"{title} Test weighted log loss ")
    against = f"Brier score {found['brier_score']:.5f} (class shares "
    text = f"Without class weights, the model is significantly worse: {against}"
    assert text in banner.text
    assert banner.attributes["class"] == "banner note"
    assert "figure good" not in page.source
    # Nothing contradicts a model that is better with and without weights.
    page, document = page_of(
        tmp_path, record_of("two", np.where(up, 0.9, 0.1), weighted(data, 1, 2))
    )
    banner = page.find("p", "banner")[0]
    assert banner.text.startswith(title)
    assert "Without class weights" not in banner.text
    assert banner.attributes["class"] == "banner good"


def test_accuracies_say_how_many_windows_they_count(tmp_path: Path, record_of: RecordOf) -> None:
    record = record_of("two")
    page, _ = page_of(tmp_path, record)
    assert f"Accuracies are shares of {len(record.data.test):,} bars." in page.text
    data = record_of("returns").data
    far = replace(data, labels=replace(data.labels, output=Return(24, 1)))
    page, document = page_of(tmp_path, record_of("returns", None, far))
    bars = document["evaluation_results"]["directional_bars"]
    assert 0 < bars < len(data.test) / 12
    assert f"whose horizons do not overlap: {bars:,} bars for the model." in page.text


def test_the_distribution_counts_every_window(record_of: RecordOf) -> None:
    record = record_of("two")
    tested = record.evaluation.tested
    axis = axis_of(record, "histogram")
    stairs = {patch.get_label(): patch.get_data() for patch in axis.patches if patch.get_label()}
    for index, name in enumerate(("was down", "was up")):
        assert stairs[name].values.sum() == np.sum(tested.actual == index)
    assert axis.get_xlabel() == "predicted probability of “up”"
    three = axis_of(record_of("three"), "histogram")
    assert three.get_legend_handles_labels()[1] == ["down", "flat", "up"]


def test_classes_without_directions(tmp_path: Path, record_of: RecordOf) -> None:
    data = record_of("two").data
    labels = replace(data.labels, output=Classes((0, 1), 24))
    page, _ = page_of(tmp_path, record_of("two", None, replace(data, labels=labels)))
    assert "The probability of “yes”. The outcome is known at most 24 bars later." in page.text
    assert "Intervals are widened because 24-bar horizons overlap." in page.text
    assert "contrarian" not in page.text.lower()


# Volatility


def test_tiles_and_table_of_volatility(tmp_path: Path, record_of: RecordOf) -> None:
    record = record_of("volatility")
    data, predicted = record.data, record.evaluation.tested.forecasts
    page, document = page_of(tmp_path, record)
    results = document["evaluation_results"]
    actual = data.targets(data.test)

    def rmse(found: Any) -> float:
        return float(np.sqrt(np.mean((found - actual) ** 2)))

    unchanged, har = data.persistence(data.test), data.base(data.test)
    assert page.tiles["Test RMSE"] == f"{rmse(predicted):#.5g} log sigma"
    assert page.tiles["RMSE of HAR"].startswith(f"{rmse(har):#.5g} ")
    ratio = rmse(predicted) / rmse(unchanged)
    assert page.tiles["RMSE ratio to persistence"].startswith(f"{ratio:.3f} ")
    scores = [r2_score(actual, each) for each in (predicted, har)]
    expected = " HAR ".join(f"{score:.3f}".replace("-", "−") for score in scores)
    assert page.tiles["R²"] == expected
    assert page.tiles["QLIKE"] == f"{results['qlike']:.3f} HAR {results['har_qlike']:.3f}"
    rows = cells(page)
    assert list(rows) == ["model", "persistence", "EWMA", "HAR", "linear model"]
    assert rows["model"][:2] == [f"{rmse(predicted):#.5g}", f"{ratio:.3f}"]
    assert rows["persistence"][1] == "1.000"
    assert rows["HAR"][0] == f"{rmse(har):#.5g}"
    assert rows["EWMA"][-1] == f"{results['ewma_qlike']:.3f}"
    statistic = results["qlike_diebold_mariano"]
    assert statistic > 0
    assert page.rows["HAR, QLIKE"].startswith(f"{statistic:.1f} standard errors better, p ")


def test_volatility_is_drawn_in_percent(record_of: RecordOf) -> None:
    record = record_of("volatility")
    data, output = record.data, record.data.output
    assert isinstance(output, LogSigma)
    axis = axis_of(record, "test")
    lines = drawn(axis)
    assert axis.get_yscale() == "log"
    np.testing.assert_allclose(lines["realized"], 100 * np.exp(data.targets(data.test)))
    sigma = np.exp(record.evaluation.tested.forecasts) * np.sqrt(output.variance_factor)
    np.testing.assert_allclose(lines["model"], 100 * sigma)
    validation = data.validation
    har = data.targets(validation) - data.base(validation)
    factor = np.mean(np.exp(2 * har))
    np.testing.assert_allclose(lines["HAR"], 100 * np.exp(data.base(data.test)) * factor**0.5)
    zoom = drawn(axis_of(record, "zoom"))
    np.testing.assert_array_equal(zoom["model"], lines["model"][-100:])
    scatter = axis_of(record, "realized")
    assert (scatter.get_xscale(), scatter.get_yscale()) == ("log", "log")
    dots = next(line for line in scatter.lines if "window" in str(line.get_label()))
    np.testing.assert_allclose(dots.get_xdata(), 100 * sigma)
    np.testing.assert_allclose(dots.get_ydata(), lines["realized"])


def test_ratios_by_month_equal_pandas(record_of: RecordOf) -> None:
    record = record_of("volatility")
    data, output = record.data, record.data.output
    assert isinstance(output, LogSigma)
    lines = drawn(axis_of(record, "months"))
    assert {"HAR", "RMSE", "QLIKE"} <= set(lines)
    tested = record.evaluation.tested

    def monthly(values: Any) -> Any:
        return pd.Series(values, data.times(data.test).to_numpy()).resample("MS").mean()

    def qlikes(scaled: Any) -> Any:
        ratio = np.exp(2 * (data.targets(data.test) - scaled))
        return monthly(ratio - np.log(ratio) - 1)

    errors = [
        monthly((each - tested.actual) ** 2) ** 0.5
        for each in (tested.forecasts, tested.baselines["har"])
    ]
    np.testing.assert_allclose(lines["RMSE"], errors[0] / errors[1])
    losses = [qlikes(tested.further[name]) for name in ("scaled", "har_scaled")]
    np.testing.assert_allclose(lines["QLIKE"], losses[0] / losses[1])


def test_accuracy_by_month_equals_pandas(record_of: RecordOf) -> None:
    for kind in ("two", "returns"):
        record = record_of(kind)
        tested = record.evaluation.tested
        right = np.sign(tested.forecasts) == np.sign(tested.actual)
        if kind == "two":
            right = (tested.forecasts > 0.5) == (tested.actual == 1)
        monthly = pd.Series(right, tested.times.to_numpy()).resample("MS").agg(["mean", "size"])
        axis = axis_of(record, "shares")
        lines = drawn(axis)
        name = "accuracy" if kind == "two" else "directional accuracy"
        np.testing.assert_allclose(lines[name], 100 * monthly["mean"])
        segments = axis.lines[: len(monthly)]
        for (share, count), segment in zip(monthly.to_numpy(), segments, strict=True):
            interval = binomtest(round(share * count), int(count)).proportion_ci(method="wilson")
            ends = 100 * interval.low, 100 * interval.high
            assert segment.get_ydata() == pytest.approx(ends, abs=1e-9)
        few = int((monthly["size"] < 20).sum())
        hollow = [line for line in axis.lines if line.get_markerfacecolor() == "none"]
        assert sum(len(line.get_xdata()) for line in hollow) == few


@pytest.mark.parametrize("kind", KINDS)
def test_rolling_errors_equal_pandas(record_of: RecordOf, kind: str) -> None:
    record = record_of(kind)
    scoring, tested = record.evaluation.scoring, record.evaluation.tested
    count = len(tested.times)
    windows = max(20, count // 12)
    axis = axis_of(record, "rolling")
    assert f" of the last {windows} windows" in axis.get_ylabel()
    for name, forecasts, scaled in (
        ("model", tested.forecasts, "scaled"),
        (None, tested.baselines[scoring.reference(tested)], "har_scaled"),
    ):
        losses = scoring.losses_of(tested, forecasts)
        if kind == "volatility":
            ratio = np.exp(2 * (tested.actual - tested.further[scaled]))
            losses = ratio - np.log(ratio) - 1
        means = pd.Series(losses).rolling(windows).mean()
        expected = 100 * means**0.5 if kind == "returns" else means
        lines = drawn(axis)
        found = lines.pop("model") if name else next(iter(lines.values()))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_bands_show_the_share_below_each_quantile(record_of: RecordOf) -> None:
    record = record_of("volatility")
    output, tested = record.data.output, record.evaluation.tested
    assert isinstance(output, LogSigma)
    ((predicted, observed, _),) = points(axis_of(record, "bands")).values()
    sigma = np.exp(tested.forecasts) * np.sqrt(output.variance_factor)
    scaled = tested.further["returns"] / sigma
    np.testing.assert_allclose(predicted, [10, 50, 90])
    expected = [100 * np.mean(scaled <= quantile) for quantile in output.quantiles.values()]
    np.testing.assert_allclose(observed, expected)


@pytest.mark.parametrize("kind", ["two", "three", "volatility"])
def test_calibration_is_as_high_as_the_importance_next_to_it(
    record_of: RecordOf, kind: str
) -> None:
    record = record_of(kind)
    many = {f"column_{i}": float(i) for i in range(40)}
    record = replace(record, importance=many, importance_deviation=dict.fromkeys(many, 0.1))
    charts = charts_of(record)
    name = "bands" if kind == "volatility" else "calibration"
    assert charts[name].height == charts["importance"].height > charts["loss"].height


def test_a_long_test_part_is_thinned_in_the_scatter_plot(record_of: RecordOf) -> None:
    data = record_of("volatility").data
    test = np.repeat(data.test, 20)
    data = replace(data, parts=replace(data.parts, test=test))
    axis = axis_of(record_of("volatility", None, data), "realized")
    step = -(-len(test) // 1000)
    dots = next(line for line in axis.lines if line.get_linestyle() == "None")
    assert dots.get_label() == f"one in {step} test windows"
    assert len(dots.get_xdata()) == -(-len(test) // step)


def test_an_infinite_loss_has_no_test(tmp_path: Path, record_of: RecordOf) -> None:
    forecasts = record_of("volatility").evaluation.tested.forecasts.copy()
    forecasts[3] = -400.0  # far too low for QLIKE, but not for the squared error
    page, document = page_of(tmp_path, record_of("volatility", forecasts))
    assert not {"qlike", "qlike_diebold_mariano"} & document["evaluation_results"].keys()
    assert "HAR, QLIKE" not in page.rows
    assert page.rows["HAR"] != ""
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


def test_without_quantiles_there_are_no_bands(tmp_path: Path, record_of: RecordOf) -> None:
    data = record_of("volatility").data
    labels = replace(data.labels, output=LogSigma(1))
    page, _ = page_of(tmp_path, record_of("volatility", None, replace(data, labels=labels)))
    assert "band" not in page.text.replace("gray band", "").lower()
    assert "Returns inside the band" not in page.tiles


def test_rmse_by_epoch_is_compared_with_har_and_persistence(record_of: RecordOf) -> None:
    record = record_of("volatility")
    data = record.data
    lines = drawn(axis_of(record, "rmse"))
    actual = data.targets(data.validation)
    for name, found in (
        ("HAR", data.base(data.validation)),
        ("persistence", data.persistence(data.validation)),
    ):
        assert lines[name] == pytest.approx([np.sqrt(np.mean((found - actual) ** 2))] * 2)


def test_a_model_that_is_shrunk_to_har(tmp_path: Path, record_of: RecordOf) -> None:
    data = record_of("volatility").data
    errors = data.targets(data.validation) - data.base(data.validation)
    output = LogSigma(1, float(np.mean(np.exp(2 * errors))))
    data = replace(data, labels=replace(data.labels, output=output))
    # HAR is in the network as float32.
    forecasts = data.base(data.test).astype(np.float32).astype(np.float64)
    network = data.base(data.test) + 0.3
    record = record_of("volatility", forecasts, data)
    record = replace(record, fitted=replace(record.fitted, shrinkage=0.0))
    for name in ("test", "zoom"):
        lines = drawn(axis_of(record, name, network))
        assert {"realized", "model = HAR"} == set(lines)
    page, _ = page_of(tmp_path, record, network)
    assert "The model has the same losses as HAR in every window." in page.text
    assert not set(OVER_TIME.split()) & set(charts_of(record, network))
    assert "Not drawn" not in page.text
    assert page.rows["shrinkage factor"] == "0%, estimated on the validation windows"
    banner = page.find("p", "banner")[0]
    assert banner.text.startswith("The model is equal to HAR.")
    assert "so the model always predicts the same as HAR." in banner.text


# Returns


def test_returns_are_drawn_in_percent(tmp_path: Path, record_of: RecordOf) -> None:
    record = record_of("returns")
    data, predicted = record.data, record.evaluation.tested.forecasts
    lines = drawn(axis_of(record, "test"))
    np.testing.assert_allclose(lines["actual"], 100 * data.targets(data.test))
    np.testing.assert_allclose(lines["model"], 100 * predicted)
    assert not lines["persistence"].any()
    residuals = axis_of(record, "residuals")
    np.testing.assert_allclose(
        residuals.lines[1].get_ydata(), 100 * (predicted - data.targets(data.test))
    )
    assert residuals.get_ylabel() == "predicted − actual, %"
    page, _ = page_of(tmp_path, record)
    error = np.sqrt(np.mean((predicted - data.targets(data.test)) ** 2))
    unchanged = np.sqrt(np.mean(data.targets(data.test) ** 2))
    assert page.tiles["Test RMSE"] == f"{100 * error:#.4g}% of the return"
    assert page.tiles["RMSE of persistence"].startswith(f"{100 * unchanged:#.4g}% ")
    assert cells(page)["persistence"] == [f"{100 * unchanged:#.4g}%", "1.000", "–"]


def test_deciles_of_returns(record_of: RecordOf) -> None:
    record = record_of("returns")
    tested = record.evaluation.tested
    ((predicted, observed, _),) = points(axis_of(record, "deciles")).values()
    groups = pd.qcut(tested.forecasts, 10)
    frame = pd.DataFrame({"p": tested.forecasts, "r": tested.actual})
    means = 100 * frame.groupby(groups, observed=True).mean()
    np.testing.assert_allclose(predicted, means["p"])
    np.testing.assert_allclose(observed, means["r"])


def test_the_horizon_of_returns_is_stated(tmp_path: Path, record_of: RecordOf) -> None:
    data = record_of("returns").data
    far = replace(data, labels=replace(data.labels, output=Return(24, 1)))
    page, _ = page_of(tmp_path, record_of("returns", None, far))
    assert "The return over the next 24 bars." in page.text
    assert "widened because 24-bar horizons overlap" in page.text


# What can go wrong


def cut(data: WindowedData, count: int) -> WindowedData:
    """The first windows of the test part."""
    return replace(data, parts=replace(data.parts, test=data.test[:count]))


@pytest.mark.parametrize("count", [2, 5, 25])
@pytest.mark.parametrize("kind", KINDS)
def test_few_test_windows(tmp_path: Path, record_of: RecordOf, kind: str, count: int) -> None:
    record = record_of(kind, None, cut(record_of(kind).data, count))
    page, _ = page_of(tmp_path, record)
    assert f"Last {count} test predictions" in page.text
    plot_training(tmp_path / "training.png", "few", record)


@pytest.mark.parametrize("kind", ["two", "three"])
def test_one_class_in_the_test_part(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    data = record_of(kind).data
    up = data.targets(data.test) == (1 if kind == "two" else 2)
    only = replace(data, parts=replace(data.parts, test=data.test[up]))
    record = record_of(kind, None, only)
    page, _ = page_of(tmp_path, record)
    missing = "down" if kind == "two" else "down or flat"
    assert f"No test window was {missing}." in page.text
    rows = texts(axis_of(record, "confusion"))
    assert rows[0] == "0"
    plot_training(tmp_path / "training.png", "one class", record)


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("certain", [False, True])
def test_equal_probabilities(tmp_path: Path, record_of: RecordOf, kind: str, certain: bool) -> None:
    count = len(record_of(kind).data.test)
    one: Any = 1.0 if certain else 0.5
    if kind == "three":
        one = [0.0, 0.0, 1.0] if certain else [0.2, 0.3, 0.5]
    record = record_of(kind, np.array([one] * count))
    assert texts(axis_of(record, "calibration")) == ["all predicted probabilities are equal"]
    page, _ = page_of(tmp_path, record)
    assert "Points on the dashed line" not in page.text
    plot_training(tmp_path / "training.png", "equal", record)


def test_a_linear_model_without_moves_has_no_direction(tmp_path: Path, record_of: RecordOf) -> None:
    record = record_of("returns")
    tested = record.evaluation.tested
    still = {**tested.baselines, "linear": tested.baselines["persistence"]}
    evaluation = replace(record.evaluation, tested=replace(tested, baselines=still))
    page, _ = page_of(tmp_path, replace(record, evaluation=evaluation))
    assert cells(page)["linear model"][-1] == "–"


@pytest.mark.parametrize("kind", ["returns", "volatility"])
def test_equal_forecasts(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    record = record_of(kind, np.full(len(record_of(kind).data.test), -0.01))
    page_of(tmp_path, record)
    plot_training(tmp_path / "training.png", "equal", record)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_solution_has_no_epochs(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    record = record_of(kind)
    history = {name: values[:1] for name, values in record.fitted.history.items()}
    fitted = replace(
        record.fitted, engine="exact", history=history, epochs=1, best_epoch=1, epoch_seconds=[0.2]
    )
    record = replace(record, fitted=fitted)
    axis = axis_of(record, "loss")
    assert list(axis.get_xticks()) == []
    assert "best epoch" not in drawn(axis)
    page, _ = page_of(tmp_path, record)
    assert "solved exactly, so there are no epochs" in page.text
    assert "of at most" not in page.text
    assert page.rows["time to solve"] == "0.20 s"
    assert "by epoch" not in page.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_without_charts(tmp_path: Path, record_of: RecordOf, kind: str) -> None:
    record = record_of(kind)
    created = datetime(2026, 1, 2, tzinfo=UTC)
    document = metadata(record, version="2026-01-02_03h04m05s_v1", created=created)
    path = tmp_path / "report.html"
    write_report(path, record, document, stages={}, total=1.0)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.count("Not drawn; see the checks.") == len(CHARTS[kind].split())


def test_groups_of_few_windows_are_counted(tmp_path: Path, record_of: RecordOf) -> None:
    page, _ = page_of(tmp_path, record_of("returns", None, cut(record_of("returns").data, 25)))
    assert re.search(r" high, above [\d.]+% 0 ", page.text)
    few = "Groups of fewer than 20 windows are not reliable: medium has 3, high has 0."
    assert few in page.text
