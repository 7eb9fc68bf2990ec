"""The Fear & Greed index, kept as one file.

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
from atb_fast.ingestion.spans import epoch_ms
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
    """The Fear & Greed index: one file that is replaced as a whole.

    Its manifest is replaced first and names the file before, too: whichever of the two a killed
    writer left, its hash is known.
    """

    name = "sentiment"

    def __init__(self, cache_dir: Path) -> None:
        self.directory = cache_dir / "sentiment"
        self.path = self.directory / "feargreed.parquet"

    def entry(self) -> dict[str, Any] | None:
        """Return source, fetch time, rows, first and last day of what is stored, None if nothing.

        Raises:
            StorageError: The manifest or the file is damaged.
        """
        return self._load()[0] if self.path.exists() else None

    def read(self) -> pl.DataFrame:
        """Return the whole history, its hash verified.

        Raises:
            StorageError: It is damaged, or there is none.
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
        """Store `index` in place of what there is; call with `lock` held."""
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
        """Return what is wrong with the index.

        Raises:
            StorageError: It cannot be read.
        """
        finding = Finding(self.name)
        try:
            if self.path.exists() and not (epoch_ms(self.read()).diff().drop_nulls() > 0).all():
                finding.problems.append(f"{self.path}: days doubled or out of order")
        except DamagedError as error:
            finding.problems.append(str(error))
        return finding

    def repair(self) -> bool:
        """Drop what does not verify, with `lock` held; return whether the history was lost."""
        lost = bool(self.verify().problems)
        if lost:
            self.remove()
        with storage_errors(self.directory):
            sweep(self.directory, keep={self.path.name})
        return lost

    def remove(self) -> None:
        """Remove the index, with `lock` held; the lock stays for those who wait for it."""
        with storage_errors(self.directory):
            self.path.unlink(missing_ok=True)
            (self.directory / "manifest.json").unlink(missing_ok=True)

    def lock(self, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Hold the index, so that no other process writes it; see `locked`."""
        return locked(self.directory, on_wait)
