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
from atb_fast.reports.charts.drawing import Chart, Line, note, over_time, svg
from atb_fast.reports.charts.values import MOST, to_json
from atb_fast.reports.style import LIGHT, number_axis

DAYS = np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]")


def values_of(drawn: str) -> Any:
    """The values that a chart carries; None if it carries none."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', drawn, re.DOTALL)
    return json.loads(found[0]) if found else None


def carried(draw: Callable[[Any], Any]) -> Any:
    return values_of(svg(Chart("a chart", draw)))


def times(values: Any, series: Any) -> NDArray[np.datetime64]:
    x = values["xs"][series["x"]]
    return np.array(x["unit"] * np.cumsum(x["steps"]), "datetime64[ms]")


def test_series_over_time_carry_times_and_values() -> None:
    first = np.linspace(-1.0, 1.0, 10)
    second = np.full(10, 123.45678)
    second[4] = np.nan
    lines = [Line("one", first, {"color": LIGHT["model"]}), Line("two", second, {})]
    values = carried(lambda axis: over_time(axis, DAYS, lines, "share, %"))
    assert (values["mode"], values["zoom"], values["x"]["scale"]) == ("x", True, "time")
    assert values["x"]["label"] == "open time, UTC, 2024-01-01 to 2024-01-10"
    assert values["y"]["label"] == "share, %"
    assert values["xs"] == [{"unit": 86_400_000, "steps": [19723] + [1] * 9}]  # shared
    assert not values["thinned"]
    one, two = values["series"]
    assert (one["name"], one["color"], one["kind"]) == ("one", "model", "line")
    np.testing.assert_array_equal(times(values, one), DAYS)
    np.testing.assert_allclose(one["y"], first, atol=0.005)  # the axis spans 130
    assert two["y"] == [123.46] * 4 + [None] + [123.46] * 5
    assert values["x"]["limits"][0] < 19723 * 86_400_000 < values["x"]["limits"][1]


def test_long_series_keep_their_extremes_at_the_same_times() -> None:
    rng = np.random.default_rng(0)
    hours = np.arange("2001-01-01", "2024-01-01", dtype="datetime64[h]")
    lines = [Line(name, rng.normal(size=len(hours)).cumsum(), {}) for name in "abc"]
    drawn = svg(Chart("a chart", lambda axis: over_time(axis, hours, lines, "sum")))
    assert len(hours) > 200_000
    assert len(drawn) < 140_000
    values = values_of(drawn)
    assert values["thinned"]
    assert len(values["xs"]) == 1
    assert MOST / 2 < len(values["xs"][0]["steps"]) <= MOST
    kept = np.searchsorted(hours, times(values, values["series"][0]))
    for line, series in zip(lines, values["series"], strict=True):
        np.testing.assert_allclose(series["y"], line.values[kept], atol=0.05)
        assert line.values.argmax() in kept
        assert line.values.argmin() in kept
    # What is drawn is thinner still.
    assert max(path.count("L") for path in re.findall(r' d="([^"]*)"', drawn)) < 800


def test_labels_decide_what_is_read_out() -> None:
    def draw(axis: Any) -> None:
        axis.plot(DAYS, np.arange(10.0), label="shown")
        axis.plot(DAYS, np.arange(10.0), label="_not in the legend")
        axis.plot(DAYS, np.arange(10.0))
        axis.plot([], [], label="only in the legend")
        axis.axhline(3.0, label="level")
        axis.axhline(4.0)
        axis.axvline(DAYS[2], label="an event")
        style = {"marker": "|", "linestyle": "none", "label": "marked"}
        axis.plot(DAYS[:2], [0.1, 0.1], transform=axis.get_xaxis_transform(), **style)

    values = carried(draw)
    named = {series["name"]: series["kind"] for series in values["series"]}
    assert named == {
        "shown": "line",
        "not in the legend": "line",
        "level": "level",
        "marked": "mark",
    }
    drawn = svg(Chart("a chart", draw))
    assert "not in the legend</text>" not in drawn
    # Both directions, only up and down, or only sideways.
    assert len(re.findall('data-zoom="xy"', drawn)) == 4
    assert len(re.findall('data-zoom="y"', drawn)) == 2
    assert len(re.findall('data-zoom="x"', drawn)) == 2


def test_a_single_series_needs_no_label() -> None:
    values = carried(lambda axis: axis.plot(DAYS, np.arange(10.0)))
    assert [series["name"] for series in values["series"]] == [""]
    assert carried(lambda axis: axis.axhline(1.0)) is None
    assert carried(lambda axis: note(axis, "nothing to draw")) is None


def test_bins_bands_and_intervals() -> None:
    values = carried(lambda axis: axis.stairs([3, 5], [0.0, 0.5, 1.0], label="windows"))
    (bins,) = values["series"]
    assert (values["mode"], bins["kind"], bins["y"]) == ("bins", "bins", [3, 5])
    assert values["xs"] == [[0.0, 0.5, 1.0]]

    def ranges(axis: Any) -> None:
        axis.plot(DAYS, np.arange(10.0), label="close")
        axis.fill_between(DAYS[::3], [0, 1, 2, 3], [1, 2, 3, 12], color=LIGHT["muted"])

    close, band = carried(ranges)["series"]
    assert (close["kind"], band["kind"], band["name"]) == ("line", "band", None)
    assert (band["low"], band["high"]) == ([0, 1, 2, 3], [1, 2, 3, 12])
    # It is a path where it is drawn, not a reference that would have to be moved.
    drawn = re.findall(r'<g data-zoom="xy"[^>]*>\s*<path d="([^"]*)"', svg(Chart("a", ranges)))
    assert len(drawn) == 2
    left, top, right, bottom = carried(ranges)["box"]
    for path in drawn:
        x, y = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), np.float64).T
        assert left <= x.min() < x.max() <= right
        assert top <= y.min() < y.max() <= bottom

    def points(axis: Any) -> None:
        axis.errorbar([1, 3], [0.2, 0.4], [[0.1, 0.2], [0.3, 0.4]], fmt="o", label="share")

    values = carried(points)
    (share,) = values["series"]
    assert (values["mode"], share["kind"], share["y"]) == ("point", "points", [0.2, 0.4])
    assert (share["low"], share["high"]) == ([0.1, 0.2], [0.5, 0.8])


def test_missing_intervals() -> None:
    share, ends = np.arange(10.0), np.ones((2, 10))
    share[3] = ends[:, 3] = ends[:, 5] = np.nan

    def draw(axis: Any) -> None:
        axis.errorbar(DAYS, share, ends, fmt="o", label="share")

    (series,) = carried(draw)["series"]
    assert series["y"][2:6] == [2.0, None, 4.0, 5.0]
    assert series["low"][2:6] == [1.0, None, 3.0, None]
    assert series["high"][2:6] == [3.0, None, 5.0, None]


@pytest.mark.parametrize(
    "draw",
    [
        lambda axis: axis.bar([], []),
        lambda axis: axis.errorbar([], [], [], fmt="o", label="none"),
        lambda axis: axis.fill_between([], [], []),
    ],
)
def test_nothing_is_drawn_and_nothing_is_read(draw: Callable[[Any], Any]) -> None:
    assert carried(draw) is None


def test_logarithmic_axes_keep_the_digits_of_small_values() -> None:
    def draw(axis: Any) -> None:
        axis.plot([1, 2, 3], [1e-6, 12.345678, 1e6], label="loss")
        axis.set(yscale="log", ylabel="loss, logarithmic")
        number_axis(axis.yaxis, log=True)

    values = carried(draw)
    assert values["y"]["scale"] == "log"
    assert values["y"]["label"] == "loss"
    assert values["series"][0]["y"] == [1e-6, 12.346, 1e6]
    assert 0 < values["margins"][0] == values["margins"][1] < 0.1


def test_values_that_an_axis_cannot_show_are_missing() -> None:
    def draw(axis: Any) -> None:
        axis.plot([1, 2, 3, 4], [5.0, 0.0, -1.0, 50.0], label="sigma")
        axis.set(yscale="log")

    values = carried(draw)
    assert values["series"][0]["y"] == [5.0, None, None, 50.0]
    assert all(0 < margin < 0.4 for margin in values["margins"])
    infinite = carried(lambda axis: axis.plot([1, 2, 3], [1.0, np.inf, 2.0], label="loss"))
    assert infinite["series"][0]["y"] == [1.0, None, 2.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_chart_without_any_value_is_drawn_without_a_script(value: float) -> None:
    def draw(axis: Any) -> None:
        axis.axhline(1.0, label="level")
        over_time(axis, DAYS, [Line("model", np.full(10, value), {})], "ratio")

    assert carried(draw) is None


def test_rows_have_names_and_no_zoom() -> None:
    def draw(axis: Any) -> None:
        axis.barh([0, 1], [2.0, 0.0])
        axis.errorbar([2.0, 0.1], [0, 1], xerr=[0.5, 0.2], fmt="none")
        axis.set_yticks([0, 1], ["second", "<first>"])
        axis.set_xlabel("increase")

    values = carried(draw)
    assert (values["mode"], values["zoom"]) == ("row", False)
    assert values["y"]["names"] == ["second", "<first>"]
    (bars,) = values["series"]
    assert (values["xs"][bars["x"]], bars["y"]) == ([2.0, 0.0], [0.0, 1.0])
    assert (bars["low"], bars["high"]) == ([1.5, -0.1], [2.5, 0.3])
    assert "data-zoom" not in svg(Chart("a chart", draw))


def test_every_chart_of_a_run_with_values_takes_part(
    make_record: Callable[..., RunRecord], record_of: Callable[..., RunRecord]
) -> None:
    drawn = draw_charts(make_record())
    assert all(values_of(chart) for chart in drawn.values())
    modes = {name: values_of(chart)["mode"] for name, chart in drawn.items()}
    assert {modes[name] for name in ("market", "loss", "rmse", "test", "zoom")} == {"x"}
    assert (modes["deciles"], modes["importance"]) == ("point", "row")
    classes = draw_charts(record_of("three"))
    assert [name for name, chart in classes.items() if not values_of(chart)] == ["confusion"]
    marks = [series["name"] for series in values_of(classes["zoom"])["series"]]
    assert marks == ["down", "flat", "up", "was down", "was flat", "was up"]


def test_json_cannot_leave_its_script() -> None:
    text = "</script><!--<script>&amp;' \u2028"
    written = to_json({"name": text})
    assert not re.search(r"[<>&]", written)
    assert json.loads(written) == {"name": text}
