"""Figures of an evaluation as text. They may come from metadata, so any value is possible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from atb_fast.reports import rows


def figure(value: Any) -> float | None:
    """Return `value` if it is a finite number; metadata of other trainers may have anything."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a huge integer
        return None


def number(value: Any, digits: int = 5) -> str:
    """Format an error as the report does; empty if it is not a number."""
    known = isinstance(value, float) or figure(value) is not None
    return rows.number(value, digits) if known else ""


def over(reference: str | None) -> str:
    """Return `rows.over` with a short name of the baseline; None if it differs between rows."""
    name = reference or "baseline"
    brief = {"persistence": "pers.", "the class shares": "shares"}
    return rows.over(brief.get(name, name))


def sentences(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a bundle that have another unit than its error, as text, by name.

    Each is next to that of baselines. Unknown figures are left out.
    """
    found = {
        "direction": _direction(results),
        "accuracy": _accuracy(results),
        "baselines": _shares(
            results,
            majority_accuracy="majority class",
            contrarian_accuracy="contrarian",
            linear_accuracy="linear model",
        ),
        "QLIKE": _beside_har(results, "qlike"),
        "R²": _beside_har(results, "r2"),
        "band": _band(results),
    }
    return {name: text for name, text in found.items() if text}


def _shares(results: Mapping[str, Any], **names: str) -> str:
    """Return the shares that are known, each with its name."""
    known = {name: figure(results.get(key)) for key, name in names.items()}
    return ", ".join(f"{name} {share:.1%}" for name, share in known.items() if share is not None)


def _interval(results: Mapping[str, Any], key: str, of: str, fewer: str = "") -> str:
    """Return a share with its interval; empty if it is unknown."""
    share, low, high = (figure(results.get(f"{key}{end}")) for end in ("", "_low", "_high"))
    if share is None or low is None or high is None:
        return ""
    return f"right in {share:.1%} of {of} (95% interval {low:.1%} to {high:.1%}{fewer})"


def _accuracy(results: Mapping[str, Any]) -> str:
    matrix, bars = results.get("confusion_matrix"), figure(results.get("accuracy_bars"))
    windows = 0
    if isinstance(matrix, list) and all(isinstance(row, list) for row in matrix):
        counts = [count for row in matrix for count in row]
        windows = sum(counts) if all(type(count) is int for count in counts) else 0
    if bars is None:
        return _interval(results, "accuracy", "bars")
    if windows < bars:  # unknown
        return _interval(results, "accuracy", "bars", f", n = {bars:,}")
    return _interval(results, "accuracy", f"{windows:,} bars", rows.fewer_text(bars, windows))


def _direction(results: Mapping[str, Any]) -> str:
    bars = figure(results.get("directional_bars"))
    if bars == 0:
        return "undefined: the model predicts no move, or the price never moves"
    right = _interval(results, "directional_accuracy", f"{bars or 0:,} bars")
    up = _shares(results, directional_up_share="always up:")
    return f"{right}; {up}" if bars and right and up else ""


def _beside_har(results: Mapping[str, Any], key: str) -> str:
    own, har = (figure(results.get(name)) for name in (key, f"har_{key}"))
    return "" if own is None or har is None else f"{own:.3f} (HAR: {har:.3f})"


def _band(results: Mapping[str, Any]) -> str:
    inside, level = (figure(results.get(name)) for name in ("coverage", "band"))
    if inside is None or level is None:
        return ""
    return f"{inside:.1%} of the returns are between the quantiles, expected {level:.0%}"
