"""The chart values for the script of the page; test_browser.py runs that script."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atb_fast.evaluation.record import RunRecord
from atb_fast.reports.charts import draw_charts
from atb_fast.reports.charts.common import importances
from atb_fast.reports.charts.drawing import (
    Chart,
    Distribution,
    Line,
    Points,
    calibrations,
    histograms,
    note,
    over_time,
    svg,
)
from atb_fast.reports.charts.values import MOST, Readout, Series, to_json
from atb_fast.reports.style import LIGHT

DAYS = np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]")


def values_of(drawn: str) -> Any:
    """The values that a chart carries; None if it carries none."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', drawn, re.DOTALL)
    return json.loads(found[0]) if found else None


def carried(draw: Callable[[Any], Any]) -> Any:
    return values_of(svg(Chart("a chart", draw)))


def times(values: Any) -> NDArray[np.datetime64]:
    return np.array(values["unit"] * np.cumsum(values["places"]), "datetime64[ms]")


def declared(readout: Readout, **options: Any) -> Any:
    """What a chart with this readout carries; `options` set its axes."""

    def draw(axis: Any) -> None:
        axis.set(**{"ylim": (0, 10), **options})
        axis.readout = readout

    return carried(draw)


def test_series_over_time_carry_times_and_values() -> None:
    first = np.linspace(-1.0, 1.0, 10)
    second = np.full(10, 123.45678)
    second[4] = np.nan
    lines = [
        Line("one", first, {"color": LIGHT["model"]}),
        Line("two", second, {"color": LIGHT["ink"]}),
    ]
    values = carried(lambda axis: over_time(axis, DAYS, lines, "share, %"))
    assert (values["flat"], values["points"], values["zoom"]) == (False, False, True)
    assert values["x"]["scale"] == "time"
    assert values["x"]["label"] == "open time, UTC, 2024-01-01 to 2024-01-10"
    assert values["y"]["label"] == "share, %"
    assert (values["unit"], values["places"]) == (86_400_000, [19723] + [1] * 9)
    np.testing.assert_array_equal(times(values), DAYS)
    assert not values["thinned"]
    one, two = values["series"]
    assert (one["name"], one["color"]) == ("one", "var(--model)")
    np.testing.assert_allclose(one["y"], first, atol=0.005)  # the axis spans 130
    assert two["y"] == [123.46] * 4 + [None] + [123.46] * 5
    assert values["x"]["limits"][0] < 19723 * 86_400_000 < values["x"]["limits"][1]


def test_long_series_keep_their_extremes_at_the_same_times() -> None:
    rng = np.random.default_rng(0)
    hours = np.arange("2001-01-01", "2024-01-01", dtype="datetime64[h]")
    style = {"color": LIGHT["model"]}
    lines = [Line(name, rng.normal(size=len(hours)).cumsum(), style) for name in "abc"]
    drawn = svg(Chart("a chart", lambda axis: over_time(axis, hours, lines, "sum")))
    assert len(hours) > 200_000
    assert len(drawn) < 140_000
    values = values_of(drawn)
    assert values["thinned"]
    assert MOST / 2 < len(values["places"]) <= MOST
    kept = np.searchsorted(hours, times(values))
    for line, series in zip(lines, values["series"], strict=True):
        np.testing.assert_allclose(series["y"], line.values[kept], atol=0.05)
        assert line.values.argmax() in kept
        assert line.values.argmin() in kept
    # What is drawn is thinner still.
    assert max(path.count("L") for path in re.findall(r' d="([^"]*)"', drawn)) < 800


def test_a_chart_that_declares_nothing_is_only_a_picture() -> None:
    assert carried(lambda axis: axis.plot(DAYS, np.arange(10.0), label="drawn")) is None
    assert carried(lambda axis: note(axis, "nothing to draw")) is None


def test_bins_have_their_ends_as_titles() -> None:
    drawn = [Distribution("windows", np.array([0.0, 1.0, 4.0]), LIGHT["ink"])]
    values = carried(lambda axis: histograms(axis, drawn, "return, %"))
    (bins,) = values["series"]
    assert (len(bins["y"]), sum(bins["y"]), values["zoom"]) == (40, 3, True)
    assert values["titles"][::39] == ["return, %: 0 to 0.1", "return, %: 3.9 to 4"]
    assert values["places"][::39] == [0.05, 3.95]


def test_points_of_several_series_each_have_their_own_place() -> None:
    def points(name: str, *columns: list[float]) -> Points:
        predicted, observed, low, high = map(np.array, columns)
        return Points(name, predicted, observed, low, high, LIGHT["model"])

    one = points("one", [1.0, 3.0], [0.2, 0.4], [0.1, 0.3], [0.5, 0.8])
    two = points("two", [2.0], [0.5], [0.4], [0.9])
    values = carried(lambda axis: calibrations(axis, [one, two]))
    assert values["points"]
    assert values["places"] == [1.0, 3.0, 2.0]
    assert [each["y"] for each in values["series"]] == [[0.2, 0.4, None], [None, None, 0.5]]
    assert values["series"][0]["low"][:2] == [0.1, 0.3]
    assert values["series"][1]["high"][2:] == [0.9]


def test_marks_and_missing_intervals() -> None:
    low = np.array([1.0, np.nan, 3.0])
    share = Series("share", LIGHT["model"], np.array([2.0, 3.0, np.nan]), low, low + 2.0)
    event = Series("event", LIGHT["other"], np.array([False, True, False]))
    share, event = declared(Readout(np.arange(3), [share, event]))["series"]
    assert (share["y"], event["y"]) == ([2.0, 3.0, None], [None, True, None])
    assert (share["low"], share["high"]) == ([1.0, None, 3.0], [3.0, None, 5.0])


def test_logarithmic_axes_keep_the_digits_of_small_values() -> None:
    series = Series("loss", LIGHT["model"], np.array([1.23456e-6, 12.5, 0.0, -1.0, np.inf]))
    options = {"yscale": "log", "ylim": (1e-6, 1e6), "ylabel": "loss, logarithmic"}
    values = declared(Readout(np.arange(5), [series]), **options)
    assert (values["y"]["scale"], values["y"]["label"]) == ("log", "loss")
    # Values that the axis cannot show are missing.
    assert values["series"][0]["y"] == [1.2346e-6, 12.5, None, None, None]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_chart_without_any_value_is_drawn_without_a_script(value: float) -> None:
    lines = [Line("model", np.full(10, value), {"color": LIGHT["model"]})]
    assert carried(lambda axis: over_time(axis, DAYS, lines, "ratio")) is None


def test_rows_have_titles_and_no_zoom() -> None:
    importance, deviation = {"<first>": 2.0, "second": 0.1}, {"<first>": 0.5, "second": 0.2}
    values = carried(lambda axis: importances(axis, importance, deviation, 1.0))
    assert (values["flat"], values["points"], values["zoom"]) == (True, False, False)
    assert (values["titles"], values["places"]) == (["second", "<first>"], [0, 1])
    (bars,) = values["series"]
    assert bars["y"] == [0.0, 2.0]
    assert (bars["low"], bars["high"]) == ([-0.1, 1.5], [0.3, 2.5])


def test_every_chart_of_a_run_with_values_takes_part(
    make_record: Callable[..., RunRecord], record_of: Callable[..., RunRecord]
) -> None:
    drawn = draw_charts(make_record())
    assert all(values_of(chart) for chart in drawn.values())
    assert values_of(drawn["deciles"])["points"]
    assert values_of(drawn["importance"])["flat"]
    classes = draw_charts(record_of("three"))
    assert [name for name, chart in classes.items() if not values_of(chart)] == ["confusion"]
    marks = [series["name"] for series in values_of(classes["zoom"])["series"]]
    assert marks == ["down", "flat", "up", "was down", "was flat", "was up"]


def test_json_cannot_leave_its_script() -> None:
    text = "</script><!--<script>&amp;' \u2028"
    written = to_json({"name": text})
    assert not re.search(r"[<>&]", written)
    assert json.loads(written) == {"name": text}
