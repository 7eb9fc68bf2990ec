"""The facts about runs of the ledger: which they share, and which differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atb_fast.config import OPTIONS

#: The name of a log loss with class weights. It is only comparable with others of this name.
WEIGHTED = "weighted log loss"
#: The packages and the facts about the machine that are compared.
_VERSIONS = ("atb-fast", "tensorflow", "tensorflow-cpu", "keras")
_MACHINE = ("cpu", "intra_op_threads", "gpus")


def facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about a run by name, as JSON values, without its seed, time and results."""
    found: dict[str, Any] = {
        "kind": record["kind"],
        "symbol": ", ".join(record["symbols"]),
        "timeframe": record["timeframe"],
        "recipe": record["recipe"],
        "recipe sha256": _short(record["recipe_sha256"]),
    }
    for part in ("target", "network"):
        for key, value in record[part].items():
            name = {"kind": part, "horizon": "horizon"}.get(key, f"{part}_{key}")
            found[name] = plain(value)
    for name, value in record["options"].items():
        if name != "seed":
            found[name] = plain(value)
    for name, value in _flat(record["data"]):
        found[f"{name} sha256"] = _short(value)
    found |= {name: record["versions"].get(name) for name in _VERSIONS}
    found |= {name: plain(record["machine"].get(name)) for name in _MACHINE}
    found["commit"] = _short((record["git"] or {}).get("commit"))
    return {name: value for name, value in found.items() if value not in (None, "")}


def plain(value: Any) -> Any:
    """Return the value of a fact; lists and objects become text, and midnights become dates."""
    if isinstance(value, str):
        return value.removesuffix("T00:00:00+00:00")
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return value


def split(named: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the facts that are the same for all runs, and the values of the others.

    A fact that a run does not have is `–`; an unknown default is None.
    """
    same, differs = {}, {}
    for name in dict.fromkeys(name for each in named for name in each):
        # If a run lacks a key of a target or a network, it does not have the default either.
        known = name in OPTIONS and not name.startswith(("target_", "network_"))
        default = OPTIONS[name].default if known else "–"
        values = [each.get(name, default) for each in named]
        if all(value == values[0] for value in values):
            same[name] = values[0]
        else:
            differs[name] = values
    return same, differs


def seed_of(record: Mapping[str, Any]) -> Any:
    """Return the seed of a run."""
    return record["options"].get("seed", OPTIONS["seed"].default)


def error_name(key: str, target: Mapping[str, Any]) -> str:
    """Return what the error of a run is called in sentences; see `Scoring.name`.

    Args:
        key: Its name as a figure: `test_rmse` or `test_log_loss`.
        target: The target, as in a record or a recipe document.
    """
    if key == "test_rmse":
        return "RMSE"
    weighted = target.get("class_weights", "none") != "none"
    return WEIGHTED if weighted else "log loss"


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str | None:
    """Return the beginning of a hash."""
    return value[:8] if isinstance(value, str) else None
