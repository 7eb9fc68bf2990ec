"""The section of a report that compares a run with the previous one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from atb_fast.reports.rows import Comparison, Row, number, percent, ratio_text

#: Longer values of options are cut.
_LONGEST = 120


@dataclass(frozen=True)
class Before:
    """The previous run, and how the new one differs from it.

    Attributes:
        version: Its version.
        live: Whether it is live.
        problem: Why the runs cannot be compared; empty if they can.
        differs: Facts that differ, by name: the previous and the new value. None is an unknown
            default.
        figures: Previous and new figures, by the names of `Scoring.figures`. If the test windows
            differ, only ratios.
        reference: The forecast that both have to beat, without an article.
        incomparable: Why their errors are not comparable; empty if they are.
        scored: The comparison with the live model on the same bars (`Comparison.to_dict` of
            `runs.promotion`); None if there is none.
    """

    version: str
    live: bool
    problem: str = ""
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    figures: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reference: str = ""
    incomparable: str = ""
    scored: Mapping[str, Any] | None = None


def section(before: Before | None, text: Callable[[float], str]) -> dict[str, Any] | None:
    """Return the values that the template shows; None if there is no previous run.

    Args:
        before: The previous run.
        text: Formats an error.
    """
    if before is None:
        return None
    which = "live at the time" if before.live else "the newest version; none was live"
    return {
        "version": before.version,
        "which": which,
        "problem": before.problem,
        "incomparable": before.incomparable,
        "scored": _scored(before.scored, text),
        "same": not (before.differs or before.problem),
        "differs": [
            Row(name, [_text(each) for each in both]) for name, both in before.differs.items()
        ],
        "figures": _figures(before, text),
    }


def _text(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _figures(before: Before, text: Callable[[float], str]) -> Comparison | None:
    """Return the table of the figures; None if there are none."""
    rows = [
        Row(*_figure(name, before.reference, text, *both)) for name, both in before.figures.items()
    ]
    return (
        Comparison("Test figures", ["previous run", "this run", "difference"], rows, [])
        if rows
        else None
    )


def _relative(before: float, now: float) -> str:
    return f"{100 * (now / before - 1):+.1f}%" if before else "–"


def _points(before: float, now: float) -> str:
    return f"{100 * (now - before):+.1f} points"


def _ratio(before: float, now: float) -> str:
    return f"{now - before:+.2g}"


def _more(before: float, now: float) -> str:
    return f"{now - before:+,.0f}"


#: What figures are called, and how they and their differences are formatted.
_NAMES: dict[str, tuple[str, Callable[[float], str], Callable[[float, float], str]]] = {
    "test_rmse": ("RMSE", number, _relative),
    "test_log_loss": ("log loss", number, _relative),
    "ratio": ("ratio to {}", ratio_text, _ratio),
    "diebold_mariano": (
        "Diebold-Mariano statistic against {}",
        lambda value: f"{value:.1f}",
        lambda before, now: f"{now - before:+.1f}",
    ),
    "qlike": ("QLIKE", number, _relative),
    "qlike_ratio": ("QLIKE, ratio to {}", ratio_text, _ratio),
    "r2": ("R²", lambda value: f"{value:.3f}", _ratio),
    "brier_score": ("Brier score", number, _relative),
    "accuracy": ("accuracy", percent, _points),
    "accuracy_bars": ("accuracy, bars in its interval", number, _more),
    "directional_accuracy": ("directional accuracy", percent, _points),
    "directional_bars": ("directional accuracy, bars that count", number, _more),
}
#: The figures that are compared: all of them, or those that do not depend on the test windows.
FIGURES, RATIOS = tuple(_NAMES), ("ratio", "qlike_ratio")


def _figure(
    key: str, reference: str, text: Callable[[float], str], before: float, now: float
) -> tuple[str, list[str]]:
    name, write, change = _NAMES[key]
    write = text if key.startswith("test_") else write
    texts = [write(before), write(now)]
    texts.append("none" if texts[0] == texts[1] else change(before, now))
    return name.format(reference), [each.replace("-", "−") for each in texts]


def _scored(scored: Mapping[str, Any] | None, text: Callable[[float], str]) -> str:
    """Return how both models score on the same bars, in one sentence."""
    if not scored:
        return ""
    key = "rmse" if "rmse" in scored else "log_loss"
    name = {"rmse": "RMSE", "log_loss": "log loss"}[key]
    statistic, errors = scored["diebold_mariano"], (scored[f"other_{key}"], scored[key])
    first, last = (str(scored[end])[:10] for end in ("first", "last"))
    found = (
        f"On the {scored['bars']:,} test bars that neither model was trained on, {first} to "
        f"{last}, the {name} of the previous model is {text(errors[0])} and that of the new one "
        f"{text(errors[1])}"
    )
    if statistic == 0.0:
        return f"{found}."
    than = "better" if statistic > 0 else "worse"
    chance = "" if abs(statistic) >= 2 else ", which may be due to chance"
    return f"{found}: {abs(statistic):.1f} standard errors {than} (Diebold-Mariano test){chance}."
