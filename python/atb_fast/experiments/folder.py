"""The folder of a study: its definition, and a file for each result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atb_fast.config import LARGEST_FIGURE
from atb_fast.errors import StorageError
from atb_fast.experiments import search as searches
from atb_fast.experiments import trial
from atb_fast.storage import write_atomic

DEFINITION, REPORT, _LOCK = "study.json", "report.html", ".lock"
#: How a trial can end.
STATES = ("complete", "pruned", "failed")
#: Files that a killed process may leave; see `storage.write_atomic`.
_TEMPORARY = re.compile(r"\..*\.tmp")
_RESULT = re.compile(r"[0-9a-f]{16}\.json")


@contextmanager
def opened(folder: Path, definition: Mapping[str, Any]) -> Iterator[None]:
    """Lock the folder of a study; create it if it does not exist.

    Raises:
        StorageError: It belongs to another study, has other files, is used by another process, or
            cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StorageError(
                f"another process is running the study in {folder}; wait until it has finished, or "
                "pass another --study"
            ) from None
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{folder} cannot be used for a study ({error.strerror or error}); pass another --study"
        ) from error
    try:
        _check_folder(folder, definition)
        yield
    finally:
        lock.release()


def _check_folder(folder: Path, definition: Mapping[str, Any]) -> None:
    """Write the definition into a new folder, or compare it with that of an existing one."""
    path = folder / DEFINITION
    names = sorted(
        each.name
        for each in folder.iterdir()
        if each.name not in (_LOCK, REPORT) and not _TEMPORARY.fullmatch(each.name)
    )
    others = [name for name in names if not _is_ours(name)]
    if path.name not in names:
        if others:
            raise StorageError(
                f"{folder} has other files, such as {others[0]}, but no {DEFINITION}; pass a new "
                "folder as --study"
            )
        write(path, json.dumps(definition, indent=2, allow_nan=False).encode() + b"\n")
        return
    found = _read(path)
    if found != definition:
        differ = list(dict.fromkeys(_differences(definition, found)))
        shown = ", ".join(differ[:5]) + ", ..." * (len(differ) > 5)
        raise StorageError(
            f"{path} belongs to another study, which differs in {shown:.200};"
            " pass another --study, or omit it. If the file is damaged, move it elsewhere and run"
            " the command again"
        )
    for name in others:
        raise StorageError(f"{folder / name} does not belong to the study; move it elsewhere")


def _is_ours(name: str) -> bool:
    """Return whether a file may be part of a study."""
    return name == DEFINITION or bool(_RESULT.fullmatch(name)) or name.endswith(".toml")


def _differences(definition: Any, found: Any, name: str = "") -> Iterator[str]:
    """Yield the names of the values in which two definitions of a study differ."""
    if isinstance(definition, dict) and isinstance(found, dict):
        for key in {**definition, **found}:
            if key in definition and key in found:
                yield from _differences(definition[key], found[key], key)
            else:
                yield key
    elif definition != found:
        yield name


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result of a trial, with its hash.

    Raises:
        StorageError: It cannot be written.
    """
    write(path, trial.canonical({**result, "sha256": _hash(result)}) + b"\n")


def _hash(result: Mapping[str, Any]) -> str:
    return hashlib.sha256(trial.canonical(result)).hexdigest()


def read_result(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result in a file, which must be that of `document`.

    Results of earlier versions of atb-fast have no hash.

    Raises:
        StorageError: It cannot be read, is damaged, or is the result of something else.
    """
    found = _read(path)
    digest = found.pop("sha256", None)
    try:
        valid = digest is None or digest == _hash(found)
        valid &= found["trial_id"] == path.stem and found["trial"] == document
        valid &= found["state"] in STATES and "exit_code" in found
        valid &= all(isinstance(each, dict) for each in found["pooled"].values())
        valid &= isinstance(found["run"].get("machine", {}), dict)
        valid &= isinstance(found["error"], str if found["state"] == "failed" else type(None))
        valid &= found["state"] != "pruned" or document.get("prune") is not None
        numbers = [found["run"].get("seconds", 0.0), *searches.steps_of(found)]
        if found["state"] == "complete":
            numbers += [found["value"], *trial.losses(found)["model"].to_list()]
            valid &= {*found["pooled"]} == {market["symbol"] for market in document["markets"]}
        else:
            valid &= found["value"] is None
        valid &= bool((np.abs(numbers) <= LARGEST_FIGURE).all())
    except (
        *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
        pl.exceptions.PolarsError,
    ):
        valid = False
    if not valid:
        raise _damaged(path)
    return found


def failed(name: str, document: Mapping[str, Any] | None, error: str, code: int) -> dict[str, Any]:
    """Return the result of a trial whose process returned none; see `trial.run_trial`."""
    return {
        "trial_id": name,
        "trial": document,
        "state": "failed",
        "value": None,
        "folds": [],
        "pooled": {},
        "losses": {},
        "error": error,
        "exit_code": code,
        "run": {},
    }


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a study.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> StorageError:
    return StorageError(
        f"{path} is damaged, or not a file of this study; move it elsewhere, and run the same "
        "command to resume"
    )


def write(path: Path, content: bytes) -> None:
    """Write a file of a study atomically.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        write_atomic(path, content)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}); finished trials are saved, so "
            "fix this and run the same command to resume"
        ) from error
