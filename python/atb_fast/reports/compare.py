"""The page of a comparison of runs, `atb-fast runs compare --out`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from atb_fast.errors import counted
from atb_fast.reports.charts import draw
from atb_fast.reports.charts.drawing import ZOOM, Chart
from atb_fast.reports.charts.runs import forecast_chart, loss_chart, metric_chart
from atb_fast.reports.rendering import render
from atb_fast.reports.rows import Banner, Comparison, Pair, Row, digits_of, notes_of, number
from atb_fast.storage import write_atomic
from atb_fast.training.environment import versions


def write_compare(path: Path, document: Mapping[str, Any]) -> None:
    """Write the page of a comparison.

    Args:
        path: The file.
        document: What `experiments.compare.compare` returns. `runs`: an entry for each run, or for
            runs that differ only in the seed. `options`: facts that differ, by name, with a value
            for each entry. `metrics`: figures, with `values` for each entry. `losses`: by epoch,
            for each entry. `predictions`: frames of forecasts. `same` and `notes` may be missing.

    Raises:
        ImportError: Jinja2 or matplotlib is not installed.
        OSError: The file cannot be written.
    """
    runs = document["runs"]
    names = [str(run.get("label") or run["id"]) for run in runs]
    metrics = [draw({"it": metric_chart(each, names)})["it"] for each in document["metrics"]]
    trained = [loss for loss in document["losses"] if loss]
    several = any(len(loss["validation"]) > 1 for loss in trained)
    parts = ("training", "validation") if several else ()
    page = render(
        "compare.html",
        {
            "names": names,
            "symbols": list(dict.fromkeys(f"{run['symbol']} {run['timeframe']}" for run in runs)),
            "about": _about(runs),
            "banners": list(_banners(document)),
            "options": _options(document, names),
            "table": _figures(document["metrics"], names),
            "metrics": metrics,
            "intervals": any(run.get("seeds", 1) > 1 for run in runs),
            "exact": bool(trained) and not several,
            "losses": draw({part: loss_chart(document["losses"], names, part) for part in parts}),
            "forecasts": list(_forecasts(document, names)),
            "runs": list(_runs(runs, names)),
            "same": [Pair(name, _text(value)) for name, value in document.get("same", {}).items()],
            "zoom": ZOOM,
            "atb_fast": versions().get("atb-fast", ""),
        },
    )
    write_atomic(path, page.encode(errors="replace"))  # paths may not be UTF-8


def _about(runs: Any) -> str:
    count = sum(run.get("seeds", 1) for run in runs)
    text = counted(count, "run")
    return text if count == len(runs) else f"{text}, {counted(len(runs), 'group')} of seeds"


def _banners(document: Mapping[str, Any]) -> Iterator[Banner]:
    """Return which run is best, and the limits of the comparison."""
    metrics = [metric for metric in document["metrics"] if metric.get("level") is not None]
    names = [str(run.get("label") or run["id"]) for run in document["runs"]]
    if metrics:
        yield _separated(metrics[0], names)
        if not any(value and _beats(metrics[0], value["mean"]) for value in metrics[0]["values"]):
            name = metrics[0].get("level_name") or metrics[0]["level"]
            yield Banner("bad", f"No run is better than {name}.", "")
    for text in document.get("notes", ()):
        yield Banner("note", "Note.", str(text))


def _beats(metric: Mapping[str, Any], mean: float) -> bool:
    """Return whether a figure is better than the level of the baseline."""
    level = float(metric["level"])
    return mean < level if metric["lower_is_better"] else mean > level


def _separated(metric: Mapping[str, Any], names: list[str]) -> Banner:
    """Return which run has the best figure, and whether its interval overlaps with others."""
    lower = bool(metric["lower_is_better"])
    known = [(value, name) for value, name in zip(metric["values"], names, strict=True) if value]
    if len(known) < 2:
        return Banner("note", "Nothing to compare.", f"Only one run has the {metric['name']}.")
    order = sorted(known, key=lambda item: item[0]["mean"] if lower else -item[0]["mean"])
    (best, name), *others = order
    if all(other["mean"] == best["mean"] for other, _ in others):
        return Banner("note", "The runs are equal.", f"All have the same {metric['name']}.")
    most = "smallest" if lower else "largest"
    title = f"{name} has the {most} {metric['name']}: {number(best['mean'])}."
    if any(value.get("low") is None for value, _ in known):
        text = (
            "There are too few seeds to estimate how much it varies: train each run with several "
            "--seed values to get intervals."
        )
        return Banner("note", title, text)
    end, other_end = ("high", "low") if lower else ("low", "high")
    apart = [
        (best[end] < other[other_end]) if lower else (best[end] > other[other_end])
        for other, _ in others
    ]
    if all(apart):
        return Banner("good", title, "Its 95% interval over the seeds overlaps with no other.")
    if any(apart):
        count = apart.count(False)
        text = f"Its 95% interval over the seeds overlaps with that of {counted(count, 'other')}."
        return Banner("note", title, text)
    text = "The 95% intervals over the seeds overlap, so the difference can be due to chance."
    return Banner("note", title, text)


def _options(document: Mapping[str, Any], names: list[str]) -> Comparison | None:
    """Return the table of the options that differ; None if there are none."""
    rows = [
        Row(name, [_text(value) for value in values])
        for name, values in document["options"].items()
    ]
    return Comparison("What differs", names, rows, []) if rows else None


def _figures(metrics: Any, names: list[str]) -> Comparison:
    """Return the table of the figures."""

    def text(value: Mapping[str, Any] | None) -> str:
        if value is None:
            return "–"
        digits = digits_of(value)
        found = number(value["mean"], digits)
        if value.get("low") is not None:
            found += f" ({number(value['low'], digits)} to {number(value['high'], digits)})"
        if "bars" in value:
            found += f", n = {value['bars']:,}"
        return found.replace("-", "−")

    rows = [Row(str(each["name"]), [text(value) for value in each["values"]]) for each in metrics]
    return Comparison("Figures", names, rows, notes_of(metrics))


def _forecasts(document: Mapping[str, Any], names: list[str]) -> Iterator[dict[str, Any]]:
    """Return the charts of each group of runs that forecast the same values."""
    numbered = {
        str(run["id"]): (number, name)
        for number, (run, name) in enumerate(zip(document["runs"], names, strict=True))
    }
    for group, each in enumerate(document["predictions"], 1):
        frame = each["frame"]
        charts: dict[str, Chart] = {}
        for key, newest in (("all", len(frame)), ("zoom", ZOOM)):
            label = f"Forecasts {group}, the newest {newest} bars"
            charts[key] = forecast_chart(label, each, numbered, newest)
        if len(frame) <= ZOOM:
            charts.pop("all")
        yield {
            "title": each["title"],
            "class": each["class"],
            "bars": len(frame),
            "charts": draw(charts),
        }


def _runs(runs: Any, names: list[str]) -> Iterator[list[str]]:
    for run, name in zip(runs, names, strict=True):
        seeds = run.get("seed_values") or [run.get("seeds", 1)]
        yield [
            name,
            f"{run['symbol']} {run['timeframe']}",
            str(run["recipe"] or ""),
            ", ".join(map(str, seeds)),
            _time(str(run["created"])),
            " ".join(filter(None, [str(run.get("state") or ""), str(run.get("bundle") or "")])),
        ]


def _time(text: str) -> str:
    """Format a time; other text is returned unchanged."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}"
    except ValueError:
        return text


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        "default" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    )
