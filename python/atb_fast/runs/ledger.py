"""The ledger: one record for each training, evaluation and trial of a registry.

It is `ledger.jsonl` in the work folder next to the registry, not in the registry itself, because
engines scan that. Each line is a JSON object with these keys:

    id         16 hexadecimal digits; two records with the same id are the same run
    kind       train, evaluate, trial or holdout
    created    ISO 8601, UTC
    symbols, timeframe, recipe
    recipe_sha256     hash of the recipe as data; null for bundles of other trainers
    target, network   as in a recipe document: `kind` and its keys
    options    options that differ from the defaults of the recipe
    data       sha256 of each input
    metrics    figures of the model and of baselines by name, as in metadata.json
    seconds    duration of the run; null if unknown
    machine, git, versions
    bundle     path relative to the registry; null if none was published
    study      the study that the run is part of, or null
    sha256     hash of the record without this key; missing in records of earlier versions

The file is not trusted: `read` checks the hash, and the size and the type of every value.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atb_fast.config import LARGEST_FIGURE
from atb_fast.errors import ArgumentError, BundleError, StorageError, counted, remedy
from atb_fast.evaluation.scoring import NAMES
from atb_fast.runs.records import is_figure, is_number, of_bundle
from atb_fast.serving import registry as layout
from atb_fast.storage import sync_directory, write_atomic

log = logging.getLogger(__name__)

#: The kinds of runs. A `holdout` tests the best trial of a study on bars that no trial has seen.
KINDS = ("train", "evaluate", "trial", "holdout")

#: Longest line that is read, in bytes; real lines have about 2 kB.
_MOST_LINE = 1 << 18
#: Seconds to wait while another process writes.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Ledger:
    """The contents of a ledger.

    Attributes:
        records: The records, oldest first. Of records with the same id, only the last one.
        problems: What is wrong with each line that cannot be used.
    """

    records: list[dict[str, Any]]
    problems: list[str]


@dataclass(frozen=True)
class Reindexed:
    """What `reindex` did.

    Attributes:
        added: Number of bundles that had no record.
        kept: Number of records that were kept or rebuilt.
        dropped: What was wrong with each line that was removed.
    """

    added: int
    kept: int
    dropped: list[str]


def path_of(registry: Path) -> Path:
    """Return the path of the ledger of `registry`."""
    return layout.work_folder(registry) / "ledger.jsonl"


def append(registry: Path, record: Mapping[str, Any]) -> bool:
    """Add a record to the ledger of `registry`, completely and durably.

    If it cannot be written, this only logs a warning, so that the run is not lost.

    Returns:
        Whether it was written.
    """
    path = path_of(registry)
    line = _line(record)
    try:
        _make_folder(path.parent)
        with _locked(path.parent):
            _append(path, line)
    except OSError as error:
        later = "; run atb-fast runs reindex to add it later" if record["kind"] == "train" else ""
        log.warning(
            "the run is complete, but %s could not be written (%s)%s",
            path,
            error.strerror or error,
            later,
        )
        return False
    return True


def _line(record: Mapping[str, Any]) -> bytes:
    plain = json.loads(json.dumps(record, allow_nan=False))
    return json.dumps({**plain, "sha256": _hash_of(plain)}).encode() + b"\n"


def _hash_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _append(path: Path, line: bytes) -> None:
    """Append a line to `path`, completely or not at all."""
    new = not path.exists()
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a process was killed in the middle of a line
                line = b"\n" + line
        try:
            while line:  # if a write was incomplete, the next one raises the reason
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(size)
            raise
    if new:
        sync_directory(path.parent)


def _make_folder(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    if not (work / ".gitignore").exists():  # a registry may be part of a checkout
        write_atomic(work / ".gitignore", b"*\n")


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the lock of the ledger. It has its own: that of the registry may be held for seconds."""
    from filelock import FileLock

    with FileLock(work / "ledger.lock", timeout=_PATIENCE):
        yield


def read(registry: Path) -> Ledger:
    """Return what the ledger of `registry` contains; nothing if it does not exist.

    Raises:
        StorageError: It cannot be read.
    """
    path = path_of(registry)
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for number, line in enumerate(_lines(path), 1):
        try:
            record = _parsed(line)
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
            continue
        found.pop(record["id"], None)  # the last one determines the order
        found[record["id"]] = record
    return Ledger(list(found.values()), problems)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a ledger; a line that is too long is cut."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_MOST_LINE + 1):
                rest = line
                while len(rest) > _MOST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(_MOST_LINE + 1)
                if line.strip():
                    yield line
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def _parsed(line: bytes) -> dict[str, Any]:
    """Return the record in a line.

    Raises:
        ValueError: It is not a record; the message says why.
    """
    if len(line) > _MOST_LINE:
        raise ValueError(f"has more than {_MOST_LINE:,} bytes")
    try:
        found = json.loads(line.decode())
        digest = found.pop("sha256", None) if isinstance(found, dict) else None
        record = _clean(found)
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            raise ValueError("is incomplete: its writer was stopped, or is still writing") from None
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"is not a record: {reason}") from None
    if digest is not None and digest != _hash_of(found):
        raise ValueError("is damaged: it does not match its own hash")
    for key, (valid, expected) in _CHECKS.items():
        found = record.get(key) if isinstance(record, dict) else None
        if not valid(found):
            raise ValueError(f"has the {key} {found!r:.80}, expected {expected}")
    known: dict[str, Any] = record
    return dict.fromkeys(_CHECKS) | known  # a key that may be null may also be missing


def _clean(value: Any, depth: int = 5) -> Any:
    """Return JSON data that is safe to print: control characters are escaped.

    Raises:
        ValueError: It is nested too deeply, or has a number that is not a finite float.
    """
    if isinstance(value, dict | list) and depth == 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {_clean(key): _clean(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth - 1) for item in value]
    if isinstance(value, str) and not value.isprintable():
        return value.encode("unicode_escape").decode()
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_number(value):
        raise ValueError("it has a number that is not a finite float")
    return value


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("kind"), str | None)


def _is_time(value: Any) -> bool:
    # In UTC, a time in the year 1 or 9999 may be outside the years that Python supports.
    with suppress(TypeError, ValueError, OverflowError):
        found = datetime.fromisoformat(value)
        return found.tzinfo is not None and bool(found.astimezone(UTC))
    return False


def _is_bundle(value: Any) -> bool:
    """Return whether `value` is the path of a bundle in a registry, which leads nowhere else."""
    parts = value.split("/") if isinstance(value, str) else []
    return value is None or (len(parts) == 3 and all(map(layout.is_part, parts)))


_TEXT = (lambda value: value is None or isinstance(value, str), "a text")
#: For each key, what checks its value, and what is expected.
_CHECKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "id": (
        lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{8,64}", value),
        "8 to 64 hexadecimal digits",
    ),
    "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    "created": (_is_time, "an ISO time with a time zone"),
    "symbols": (
        lambda value: isinstance(value, list) and value and all(isinstance(x, str) for x in value),
        "a list of texts",
    ),
    **dict.fromkeys(("timeframe", "recipe", "recipe_sha256", "study"), _TEXT),
    **dict.fromkeys(("target", "network"), (_is_part, "an object whose kind is a text")),
    **dict.fromkeys(("options", "data", "machine", "versions"), (_is_table, "an object")),
    "metrics": (
        lambda value: isinstance(value, dict) and all(map(is_figure, value.values())),
        f"numbers by name, up to {LARGEST_FIGURE}",
    ),
    "seconds": (
        lambda value: value is None or is_figure(value),
        f"a number up to {LARGEST_FIGURE}",
    ),
    "git": (lambda value: value is None or isinstance(value, dict), "an object"),
    "bundle": (_is_bundle, "SYMBOL/TYPE/VERSION"),
}


def find(records: Iterable[Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    """Return the record whose id begins with `prefix`.

    Raises:
        ArgumentError: There is none, or there are several.
    """
    found = [dict(record) for record in records if record["id"].startswith(prefix.lower())]
    if not prefix or not found:
        raise ArgumentError(
            f"no run has the id {prefix!r:.80}; atb-fast runs ls lists the ids", options=["id"]
        )
    if len(found) > 1:
        shown = ", ".join(record["id"] for record in found[:5]) + ", ..." * (len(found) > 5)
        raise ArgumentError(
            f"{counted(len(found), 'run')} begin with {prefix!r:.80}: {shown}; pass more digits",
            options=["id"],
        )
    return found[0]


def state(registry: Path, record: Mapping[str, Any]) -> str:
    """Return the state of the bundle of a run.

    Returns:
        `live`, `published`, `removed`, or `unpublished` for a training whose bundle never was in
        the registry. Empty for runs without a bundle.
    """
    if record["bundle"] is None:
        return "unpublished" if record["kind"] == "train" else ""
    bundle = registry / record["bundle"]
    if not bundle.is_dir():
        return "removed"
    return "live" if layout.live_version(bundle.parent) == bundle.name else "published"


@dataclass(frozen=True)
class Headline:
    """The error of a run, next to that of the baseline that it has to beat.

    Attributes:
        name: Name of the figure: `test_rmse` or `test_log_loss`.
        error: Its value.
        reference: What the model has to beat, in sentences; None if unknown.
        reference_error: The error of the reference; None if unknown.
        ratio: `error` divided by `reference_error`; None if unknown.
    """

    name: str
    error: float | None
    reference: str | None = None
    reference_error: float | None = None
    ratio: float | None = None


def headline(metrics: Mapping[str, float]) -> Headline:
    """Return the error in `metrics` and that of the reference; see `Scoring.references`."""
    key = "log_loss" if "test_log_loss" in metrics else "rmse"
    error = metrics.get(f"test_{key}")
    for name in ("har", "class_shares", "persistence"):
        other = metrics.get(f"{name}_{key}")
        if other is not None and error is not None:
            ratio = error / other if other else math.inf
            known = ratio if abs(ratio) <= LARGEST_FIGURE else None
            return Headline(f"test_{key}", error, NAMES[name], other, known)
    return Headline(f"test_{key}", error, ratio=metrics.get("ratio"))


def reindex(registry: Path) -> Reindexed:
    """Rebuild the ledger of `registry`.

    Records of trainings are computed again from the metadata of their bundles, including those that
    were not published and those of other trainers. All other records are kept, including those of
    bundles that no longer exist. Damaged lines are removed.

    Raises:
        StorageError: The registry cannot be read, or the ledger cannot be written.
    """
    path = path_of(registry)
    if not (registry.is_dir() or path.parent.is_dir()):
        raise StorageError(
            f"registry {registry} does not exist; pass --registry or set MODEL_REGISTRY_PATH"
        )
    try:
        _make_folder(path.parent)
        with _locked(path.parent):
            before = read(registry)
            records = {record["id"]: record for record in before.records}
            unreadable = []
            added = 0
            for name, folder, published in _trained(registry):
                try:
                    metadata = layout.read_json(folder / "metadata.json")
                except BundleError as error:
                    unreadable.append(str(error))
                    continue
                try:
                    made = of_bundle(metadata, name=name, published=published)
                    made = _parsed(_line(made))
                except ValueError as error:  # metadata of other trainers may have any content
                    unreadable.append(f"{folder}: {error}")
                    continue
                known = records.get(made["id"])
                added += known is None
                # Metadata does not have the duration.
                records[made["id"]] = made | ({"seconds": known["seconds"]} if known else {})
            ordered = sorted(
                records.values(), key=lambda record: datetime.fromisoformat(record["created"])
            )
            write_atomic(path, b"".join(map(_line, ordered)))
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; {remedy(error)}"
        ) from error
    for problem in unreadable:
        log.warning("%s", problem)
    return Reindexed(added, len(records) - added, before.problems)


def _trained(registry: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield SYMBOL/TYPE/VERSION, the directory of each bundle, and whether it is published."""
    if registry.is_dir():
        for path in layout.versions(registry):
            yield "/".join(path.parts[-3:]), path, True
    for path in layout.unpublished(registry):
        # SYMBOL_TYPE_VERSION; a type may have underscores, as a version does.
        symbol, rest = path.name.split("_", 1)
        if found := re.fullmatch(r"(.+)_(\d{4}-\d{2}-\d{2}_\d{2}h\d{2}m\d{2}s_v\d+)", rest):
            yield f"{symbol}/{found[1]}/{found[2]}", path, False
