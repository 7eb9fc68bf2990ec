"""The page of a study, `report.html` in its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.errors import counted
from atb_fast.evaluation.significance import LEVEL
from atb_fast.reports.charts import draw
from atb_fast.reports.charts.trials import Point, history_chart, parameter_charts
from atb_fast.reports.rendering import SYNTHETIC, render
from atb_fast.reports.rows import Banner, Bar, Pair, Tile, percent
from atb_fast.storage import write_atomic
from atb_fast.training.environment import versions

#: Facts about a study that the page shows elsewhere.
_SHOWN = ("symbols", "timeframe", "recipe", "synthetic", "id", "complete", "pruned", "failed")
#: The best trial is recommended if its p-value is below `LEVEL` and this figure below its limit.
_PBO = 0.5
#: A table with more trials is collapsed.
_MOST_ROWS = 60


def write_sweep(path: Path, document: Mapping[str, Any]) -> None:
    """Write the page of a study.

    Args:
        path: The file.
        document: What `sweep --json` prints: `study`, `trials` in order (the first one is the
            defaults), `best`, `verdict`, `importance` and `command`; see docs/sweeps.md. Figures
            that do not exist are None or missing.

    Raises:
        ImportError: Jinja2 or matplotlib is not installed.
        OSError: The file cannot be written.
    """
    study, verdict = document["study"], document["verdict"]
    points = [_point(number, trial) for number, trial in enumerate(document["trials"])]
    ids = [trial["trial_id"] for trial in document["trials"]]
    best = ids.index(document["best"]) if document["best"] in ids else None
    reference = study.get("reference") or "the reference"
    small = draw(parameter_charts(points, best, _logarithmic(study)))
    page = render(
        "sweep.html",
        {
            "symbols": study["symbols"],
            "timeframe": study["timeframe"],
            "recipe": study["recipe"] or "",
            "synthetic": bool(study.get("synthetic")),
            "about": _about(document),
            "banners": list(_banners(document)),
            "tiles": list(_tiles(document, reference)),
            "sentences": [
                verdict[f"{name}_sentence"]
                for name in ("targets", "baseline", "holdout", "left_out")
                if verdict.get(f"{name}_sentence")
            ],
            "command": document.get("command") or "",
            "kept": _kept(verdict),
            "reference": reference,
            "charts": draw({"history": history_chart(points, best, reference)}),
            "parameters": small,
            "importance": _importance(document.get("importance") or {}),
            "names": list(small),
            "rows": list(_rows(document, best)),
            "folded": len(points) > _MOST_ROWS,
            "confidence": _confidence(document, best),
            "errors": _errors(document["trials"]),
            "facts": list(_facts(study)),
            "atb_fast": versions().get("atb-fast", ""),
        },
    )
    write_atomic(path, page.encode(errors="replace"))  # paths may not be UTF-8


def _logarithmic(study: Mapping[str, Any]) -> list[str]:
    """Return the keys of the ranges on a logarithmic scale."""
    space = study.get("space") or {}
    return [key for key, each in space.items() if isinstance(each, Mapping) and each.get("log")]


def _kept(verdict: Mapping[str, Any]) -> bool:
    """Return whether the verdict is to keep the defaults."""
    return bool(verdict.get("keep", "defaults") == "defaults")


def _point(number: int, trial: Mapping[str, Any]) -> Point:
    value = trial["value"]
    ratios = [fold["reference_ratio"] for fold in trial["folds"] if "reference_ratio" in fold]
    if value is None and trial["state"] == "pruned" and ratios:
        value = float(np.mean(ratios))
    return Point(number, trial["state"], value, dict(trial["params"]))


def _about(document: Mapping[str, Any]) -> str:
    study, states = document["study"], Counter(trial["state"] for trial in document["trials"])
    parts = [counted(len(document["trials"]), "trial")]
    parts[0] += "".join(
        f", {states[state]} {state}" for state in ("pruned", "failed") if states[state]
    )
    parts.append(f"{study.get('search', '')} search".strip())
    return " · ".join([*parts, counted(study["folds"], "fold"), f"study {study['id']}"])


def _banners(document: Mapping[str, Any]) -> Iterator[Banner]:
    verdict, study = document["verdict"], document["study"]
    sentence = (verdict.get("sentence") or "").removeprefix("Keep the defaults: ")
    kept = _kept(verdict)
    title = "Keep the defaults." if kept else "The best trial is better than the defaults."
    yield Banner("note" if kept else "good", title, sentence[:1].upper() + sentence[1:])
    looks = (verdict.get("holdout") or {}).get("looks", 0)
    if looks > 1:
        yield Banner(
            "note",
            f"The holdout was used {looks} times.",
            "Each use of the same bars makes it more likely that a good result there is just luck.",
        )
    if study.get("synthetic"):
        yield SYNTHETIC


def _tiles(document: Mapping[str, Any], reference: str) -> Iterator[Tile]:
    verdict = document["verdict"]
    for title, key, limit, note in (
        (
            "p-value against the defaults",
            "spa_defaults",
            LEVEL,
            f"SPA test; significant below {LEVEL}",
        ),
        (
            "Probability of overfitting",
            "pbo",
            _PBO,
            "PBO; below 50%, winners also tend to do well on other bars",
        ),
        (f"p-value against {reference}", "spa_baseline", LEVEL, "SPA test of all trials"),
    ):
        value = verdict.get(key)
        if value is None:
            yield Tile(title, "undefined", "too few bars or trials")
            continue
        text = percent(value) if key == "pbo" else "< 0.001" if value < 1e-3 else f"{value:.3f}"
        yield Tile(title, text, note, "good" if value < limit else "note")
    values = {
        name: (verdict.get("holdout") or {}).get(name, {}).get("value")
        for name in ("best", "defaults")
    }
    if values["best"] is not None:
        beside = f"on bars that no trial has seen; {reference.removeprefix('the ')} is 1"
        if values["defaults"] is not None and document["best"] != _first(document):
            beside = f"defaults {values['defaults']:.4f}; {beside}"
        yield Tile("Best trial on the holdout", f"{values['best']:.4f}", beside, wide=True)


def _first(document: Mapping[str, Any]) -> str:
    """Return the id of the defaults."""
    return str(document["trials"][0]["trial_id"])


def _importance(shares: Mapping[str, float]) -> list[Bar]:
    most = max(shares.values(), default=0.0) or 1.0
    return [
        Bar(name, percent(share), share / most)
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]


def _rows(document: Mapping[str, Any], best: int | None) -> Iterator[dict[str, Any]]:
    """Return the rows of the table of trials, in order."""
    confident = document["verdict"].get("confidence_set") or ()
    known = [trial["value"] for trial in document["trials"] if trial["value"] is not None]
    digits = 4 if known and max(known) - min(known) >= 0.01 else 6
    for number, trial in enumerate(document["trials"]):
        value = trial["value"]
        texts = [f"{name} {_text(each)}" for name, each in trial["params"].items()]
        yield {
            "number": number,
            "id": trial["trial_id"][:8],
            "what": "defaults" if number == 0 else "best" if number == best else "",
            "state": trial["state"],
            "tone": {"failed": "bad", "pruned": "muted"}.get(trial["state"], ""),
            "value": "–" if value is None else f"{value:.{digits}f}",
            "confident": "✓" if trial["trial_id"] in confident else "",
            "params": ", ".join(texts),
            "error": trial.get("error") or "",
        }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(map(_text, value)) or "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _confidence(document: Mapping[str, Any], best: int | None) -> str:
    """Return the model confidence set in a sentence; empty if there is none."""
    found = document["verdict"].get("confidence_set")
    complete = sum(trial["state"] == "complete" for trial in document["trials"])
    if not found or complete < 2:
        return ""
    defaults = _first(document) in found
    if len(found) == 1:
        only = "the defaults" if defaults else "one trial"
        return f"The 90% model confidence set has only {only}: all others are significantly worse."
    text = (
        f"The 90% model confidence set has {len(found)} of {counted(complete, 'complete trial')}, "
        "which are statistically indistinguishable."
    )
    if best == 0:
        return text
    return f"{text} The defaults are {'one of them' if defaults else 'not among them'}."


def _errors(trials: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Return the errors of failed trials, the most common one first."""
    found = Counter(str(trial.get("error")) for trial in trials if trial["state"] == "failed")
    return [Pair(counted(count, "trial"), error) for error, count in found.most_common(5)]


def _facts(study: Mapping[str, Any]) -> Iterator[Pair]:
    yield Pair("study", study["id"])
    for name, value in study.items():
        if name in _SHOWN or value is None or name in ("folder", "report"):
            continue
        if name == "space" and isinstance(value, Mapping):
            for key, choices in value.items():
                yield Pair(f"space: {key}", _choices(choices))
        else:
            yield Pair(name.replace("_", " "), _text(value))


def _choices(choices: Any) -> str:
    if isinstance(choices, Mapping):
        return ", ".join(f"{name} {_text(value)}" for name, value in choices.items())
    return _text(choices)
