"""The page of a comparison of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from report_pages import ATTACK, Page, check_self_contained

from atb_fast.reports.charts.runs import by_epoch, forecast_chart, intervals
from atb_fast.reports.compare import write_compare


def run(identity: str, seeds: int = 3, **changes: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "label": identity[:6],
        "symbol": "BTCUSDT",
        "timeframe": "1d",
        "recipe": "causal",
        "created": "2026-01-02T03:04:05+00:00",
        "seeds": seeds,
        "seed_values": list(range(1, seeds + 1)),
        "bundle": f"BTCUSDT/causal/{identity}",
        "state": "live",
        **changes,
    }


def ratio(*values: Any) -> dict[str, Any]:
    """A metric with a mean, or a mean and both ends of an interval, for each run."""
    found = [
        None
        if value is None
        else {"mean": value, "seeds": 1}
        if isinstance(value, float)
        else dict(zip(("mean", "low", "high", "seeds"), (*value, 3), strict=True))
        for value in values
    ]
    return {
        "name": "ratio to persistence",
        "lower_is_better": True,
        "level": 1.0,
        "level_name": "persistence",
        "values": found,
    }


def frame(bars: int = 150) -> pl.DataFrame:
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(bars)]
    values = np.linspace(100.0, 200.0, bars)
    columns = {"actual": values, "aaaaaaaa": values + 1, "bbbbbbbb": values - 1}
    return pl.DataFrame({"timestamp": times, **columns})


def panel(frame: pl.DataFrame, **changes: Any) -> dict[str, Any]:
    made = {"title": "BTCUSDT 1d", "unit": "quote currency", "class": "", "frame": frame}
    return {**made, **changes}


def document(**changes: Any) -> dict[str, Any]:
    return {
        "runs": [run("aaaaaaaa"), run("bbbbbbbb")],
        "same": {"recipe": "causal", "candles": "BTCUSDT_1h_2024-01-01", "force_sentiment": False},
        "options": {"epochs": [20, None], "network": ["mlp", "tcn"]},
        "metrics": [ratio((0.95, 0.94, 0.96), (0.99, 0.97, 1.01))],
        "losses": [
            {"training": [3.0, 2.0, 1.0], "validation": [3.5, 2.5, 2.6], "best_epoch": 2},
            {"training": [3.0, None], "validation": [3.5, 3.0], "best_epoch": 2},
        ],
        "predictions": [panel(frame())],
        "notes": ["Losses are those of the first run."],
        **changes,
    }


def page_of(tmp_path: Path, given: dict[str, Any]) -> Page:
    path = tmp_path / "compare.html"
    write_compare(path, given)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_is_complete_and_self_contained(tmp_path: Path) -> None:
    page = page_of(tmp_path, document())
    check_self_contained(page)
    assert page_of(tmp_path, document()).source == page.source
    banners = [banner.text for banner in page.find("p", "banner")]
    assert banners == [
        "aaaaaa has the smallest ratio to persistence: 0.95000. Its 95% interval over the seeds "
        "overlaps with no other.",
        "Note. Losses are those of the first run.",
    ]
    assert page.find("h1")[0].text == "BTCUSDT 1d: aaaaaa, bbbbbb"
    assert "6 runs, 2 groups of seeds" in page.text
    assert page.rows["epochs"] == "20 default"
    assert (
        page.rows["ratio to persistence"]
        == "0.95000 (0.94000 to 0.96000) 0.99000 (0.97000 to 1.0100)"
    )
    assert page.rows["force_sentiment"] == "no"
    # Names break at separators, and dates nowhere.
    assert 'BTCUSDT_<wbr>1h_<wbr><span class="date">2024-01-01</span>' in page.source
    assert page.rows["candles"] == "BTCUSDT_1h_2024-01-01"
    assert "2026-01-02" in [date.text for date in page.find("span", "date")]
    assert page.rows["aaaaaa"] == (
        "BTCUSDT 1d causal 1, 2, 3 2026-01-02 03:04 live BTCUSDT/causal/aaaaaaaa"
    )
    titles = [heading.text for heading in page.find("h3")]
    assert titles == [
        "ratio to persistence",
        "Training loss by epoch",
        "Validation loss by epoch",
        "BTCUSDT 1d, newest 150 bars",
        "BTCUSDT 1d, newest 100 bars",
    ]


@pytest.mark.parametrize(
    ("values", "title", "text"),
    [
        (((0.9, 0.8, 1.0), (0.95, 0.9, 1.0)), "aaaaaa has the smallest", "The 95% intervals over"),
        ((0.95, 0.9), "bbbbbb has the smallest", "There are too few seeds"),
        ((0.9, 0.9), "The runs are equal.", "All have the same ratio"),
        ((0.9, None), "Nothing to compare.", "Only one run has the ratio"),
    ],
)
def test_the_verdict_says_whether_intervals_overlap(
    tmp_path: Path, values: Any, title: str, text: str
) -> None:
    page = page_of(tmp_path, document(metrics=[ratio(*values)], notes=[]))
    (banner,) = page.find("p", "banner")
    assert banner.text.startswith(title)
    assert text in banner.text
    assert banner.attributes["class"] == "banner note"


def test_some_intervals_overlap(tmp_path: Path) -> None:
    runs = [run("aaaaaaaa"), run("bbbbbbbb"), run("cccccccc")]
    metric = ratio((0.9, 0.89, 0.91), (0.905, 0.9, 0.91), (1.2, 1.1, 1.3))
    changes = {"runs": runs, "losses": [None] * 3, "predictions": [], "options": {}}
    page = page_of(tmp_path, document(metrics=[metric], **changes))
    check_self_contained(page)
    assert "overlaps with that of 1 other." in page.find("p", "banner")[0].text
    assert "The runs have the same options" in page.text
    assert "No run has losses by epoch." in page.text
    assert "No run has forecasts." in page.text


def test_runs_that_do_not_beat_the_baseline_are_named(tmp_path: Path) -> None:
    page = page_of(tmp_path, document(metrics=[ratio(1.0, 1.2)]))
    banner = page.find("p", "banner")[1]
    assert banner.text == "No run is better than persistence."
    assert banner.attributes["class"] == "banner bad"


def test_exact_solutions_have_no_epochs(tmp_path: Path) -> None:
    loss = {"training": [1.0], "validation": [1.1], "best_epoch": 1}
    page = page_of(tmp_path, document(losses=[loss, loss]))
    assert "solved exactly, so there are no epochs" in page.text


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    hostile = run("aaaaaaaa", label=ATTACK, symbol=ATTACK, recipe=ATTACK, created=ATTACK)
    metric = ratio(0.9, 0.8) | {"name": ATTACK, "level_name": ATTACK}
    page = page_of(
        tmp_path,
        document(
            runs=[hostile, run("bbbbbbbb")],
            options={ATTACK: [ATTACK, 1]},
            same={ATTACK: ATTACK},
            metrics=[metric],
            notes=[ATTACK],
            predictions=[panel(frame(5), **dict.fromkeys(("title", "unit", "class"), ATTACK))],
        ),
    )
    check_self_contained(page)
    assert page.text.count(ATTACK) >= 10


def drawn(axis: Any) -> dict[str, list[list[float]]]:
    return {line.get_label(): [[*line.get_xdata()], [*line.get_ydata()]] for line in axis.lines}


def test_intervals_are_drawn_from_end_to_end() -> None:
    axis: Any = Figure().subplots()
    metric = ratio((0.95, 0.94, 0.96), None, 0.99)
    intervals(axis, metric=metric, names=["a", "b", "c"])
    (span,) = axis.collections
    assert span.get_segments()[0].tolist() == [[0.94, 0], [0.96, 0]]
    first, last, level = axis.lines
    assert [(*line.get_xdata(), *line.get_ydata()) for line in (first, last)] == [
        (0.95, 0),
        (0.99, 2),
    ]
    assert list(level.get_xdata()) == [1.0, 1.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    assert axis.get_ylim() == (2.5, -0.5)  # the first run is on top
    assert axis.get_xlabel() == "smaller is better; dashed: persistence"


def test_losses_are_drawn_by_epoch() -> None:
    axis: Any = Figure().subplots()
    losses = [*document()["losses"], None]
    by_epoch(axis, losses=losses, names=["a", "b", "c"], part="validation")
    lines = drawn(axis)
    assert lines["a"] == [[1, 2, 3], [3.5, 2.5, 2.6]]
    assert lines["b"] == [[1, 2], [3.5, 3.0]]
    assert "c" not in lines
    marks = [line for line in axis.lines if len(line.get_xdata()) == 1]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in marks] == [(2, 2.5), (2, 3.0)]
    styles = [line.get_linestyle() for line in axis.lines if len(line.get_xdata()) > 1]
    assert len(set(styles)) == 2  # equal curves can both be seen


def test_accuracies_have_the_number_of_their_bars(tmp_path: Path) -> None:
    metric = ratio((0.55, 0.54, 0.56), 0.5)
    for value, bars in zip(metric["values"], (40, 4000), strict=True):
        value["bars"] = bars
    page = page_of(tmp_path, document(metrics=[metric | {"name": "accuracy"}]))
    assert page.rows["accuracy"] == "0.550 (0.540 to 0.560), n = 40 0.500, n = 4,000"
    assert "n: test bars. If horizons overlap, only bars" in page.text
    assert "n: test bars" not in page_of(tmp_path, document()).text


def test_probabilities_are_those_of_a_named_class(tmp_path: Path) -> None:
    outcomes = frame(50).with_columns(actual=pl.int_range(50) % 2 * 1.0)
    given = panel(outcomes, **{"unit": "probability", "class": "up"})
    page = page_of(tmp_path, document(predictions=[given]))
    text = "The predicted probability of “up”. The marks at the bottom show when it occurred."
    assert text in page.text
    axis: Any = Figure().subplots()
    forecast_chart("x", given, {"aaaaaaaa": (0, "a")}, 100).draw(axis)
    assert axis.get_ylabel() == "probability of “up”"
    lines = drawn(axis)
    assert list(lines) == ["a", "was up"]  # 0 and 1 are no probabilities
    assert len(lines["was up"][0]) == 25
    assert "marks below" not in page_of(tmp_path, document()).text


def test_forecasts_are_those_of_the_newest_bars() -> None:
    axis: Any = Figure().subplots()
    names = {"aaaaaaaa": (0, "a"), "bbbbbbbb": (1, "b"), "cccccccc": (2, "c")}
    forecast_chart("x", panel(frame()), names, 100).draw(axis)
    lines = drawn(axis)
    assert list(lines) == ["actual", "a", "b"]
    assert lines["a"][1] == frame()["aaaaaaaa"].tail(100).to_list()
    assert axis.get_ylabel() == "quote currency"
