"""report.html as a browser sees it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from relabelling import relabelled
from report_pages import ATTACK, Page, check_self_contained

from atb_fast import TrainingConfig
from atb_fast.bundles.contents import metadata
from atb_fast.evaluation.diagnostics import before_shrinkage
from atb_fast.evaluation.metrics import rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.reports.charts import draw_charts
from atb_fast.reports.page import write_report

Written = tuple[Page, dict[str, Any]]
Write = Callable[..., Written]


@pytest.fixture
def write(tmp_path: Path, make_record: Callable[..., RunRecord], charts: dict[str, str]) -> Write:
    """Write a page for predictions and a changed record; return it with its metadata."""

    def written(predictions: Any = None, *data: WindowedData, **changes: Any) -> Written:
        record = replace(make_record(predictions, *data), **({"charts": charts} | changes))
        created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        document = metadata(record, version="2026-01-02_03h04m05s_v1", created=created)
        document["verification"] = {"feature_skew": 0.0, "prediction_difference": 3.5e-7}
        return write_page(tmp_path, record, document), document

    return written


def write_page(folder: Path, record: RunRecord, document: dict[str, Any]) -> Page:
    stages = {"training": 61.25, "onnx": 2.5}
    write_report(folder / "report.html", record, document, stages=stages, total=70.0)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_self_contained(write: Write) -> None:
    page, _ = write()
    assert len(page.source) < 1_500_000
    check_self_contained(page)


@pytest.mark.parametrize(
    ("forecasts", "verdict", "tone"),
    [
        ("far", "worse than", "bad"),
        ("near", "better than", "good"),
        ("last", "equal to", "note"),
        ("a little worse", "statistically indistinguishable from", "note"),
        ("a little better", "statistically indistinguishable from", "note"),
    ],
)
def test_the_verdict_comes_first(
    write: Write, data: WindowedData, forecasts: str, verdict: str, tone: str
) -> None:
    actual, last = data.targets(data.test), data.persistence(data.test)
    # Alternately right and wrong, so that the errors nearly cancel.
    turns = 0.001 * np.where(np.arange(len(last)) % 2, 1.0, -1.0) * (actual - last)
    better, worse = last + turns, last - turns
    if rmse(actual, better) > rmse(actual, last):
        better, worse = worse, better
    predictions = {
        "far": actual * 1.2,
        "near": actual * 1.0001,
        "last": last,
        "a little worse": worse,
        "a little better": better,
    }[forecasts]
    headline = f"The model is {verdict} persistence."
    record_page, document = write(predictions)
    banner = record_page.find("p", "banner")[0]
    assert banner.text.startswith(headline)
    assert banner.attributes["class"] == f"banner {tone}"
    assert record_page.text.index(headline) < record_page.text.index("RMSE ratio to persistence")
    statistic = document["evaluation_results"]["diebold_mariano"]
    assert (statistic > 2) == (verdict == "better than")
    assert (statistic < -2) == (verdict == "worse than")
    if predictions is not last:
        assert f"differ by {abs(statistic):.1f} standard errors" in banner.text
    assert ("due to chance" in banner.text) == ("indistinguishable" in headline)


def test_a_shrinkage_factor_of_0_is_explained(
    write: Write, make_record: Callable[..., RunRecord], data: WindowedData
) -> None:
    last = data.persistence(data.test)
    text = "The shrinkage factor estimated on the validation windows is 0"
    assert text not in write(last)[0].text
    page, _ = write(last, fitted=replace(make_record().fitted, shrinkage=0.0))
    assert text in page.find("p", "banner")[0].text
    assert page.rows["shrinkage factor"] == "0%, estimated on the validation windows"


def test_the_network_before_shrinkage_is_shown_next_to_the_model(
    write: Write, make_record: Callable[..., RunRecord], data: WindowedData
) -> None:
    assert not [name for name in write()[0].tiles if name.startswith("Unshrunk")]
    last, network = data.persistence(data.test), data.targets(data.test) * 1.1
    _, errors = before_shrinkage(make_record().evaluation, data, network) or (None, {})
    fitted = replace(make_record().fitted, shrinkage=0.0)
    record = replace(make_record(last), fitted=fitted, unshrunk=errors)
    drawings = draw_charts(record, network)
    page, document = write(last, charts=drawings, fitted=fitted, unshrunk=errors)
    tiles = page.tiles
    assert tiles["Unshrunk test RMSE"] == f"{errors['test_rmse']:,.2f} quote currency"
    ratio = errors["test_rmse"] / errors["persistence_rmse"]
    assert tiles["Unshrunk RMSE ratio to persistence"].startswith(f"{ratio:.3f} ")
    share = 100 * errors["directional_accuracy"]
    assert tiles["Unshrunk directional accuracy"].startswith(f"{share:.1f}% ")
    assert tiles["Directional accuracy"] == "undefined the model predicts no move"
    assert document["unshrunk_results"] == errors
    for name in ("test", "zoom"):
        assert ">unshrunk<" in drawings[name]
    assert "The predicted returns are shown before shrinkage" in page.text
    assert "decile mean" in drawings["deciles"]  # of the network


@pytest.mark.parametrize(
    ("promoted", "better", "tone", "title"),
    [
        (True, True, "note", "This version went live."),
        (True, False, "bad", "This version went live."),
        (False, False, "note", "This version did not go live."),
    ],
)
def test_promotion_is_stated_near_the_headline(
    write: Write,
    tmp_path: Path,
    make_record: Callable[..., RunRecord],
    data: WindowedData,
    promoted: bool,
    better: bool,
    tone: str,
    title: str,
) -> None:
    page, document = write()
    assert " live." not in " ".join(banner.text for banner in page.find("p", "banner"))
    reason = "the model is worse than persistence (RMSE 2 against 1)"
    document["promotion"] = {"policy": "gate", "promoted": promoted, "reason": reason}
    record = make_record(data.targets(data.test) * 1.0001) if better else make_record()
    page = write_page(tmp_path, record, document)
    banner = page.find("p", "banner")[1]
    assert banner.text == f"{title} T{reason[1:]} (promotion policy: gate)."
    assert banner.attributes["class"] == f"banner {tone}"
    assert page.text.index(title) < page.text.index("RMSE ratio to persistence")


def test_the_page_names_the_dashed_line_only_if_it_is_drawn(
    write: Write, make_record: Callable[..., RunRecord], data: WindowedData
) -> None:
    last, rng = data.persistence(data.test), np.random.default_rng(1)
    near, far = last * rng.normal(1, 0.02, len(last)), last * rng.normal(0.05, 0.001, len(last))
    for predictions, drawn in ((near, True), (far, False)):
        page, _ = write(charts=draw_charts(make_record(predictions)))
        assert ("Points on the dashed line are calibrated" in page.text) == drawn
        assert ("perfect calibration is out of range" in page.text) != drawn
        assert ("perfect calibration</text>" in page.source) == drawn


def test_steps_are_not_checks(write: Write) -> None:
    page, _ = write()
    assert page.rows["plots"] == "written"
    assert page.rows["robustness"] == "measured"
    captions = [caption.text for caption in page.find("caption")]
    assert "Optional steps" in captions


def test_robustness_of_a_model_without_sentiment(
    write: Write, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    _, document = write()
    page = write_page(tmp_path, make_record(), document | {"has_sentiment": False})
    assert "The model does not use sentiment." in page.text
    assert page.rows["robustness"] == "– skipped no sentiment"


def test_synthetic_prices_are_named_at_the_top(write: Write) -> None:
    page, _ = write()
    titles = [banner.text for banner in page.find("p", "banner")]
    assert titles[1].startswith("Synthetic sample market.")
    for tag in ("title", "h1"):
        assert page.find(tag)[0].text.endswith("synthetic sample market")
    assert page.rows["sentiment"] == "synthetic index"
    assert "alternative.me" not in page.text


def test_real_sentiment_is_attributed(write: Write, config: TrainingConfig) -> None:
    page, _ = write(config=replace(config, source="binance"))
    assert page.rows["sentiment"] == "Fear & Greed index: Source: alternative.me"
    assert "ynthetic" not in page.text
    files = replace(config, source="files", candles=Path("a.csv"), sentiment=Path("b.csv"))
    page, _ = write(config=files)
    assert page.rows["source"] == "a.csv"
    assert page.rows["sentiment"] == "b.csv (Fear & Greed index: Source: alternative.me)"


def test_a_longer_horizon_is_stated(write: Write, data: WindowedData) -> None:
    near, _ = write()
    assert "predicted one bar ahead" in near.text
    assert "Intervals assume independent windows." in near.text
    test = data.test[:-4]
    far = relabelled(data, PriceScale.linear(horizon=5))
    far = replace(far, parts=Parts(data.train, test, test))
    page, document = write(far.persistence(far.test) * 1.2, far)
    assert "predicted 5 bars ahead" in page.text
    assert "widened because 5-bar horizons overlap" in page.text
    bars = document["evaluation_results"]["directional_bars"]
    assert 0 < bars <= -(-len(far.test) // 5)
    assert f" {bars:,} bars; " in page.tiles["Directional accuracy"]


@pytest.mark.parametrize(
    ("low", "high", "up", "text"),
    [
        (0.50, 0.58, 0.55, "no better than always predicting up (55.0%)"),
        (0.56, 0.64, 0.55, "better than always predicting up (55.0%)"),
        (0.44, 0.54, 0.55, "worse than always predicting up (55.0%)"),
        (0.50, 0.58, 0.40, "worse than always predicting down (60.0%)"),
        (0.61, 0.66, 0.40, "better than always predicting down (60.0%)"),
    ],
)
def test_direction_is_compared_with_always_predicting_the_same(
    write: Write,
    make_record: Callable[..., RunRecord],
    low: float,
    high: float,
    up: float,
    text: str,
) -> None:
    evaluation = make_record().evaluation
    figures = {
        "directional_accuracy": (low + high) / 2,
        "directional_accuracy_low": low,
        "directional_accuracy_high": high,
        "directional_bars": 123,
        "directional_up_share": up,
    }
    changed = replace(evaluation, results={**evaluation.results, **figures})
    page, _ = write(evaluation=changed)
    assert page.tiles["Directional accuracy"] == (
        f"{50 * (low + high):.1f}% of 123 bars; "
        f"95% interval {100 * low:.1f}% to {100 * high:.1f}%; {text}"
    )
    (drawn,) = page.find("div", "range")
    assert drawn.attributes["aria-label"] == text


def test_unknown_direction_is_undefined(write: Write, data: WindowedData) -> None:
    page, _ = write(data.persistence(data.test))
    assert page.tiles["Directional accuracy"] == "undefined the model predicts no move"
    assert page.find("div", "range") == []


def test_figures_are_those_of_the_metadata(write: Write, data: WindowedData) -> None:
    page, document = write(data.targets(data.test) * 1.1)
    results, dataset = document["evaluation_results"], document["dataset"]
    error, unchanged = results["test_rmse"], results["persistence_rmse"]
    tiles, rows = page.tiles, page.rows
    assert tiles["Test RMSE"] == f"{error:,.2f} quote currency"
    assert tiles["RMSE of persistence"] == f"{unchanged:,.2f} the forecast of the last close"
    assert tiles["RMSE ratio to persistence"] == f"{error / unchanged:.3f} below 1 is better"
    assert tiles["MAPE"] == f"{results['mape']:.2f}% persistence {results['persistence_mape']:.2f}%"
    assert rows["train"].startswith(f"{dataset['train_windows']:,} windows, ")
    assert rows["test"].startswith(f"{dataset['test_windows']:,} windows, ")
    assert rows["gaps"] == "1 (steps longer than one bar)"
    assert rows["RMSE, training windows"] == f"{results['train_rmse']:,.2f} quote currency"
    robust = document["robustness_results"]
    assert rows["as trained"] == f"{robust['test_rmse']:,.2f}"
    assert rows["neutral sentiment"] == f"{robust['test_rmse_neutral_sentiment']:,.2f}"
    assert rows["scaled sentiment set to 0"] == f"{robust['test_rmse_without_sentiment']:,.2f}"
    assert rows["ONNX matches Keras, batch of 1"] == "✓ passed no difference"
    assert rows["ONNX matches Keras, batch of 7"] == "✓ passed 1.2e-07 ≤ 1e-05"
    assert rows["served predictions match Keras"] == "✓ passed 3.5e-07 ≤ 1e-05"
    assert rows["training"] == "61.25"
    assert rows["imports, checks, this page"] == "6.25"
    assert rows["numpy"] == document["versions"]["numpy"]
    assert rows["candles"] == f"{dataset['candles']:,} (1d)"
    assert dataset["sha256"]["candles"] in page.text
    assert "2026-01-02 03:04 UTC" in page.text


def test_simple_forecasts_are_shown_next_to_the_model(write: Write, data: WindowedData) -> None:
    page, document = write(data.targets(data.test) * 1.1)
    results = document["evaluation_results"]
    last, actual = data.persistence(data.test), data.targets(data.test)
    error, unchanged = rmse(actual, actual * 1.1), rmse(actual, last)
    table = next(each for each in page.find("table") if "next to simple" in each.text)
    assert table.text.startswith(
        "Test windows, next to simple forecasts (RMSE in quote currency) RMSE"
    )
    shares = [results[f"{name}accuracy"] for name in ("directional_", "contrarian_")]
    linear = results["linear_rmse"], results["linear_ratio"]
    for row in (
        f"model {error:,.2f} {error / unchanged:.3f} {shares[0]:.1%}",
        f"persistence {unchanged:,.2f} 1.000 –",
        f"contrarian – – {shares[1]:.1%}",
        f"linear model {linear[0]:,.2f} {linear[1]:.3f} ",
    ):
        assert row in table.text


def test_a_failed_comparison_says_by_how_much(
    tmp_path: Path, write: Write, make_record: Callable[..., RunRecord]
) -> None:
    _, document = write()
    document["verification"]["feature_skew"] = 0.25
    rows = write_page(tmp_path, make_record(), document).rows
    assert rows["serving features match training features"].startswith("✗ failed 2.5e-01 > ")


def test_hostile_text_is_escaped(
    tmp_path: Path, write: Write, config: TrainingConfig, make_record: Callable[..., RunRecord]
) -> None:
    hostile = replace(config, source="files", candles=Path(f"{ATTACK}.csv"), sentiment=Path("b"))
    failures = {"robustness": ATTACK, ATTACK: "x"}
    clean = {element.tag for element in write()[0].elements}
    _, document = write(config=hostile, failures=failures, robustness=None)
    document |= {"symbol": ATTACK, "model_type": ATTACK, "version_id": ATTACK}
    document["versions"] = {ATTACK: ATTACK}
    record = replace(
        make_record(),
        config=hostile,
        charts={"loss": ATTACK},
        failures=failures,
        robustness=None,
    )
    page = write_page(tmp_path, record, document)
    assert {element.tag for element in page.elements} <= clean
    assert f"{ATTACK} 1d, {ATTACK} model" in page.find("h1")[0].text
    assert page.rows["source"] == f"{ATTACK}.csv"
    assert page.rows["robustness"] == f"✗ failed {ATTACK}"
    assert page.rows[ATTACK] == "✗ failed x"
    assert page.text.count(ATTACK) >= 8  # a chart that is not markup is escaped as well


def test_hostile_names_in_charts_are_escaped(
    write: Write, make_record: Callable[..., RunRecord], data: WindowedData
) -> None:
    record = replace(
        make_record(), importance={ATTACK: 1.0, "a": 2.0}, importance_deviation={ATTACK: 1, "a": 1}
    )
    page, _ = write(charts=draw_charts(record))
    check_self_contained(page)
    assert f"{ATTACK[:29]}…" in page.text  # a long name leaves room for the bars
    names = [json.loads(values)["titles"] or [] for values in page.scripts[:-1]]
    assert any(f"{ATTACK[:29]}…" in each for each in names)


def test_a_run_without_onnx_and_charts(write: Write, config: TrainingConfig) -> None:
    skipped = replace(config, skip_onnx=True, skip_robustness=True)
    page, _ = write(config=skipped, onnx_difference=None, robustness=None, charts={})
    assert "Not published." in page.text
    assert page.text.count("Not drawn; see the checks.") == 13
    assert "Not measured; see the checks." in page.text
    assert page.rows["robustness"] == "– skipped"
    assert page.rows["ONNX matches Keras, batch of 1"] == "– skipped"


def test_every_chart_has_a_caption_and_a_label(write: Write) -> None:
    page, _ = write()
    drawings = [element.attributes for element in page.find("svg")]
    assert len(drawings) == len({str(drawing["aria-label"]) for drawing in drawings}) == 13
    assert {drawing["role"] for drawing in drawings} == {"img"}
    captions = [element.text for element in page.find("figcaption")]
    assert len(captions) == len(set(captions)) == 13


def test_the_page_defines_the_colors_of_its_charts(write: Write, charts: dict[str, str]) -> None:
    defined = set(re.findall(r"--([\w-]+):", write()[0].source))
    for chart in charts.values():
        used = set(re.findall(r"var\(--([\w-]+)\)", chart))
        assert used
        assert used <= defined


def test_a_separate_validation_part_is_shown(
    write: Write, data: WindowedData, make_record: Callable[..., RunRecord]
) -> None:
    shared, _ = write()
    assert shared.rows["validation"] == "the test windows"
    assert "selected on the test windows" in shared.text
    own = replace(data, parts=replace(data.parts, validation=data.train[-50:]))
    page, _ = write(None, own)
    assert page.rows["validation"].startswith("50 windows, ")
    assert "selected on the test windows" not in page.text
    assert "The validation windows are the test windows" not in page.text


def test_without_jinja2_there_is_no_page(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match="jinja2"):
        write()
    assert not (tmp_path / "report.html").exists()
