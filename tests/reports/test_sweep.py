"""The page of a study, made from invented documents of `sweep --json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_pages import ATTACK, Page, check_self_contained

from atb_fast.reports.charts.trials import Point, by_parameter, history, parameter_charts
from atb_fast.reports.sweep import write_sweep


def study(count: int = 12, **verdict: Any) -> dict[str, Any]:
    """A study whose trial 5 is the best, in which trial 3 failed and trial 4 was pruned."""
    trials: list[dict[str, Any]] = [
        {
            "number": number,
            "trial_id": f"{number:016x}",
            "params": {"epochs": 10 * (number + 1), "network": "mlp" if number % 2 else "linear"},
            "state": "complete",
            "value": 1.0 + 0.01 * abs(number - 5),
            "error": None,
            "folds": [],
        }
        for number in range(count)
    ]
    trials[3] |= {"state": "failed", "value": None, "error": "the loss became NaN"}
    folds = [{"reference_ratio": 1.2}, {"reference_ratio": 1.4}]
    trials[4] |= {"state": "pruned", "value": None, "folds": folds}
    ids = [trial["trial_id"] for trial in trials]
    found = {
        "keep": "defaults",
        "sentence": "Keep the defaults: the best of 12 trials is statistically "
        "indistinguishable from them (SPA p = 0.21, PBO 0.62).",
        "baseline_sentence": "No trial is significantly better than HAR (SPA p = 0.08).",
        "holdout_sentence": None,
        "spa_defaults": 0.21,
        "spa_baseline": 0.08,
        "pbo": 0.62,
        "confidence_set": [ids[5], ids[0], ids[6]],
        "holdout": {
            "first": "2024-06-01T00:00:00+00:00",
            "looks": 1,
            "best": {"value": 0.9912},
            "defaults": {"value": 1.0034},
        },
    }
    return {
        "study": {
            "id": "0123456789abcdef",
            "folder": "/home/somebody/studies/x",
            "symbols": ["BTCUSDT", "ETHUSDT"],
            "timeframe": "1d",
            "recipe": "volatility",
            "folds": 6,
            "window": "expanding",
            "search": "tpe",
            "reference": "HAR",
            "space": {"epochs": {"low": 10, "high": 200}, "network": ["linear", "mlp"]},
            "synthetic": True,
        },
        "trials": trials,
        "best": ids[5],
        "verdict": found | verdict,
        "importance": {"network": 0.25, "epochs": 0.75},
        "command": "atb-fast train model BTCUSDT ETHUSDT --recipe volatility",
    }


def page_of(tmp_path: Path, document: dict[str, Any]) -> Page:
    path = tmp_path / "report.html"
    write_sweep(path, document)
    return Page(path.read_text(encoding="utf-8"))


def points(document: dict[str, Any]) -> list[Point]:
    return [
        Point(number, trial["state"], trial["value"], trial["params"])
        for number, trial in enumerate(document["trials"])
    ]


def test_the_verdict_about_luck_comes_first(tmp_path: Path) -> None:
    page = page_of(tmp_path, study())
    check_self_contained(page)
    banner = page.find("p", "banner")[0]
    assert banner.text == (
        "Keep the defaults. The best of 12 trials is statistically indistinguishable from them "
        "(SPA p = 0.21, PBO 0.62)."
    )
    assert banner.attributes["class"] == "banner note"
    tiles = page.tiles
    assert tiles["p-value against the defaults"].startswith("0.210 ")
    assert tiles["Probability of overfitting"].startswith("62.0% ")
    assert tiles["p-value against HAR"].startswith("0.080 ")
    assert tiles["Best trial on the holdout"] == (
        "0.9912 defaults 1.0034; on bars that no trial has seen; HAR is 1"
    )
    assert "holdout was used" not in page.text
    assert "No trial is significantly better than HAR" in page.text
    assert "Synthetic sample market." in page.text
    assert page.text.index("Keep the defaults.") < page.text.index("Probability of overfitting")
    assert page.find("h2")[0].text == "Train the defaults"
    assert page.find("pre")[0].text == study()["command"]


def test_a_winner_is_recommended(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        study(
            keep="best",
            sentence="Use trial 5: its mean loss is 3% lower.",
            spa_defaults=0.0004,
            pbo=0.1,
            holdout={"first": "2024", "looks": 3, "best": {"value": 0.9}, "defaults": {}},
        ),
    )
    banners = page.find("p", "banner")
    assert banners[0].text == (
        "The best trial is better than the defaults. Use trial 5: its mean loss is 3% lower."
    )
    assert banners[0].attributes["class"] == "banner good"
    assert banners[1].text.startswith("The holdout was used 3 times.")
    assert page.tiles["p-value against the defaults"].startswith("< 0.001 ")
    assert page.find("h2")[0].text == "Train the best trial"


def test_every_trial_is_in_the_table(tmp_path: Path) -> None:
    document = study()
    page = page_of(tmp_path, document)
    rows = [row.text for row in page.find("tr") if row.text.split()[:1] == ["3"]]
    assert rows == ["3 – failed epochs 40, network mlp the loss became NaN 00000000"]
    assert page.rows["0"] == "1.0500 complete, defaults ✓ epochs 10, network linear 00000000"
    assert page.rows["4"].startswith("– pruned epochs 50")
    assert page.rows["5"].startswith("1.0000 complete, best ✓")
    assert page.rows["7"].startswith("1.0200 complete epochs 80")
    assert "12 trials, 1 pruned, 1 failed · tpe search · 6 folds" in page.text
    assert "The 90% model confidence set has 3 of 10 complete trials" in page.text
    assert "The defaults are one of them." in page.text
    assert page.rows["1 trial"] == "the loss became NaN"
    assert page.rows["epochs"].startswith("75.0%")
    assert page.rows["space: epochs"] == "low 10, high 200"
    assert "/home" not in page.text
    assert len(page.find("details")) == 1
    assert len(page_of(tmp_path, study(80)).find("details")) == 2  # many trials are folded up


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    document = study(
        spa_defaults=None, spa_baseline=None, pbo=None, confidence_set=[], holdout=None
    )
    for key in ("importance", "command"):
        document[key] = None
    document["study"] |= {"reference": None, "synthetic": False}
    page = page_of(tmp_path, document)
    check_self_contained(page)
    assert page.tiles["Probability of overfitting"].startswith("undefined ")
    assert "Best trial on the holdout" not in page.tiles
    assert "confidence set has" not in page.text
    assert page.find("h2")[0].text == "Trials"


def test_a_study_with_the_defaults_only(tmp_path: Path) -> None:
    document = study()
    document["trials"] = document["trials"][:1]
    document["best"] = document["trials"][0]["trial_id"]
    page = page_of(tmp_path, document)
    check_self_contained(page)
    assert page.text.count("1.050000 complete, defaults") == 1


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    document = study(sentence=ATTACK, baseline_sentence=ATTACK)
    document["study"] |= {
        "symbols": [ATTACK],
        "recipe": ATTACK,
        "reference": ATTACK,
        ATTACK: ATTACK,
    }
    document |= {"command": ATTACK, "importance": {ATTACK: 1.0}}
    for trial in document["trials"]:
        trial["params"] = {ATTACK: ATTACK, "number": 1.5}
    document["trials"][3]["error"] = ATTACK
    page = page_of(tmp_path, document)
    check_self_contained(page)
    assert page.find("pre")[0].text == ATTACK
    assert page.text.count(ATTACK) >= 10


def drawn(axis: Any) -> dict[str, list[list[float]]]:
    return {line.get_label(): [[*line.get_xdata()], [*line.get_ydata()]] for line in axis.lines}


def test_the_history_marks_every_state() -> None:
    axis: Any = Figure().subplots()
    trials = points(study())
    trials[4] = trials[4]._replace(value=1.03)
    history(axis, trials=trials, best=5, reference="HAR")
    lines = drawn(axis)
    values = {trial.number: trial.value or 0.0 for trial in trials}
    complete = [number for number in values if number not in (3, 4)]
    assert lines["complete"] == [complete, [values[number] for number in complete]]
    assert lines["pruned"] == [[4], [1.03]]
    assert lines["failed"][0] == [3]
    assert lines["failed"][1][0] >= 1.05  # at the upper edge
    assert lines["best"] == [[5], [values[5]]]
    assert lines["defaults"][1] == [values[0]] * 2
    best = lines["best so far"]
    assert best[0] == list(range(12))
    assert best[1] == [min(values[n] for n in complete if n <= number) for number in range(12)]


def test_a_very_bad_trial_does_not_hide_the_others() -> None:
    axis: Any = Figure().subplots()
    trials = [Point(i, "complete", 1.0 + 0.01 * i, {}) for i in range(11)]
    trials[7] = trials[7]._replace(value=500.0)
    history(axis, trials=trials, best=0, reference="HAR")
    low, high = axis.get_ylim()
    assert high < 1.4
    heights = drawn(axis)["complete"][1]
    assert low < heights[7] < high
    assert heights[7] == max(heights) > 1.1
    # It is marked, not read out as the height that it is drawn at.
    complete, marked = axis.readout.series[:2]
    assert np.isnan(complete.values).nonzero()[0].tolist() == [7]
    assert marked.values.nonzero()[0].tolist() == [7]


def test_a_study_without_values_says_so() -> None:
    axis: Any = Figure().subplots()
    history(axis, trials=[Point(0, "failed", None, {})], best=None, reference="HAR")
    assert [text.get_text() for text in axis.texts] == ["no trial has a value"]


@pytest.mark.parametrize(
    ("values", "scale", "places", "labels"),
    [
        ([10, 20, 30, 40, 50, 60], "linear", [10, 20, 30, 40, 50, 60], None),
        ([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0], "log", [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0], None),
        ([3, 1, 1, 2, 3, 1], "linear", [2, 0, 0, 1, 2, 0], ["1", "2", "3"]),
    ],
)
def test_numbers_are_on_the_x_axis(
    values: list[float], scale: str, places: list[float], labels: list[str] | None
) -> None:
    axis: Any = Figure().subplots()
    trials = [Point(i, "complete", 1.0 + 0.01 * i, {"p": v}) for i, v in enumerate(values)]
    by_parameter(axis, "p", trials, 2, (0.9, 1.2, 1.1))
    every, defaults, best = axis.lines
    assert list(every.get_xdata()) == places
    assert list(every.get_ydata()) == [trial.value for trial in trials]
    assert (list(defaults.get_xdata()), list(best.get_xdata())) == ([places[0]], [places[2]])
    assert axis.get_xscale() == scale
    assert axis.get_xlabel() == "p"
    if labels:
        assert [label.get_text() for label in axis.get_xticklabels()] == labels


def test_a_logarithmic_range_has_a_logarithmic_axis(tmp_path: Path) -> None:
    trials = [Point(i, "complete", 1.0, {"p": 2.0 + i, "q": 2.0 + i}) for i in range(8)]
    for name, chart in parameter_charts(trials, None, ["p"]).items():
        axis: Any = Figure().subplots()
        chart.draw(axis)
        assert axis.get_xscale() == {"p": "log", "q": "linear"}[name]
    pages = []
    for scale in ({}, {"log": True}):
        document = study()
        document["study"]["space"] = {"epochs": {"low": 10, "high": 120, **scale}}
        write_sweep(tmp_path / "report.html", document)
        pages.append((tmp_path / "report.html").read_text())
    linear, logarithmic = (
        page.partition("<h3>epochs</h3>")[2].partition("</figure>")[0] for page in pages
    )
    assert linear != logarithmic


def test_names_are_on_the_y_axis() -> None:
    axis: Any = Figure().subplots()
    names = ["mlp", None, "mlp", True, "a name that is far too long"]
    trials = [Point(i, "complete", 1.0 + 0.01 * i, {"p": v}) for i, v in enumerate(names)]
    by_parameter(axis, "p", trials, None, (0.9, 1.2, 1.1))
    assert list(axis.lines[0].get_ydata()) == [0, 1, 0, 2, 3]
    assert list(axis.lines[0].get_xdata()) == [trial.value for trial in trials]
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert shown == ["mlp", "none", "True", "a name that is fa…"]


def test_only_complete_trials_are_shown_by_parameter() -> None:
    charts = parameter_charts(points(study()), 5)
    assert list(charts) == ["epochs", "network"]
    axis: Any = Figure().subplots()
    charts["epochs"].draw(axis)
    assert 40 not in list(axis.lines[0].get_xdata())
    assert len(axis.lines[0].get_xdata()) == 10
    other: Any = Figure().subplots()
    charts["network"].draw(other)
    assert other.get_xlim() == axis.get_ylim()  # the charts can be compared
    failed = [Point(0, "failed", None, {"p": 1})]
    empty: Any = Figure().subplots()
    parameter_charts(failed, None)["p"].draw(empty)
    assert [text.get_text() for text in empty.texts] == ["no complete trial has it"]
