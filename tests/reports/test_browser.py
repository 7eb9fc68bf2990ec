"""The script of the pages, in a browser: one visit to a page, and what was seen there.

A second script, whose hash is added to the policy of a copy of the page, plays the user.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_pages import ATTACK

from atb_fast.bundles.contents import metadata
from atb_fast.evaluation.record import RunRecord
from atb_fast.reports.charts import draw_charts
from atb_fast.reports.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
USER = Path(__file__).with_name("visitor.js")


def browser() -> str:
    """The path of a browser; the test is skipped if there is none, or fails in CI."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    reason = f"no browser is installed (tried {', '.join(BROWSERS)})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def record(make_record: Callable[..., RunRecord]) -> RunRecord:
    record = make_record()
    importance = {ATTACK: 1.0, "a": 2.0}
    record = replace(
        record, importance=importance, importance_deviation=dict.fromkeys(importance, 0.5)
    )
    return replace(record, charts=draw_charts(record))


@pytest.fixture(scope="module")
def seen(record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `visitor.js` saw, by name."""
    folder = tmp_path_factory.mktemp("page")
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    document = metadata(record, version="2026-01-02_03h04m05s_v1", created=created)
    page = folder / "report.html"
    write_report(page, record, document, stages={}, total=1.0)
    visitor = USER.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(visitor.encode()).digest()).decode()
    # The second script and the handler are not allowed, so they must not run.
    broken = "document.title = 'broken'"
    hostile = f'<script>{broken}</script><img src="data:," onerror="{broken}">'
    source = (
        page.read_text(encoding="utf-8")
        .replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
        .replace("<title>", f"<script>{visitor}</script><title>", 1)
        .replace("<main>", f"{hostile}<main>", 1)
    )
    visited = folder / "visited.html"
    visited.write_text(source, encoding="utf-8")
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"]
    command += [
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=10000",
        "--dump-dom",
    ]
    run = subprocess.run(
        [*command, visited.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = re.findall(r'<pre id="seen">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    return dict(json.loads(html.unescape(found[0])))


def test_only_the_script_of_the_page_runs(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
    assert seen["title"] != "broken"
    assert sorted(seen["blocked"]) == ["script-src-attr", "script-src-elem"]
    assert seen["loaded"] == []


def test_the_hint_and_focus_need_the_script(seen: dict[str, Any], record: RunRecord) -> None:
    assert seen["hint"] == {"before": True, "after": False}
    assert seen["focusable"] == {"before": 0, "after": len(record.charts)}
    assert seen["role"] == "img"
    assert seen["label"] == "Last 100 test predictions"


def test_pointing_reads_the_values_of_the_nearest_bar(
    seen: dict[str, Any], record: RunRecord
) -> None:
    tested = record.evaluation.tested
    times = tested.times.to_numpy()[-100:]
    first, *rows, unit = seen["hovered"]
    position = int(np.flatnonzero(np.datetime_as_string(times, unit="D") == first[:10])[0])
    assert first == f"{np.datetime_as_string(times[position], unit='D')} UTC"
    assert abs(position - 49.5) < 2  # the pointer is in the middle
    assert unit == "close, quote currency"
    series = {
        "actual": tested.actual,
        "persistence": tested.baselines["persistence"],
        "model": tested.forecasts,
    }
    assert [name for name, _ in rows] == list(series)
    for name, text in rows:
        expected = series[name][-100:][position]
        assert float(text.replace(",", "")) == pytest.approx(expected, abs=0.51)


def test_the_box_stays_inside_its_card(seen: dict[str, Any], record: RunRecord) -> None:
    # At both ends and in the middle, on a wide and on a narrow page.
    assert len(seen["boxes"]) == 3 * 2 * len(record.charts)
    assert [box for box in seen["boxes"] if not box["inside"]] == []


def test_other_charts_read_out_bins_points_and_rows(seen: dict[str, Any]) -> None:
    assert re.fullmatch(r".+: −?[\d,.]+ to −?[\d,.]+", seen["bins"][0])
    assert all(re.fullmatch(r"[\d,]+", count) for _, count in seen["bins"][1:-1])
    assert seen["bins"][-1] == "test windows"
    assert seen["point"][0].startswith("mean predicted return, %: ")
    assert re.fullmatch(r"−?[\d.]+ \(−?[\d.]+ to −?[\d.]+\)", seen["point"][1][1])
    assert seen["row"][0] == f"{ATTACK[:29]}…"
    assert seen["row"][1:] == [["", "1 (0.5 to 1.5)"], "RMSE increase, quote currency"]


def test_a_tap_keeps_the_box_and_a_mouse_that_leaves_does_not(seen: dict[str, Any]) -> None:
    assert seen["tapped"] == seen["hovered"]
    assert seen["left"] is None


def test_keys_move_the_crosshair_and_are_announced(seen: dict[str, Any], record: RunRecord) -> None:
    days = np.datetime_as_string(record.evaluation.tested.times.to_numpy(), unit="D")
    assert [texts[0] for texts in seen["keys"]] == [
        f"{days[at]} UTC" for at in (-1, -2, -1, -100, -99, -89)
    ]
    assert seen["announced"].startswith(f"{days[-89]} UTC actual ")
    assert seen["announced_by_mouse"] == ""


def test_shortcuts_of_the_browser_still_work(seen: dict[str, Any]) -> None:
    read, untouched = seen["shortcut"]
    assert read == seen["keys"][-1]
    assert untouched is True


def test_a_drag_zooms_all_charts_over_time(seen: dict[str, Any]) -> None:
    before, after = seen["before"], seen["zoomed"]
    over_time = {"Closing prices and split", "Test predictions"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= over_time
    assert not changed & {"Loss by epoch", "RMSE by epoch", "Permutation importance"}
    assert set(seen["reset_buttons"]) == changed
    first, last = (np.datetime64(day) for day in seen["zoomed_label"][-24:].split(" to "))
    assert seen["zoomed_label"].startswith("open time, UTC, ")
    whole = np.array(seen["whole"], "datetime64[D]")
    assert whole[0] < first < last < whole[1]
    share = (last - first) / (whole[1] - whole[0])
    assert 0.2 < share < 0.4  # 30% of the axis were selected
    for ticks in (seen["x_ticks"], seen["y_ticks"]):
        assert 2 <= len(ticks) <= 7
        assert len(set(ticks)) == len(ticks)
    numbers = [float(tick.replace(",", "")) for tick in seen["y_ticks"]]
    assert numbers == sorted(numbers)
    assert seen["curves"] > 0.6  # the y axis follows
    (x, y), (zoomed_x, zoomed_y) = seen["gap"]  # it stays at the edge
    assert (zoomed_x != x, zoomed_y) == (True, y)
    # What is read out is within the selection.
    assert first <= np.datetime64(seen["zoomed_hover"][0][:10]) <= last


@pytest.mark.parametrize("how", ["escape", "double_click", "button", "print", "minus_key"])
def test_the_zoom_is_reset(seen: dict[str, Any], how: str) -> None:
    assert seen["resets"][how]["zoomed"] is True
    assert seen["resets"][how]["same"] is True


def test_zooming_other_axes_changes_one_chart(seen: dict[str, Any]) -> None:
    assert seen["bins_changed"] == [seen["bins_label"]]
    assert seen["click_changed"] == []
    assert seen["rows_changed"] == []
