"""The store of the Fear & Greed index: one file.

{cache}/sentiment/manifest.json, feargreed.parquet, .lock
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import polars as pl

from atb_fast.errors import StorageError
from atb_fast.ingestion.schemas import SENTIMENT_SCHEMA
from atb_fast.ingestion.spans import timestamps_ms
from atb_fast.ingestion.store.disk import (
    DamagedError,
    Finding,
    damaged,
    from_parquet,
    locked,
    modified_iso,
    read_manifest,
    storage_errors,
    sweep,
    to_parquet,
    verified,
    write_manifest,
)
from atb_fast.storage import write_atomic


class SentimentStore:
    """The Fear & Greed index, in one file that is always replaced as a whole.

    The manifest is replaced first and lists the hashes of both the old and the new file. Therefore
    the file is valid even if a writer is killed in between.
    """

    name = "sentiment"

    def __init__(self, cache_dir: Path) -> None:
        self.directory = cache_dir / "sentiment"
        self.path = self.directory / "feargreed.parquet"

    def entry(self) -> dict[str, Any] | None:
        """Return source, download time, rows, first and last day; None if nothing is stored.

        Raises:
            StorageError: The manifest or the file is damaged.
        """
        return self._load()[0] if self.path.exists() else None

    def read(self) -> pl.DataFrame:
        """Return the full history after verifying its hash.

        Raises:
            StorageError: The index is damaged or not stored.
        """
        return self._load()[1]

    def _load(self) -> tuple[dict[str, Any], pl.DataFrame]:
        entries = self._entries()
        while True:
            try:
                data = verified(self.path, entries)
                break
            except StorageError:
                newer = self._entries()
                if newer == entries:
                    raise
                entries = newer
        return entries[hashlib.sha256(data).hexdigest()], self._check(data)

    def _entries(self) -> dict[str, dict[str, Any]]:
        """Return the entries of the manifest by hash."""
        path = self.directory / "manifest.json"
        document = read_manifest(path)
        if document is None:
            raise damaged(path, "the file is missing")
        entries = document.get("index")
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            raise damaged(path, "not a manifest of the index")
        return {entry["sha256"]: entry for entry in entries}

    def _check(self, data: bytes) -> pl.DataFrame:
        """Return the index in the content of the file; raise DamagedError if it is not sound."""
        index = from_parquet(self.path, data, SENTIMENT_SCHEMA)
        if index.is_empty() or not index["value"].is_between(0, 100).all():
            raise damaged(self.path, "it is empty or has values outside 0..100")
        if not (timestamps_ms(index).diff().drop_nulls() > 0).all():
            raise damaged(self.path, "it has duplicate or unsorted days")
        return index

    def replace(self, index: pl.DataFrame, source: str, fetched_at: str) -> None:
        """Replace the stored index. The caller holds `lock`."""
        data = to_parquet(index)
        entry = self._entry(index, data, source, fetched_at)
        before: list[dict[str, Any]] = []
        with suppress(StorageError):
            before = [old for old in [self.entry()] if old and old["sha256"] != entry["sha256"]]
        with storage_errors(self.directory):
            write_manifest(self.directory / "manifest.json", {"index": [entry, *before]})
            write_atomic(self.path, data)
            sweep(self.directory)

    def _entry(
        self, index: pl.DataFrame, data: bytes, source: str, fetched_at: str
    ) -> dict[str, Any]:
        return {
            "file": self.path.name,
            "rows": len(index),
            "first": f"{index['timestamp'][0]:%Y-%m-%d}",
            "last": f"{index['timestamp'][-1]:%Y-%m-%d}",
            "sha256": hashlib.sha256(data).hexdigest(),
            "source": source,
            "fetched_at": fetched_at,
        }

    def verify(self) -> Finding:
        """Return the problems of the index.

        Raises:
            StorageError: The index cannot be read.
        """
        try:
            if self.path.exists():
                self.read()
        except DamagedError as error:
            return Finding(self.name, (str(error),))
        return Finding(self.name)

    def rebuild(self) -> bool:
        """Rebuild a damaged or missing manifest if the file is sound; return whether it did.

        Nothing is downloaded, and a damaged file stays. The caller holds `lock`.

        Raises:
            StorageError: The index cannot be read or written, or has another format version.
        """
        with storage_errors(self.directory):
            with suppress(DamagedError):
                if self._entries():
                    return False
            try:
                data = verified(self.path)
                index = self._check(data)
            except DamagedError:
                return False
            if (index["value"] % 1 != 0).any():  # the publisher has whole numbers only
                return False
            entry = self._entry(index, data, "unknown", modified_iso(self.path))
            write_manifest(self.directory / "manifest.json", {"index": [entry]})
            return True

    def remove(self) -> None:
        """Remove the index. The caller holds `lock`; its file stays for waiting processes."""
        with storage_errors(self.directory):
            self.path.unlink(missing_ok=True)
            (self.directory / "manifest.json").unlink(missing_ok=True)

    def lock(self, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Lock the index against other writers; see `locked`."""
        return locked(self.directory, on_wait)


def _is_entry(value: Any) -> bool:
    texts = ("file", "first", "last", "sha256", "source", "fetched_at")
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in texts)
        and isinstance(value.get("rows"), int)
    )
