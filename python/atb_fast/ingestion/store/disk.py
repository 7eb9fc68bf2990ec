"""What the stores have in common: locks, manifests, files whose hash is known."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
    """A file that is not what its writer left: `repair` may drop it."""


@dataclass
class Finding:
    """What `verify` found in a series.

    Attributes:
        name: For example `BTCUSDT 1d`.
        problems: What must be repaired; empty if the series is sound.
        quality: Of the candles; None for sentiment, and if they cannot be read.
        outages: Confirmed holes.
        damaged: Times whose candles do not verify.
    """

    name: str
    problems: list[str] = field(default_factory=list)
    quality: Quality | None = None
    outages: int = 0
    damaged: tuple[Span, ...] = ()


@contextmanager
def locked(directory: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of `directory`; the system lets go of it when this process dies.

    Args:
        directory: Made if it is not there.
        on_wait: Called once if another process holds it.
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
    """Say which store could not be written, and why."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, NotImplementedError) as error:  # the latter: no locks on this file system
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"{directory} cannot be written ({reason}); see that there is room and that you may "
            "write there, or give another --cache-dir"
        ) from error


def now_iso() -> str:
    """Return the time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_parquet(frame: pl.DataFrame) -> bytes:
    """Return `frame` as a Parquet file."""
    buffer = io.BytesIO()
    # Prices compress by a third at best, and that takes five times as long as all the rest.
    frame.write_parquet(buffer, compression="uncompressed", statistics=False)
    return buffer.getvalue()


def write_manifest(path: Path, document: dict[str, Any]) -> None:
    """Replace the manifest, with its format and its own hash in it."""
    document = {"format": FORMAT, **document}
    write_atomic(
        path, (json.dumps(document | {"sha256": _hash(document)}, indent=1) + "\n").encode()
    )


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a manifest, None if there is none.

    Raises:
        DamagedError: It is not as it was written.
        StorageError: It cannot be read, or another version wrote it.
    """
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise damaged(path, "it is not a manifest")
    if document["format"] != FORMAT:
        raise StorageError(
            f"{path} has format {document['format']}, this version reads {FORMAT}; use the version "
            "that wrote it, or another --cache-dir"
        )
    if document.pop("sha256", None) != _hash(document):
        raise damaged(path, "it was changed by hand, or by the disk")
    return document


def verified(path: Path, digests: Collection[str]) -> bytes:
    """Return the content of a file whose sha256 is one of `digests`.

    Raises:
        DamagedError: It is another one, or the file is gone.
        StorageError: It cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise damaged(path, "it is gone") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() not in digests:
        raise damaged(path, "its hash is not that of its manifest")
    return data


def from_parquet(path: Path, data: bytes, schema: pl.Schema) -> pl.DataFrame:
    """Return what `to_parquet` was given."""
    try:
        frame = pl.read_parquet(data)
    except pl.exceptions.PolarsError as error:
        raise damaged(path, str(error)) from error
    if frame.schema != schema:
        raise damaged(path, f"columns {frame.schema}")
    return frame


def sweep(directory: Path, keep: Collection[str] = ()) -> None:
    """Remove Parquet files that are not in `keep`, and what killed writers left."""
    for pattern in ("*.parquet", ".*.tmp"):
        for path in directory.glob(pattern):
            if path.name not in keep:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def damaged(path: Path, what: str) -> DamagedError:
    """Return the error that says what is wrong with `path` and how to mend it."""
    parents = path.parents
    root = parents[1] if parents[0].name == "sentiment" else parents[3]
    return DamagedError(f"{path} is damaged: {what}; run: atb-fast data repair{flag(root)}")


def flag(cache_dir: Path) -> str:
    """Return what a command needs to find `cache_dir`."""
    if cache_dir == default_cache_dir():
        return ""
    return f" --cache-dir {shlex.quote(str(cache_dir))}"


def _hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
