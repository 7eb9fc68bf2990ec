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
        document = read_manifest(self.directory / "manifest.json")
        while True:
            entries = {} if document is None else self._entries(document)
            try:
                data = verified(self.path, entries)
                break
            except StorageError:
                newer = read_manifest(self.directory / "manifest.json")
                if newer == document:
                    raise
                document = newer
        frame = from_parquet(self.path, data, SENTIMENT_SCHEMA)
        return entries[hashlib.sha256(data).hexdigest()], frame

    def _entries(self, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
        try:
            return {entry["sha256"]: entry for entry in document["index"]}
        except (KeyError, TypeError) as error:
            raise damaged(self.directory / "manifest.json", repr(error)) from error

    def replace(self, index: pl.DataFrame, source: str, fetched_at: str) -> None:
        """Replace the stored index. The caller holds `lock`."""
        data = to_parquet(index)
        entry = {
            "file": self.path.name,
            "rows": len(index),
            "first": f"{index['timestamp'][0]:%Y-%m-%d}",
            "last": f"{index['timestamp'][-1]:%Y-%m-%d}",
            "sha256": hashlib.sha256(data).hexdigest(),
            "source": source,
            "fetched_at": fetched_at,
        }
        before: list[dict[str, Any]] = []
        with suppress(StorageError):
            before = [old for old in [self.entry()] if old and old["sha256"] != entry["sha256"]]
        with storage_errors(self.directory):
            write_manifest(self.directory / "manifest.json", {"index": [entry, *before]})
            write_atomic(self.path, data)
            sweep(self.directory, keep={self.path.name})

    def verify(self) -> Finding:
        """Return the problems of the index.

        Raises:
            StorageError: The index cannot be read.
        """
        try:
            if (
                self.path.exists()
                and not (timestamps_ms(self.read()).diff().drop_nulls() > 0).all()
            ):
                return Finding(self.name, (f"{self.path}: duplicate or unsorted days",))
        except DamagedError as error:
            return Finding(self.name, (str(error),))
        return Finding(self.name)

    def repair(self) -> bool:
        """Drop a damaged index and return whether there was one. The caller holds `lock`."""
        lost = bool(self.verify().problems)
        if lost:
            self.remove()
        with storage_errors(self.directory):
            sweep(self.directory, keep={self.path.name})
        return lost

    def remove(self) -> None:
        """Remove the index. The caller holds `lock`; its file stays for waiting processes."""
        with storage_errors(self.directory):
            self.path.unlink(missing_ok=True)
            (self.directory / "manifest.json").unlink(missing_ok=True)

    def lock(self, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Lock the index against other writers; see `locked`."""
        return locked(self.directory, on_wait)
