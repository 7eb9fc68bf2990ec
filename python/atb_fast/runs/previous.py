"""The previous run: the version that the report of a new model is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import BundleError
from atb_fast.features import outputs
from atb_fast.reports.before import FIGURES, RATIOS, Before
from atb_fast.runs import ledger, records
from atb_fast.runs.facts import facts, seed_of, split
from atb_fast.runs.promotion import target_of
from atb_fast.serving import registry

_OTHER_WINDOWS = (
    "The test windows differ, so the errors are not comparable. Compare the ratios with care, "
    "because some periods are easier to forecast than others."
)


def run_before(home: Path, document: Mapping[str, Any]) -> Before | None:
    """Return the previous run, and how the new one differs from it.

    It is the live version of the same symbol and type; if none is live, the newest version. Its
    files may be damaged or from another trainer; that is part of the result, not an error.

    Args:
        home: The directory of all versions of this symbol and type, without the new one.
        document: metadata.json of the new run. `promotion` may be missing.

    Returns:
        None if there is no other version.
    """
    try:
        live = registry.live_version(home)
        others = [] if live else registry.versions_in(home)
    except OSError:  # the directory does not exist yet, or cannot be read
        return None
    if not (live or others):
        return None
    path = home / live if live else others[-1]
    try:
        return _compared(
            path.name, bool(live), registry.read_json(path / "metadata.json"), document
        )
    except Exception as error:  # metadata that was not written by this version can raise anything
        # The page must not name directories of this machine.
        why = str(error).replace(str(path), path.name).partition("\n")[0]
        if not isinstance(error, BundleError):
            why = f"its metadata.json has unexpected content ({type(error).__name__})"
        return Before(path.name, bool(live), problem=why)


def _compared(version: str, live: bool, old: dict[str, Any], document: Mapping[str, Any]) -> Before:
    if registry.is_foreign(old):
        raise BundleError("another trainer made it, so its options and test windows are unknown")
    documents = (old, document)
    before, now = (records.of_bundle(each, name=version, published=True) for each in documents)
    named = [_facts(record, each) for record, each in zip((before, now), documents, strict=True)]
    _, differs = split(named)
    if "candles" in differs:  # other candles have another hash
        differs.pop("candles sha256", None)
    if "columns" in differs:
        differs["columns"] = _added(*(each.get("columns", "") for each in named))
    lines = [ledger.headline(record["metrics"]) for record in (before, now)]
    same_target = _same_target(old, document) and not differs.keys() & {"symbol", "timeframe"}
    why, keys = "", FIGURES
    if not same_target or len({(line.name, line.reference) for line in lines}) > 1:
        why, keys = "It predicted a different target, so its figures are not comparable.", ()
    elif _windows(old) is None or _windows(old) != _windows(document):
        why, keys = _OTHER_WINDOWS, RATIOS
    figures = [record["metrics"] for record in (before, now)]
    for each, line in zip(figures, lines, strict=True):
        # The ratio to the forecast that the model has to beat, which is not always `unchanged`.
        each.pop("ratio", None)
        if line.ratio is not None:
            each["ratio"] = line.ratio
    reference = lines[1].reference or "the baseline"
    return Before(
        version,
        live,
        differs={name: (each[0], each[1]) for name, each in differs.items()},
        figures={
            key: (figures[0][key], figures[1][key])
            for key in keys
            if all(key in each for each in figures)
        },
        reference=reference.removeprefix("the "),
        incomparable=why,
        scored=_scored(document, version),
    )


def _facts(record: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about a run, and about its data."""
    dataset = document.get("dataset")
    dataset = dataset if isinstance(dataset, dict) else {}
    found = facts(record)
    names = document.get("feature_names")
    if isinstance(names, list):
        found["columns"] = ", ".join(map(str, names))
    if all(isinstance(dataset.get(f"candles_{end}"), str) for end in ("first", "last")):
        days = (dataset[f"candles_{end}"][:10] for end in ("first", "last"))
        found["candles"] = " to ".join(days)
    if found_windows := _windows(document):
        count, first, last, *_ = found_windows
        length = document.get("sequence_length")
        bar = timedelta(milliseconds=TIMEFRAMES[str(record["timeframe"])])
        days = (
            f"{datetime.fromisoformat(end) + bar * offset:%Y-%m-%d}"
            for end, offset in ((first, int(length or 1)), (last, 1))
        )
        found["test windows"] = f"{count:,}, {' to '.join(days)}"
    found["seed"] = seed_of(record)
    return found


def _windows(document: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return what identifies the test windows: number, ends and data; None if not recorded."""
    dataset = document.get("dataset")
    try:
        test = dataset["split"]["test"]  # type: ignore[index]
        count, ends = int(dataset["test_windows"]), (test["first"], test["last"])  # type: ignore[index]
        return count, *map(str, ends), test["labels_until"], dataset["sha256"]["candles"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None


def _same_target(old: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Return whether both models forecast the same values."""
    own, other = (outputs.read(each) for each in (document, old))
    if outputs.describe(own) != outputs.describe(other):
        return False
    if "price_normalization" in document:  # regardless of the target, both predict the same close
        return True
    return target_of(old.get("recipe_document")) == target_of(document.get("recipe_document"))


def _added(before: str, now: str) -> list[str]:
    """Return the columns that only one of two lists has."""
    lists = [each.split(", ") for each in (before, now)]

    def only(own: Iterable[str], other: Iterable[str]) -> str:
        return ", ".join(each for each in own if each not in other) or "–"

    found = [only(*lists), only(*reversed(lists))]
    return ["in a different order", "–"] if found == ["–", "–"] else found


def _scored(document: Mapping[str, Any], version: str) -> Mapping[str, Any] | None:
    """Return the comparison of both models on the same bars, which the promotion made."""
    compared = (document.get("promotion") or {}).get("compared", ())
    name = f"the live model {version}"
    return next((each for each in compared if each["other"] == name), None)
