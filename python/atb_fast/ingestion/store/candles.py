"""The store of candles: each range has its own file, source and hash.

    {cache}/candles/{SYMBOL}/{timeframe}/manifest.json     the ranges and the confirmed outages
                                        /*.parquet         one file per range, never modified
                                        /.lock

A range is a span of time in which all candles are known. File names contain the hash of the
content, and the manifest that lists them is replaced last. Therefore a reader sees either the old
or the new store, and a killed writer leaves only unlisted files. Readers take no lock; a writer
locks the series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import StorageError
from atb_fast.ingestion.quality import holes, inspect
from atb_fast.ingestion.schemas import CANDLE_SCHEMA
from atb_fast.ingestion.spans import (
    Span,
    from_iso,
    iso,
    joined,
    opened_in,
    text,
    timestamps_ms,
    without,
)
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
from atb_fast.ingestion.store.manifest import Manifest, Piece, Range, file_name, span_of
from atb_fast.storage import write_atomic

#: Adjacent ranges are merged up to this size: few files to open, but little to rewrite.
FILE_ROWS = 131_072


class CandleStore:
    """The candles of one symbol and timeframe."""

    def __init__(self, cache_dir: Path, symbol: str, timeframe: str) -> None:
        self.cache_dir = cache_dir
        self.symbol = symbol
        self.timeframe = timeframe
        self.directory = cache_dir / "candles" / symbol / timeframe

    @property
    def name(self) -> str:
        """The name in messages, for example `BTCUSDT 1d`."""
        return f"{self.symbol} {self.timeframe}"

    @property
    def span(self) -> Span | None:
        """Return the span from the first to the last stored range."""
        ranges = self.manifest().ranges
        return (ranges[0].start, ranges[-1].end) if ranges else None

    def manifest(self) -> Manifest:
        """Return the manifest, which is empty if nothing is stored.

        Raises:
            DamagedError: The manifest has changed since it was written.
            StorageError: It cannot be read, or has another format version.
        """
        path = self.directory / "manifest.json"
        document = read_manifest(path)
        if document is None:
            return Manifest()
        try:
            ranges = tuple(Range.from_dict(row) for row in document["ranges"])
            outages = tuple(
                (from_iso(first), from_iso(last)) for first, last in document["outages"]
            )
            named = all(Path(item.file).name == item.file for item in ranges)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, "not a manifest of candles") from error
        if not named:
            raise damaged(path, "it names a file in another directory")
        if document["symbol"] != self.symbol or document["timeframe"] != self.timeframe:
            raise damaged(path, f"it belongs to {document['symbol']} {document['timeframe']}")
        return Manifest(ranges, outages)

    def missing(self, start: int, end: int) -> list[Span]:
        """Return the parts of [start, end) that are not stored."""
        return self.manifest().missing((start, end))

    def read(self, start: int, end: int, *, lacking: Sequence[Span] | None = None) -> pl.DataFrame:
        """Return the stored candles that opened in [start, end), after verifying all hashes.

        Args:
            start: First millisecond.
            end: First millisecond after the end.
            lacking: Spans that may be missing; any other missing data is an error. Default:
                anything may be missing.

        Raises:
            DamagedError: A file is damaged or missing.
            StorageError: Data was removed in the meantime, or cannot be read.
        """
        manifest = self.manifest()
        while True:
            missing = manifest.missing((start, end))
            if lacking is not None and any(without(part, lacking) for part in missing):
                raise StorageError(
                    f"another process removed {self.name} during the read; run the command again"
                )
            try:
                return self._read(manifest, start, end)
            except StorageError:
                # Another process may have replaced the file after the manifest was read.
                newer = self.manifest()
                if newer == manifest:
                    raise
                manifest = newer

    def _read(self, manifest: Manifest, start: int, end: int) -> pl.DataFrame:
        inside = [item for item in manifest.ranges if item.start < end and item.end > start]
        frames = [self._load(item) for item in inside]
        candles = pl.concat([pl.DataFrame(schema=CANDLE_SCHEMA), *frames], rechunk=True)
        return opened_in(candles, (start, end))

    def commit(
        self, pieces: Sequence[Piece], outages: Iterable[Span], *, overwrite: bool = False
    ) -> None:
        """Store `pieces`. The caller holds `lock`.

        Args:
            pieces: Disjoint, and not stored yet unless `overwrite`.
            outages: Confirmed gaps inside them.
            overwrite: Replace stored candles of the same spans.

        Raises:
            StorageError: The store cannot be written, or already contains a part of `pieces`. In
                that case, it is unchanged.
        """
        manifest = self.manifest()
        spans = [(piece.start, piece.end) for piece in pieces]
        items: list[Range | Piece] = list(pieces)
        for item in manifest.ranges:
            left = without((item.start, item.end), spans)
            if left == [(item.start, item.end)]:
                items.append(item)
            elif overwrite and left:
                candles = self._load(item)
                items += [
                    Piece(*span, opened_in(candles, span), item.source, item.fetched_at)
                    for span in left
                ]
            elif not overwrite:
                raise StorageError(
                    f"{self.name}: another process stored {text((item.start, item.end))} in the "
                    "meantime; run the command again"
                )
        items.sort(key=lambda item: item.start)
        kept = [part for span in manifest.outages for part in without(span, spans)]
        with storage_errors(self.directory):
            ranges = [self._write(group) for group in _groups(items)]
            self._publish(Manifest(tuple(ranges), tuple(joined([*kept, *outages]))))

    def _write(self, group: list[Range | Piece]) -> Range:
        """Return the range that contains all of `group`, and write its file if it is new."""
        if len(group) == 1 and isinstance(group[0], Range):
            return group[0]
        pieces = [self._piece(item) for item in group]
        start, end = pieces[0].start, pieces[-1].end
        candles = pl.concat([piece.candles for piece in pieces])
        data = to_parquet(candles)
        digest = hashlib.sha256(data).hexdigest()
        file = file_name((start, end), digest)
        write_atomic(self.directory / file, data)
        sources = dict.fromkeys(name for piece in pieces for name in piece.source.split(", "))
        fetched_at = max(piece.fetched_at for piece in pieces)
        times = timestamps_ms(candles)
        return Range(
            start=start,
            end=end,
            file=file,
            rows=len(candles),
            first=next(iter(times.head(1)), None),
            last=next(iter(times.tail(1)), None),
            sha256=digest,
            source=", ".join(sources),
            fetched_at=fetched_at,
        )

    def _piece(self, item: Range | Piece) -> Piece:
        if isinstance(item, Piece):
            return item
        return Piece(item.start, item.end, self._load(item), item.source, item.fetched_at)

    def _publish(self, manifest: Manifest) -> None:
        """Replace the manifest, then remove files that it does not list."""
        document = {
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "ranges": [item.to_dict() for item in manifest.ranges],
            "outages": [[iso(first), iso(after)] for first, after in manifest.outages],
        }
        write_manifest(self.directory / "manifest.json", document)
        sweep(self.directory, keep={item.file for item in manifest.ranges})

    def _load(self, item: Range) -> pl.DataFrame:
        path = self.directory / item.file
        return from_parquet(path, verified(path, (item.sha256,)), CANDLE_SCHEMA)

    def verify(self) -> Finding:
        """Return the problems and the data quality of the series.

        Raises:
            StorageError: The series cannot be read.
        """
        try:
            manifest = self.manifest()
            finding = self._verify(manifest)
        except DamagedError as error:
            return Finding(self.name, (str(error),))
        # Files that another process has just replaced look damaged, so check again.
        return finding if self.manifest() == manifest else self.verify()

    def _verify(self, manifest: Manifest) -> Finding:
        problems: list[str] = []
        frames = [pl.DataFrame(schema=CANDLE_SCHEMA)]
        bad: list[Range] = []
        for item in manifest.ranges:
            try:
                frames.append(self._sound(item))
            except DamagedError as error:
                problems.append(str(error))
                bad.append(item)
        candles = pl.concat(frames)
        for hole in self._unexplained(candles, manifest, bad):
            problems.append(f"{self.directory}: unconfirmed gap {text(hole)}")
            bad += [
                item
                for item in manifest.ranges
                if item not in bad and item.start < hole[1] and item.end > hole[0]
            ]
        return Finding(
            self.name,
            tuple(problems),
            quality=inspect(candles, TIMEFRAMES[self.timeframe]),
            outages=len(manifest.outages),
            damaged=tuple((item.start, item.end) for item in bad),
        )

    def _sound(self, item: Range) -> pl.DataFrame:
        frame = self._load(item)
        path = self.directory / item.file
        if len(frame) and not (
            item.start <= timestamps_ms(frame)[0] and timestamps_ms(frame)[-1] < item.end
        ):
            raise damaged(path, "it has candles outside its range")
        if not inspect(frame, TIMEFRAMES[self.timeframe]).sound:
            raise damaged(path, "it has impossible, duplicate or unsorted bars")
        return frame

    def _unexplained(
        self, candles: pl.DataFrame, manifest: Manifest, bad: list[Range]
    ) -> list[Span]:
        """Return the gaps inside the ranges that are not confirmed outages."""
        if candles.is_empty():
            return []
        bar = TIMEFRAMES[self.timeframe]
        known = [(item.start, item.end) for item in manifest.ranges if item not in bad]
        outside = without((known[0][0], known[-1][1]), known)
        found = holes(candles["timestamp"], bar, known[-1][1])
        explained = [*manifest.outages, *outside]
        parts = [part for hole in found for part in without(hole, explained)]
        return [part for part in parts if part[1] - part[0] >= bar]

    def repair(self) -> list[Span]:
        """Drop damaged ranges and return their spans. The caller holds `lock`.

        Raises:
            StorageError: The store cannot be read or written, or has another format version. In
                that case, nothing is dropped.
        """
        with storage_errors(self.directory):
            try:
                manifest = self.manifest()
            except DamagedError:
                names = (path.name for path in self.directory.glob("*.parquet"))
                lost = joined(span for name in names if (span := span_of(name)))
                self.remove()
                return lost
            lost = list(self.verify().damaged)
            ranges = tuple(item for item in manifest.ranges if (item.start, item.end) not in lost)
            kept = [part for span in manifest.outages for part in without(span, lost)]
            self._publish(Manifest(ranges, tuple(kept)))
            return lost

    def remove(self) -> None:
        """Remove all candles. The caller holds `lock`; its file stays for waiting processes."""
        with storage_errors(self.directory):
            (self.directory / "manifest.json").unlink(missing_ok=True)
            sweep(self.directory)

    def lock(self, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Lock the series against other writers; see `locked`."""
        return locked(self.directory, on_wait)


def _groups(items: Iterable[Range | Piece]) -> list[list[Range | Piece]]:
    """Group adjacent items that fit into one file."""
    groups: list[list[Range | Piece]] = []
    rows = 0
    for item in items:
        size = item.rows if isinstance(item, Range) else len(item.candles)
        if groups and groups[-1][-1].end == item.start and rows + size <= FILE_ROWS:
            groups[-1].append(item)
            rows += size
        else:
            groups.append([item])
            rows = size
    return groups
