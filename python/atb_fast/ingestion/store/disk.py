"""Locks, manifests and files with known hashes, for candles and for sentiment."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from atb_fast.config import default_cache_dir
from atb_fast.errors import StorageError
from atb_fast.ingestion.quality import Quality
from atb_fast.ingestion.spans import Span
from atb_fast.storage import write_atomic

FORMAT = 1


class DamagedError(StorageError):
    """A file has changed since it was written, or is missing. `repair` may drop it."""


@dataclass(frozen=True)
class Finding:
    """The result of `verify` for a series.

    Attributes:
        name: For example `BTCUSDT 1d`.
        problems: Problems that need a repair; empty if the series is sound.
        quality: Quality of the candles; None for sentiment and for unreadable candles.
        outages: Number of confirmed gaps.
        damaged: Spans whose candles failed verification.
        unlisted: Number of sound files that the manifest does not list.
    """

    name: str
    problems: tuple[str, ...] = ()
    quality: Quality | None = None
    outages: int = 0
    damaged: tuple[Span, ...] = ()
    unlisted: int = 0


@contextmanager
def locked(directory: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of `directory`. If this process dies, the operating system releases it.

    Args:
        directory: Created if it does not exist.
        on_wait: Called once if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Convert errors of the operating system to a StorageError with the reason and a fix."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"{directory} is not writable ({reason}); check the free space and the permissions, or "
            "pass another --cache-dir"
        ) from error


def now_iso() -> str:
    """Return the current time in UTC as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def modified_iso(path: Path) -> str:
    """Return when a file was last written, like `now_iso`."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def to_parquet(frame: pl.DataFrame) -> bytes:
    """Return `frame` as the content of a Parquet file."""
    buffer = io.BytesIO()
    # Compression saves at most a third, and takes five times as long as everything else.
    frame.write_parquet(buffer, compression="uncompressed", statistics=False)
    return buffer.getvalue()


def write_manifest(path: Path, document: dict[str, Any]) -> None:
    """Replace the manifest, with its format version and its own hash added."""
    document = {"format": FORMAT, **document}
    write_atomic(
        path, (json.dumps(document | {"sha256": _hash(document)}, indent=1) + "\n").encode()
    )


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a manifest, or None if there is none.

    Raises:
        DamagedError: The manifest has changed since it was written.
        StorageError: It cannot be read, or has another format version.
    """
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}; fix its permissions, or pass another "
            "--cache-dir"
        ) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise damaged(path, "not a manifest")
    if document["format"] != FORMAT:
        raise StorageError(
            f"{path} has format {document['format']}, expected {FORMAT}; use the version of "
            "atb-fast that wrote it, or pass another --cache-dir"
        )
    if document.pop("sha256", None) != _hash(document):
        raise damaged(path, "its content does not match its own hash")
    return document


def verified(path: Path, digests: Collection[str] | None = None) -> bytes:
    """Return the content of a file after checking that its sha256 is one of `digests`, if given.

    Raises:
        DamagedError: The hash differs, or the file is missing.
        StorageError: The file cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise damaged(path, "the file is missing") from error
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}; fix its permissions, or pass another "
            "--cache-dir"
        ) from error
    if digests is not None and hashlib.sha256(data).hexdigest() not in digests:
        raise damaged(path, "its hash does not match the manifest")
    return data


def from_parquet(path: Path, data: bytes, schema: pl.Schema) -> pl.DataFrame:
    """Return the frame of a Parquet file; the inverse of `to_parquet`."""
    try:
        frame = pl.read_parquet(data)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise damaged(path, "it cannot be read as Parquet") from error
    if frame.schema != schema:
        names = ", ".join(f"{name} ({kind})" for name, kind in frame.schema.items())
        raise damaged(path, f"it has the columns {names}; expected {', '.join(schema)}")
    return frame


def sweep(directory: Path, names: Collection[str] = ()) -> None:
    """Remove the files with these names, and temporary files of killed writers."""
    for path in (*(directory / name for name in names), *directory.glob(".*.tmp")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def damaged(path: Path, what: str) -> DamagedError:
    """Return the error for a damaged file, which says how to repair it."""
    parents = path.parents
    root = parents[1] if parents[0].name == "sentiment" else parents[3]
    return DamagedError(f"{path} is damaged: {what}; run: atb-fast data repair{flag(root)}")


def flag(cache_dir: Path) -> str:
    """Return the --cache-dir flag for a suggested command; empty for the default directory."""
    if cache_dir == default_cache_dir():
        return ""
    return f" --cache-dir {shlex.quote(str(cache_dir))}"


def _hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
