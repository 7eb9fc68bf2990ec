"""The page of a walk-forward evaluation, made from evaluations of the sample market."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_pages import ATTACK, Page, check_self_contained, wilson_percent

from atb_fast import TrainingConfig, WalkForward, walk_forward
from atb_fast.errors import ArgumentError
from atb_fast.evaluation.periods import Losses
from atb_fast.evaluation.scoring import WeightedClasses
from atb_fast.reports.charts.folds import Ratios, by_fold
from atb_fast.reports.charts.periods import gain_chart
from atb_fast.reports.evaluation import check_name, write_evaluation

#: What is evaluated, by kind of forecast.
KINDS: dict[str, dict[str, Any]] = {
    "prices": {"recipe": "causal", "sequence_length": 20},
    "returns": {"recipe": "causal", "target": "smoothed_return", "horizon": 5},
    "classes": {"recipe": "causal", "target": "binary_direction", "horizon": 5},
    "volatility": {"recipe": "volatility", "timeframe": "1d"},
}
#: What the title says in addition to the recipe.
TITLES = {
    "returns": ", target smoothed_return, horizon 5",
    "classes": ", target binary_direction, horizon 5",
}
#: The tile of the error, and the forecast to beat.
SHOWN = {
    "prices": ("Out-of-sample RMSE", "persistence"),
    "returns": ("Out-of-sample RMSE", "persistence"),
    "classes": ("Out-of-sample log loss", "the class shares"),
    "volatility": ("Out-of-sample RMSE", "HAR"),
}

Evaluated = tuple[dict[str, Any], WalkForward]
Evaluate = Callable[..., Evaluated]


@pytest.fixture(scope="session")
def evaluated() -> Evaluate:
    """Evaluate a recipe of each kind once; return the document of the command and the result."""
    known: dict[str, Evaluated] = {}

    def made(kind: str, folds: int = 3) -> Evaluated:
        key = f"{kind} {folds}"
        if key not in known:
            options: dict[str, Any] = {
                "sequence_length": 20,
                "network": "linear",
                "epochs": 2,
            } | KINDS[kind]
            config = TrainingConfig(symbol="BTCUSDT", source="sample", **options)
            result = walk_forward(config, folds=folds)
            document = {
                "config": config.to_dict() | {"embargo": None},
                "title": config.title,
                "window": "expanding",
                "folds": [fold.to_dict() for fold in result.folds],
            }
            known[key] = document, result
        return known[key]

    return made


def page_of(tmp_path: Path, *evaluations: tuple[dict[str, Any], WalkForward | None]) -> Page:
    path = tmp_path / "evaluation.html"
    write_evaluation(path, evaluations)
    return Page(path.read_text(encoding="utf-8"))


def named(document: dict[str, Any], symbol: str) -> dict[str, Any]:
    return document | {"config": document["config"] | {"symbol": symbol}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_complete_and_self_contained(
    tmp_path: Path, evaluated: Evaluate, kind: str
) -> None:
    document, made = evaluated(kind)
    page = page_of(tmp_path, (document, made))
    check_self_contained(page)
    changed = TITLES.get(kind, "")
    assert page.find("h1")[0].text.endswith(f" recipe{changed}, synthetic sample market")
    assert page_of(tmp_path, (document, made)).source == page.source
    tile, reference = SHOWN[kind]
    banner = page.find("p", "banner")[0]
    headline = f"The model is {made.verdict}."
    assert headline.endswith(f" {reference}.")
    assert banner.text.startswith(headline)
    assert page.text.index(headline) < page.text.index(tile) < page.text.index("Ratio to ")
    assert "Synthetic sample market." in page.text
    assert "Not drawn" not in page.text
    assert "3 folds, expanding window" in page.text
    assert f"{len(made.tested.times):,} bars" in page.text
    figures = page.find("figure")
    assert len(figures) == len(page.find("svg")) >= 6
    calibration = {"classes": "Calibration of prob", "volatility": "Calibration of the bands"}
    wanted = calibration.get(kind, "Calibration of predicted returns")
    assert any(figure.text.startswith(wanted) for figure in figures)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_folds_has_the_figures_of_each(
    tmp_path: Path, evaluated: Evaluate, kind: str
) -> None:
    document, made = evaluated(kind)
    page = page_of(tmp_path, (document, made))
    key = made.scoring.key
    for fold in (*document["folds"], made.pooled):
        days = [f"{datetime.fromisoformat(fold[end]):%Y-%m-%d}" for end in ("first", "last")]
        row = page.rows["all folds" if fold is made.pooled else " to ".join(days)].split()
        error = f"{100 * fold[key]:.4g}%" if kind == "returns" else None
        assert row[0] == (error or row[0])
        if error is None:
            assert float(row[0].replace(",", "")) == pytest.approx(fold[key], rel=1e-3)
        assert f"{fold['ratio']:.3f}" in row
        assert f"{fold['test']:,}" == row[-1]
        if "train" in fold:
            assert f"{fold['train']:,}" == row[-2]
        statistic = f"{fold['diebold_mariano']:+.1f}".replace("-", "−")
        assert statistic in row
        if kind == "classes":  # the interval counts every fifth window
            count = -(-fold["test"] // 5)
            low, high = wilson_percent(fold["accuracy"], count)
            text = f"{fold['accuracy']:.1%} ({low:.0f}–{high:.0f}, n = {count:,})"
            assert text in " ".join(row)
    assert ("n: test bars whose horizons do not overlap." in page.text) is (kind == "classes")
    if any(fold["shrinkage"] != 1 for fold in document["folds"]):
        assert "shrinkage" in [head.text for head in page.find("th")]


def drawn(axis: Any) -> dict[str, Any]:
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}


def test_ratios_span_the_test_periods() -> None:
    first, last = (
        [np.datetime64(f"2024-0{month}-{day}") for month in (1, 3)] for day in ("01", "28")
    )
    axis: Any = Figure().subplots()
    by_fold(axis, Ratios(first, last, [0.9, 1.2], {"EWMA": [1.1, 1.0]}, "HAR"))
    lines = drawn(axis)
    assert list(lines["model"]) == [0.9, 1.2]
    assert list(lines["EWMA"]) == [1.1, 1.0]
    assert list(lines["HAR"]) == [1.0, 1.0]
    periods = [list(ends) for ends in zip(first, last, strict=True)]
    spans = [line for line in axis.lines if list(line.get_xdata()) in periods]
    assert [list(line.get_ydata()) for line in spans] == [[0.9] * 2, [1.2] * 2]
    assert axis.get_ylabel() == "error ÷ error of HAR"


def test_the_gain_ends_at_the_difference_of_all_losses() -> None:
    times = np.arange("2024-01-01", "2024-01-05", dtype="datetime64[D]")
    losses = Losses(np.array([1.0, 1.0, 5.0, 0.0]), np.array([2.0, 2.0, 2.0, 2.0]), np.mean)
    axis: Any = Figure().subplots()
    gain_chart(times, losses, edges=[times[2]], name="HAR").draw(axis)
    np.testing.assert_allclose(drawn(axis)["model"], [12.5, 25.0, -12.5, 12.5])
    edge = next(line for line in axis.lines if line.get_linestyle() == ":")
    assert list(edge.get_xdata()) == [times[2]] * 2


def test_the_gain_agrees_with_the_errors(evaluated: Evaluate) -> None:
    """Squared errors: one minus the squared ratio of the RMSE."""
    _, made = evaluated("volatility")
    losses = made.scoring.losses_of(made.tested, made.tested.forecasts)
    other = made.scoring.losses_of(made.tested, made.tested.baselines["har"])
    axis: Any = Figure().subplots()
    times = made.tested.times.to_numpy()
    gain_chart(times, Losses(losses, other * 1.01, np.mean), edges=[], name="HAR").draw(axis)
    expected = 1 - (made.pooled["rmse"] / made.pooled["har_rmse"]) ** 2 / 1.01
    assert drawn(axis)["model"][-1] == pytest.approx(100 * expected)


def test_a_model_without_shrinkage_steps_is_not_called_shrunk(
    tmp_path: Path, evaluated: Evaluate
) -> None:
    document, made = evaluated("classes")
    page = page_of(tmp_path, (document, made))
    assert "shrinkage" not in [head.text for head in page.find("th")]
    still = replace(made, folds=[replace(fold, shrinkage=0.0) for fold in made.folds])
    page = page_of(tmp_path, (document, still))
    assert "shrinkage" in [head.text for head in page.find("th")]


def test_several_symbols_have_a_section_each(tmp_path: Path, evaluated: Evaluate) -> None:
    document, made = evaluated("volatility")
    page = page_of(
        tmp_path,
        (document, made),
        (named(document, "ETHUSDT"), made),
        (named(document, "XRPUSDT") | {"failure": "no candles for XRPUSDT"}, None),
    )
    check_self_contained(page)
    banners = [banner.text for banner in page.find("p", "banner")]
    assert re.match(r"The model is better than HAR on [02] of 2 symbols\.", banners[0])
    assert banners[1] == "XRPUSDT was not evaluated. no candles for XRPUSDT"
    headings = [heading.text for heading in page.find("h2")]
    assert headings[:2] == ["Symbols", "BTCUSDT 1d"]
    assert {"ETHUSDT 1d", "ETHUSDT: folds", "XRPUSDT"} <= set(headings)
    ratio = made.pooled["rmse"] / made.pooled["har_rmse"]
    assert f"{ratio:.3f}" in page.rows["ETHUSDT"].split()
    # Every ratio says what it divides by: this one, that of the chart, and those of the tables.
    assert {"/ HAR", "/ persistence"} <= {head.text for head in page.find("th")}
    assert "ratio" not in {head.text for head in page.find("th")}
    assert "Ratio to HAR by fold" in [title.text for title in page.find("h3")]
    assert page.rows["XRPUSDT"].startswith("not evaluated")


def test_the_verdict_of_several_symbols_counts_them(tmp_path: Path, evaluated: Evaluate) -> None:
    document, made = evaluated("prices")
    actual, unchanged = made.tested.actual, made.tested.baselines["persistence"]
    near = replace(made, tested=replace(made.tested, forecasts=0.5 * (actual + unchanged)))
    far = replace(made, tested=replace(made.tested, forecasts=2.0 * actual))
    page = page_of(tmp_path, (document, near), (named(document, "B"), far))
    banner = page.find("p", "banner")[0]
    text = "The model is better than persistence on 1 of 2 symbols. It is worse on 1."
    assert banner.text == text
    assert banner.attributes["class"] == "banner bad"
    page = page_of(tmp_path, (document, near), (named(document, "B"), near))
    banner = page.find("p", "banner")[0]
    assert banner.text == "The model is better than persistence on 2 of 2 symbols."
    assert banner.attributes["class"] == "banner good"


def test_figures_without_weights_contradict_some_verdicts(
    tmp_path: Path, evaluated: Evaluate
) -> None:
    document, made = evaluated("classes")
    up = made.tested.actual == 1
    scoring = WeightedClasses((-1, 1), (0.2, 5.0))
    further = {**made.tested.further, "weights": np.where(up, 5.0, 0.2)}

    def forecast(if_up: float, if_down: float) -> WalkForward:
        found = np.where(up, if_up, if_down)
        return replace(
            made, scoring=scoring, tested=replace(made.tested, forecasts=found, further=further)
        )

    # Nearly always expecting the class with the large weight is better only with weights.
    biased, right = forecast(0.97, 0.9), forecast(0.9, 0.1)
    page = page_of(tmp_path, (document, biased), (named(document, "B"), right))
    banner = page.find("p", "banner")[0]
    assert banner.text.startswith("The model is better than the class shares on 2 of 2 symbols.")
    assert "Figures without class weights contradict 1 of them, see below." in banner.text
    assert banner.attributes["class"] == "banner note"
    page = page_of(tmp_path, (document, right), (named(document, "B"), right))
    assert "contradict" not in page.text
    assert page.find("p", "banner")[0].attributes["class"] == "banner good"


def test_only_failed_symbols_still_make_a_page(tmp_path: Path, evaluated: Evaluate) -> None:
    document, _ = evaluated("prices")
    page = page_of(tmp_path, (document | {"failure": "no candles"}, None))
    check_self_contained(page)
    assert "BTCUSDT was not evaluated. no candles" in page.text


def test_hostile_names_are_escaped(tmp_path: Path, evaluated: Evaluate) -> None:
    document, made = evaluated("prices")
    hostile = named(document, ATTACK) | {"notes": [ATTACK]}
    hostile |= {"title": ATTACK}
    hostile["config"] |= {"recipe": ATTACK, "timeframe": ATTACK}
    failed = named(document, f"{ATTACK}2") | {"failure": ATTACK}
    page = page_of(tmp_path, (hostile, made), (failed, None))
    check_self_contained(page)
    assert ATTACK in page.find("h1")[0].text
    assert page.text.count(ATTACK) >= 6


def test_the_page_has_no_path_of_the_machine(tmp_path: Path, evaluated: Evaluate) -> None:
    document, made = evaluated("prices")
    config = document["config"] | {"candles": "/home/somebody/BTCUSDT_1d.csv", "source": "files"}
    page = page_of(tmp_path, (document | {"config": config}, made))
    assert "/home" not in page.text
    assert page.rows["candles"] == "BTCUSDT_1d.csv"
    assert str(document["config"]["cache_dir"]) not in page.text
    assert page.rows["epochs"] == "2"
    assert "Synthetic" not in page.text


@pytest.mark.parametrize("kind", ["prices", "volatility"])
def test_one_fold(tmp_path: Path, evaluated: Evaluate, kind: str) -> None:
    page = page_of(tmp_path, evaluated(kind, 1))
    assert "1 fold, expanding window" in page.text
    assert "all folds" not in page.rows
    assert "Dotted lines" not in page.text


def test_the_name_of_the_page_is_checked() -> None:
    check_name(Path("page.HTML"))
    with pytest.raises(ArgumentError, match=r"expected a name that ends with \.html, for example"):
        check_name(Path("page.pdf"))
