"""The section of a report that compares a run with the previous one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from report_pages import ATTACK, Page, check_self_contained

from atb_fast.bundles.contents import metadata
from atb_fast.evaluation.record import RunRecord
from atb_fast.reports.before import Before
from atb_fast.reports.page import write_report

VERSION = "2026-01-01_03h04m05s_v1"
TITLE = "Compared with the previous run"
SCORED: dict[str, Any] = {
    "bars": 1234,
    "first": "2024-01-01T00:00:00+00:00",
    "last": "2024-12-31T00:00:00+00:00",
    "rmse": 2.0,
    "other_rmse": 3.0,
    "diebold_mariano": 2.5,
}


@pytest.fixture
def write(tmp_path: Path, record_of: Callable[..., RunRecord], make_record: Any) -> Any:
    """Write the page of a run of a kind, compared with the previous run."""

    def written(before: Before | None, kind: str = "prices") -> Page:
        record = make_record() if kind == "prices" else record_of(kind)
        created = datetime(2026, 1, 2, tzinfo=UTC)
        document = metadata(record, version="2026-01-02_00h00m00s_v1", created=created)
        path = tmp_path / "report.html"
        write_report(path, record, document, before, stages={}, total=1.0)
        return Page(path.read_text(encoding="utf-8"))

    return written


def section(page: Page) -> str:
    (found,) = (each.text for each in page.find("section") if each.text.startswith(TITLE))
    return found


def table(page: Page, caption: str) -> str:
    return next(each.text for each in page.find("table") if each.text.startswith(caption))


def test_the_first_run_has_no_section(write: Any) -> None:
    assert TITLE not in write(None).text


def test_what_differs_and_the_figures_are_next_to_each_other(write: Any) -> None:
    before = Before(
        VERSION,
        True,
        differs={"epochs": (5, None), "learning_rate": (0.00012345678, True)},
        figures={
            "test_rmse": (200.0, 150.0),
            "ratio": (1.25, 0.99),
            "diebold_mariano": (-1.25, 0.5),
            "directional_accuracy": (0.5, 0.525),
            "directional_bars": (1234, 1230),
            "r2": (0.1, 0.1),
        },
        reference="persistence",
    )
    page = write(before)
    check_self_contained(page)
    assert section(page).startswith(f"{TITLE} Version {VERSION} (live at the time).")
    assert table(page, "What differs") == (
        "What differs previous runthis run epochs 5 default learning_rate 0.000123457 yes"
    )
    for row in (
        "RMSE 200.00 150.00 −25.0%",
        "ratio to persistence 1.250 0.990 −0.26",
        "Diebold-Mariano statistic against persistence −1.2 0.5 +1.8",
        "directional accuracy 50.0% 52.5% +2.5 points",
        "directional accuracy, bars that count 1,234 1,230 −4",
        "R² 0.100 0.100 none",
    ):
        assert row in table(page, "Test figures")
    assert page.text.index(TITLE) < page.text.index("Test windows")


def test_returns_are_compared_in_percent(write: Any) -> None:
    figures = {"test_rmse": (0.02, 0.0)}
    page = write(Before(VERSION, True, figures=figures, reference="persistence"), "returns")
    assert "RMSE 2.000% 0.000% −100.0%" in table(page, "Test figures")


def test_limits_of_the_comparison_are_stated(write: Any) -> None:
    page = write(Before(VERSION, False, incomparable="The test windows differ."))
    text = section(page)
    assert "(the newest version; none was live)" in text
    assert "Options, data, machine and versions are identical." in text
    assert "The test windows differ." in text
    page = write(Before(VERSION, True, problem="its file is damaged"))
    assert section(page).endswith("(live at the time). It cannot be compared: its file is damaged.")


@pytest.mark.parametrize(
    ("statistic", "text"),
    [
        (
            2.5,
            "and that of the new one 2.0000: 2.5 standard errors better (Diebold-Mariano test).",
        ),
        (-0.4, "one 2.0000: 0.4 standard errors worse (Diebold-Mariano test), which may be due to"),
        (0.0, "the RMSE of the previous model is 3.0000 and that of the new one 2.0000."),
    ],
)
def test_both_models_on_the_same_bars(write: Any, statistic: float, text: str) -> None:
    page = write(Before(VERSION, True, scored=SCORED | {"diebold_mariano": statistic}))
    assert "On the 1,234 test bars that neither model was trained on, 2024-01-01 to" in section(
        page
    )
    assert text in section(page)


def test_hostile_text_is_escaped(write: Any) -> None:
    clean = {element.tag for element in write(Before(VERSION, True)).elements}
    before = Before(VERSION, True, problem=ATTACK, differs={ATTACK: (ATTACK, [ATTACK] * 99)})
    page = write(replace(before, version=ATTACK))
    assert {element.tag for element in page.elements} <= clean | {"table", "th", "tr", "td"}
    assert page.text.count(ATTACK) >= 4
    longest = max(len(cell.text) for cell in page.find("td"))
    assert longest <= 200
