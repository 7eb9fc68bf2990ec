"""The page of a walk-forward evaluation, `atb-fast evaluate --report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atb_fast.config import OPTIONS
from atb_fast.errors import ArgumentError, counted
from atb_fast.evaluation.scoring import NAMES, Scoring, Tested
from atb_fast.reports.charts import draw, forecast_charts
from atb_fast.reports.charts.drawing import ZOOM, Chart
from atb_fast.reports.charts.folds import Ratios, ratio_chart
from atb_fast.reports.charts.periods import period_charts
from atb_fast.reports.rendering import SYNTHETIC, render
from atb_fast.reports.rows import (
    Banner,
    Comparison,
    Pair,
    Row,
    accuracy_text,
    over,
    percent,
    ratio_text,
)
from atb_fast.reports.summary import Scored, summary, verdict_banner
from atb_fast.storage import write_atomic
from atb_fast.training.environment import versions

if TYPE_CHECKING:
    from atb_fast.evaluation.walk_forward import WalkForward

#: The document and the result of the evaluation of a symbol; no result if it failed.
Evaluated = tuple[Mapping[str, Any], "WalkForward | None"]


def check_name(path: Path) -> None:
    """Raise ArgumentError unless `path` ends with `.html`."""
    if path.suffix.lower() != ".html":
        raise ArgumentError(
            f"--report is {str(path)!r:.200}, expected a name that ends with .html, for example "
            f"{path.stem[:40] or 'report'}.html",
            options=["report"],
        )


def write_evaluation(path: Path, evaluations: Sequence[Evaluated]) -> None:
    """Write the page of an evaluation of one or more symbols.

    Args:
        path: The file.
        evaluations: For each symbol, what `evaluate --json` prints (`config`, `window`, `folds`),
            and the result that it was created from. `title` names the recipe. `notes`, a list of
            sentences, is shown at the top. If a symbol failed, `failure` in its document is the
            message.

    Raises:
        ImportError: Jinja2 or matplotlib is not installed.
        OSError: The file cannot be written.
    """
    several = len(evaluations) > 1
    sections = [
        _section(document, made, several, f"symbol-{number}")
        for number, (document, made) in enumerate(evaluations, 1)
    ]
    config, done = evaluations[0][0]["config"], [made for _, made in evaluations if made]
    page = render(
        "evaluation.html",
        {
            "symbols": [document["config"]["symbol"] for document, _ in evaluations],
            "timeframe": config["timeframe"],
            "title": evaluations[0][0]["title"],
            "about": _about(evaluations[0][0], done),
            "banners": list(_banners(evaluations)),
            "synthetic": config.get("source") == "sample",
            "table": _symbols(evaluations) if several else None,
            "sections": [
                render("failure.html" if made is None else "symbol.html", section)
                for section, (_, made) in zip(sections, evaluations, strict=True)
            ],
            "tiles": [] if several or not done else sections[0]["tiles"],
            "several": several,
            "options": _options(config),
            "atb_fast": versions().get("atb-fast", ""),
        },
    )
    write_atomic(path, page.encode(errors="replace"))  # paths may not be UTF-8


def _scored(made: WalkForward) -> Scored:
    return Scored(made.scoring, made.tested, made.pooled, "Out-of-sample")


def _about(document: Mapping[str, Any], done: Sequence[WalkForward]) -> str:
    """Return what was evaluated on which bars."""
    if not done:
        return ""
    first = min(made.pooled["first"] for made in done)
    last = max(made.pooled["last"] for made in done)
    bars = sum(len(made.tested.times) for made in done)
    folds = counted(len(document.get("folds", done[0].folds)), "fold")
    window = document.get("window", "expanding")
    return f"{folds}, {window} window · {bars:,} bars, {_day(first)} to {_day(last)}"


def _day(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d}"


def _banners(evaluations: Sequence[Evaluated]) -> Iterator[Banner]:
    done = [made for _, made in evaluations if made]
    if len(evaluations) > 1 and done:
        yield _overall(done)
    elif done:
        yield verdict_banner(_scored(done[0]), shrunk_to_nothing=_shrunk(done[0]))
    for document, made in evaluations:
        if made is None:
            symbol = document["config"]["symbol"]
            yield Banner("bad", f"{symbol} was not evaluated.", str(document["failure"]))
    for text in dict.fromkeys(text for each, _ in evaluations for text in each.get("notes", ())):
        yield Banner("note", "Note.", text)
    if evaluations[0][0]["config"].get("source") == "sample":
        yield SYNTHETIC


def _overall(done: Sequence[WalkForward]) -> Banner:
    """Return the verdicts of several symbols in one sentence."""
    scored = [_scored(made) for made in done]
    words, tones = [each.word for each in scored], {each.tone for each in scored}
    better, worse = words.count("better"), words.count("worse")
    name = scored[0].reference
    tone = "bad" if worse else "good" if tones == {"good"} else "note"
    title = f"The model is better than {name} on {better} of {counted(len(done), 'symbol')}."
    texts = []
    if worse:
        texts.append(f"It is worse on {worse}.")
    if equal := len(done) - better - worse:
        texts.append(f"It is statistically indistinguishable from {name} on {equal}.")
    if against := sum(bool(each.caveat) for each in scored):
        texts.append(
            f"The verdicts are based on the {done[0].scoring.name}. Figures without class weights "
            f"contradict {against} of them, see below."
        )
    return Banner(tone, title, " ".join(texts))


def _shrunk(made: WalkForward) -> str:
    if all(fold.shrinkage == 0.0 for fold in made.folds):
        return " The shrinkage factor of every fold is 0, so the model equals it in every fold."
    return ""


def _symbols(evaluations: Sequence[Evaluated]) -> Comparison:
    """Return the table of the symbols."""
    rows = []
    for document, made in evaluations:
        symbol = document["config"]["symbol"]
        if made is None:
            rows.append(Row(symbol, ["not evaluated", *["–"] * 4]))
            continue
        scored, ratios = _scored(made), _ratios(made.folds, made.scoring, made.tested)
        worse = sum(ratio > 1.0 for ratio in ratios[""])
        texts = [
            scored.verdict,
            ratio_text(_over(scored.error, scored.reference_error)),
            _signed(made.pooled["diebold_mariano"]),
            f"{worse} of {len(ratios[''])}",
            f"{len(made.tested.times):,}",
        ]
        rows.append(Row(symbol, texts))
    name = next((_scored(made).reference for _, made in evaluations if made), "the reference")
    notes = [
        f"{over(name)}: error divided by that of {name}; below 1 is better. Standard errors: how "
        "many standard errors lower the losses are (Diebold-Mariano); between −2 and 2, the "
        "difference can be due to chance. Even if no model differs, about one symbol in 20 is "
        "beyond −2 or 2."
    ]
    columns = ["verdict", over(name), "standard errors", "worse folds", "bars"]
    return Comparison("Symbols", columns, rows, notes)


def _over(error: float, other: float) -> float | None:
    return error / other if other else None


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _section(
    document: Mapping[str, Any], made: WalkForward | None, several: bool, name: str
) -> dict[str, Any]:
    """Return the values of the section of a symbol."""
    symbol = document["config"]["symbol"]
    values = {"id": name, "symbol": symbol, "several": several}
    if made is None:
        return values | {"failure": document["failure"]}
    scored, tested = _scored(made), made.tested
    charts = _charts(made, scored, symbol if several else "")
    return values | {
        "kind": scored.kind,
        "banner": verdict_banner(scored, shrunk_to_nothing=_shrunk(made)),
        "timeframe": document["config"]["timeframe"],
        "reference": scored.reference,
        "error": made.scoring.name,
        "horizon": tested.horizon,
        "zoom": min(ZOOM, len(tested.times)),
        "unshrunk": (),
        "shrunk_to_nothing": False,
        "charts": draw(charts),
        "folds": _folds(made, scored),
        **summary(scored),
    }


def _charts(made: WalkForward, scored: Scored, symbol: str) -> dict[str, Chart]:
    """Return the charts of a symbol by name; their labels begin with `symbol`."""
    scoring, tested, folds = made.scoring, made.tested, made.folds
    first, last = (
        [np.datetime64(datetime.fromisoformat(time).replace(tzinfo=None), "ms") for time in each]
        for each in ([fold.first for fold in folds], [fold.last for fold in folds])
    )
    ratios = _ratios(folds, scoring, tested)
    name = scored.reference.removeprefix("the ")
    shown = Ratios(first, last, ratios.pop(""), ratios, name)
    charts = {"ratios": ratio_chart(shown, f"Ratio to {name} by fold")}
    charts |= period_charts(scoring, tested, name, first[1:])
    charts |= forecast_charts(scoring, tested)
    if not symbol:
        return charts
    return {
        name: chart._replace(label=f"{symbol}: {chart.label}") for name, chart in charts.items()
    }


def _ratios(folds: Sequence[Any], scoring: Scoring, tested: Tested) -> dict[str, list[float]]:
    """Return the errors of each fold divided by those of the reference; the name "" is the model.

    Persistence is left out unless it is the reference: it is far from the others.
    """
    reference, key = scoring.reference(tested), scoring.key
    names = {"": ""} | {
        name: f"{name}_" for name in tested.baselines if name not in (reference, scoring.unchanged)
    }
    return {
        NAMES[name].removeprefix("the ") if name else "": [
            fold.figures[f"{prefix}{key}"] / (fold.figures[f"{reference}_{key}"] or np.nan)
            for fold in folds
        ]
        for name, prefix in names.items()
    }


def _options(config: Mapping[str, Any]) -> list[Pair]:
    """Return the options that shape the models; not those of the machine."""
    shown = []
    for name, option in OPTIONS.items():
        value = config.get(name)
        if value is None or option.machine or name == "registry":
            continue
        path = name in ("candles", "sentiment") and Path(value).is_absolute()
        shown.append(Pair(name, Path(value).name if path else value))
    return shown


#: Columns of the baselines in the table of folds, and the names of their figures.
_RATIOS = {"HAR": "har", "EWMA": "ewma", "linear": "linear"}

_Cell = Callable[[Mapping[str, Any]], str]


def _figure(key: str, write: Callable[[Any], str]) -> _Cell:
    """Return what formats a figure; a missing one is a dash."""
    return lambda found: write(found[key]) if key in found else "–"


def _share(key: str, of: str) -> _Cell:
    """Return what formats an accuracy, its interval, and how many bars the interval counts."""

    def text(found: Mapping[str, Any]) -> str:
        if not found.get(of):
            return "–"
        return accuracy_text(found[key], found[f"{key}_low"], found[f"{key}_high"], found[of])

    return text


def _columns(scored: Scored) -> dict[str, _Cell]:
    """Return the columns of the table of folds."""
    key, kind = scored.scoring.key, scored.kind
    error = "log loss" if kind == "classes" else "RMSE"
    other = scored.scoring.reference(scored.tested)
    name = scored.reference.removeprefix("the ")
    found = {
        error: _figure(key, scored.text),
        f"{error} of {name}": _figure(f"{other}_{key}", scored.text),
        "standard errors": _figure("diebold_mariano", _signed),
        over(NAMES[scored.scoring.unchanged]): _figure("ratio", ratio_text),
    }
    found |= {
        title: _figure(f"{prefix}_ratio", ratio_text)
        for title, prefix in _RATIOS.items()
        if f"{prefix}_ratio" in scored.results
    }
    if kind == "classes":
        found["accuracy (95%)"] = _share("accuracy", "accuracy_bars")
        found["majority"] = _figure("majority_accuracy", percent)
    elif kind == "volatility":
        found["R²"] = _figure("r2", lambda value: f"{value:.3f}".replace("-", "−"))
        if "coverage" in scored.results:
            found["in band"] = _figure("coverage", percent)
    else:
        found["directional accuracy (95%)"] = _share("directional_accuracy", "directional_bars")
    if "contrarian_accuracy" in scored.results:
        found["contrarian"] = _figure("contrarian_accuracy", percent)
    return found


def _folds(made: WalkForward, scored: Scored) -> Comparison:
    """Return the table of the folds, with a row for all of them together."""
    columns, shrunk = _columns(scored), any(fold.shrinkage != 1.0 for fold in made.folds)
    rows = [
        Row(
            f"{_day(fold.first)} to {_day(fold.last)}",
            [
                *(cell(fold.to_dict()) for cell in columns.values()),
                *([f"{fold.shrinkage:.0%}"] if shrunk else []),
                f"{fold.train:,}",
                f"{fold.test:,}",
            ],
        )
        for fold in made.folds
    ]
    if len(rows) > 1:
        cells = [cell(scored.results) for cell in columns.values()]
        empty = [""] * (1 + shrunk)
        rows.append(Row("all folds", [*cells, *empty, f"{scored.results['test']:,}"]))
    unchanged = NAMES[made.scoring.unchanged]
    others = [name for name in _RATIOS if name in columns]
    notes = [
        f"{over(unchanged)}: {made.scoring.name} divided by that of {unchanged}; "
        f"{', '.join(others)}: the same for baselines. Standard errors: how "
        f"many standard errors lower the losses of the model are than those of {scored.reference} "
        "(Diebold-Mariano); between −2 and 2, the difference can be due to chance. Trained and "
        "tested: numbers of windows.",
        *(
            [f"Shrinkage: the weight of the network; at 0%, the model is {scored.reference}."]
            if shrunk
            else []
        ),
        *scored.count_notes,
    ]
    further = ["shrinkage"] * shrunk + ["trained", "tested"]
    return Comparison("Folds by test period", [*columns, *further], rows, notes)
