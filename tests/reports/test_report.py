"""The figures and the page of a run, without training one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats

from atb_fast.bundles.contents import metadata
from atb_fast.config import TrainingConfig
from atb_fast.evaluation.diagnostics import evaluate, robustness
from atb_fast.evaluation.metrics import (
    Direction,
    diebold_mariano,
    direction,
    directional_accuracy,
    return_deciles,
    rmse,
)
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.reports.charts import CHARTS, draw_charts
from atb_fast.reports.page import write_report
from atb_fast.training.device import decide
from atb_fast.training.engine import FitResult

LENGTH = 12
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """The tags of a page; an AssertionError if they do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return TrainingConfig(symbol="BTCUSDT", source="sample", sequence_length=LENGTH)


@pytest.fixture(scope="module")
def data(market: Market, config: TrainingConfig) -> WindowedData:
    # A hole of three days among the candles.
    candles = market.candles.head(600)
    candles = pl.concat([candles[:300], candles[303:]])
    prepared = prepare(Market(candles, market.sentiment), replace(config, force_sentiment=True))
    return split(prepared, config)


class Momentum:
    """Predicts from close and sentiment of the last row."""

    def __init__(self, data: WindowedData) -> None:
        names = data.prepared.matrix.names
        self.columns = [names.index("close_scaled"), names.index("sentiment_momentum_scaled")]

    def predict_on_batch(self, windows: Any) -> Any:
        return (windows[:, -1, self.columns] @ [5000.0, 1000.0])[:, None]


def make_record(
    data: WindowedData, config: TrainingConfig, predictions: np.ndarray[Any, Any]
) -> RunRecord:
    history = {"loss": [3e8, 2e8], "val_loss": [4e8, 1e8]}
    history |= {f"{name[:-4]}rmse": [v**0.5 for v in loss] for name, loss in history.items()}
    names = data.prepared.matrix.names
    return RunRecord(
        config,
        data,
        decide([], engine="keras", mixed_precision=False, batch_size=None),
        FitResult("keras", history, 2, 2, [1.5, 0.5]),
        evaluate(Momentum(data), data, predictions),
        robustness=robustness(Momentum(data), data, predictions),
        importance={name: float(i) for i, name in enumerate(names)},
        importance_deviation=dict.fromkeys(names, 0.5),
        onnx_difference={"1": 0.0, "7": 1.25e-7, "256": 2e-7},
    )


Written = tuple[str, dict[str, Any]]
Write = Callable[..., Written]


@pytest.fixture(scope="module")
def charts(data: WindowedData, config: TrainingConfig) -> dict[str, str]:
    predictions = data.targets(data.test) * 1.2
    return draw_charts(make_record(data, config, predictions), predictions)


@pytest.fixture
def write(
    tmp_path: Path, data: WindowedData, config: TrainingConfig, charts: dict[str, str]
) -> Write:
    def written(predictions: Any = None, data: WindowedData = data, **changes: Any) -> Written:
        if predictions is None:
            predictions = data.targets(data.test) * 1.2
        record = make_record(data, config, predictions)
        record = replace(record, **({"charts": charts} | changes))
        created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        document = metadata(record, version="2026-01-02_03h04m05s_v1", created=created)
        document["verification"] = {"feature_skew": 0.0, "prediction_difference": 3.5e-7}
        stages = {"training": 61.25, "onnx": 2.5}
        write_report(tmp_path / "report.html", record, document, stages=stages, total=70.0)
        return (tmp_path / "report.html").read_text(encoding="utf-8"), document

    return written


def test_the_page_is_one_file_that_loads_nothing(write: Write) -> None:
    text, _ = write()
    page = Page(text)
    assert len(text) < 1_500_000
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object"}
    for tag, attributes in page.tags:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), tag
        assert not [name for name in attributes if name.startswith("on")]
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    used = {str(a["xlink:href"])[1:] for _, a in page.tags if "xlink:href" in a}
    used |= set(re.findall(r"url\(#(.*?)\)", text))
    assert used <= set(names)


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        ("worse than", "bad"),
        ("no better than", "note"),
        ("as good as", "note"),
        ("hardly better than", "note"),
        ("better than", "good"),
    ],
)
def test_the_verdict_comes_first(write: Write, data: WindowedData, verdict: str, tone: str) -> None:
    actual, last = data.targets(data.test), data.persistence(data.test)
    # Right and wrong by turns: the sum is small beside what chance does.
    turns = np.where(np.arange(len(last)) % 2, 1.0, -1.0) * (actual - last)
    predictions = {
        "worse than": actual * 1.2,
        "no better than": last + 0.001 * turns,
        "as good as": last,
        "hardly better than": last + 0.001 * turns,
        "better than": actual * 1.0001,
    }[verdict]
    if "better" in verdict and tone == "note":
        # Of the two signs, that which has the wanted end.
        better = rmse(actual, predictions) < rmse(actual, last)
        if better != (verdict == "hardly better than"):
            predictions = last - 0.001 * turns
    text, document = write(predictions)
    page, results = Page(text), document["evaluation_results"]
    found = re.findall(r"The model is (.*?) no change", page.text)
    assert found == [verdict]
    assert f'<p class="banner {tone}"><strong>The model is' in text
    assert page.text.index(found[0]) < page.text.index("Persistence RMSE")
    assert ("chance explains" in page.text) == ("better" in verdict and tone == "note")
    assert (results["diebold_mariano"] > 2) == (verdict == "better than")
    assert (results["diebold_mariano"] < -2) == (verdict == "worse than")


def test_made_up_prices_are_named_at_the_top(write: Write) -> None:
    synthetic = Page(write()[0])
    assert synthetic.text.index("Synthetic sample market") < synthetic.text.index(
        "Persistence RMSE"
    )
    assert "alternative.me" not in synthetic.text


def test_real_sentiment_is_attributed(write: Write, config: TrainingConfig) -> None:
    page = Page(write(config=replace(config, source="binance"))[0])
    assert "Fear & Greed index: Source: alternative.me" in page.text
    assert "ynthetic" not in page.text
    files = replace(config, source="files", candles=Path("a.csv"), sentiment=Path("b.csv"))
    assert "b.csv, as the Fear & Greed index" in Page(write(config=files)[0]).text


def test_a_longer_horizon_is_said(write: Write, data: WindowedData) -> None:
    near, _ = write()
    assert "predicted one bar ahead" in near
    assert "take the windows for independent" in near
    test = data.test[:-4]
    far = replace(
        data, price_scale=PriceScale.linear(horizon=5), parts=Parts(data.train, test, test)
    )
    text, document = write(far.persistence(far.test) * 1.2, far)
    assert "predicted 5 bars ahead" in text
    assert "Intervals allow for 5 bars that neighbours share" in text
    bars = document["evaluation_results"]["directional_bars"]
    assert 0 < bars <= -(-len(far.test) // 5)
    assert f" {bars:,} bars: " in text


def test_always_saying_up_is_no_skill(write: Write, data: WindowedData) -> None:
    text, document = write(data.persistence(data.test) * 1.2)
    results = document["evaluation_results"]
    assert results["directional_accuracy"] == results["directional_up_share"]
    up = results["directional_up_share"]
    always = f"no better than always saying {'up' if up >= 0.5 else 'down'}, "
    assert (f"{always}{100 * up:.1f}" in text) == (up >= 0.5)
    knowing, _ = write(data.targets(data.test))
    assert "better than always saying" in knowing
    assert "no better than always saying" not in knowing


def test_figures_are_those_of_the_metadata(write: Write, data: WindowedData) -> None:
    text, document = write(data.targets(data.test) * 1.1)
    page, results = Page(text), document["evaluation_results"]
    error, unchanged = results["test_rmse"], results["persistence_rmse"]
    for figure in (
        f"{error:,.2f}",
        f"{unchanged:,.2f}",
        f"{error / unchanged:.3f}",
        f"{results['mape']:.2f}\xa0%",
        f"{results['directional_accuracy'] * 100:.1f}\xa0%",
        f"interval {results['directional_accuracy_low'] * 100:.1f} to "
        f"{results['directional_accuracy_high'] * 100:.1f}\xa0%",
        *(f"{value:,.2f}" for value in document["robustness_results"].values()),
        f"{document['dataset']['train_windows']:,} windows",
        f"{document['dataset']['test_windows']:,} windows",
        *(document["version_id"], document["dataset"]["sha256"]["candles"], "2026-01-02 03:04 UTC"),
        *("1.2e-07 ≤ 1e-05", "3.5e-07 ≤ 1e-05", "61.25", "70.0 s in all"),
        *(document["versions"]["numpy"], "1 (steps longer than a bar)"),
    ):
        assert figure in page.text, figure


def test_what_went_wrong_is_text_and_not_markup(write: Write) -> None:
    attack = "<script>alert('&')</script>"
    text, _ = write(failures={"robustness": attack, "report": attack}, robustness=None)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(attack) == 2
    assert page.text.count("✗\xa0failed") == 2


def test_a_run_without_onnx_and_charts(write: Write, config: TrainingConfig) -> None:
    skipped = replace(config, skip_onnx=True, skip_robustness=True)
    text, _ = write(config=skipped, onnx_difference=None, robustness=None, charts={})
    page = Page(text)
    assert "Not published." in page.text
    assert page.text.count("Not drawn") == len(CHARTS)
    assert "Not measured" in page.text


def test_charts_say_what_they_show(write: Write, charts: dict[str, str]) -> None:
    assert tuple(charts) == CHARTS
    page = Page(write()[0])
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == len({drawing["aria-label"] for drawing in drawings}) == len(CHARTS)
    assert {drawing["role"] for drawing in drawings} == {"img"}
    assert [tag for tag, _ in page.tags].count("figcaption") == len(CHARTS)
    for name, units in {
        "market": ["quote currency", "UTC", "train", "validation = test", "gap (1)"],
        "loss": ["mean squared error, (quote currency)²", "epoch", "training", "validation"],
        "rmse": ["RMSE, quote currency", "epoch", "kept epoch", "persistence"],
        "test": ["quote currency", "UTC", "actual", "model", "persistence"],
        "residuals": ["predicted − actual, quote currency", "UTC"],
        "histogram": ["predicted − actual, quote currency", "test windows"],
        "deciles": ["mean predicted return, %", "mean actual return, %", "95 % interval"],
        "importance": ["rise of the RMSE, quote currency", "sentiment_momentum"],
    }.items():
        written = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", charts[name]))
        for unit in units:
            assert unit in written, (name, unit)


def test_charts_take_their_colours_from_the_page(charts: dict[str, str], write: Write) -> None:
    defined = set(re.findall(r"--(\w+):", write()[0]))
    for chart in charts.values():
        assert set(re.findall(r"var\(--(\w+)\)", chart)) <= defined
        assert not re.search(r"#[0-9a-f]{6}\b", chart)


def test_the_same_run_gives_the_same_charts(
    data: WindowedData, config: TrainingConfig, charts: dict[str, str]
) -> None:
    predictions = data.targets(data.test) * 1.2
    assert draw_charts(make_record(data, config, predictions), predictions) == charts


def test_a_validation_part_of_its_own_is_shown(
    write: Write, data: WindowedData, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = data.train[-50:]
    monkeypatch.setattr(WindowedData, "validation", property(lambda _: own))
    predictions = data.targets(data.test)
    drawn = draw_charts(make_record(data, config, predictions), predictions)
    assert ">validation</text>" in drawn["market"]
    page = Page(write(charts=drawn)[0])
    assert "50 windows" in page.text
    assert "chose the epoch" not in page.text
    assert "Validation windows are the test windows" not in page.text


def test_charts_of_few_windows_and_of_predictions_that_have_no_return(
    data: WindowedData, config: TrainingConfig
) -> None:
    for count in (1, 25):
        few = replace(data, parts=replace(data.parts, test=data.test[:count]))
        predictions = -few.targets(few.test)
        charts = draw_charts(make_record(few, config, predictions), predictions)
        assert "too few test windows" in charts["deciles"]
        assert f"{len(few.test)} predictions ≤ 0 left out" in charts["deciles"]


def test_long_series_keep_their_extremes() -> None:
    from atb_fast.reports.charts import _thinned

    values = np.random.default_rng(0).standard_normal(100_003)
    times, kept = _thinned(np.arange(len(values)), values)
    assert len(kept) <= 800
    assert {kept.min(), kept.max()} == {values.min(), values.max()}
    assert (np.diff(times) > 0).all()
    np.testing.assert_array_equal(values[times], kept)


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (1, 1), (53, 100), (4000, 7777)])
def test_directional_accuracy_has_a_wilson_interval(hits: int, count: int) -> None:
    last = np.full(count + 3, 100.0)
    actual = last + 1
    actual[-3:] = 100.0  # did not move
    predicted = np.where(np.arange(count + 3) < hits, 101.0, 99.0)
    found = directional_accuracy(last, actual, predicted)
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert (found.share, found.bars, found.up_share) == (hits / count, count, 1.0)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_horizons_that_overlap_are_counted_once(data: WindowedData) -> None:
    far = replace(
        data,
        price_scale=PriceScale.linear(horizon=4),
        parts=replace(data.parts, test=data.test[:41]),
    )
    last, actual = far.persistence(far.test), far.targets(far.test)
    predicted = last + np.random.default_rng(1).standard_normal(41)
    found = direction(far, predicted)
    assert found == directional_accuracy(last[::4], actual[::4], predicted[::4])
    assert found.bars == 11
    near, wide = (return_deciles(last, actual, predicted, horizon) for horizon in (1, 4))
    np.testing.assert_allclose(wide.half_width, 2 * near.half_width)


@pytest.mark.parametrize("horizon", [1, 4])
def test_diebold_mariano_is_a_t_statistic(data: WindowedData, horizon: int) -> None:
    some = replace(
        data,
        price_scale=PriceScale.linear(horizon=horizon),
        parts=replace(data.parts, test=data.test[:-8]),
    )
    actual, last = some.targets(some.test), some.persistence(some.test)
    rng = np.random.default_rng(3)
    predicted = last + 0.3 * (actual - last) + rng.standard_normal(len(last))
    gain = (last - actual) ** 2 - (predicted - actual) ** 2
    got = diebold_mariano(some, predicted)
    if horizon == 1:
        expected = stats.ttest_1samp(gain, 0.0).statistic
        assert got == pytest.approx(expected * np.sqrt(len(gain) / (len(gain) - 1)), rel=1e-9)
    else:
        apart = gain - gain.mean()
        covariances = np.correlate(apart, apart, "full")[len(gain) - 1 :][:4] / len(gain)
        variance = 2 * covariances.sum() - covariances[0]
        assert got == pytest.approx(gain.mean() / np.sqrt(variance / len(gain)), rel=1e-9)
    assert diebold_mariano(some, last) == 0.0


def test_directional_accuracy_of_prices_that_stand_still() -> None:
    still = np.full(5, 3.0)
    assert directional_accuracy(still, still, still + 1) == Direction()
    # A model that says "no change" says nothing about up and down.
    assert directional_accuracy(still, still + 1, still) == Direction()


@pytest.mark.parametrize("count", [100, 403])
def test_deciles_are_those_of_pandas(count: int) -> None:
    rng = np.random.default_rng(1)
    last = rng.uniform(50, 100, count)
    actual, predicted = (last * np.exp(rng.normal(0, 0.05, count)) for _ in range(2))
    predicted[:3] = [0.0, -1.0, -5.0]
    deciles = return_deciles(last, actual, predicted)
    assert deciles.left_out == 3

    frame = pd.DataFrame({"last": last, "actual": actual, "predicted": predicted})[3:]
    returns = pd.DataFrame(
        {name: np.log(frame[name] / frame["last"]) for name in ("actual", "predicted")}
    )
    groups = returns.groupby(pd.qcut(returns["predicted"], 10))
    np.testing.assert_allclose(deciles.predicted, groups["predicted"].mean())
    np.testing.assert_allclose(deciles.actual, groups["actual"].mean())
    np.testing.assert_allclose(deciles.half_width, groups["actual"].sem() * stats.norm.ppf(0.975))


def test_neutral_sentiment_is_a_momentum_of_zero(data: WindowedData) -> None:
    model = Momentum(data)
    starts, prepared = data.test, data.prepared
    predictions = model.predict_on_batch(data.windows(starts))[:, 0]
    results = robustness(model, data, predictions)
    assert prepared.pipeline is not None
    still = prepared.frame.with_columns(sentiment_momentum=pl.lit(0.0))
    rows = prepared.pipeline.transform(still)
    # Candles without sentiment are in this matrix, too.
    lasts = np.searchsorted(rows.rows, prepared.matrix.rows[starts + LENGTH - 1])
    expected = rmse(data.targets(starts), model.predict_on_batch(rows.values[lasts][:, None])[:, 0])
    assert results["test_rmse_neutral_sentiment"] == pytest.approx(expected, rel=1e-6)
    assert results["test_rmse_neutral_sentiment"] != results["test_rmse_without_sentiment"]
