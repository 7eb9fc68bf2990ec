"""The store of candles: each range has its own file, source and hash.

    {cache}/candles/{SYMBOL}/{timeframe}/manifest.json     the ranges and the confirmed outages
                                        /*.parquet         one file per range, never modified
                                        /.lock

A range is a span of time in which all candles are known. File names contain the span and the hash
of the content, and the manifest that lists them is replaced last. Therefore a reader sees either
the old or the new store, and a killed writer leaves only unlisted files. A file is removed only
when listed files cover its span, so the manifest can be rebuilt from the files. Readers take no
lock; a writer locks the series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import StorageError
from atb_fast.ingestion.quality import holes, inspect
from atb_fast.ingestion.schemas import CANDLE_SCHEMA
from atb_fast.ingestion.spans import (
    Span,
    from_iso,
    intersection,
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
    modified_iso,
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
            DamagedError: The manifest has changed since it was written, or was deleted.
            StorageError: It cannot be read, or has another format version.
        """
        path = self.directory / "manifest.json"
        document = read_manifest(path)
        if document is None:
            if self.files():
                raise damaged(path, "the file is missing")
            return Manifest()
        try:
            ranges = tuple(Range.from_dict(row) for row in document["ranges"])
            outages = tuple(
                (from_iso(first), from_iso(last)) for first, last in document["outages"]
            )
            named = all(span_of(item.file) for item in ranges)
            symbol, timeframe = document["symbol"], document["timeframe"]
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, "not a manifest of candles") from error
        if not named:
            raise damaged(path, "it names a file that cannot contain candles")
        if symbol != self.symbol or timeframe != self.timeframe:
            raise damaged(path, f"it belongs to {symbol} {timeframe}")
        return Manifest(ranges, outages)

    def files(self) -> dict[str, Span]:
        """Return the files of candles, listed or not, and the span that each name states."""
        names = (path.name for path in self.directory.glob("*.parquet") if path.is_file())
        return {name: span for name in names if (span := span_of(name))}

    def unlisted(self, manifest: Manifest) -> list[str]:
        """Return the files with candles of a time that `manifest` does not list, newest first.

        A killed writer leaves such files, and so does a manifest that was replaced by an older one.
        """
        listed = {item.file for item in manifest.ranges}
        names = [
            name
            for name, span in self.files().items()
            if name not in listed and any(map(_named, manifest.missing(span)))
        ]
        return sorted(names, key=lambda name: (-self._written(name), name))

    def _written(self, name: str) -> float:
        try:
            return (self.directory / name).stat().st_mtime
        except FileNotFoundError:  # another process has just removed it
            return 0.0

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
            if not overwrite and intersection((item.start, item.end), spans):
                raise StorageError(
                    f"{self.name}: another process stored {text((item.start, item.end))} in the "
                    "meantime; run the command again"
                )
            items += self._rest(item, spans)
        items.sort(key=lambda item: item.start)
        kept = [part for span in manifest.outages for part in without(span, spans)]
        with storage_errors(self.directory):
            if not manifest.ranges:
                # Files without any manifest would look like a series whose manifest was deleted.
                self._publish(manifest)
            ranges = [self._write(group) for group in _groups(items)]
            self._publish(Manifest(tuple(ranges), tuple(joined([*kept, *outages]))))

    def _rest(self, item: Range, spans: Sequence[Span]) -> list[Range | Piece]:
        """Return what is left of `item` without `spans`."""
        left = without((item.start, item.end), spans)
        if left == [(item.start, item.end)]:
            return [item]
        candles = self._load(item) if left else None
        return [
            Piece(*span, opened_in(candles, span), item.source, item.fetched_at)
            for span in left
            if candles is not None
        ]

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
        """Replace the manifest, then remove the files that its files replace."""
        document = {
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "ranges": [item.to_dict() for item in manifest.ranges],
            "outages": [[iso(first), iso(after)] for first, after in manifest.outages],
        }
        write_manifest(self.directory / "manifest.json", document)
        listed = {item.file for item in manifest.ranges}
        replaced = self.files().keys() - listed - set(self.unlisted(manifest))
        sweep(self.directory, replaced)

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
        unlisted = 0
        spans = [(item.start, item.end) for item in bad]
        for name in self.unlisted(manifest):
            try:
                self._found(name)
                unlisted += 1
            except DamagedError as error:
                problems.append(str(error))
                spans += manifest.missing(span_of(name) or (0, 0))
        return Finding(
            self.name,
            tuple(problems),
            quality=inspect(candles, TIMEFRAMES[self.timeframe]),
            outages=len(manifest.outages),
            damaged=tuple(joined(spans)),
            unlisted=unlisted,
        )

    def _found(self, name: str) -> tuple[Range, pl.DataFrame]:
        """Return the range of an unlisted file, and its candles.

        Raises:
            DamagedError: The file has changed since it was written, or is not sound.
        """
        path = self.directory / name
        data = verified(path)
        digest = hashlib.sha256(data).hexdigest()
        start, end = span_of(name) or (0, 0)
        if file_name((start, end), digest) != name:
            raise damaged(path, "its hash does not match its name")
        candles = from_parquet(path, data, CANDLE_SCHEMA)
        times = timestamps_ms(candles)
        first, last = next(iter(times.head(1)), None), next(iter(times.tail(1)), None)
        # Names have no milliseconds, so a candle at either end may belong to this file or another.
        bar = TIMEFRAMES[self.timeframe]
        if last is not None and last >= end:
            end = last + bar
        if first is not None and first == start + bar:
            start = first
        item = Range(
            start=start,
            end=end,
            file=name,
            rows=len(candles),
            first=first,
            last=last,
            sha256=digest,
            source="unknown",
            fetched_at=modified_iso(path),
        )
        return item, self._check(item, candles)

    def _sound(self, item: Range) -> pl.DataFrame:
        return self._check(item, self._load(item))

    def _check(self, item: Range, frame: pl.DataFrame) -> pl.DataFrame:
        """Return `frame`, the candles of `item`; raise DamagedError if they are not sound."""
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

    def rebuild(self) -> bool:
        """List the sound files that the manifest lacks; return whether there was anything to do.

        Nothing is downloaded, and no damaged file is removed. The caller holds `lock`.

        Raises:
            StorageError: The store cannot be read or written, or has another format version. In
                that case, nothing has changed.
        """
        with storage_errors(self.directory):
            lost = False
            try:
                before = self.manifest()
            except DamagedError:
                before, lost = Manifest(), True
            sound, broken = self._divided(before.ranges)
            found: list[Range] = []
            for name in self.unlisted(Manifest(tuple(sound))):
                with suppress(DamagedError):
                    found.append(self._found(name)[0])
            spans = [(item.start, item.end) for item in found]
            # A damaged file stays listed, so that reading its candles is an error.
            kept = [item for item in broken if not intersection((item.start, item.end), spans)]
            items: list[Range | Piece] = [*sound, *kept]
            added: list[Span] = []
            for item in found:
                rest = self._rest(item, [(other.start, other.end) for other in items])
                rest = [part for part in rest if _named((part.start, part.end))]
                items += rest
                added += [(part.start, part.end) for part in rest]
            if not added and not lost:
                return False
            items.sort(key=lambda item: item.start)
            ranges = tuple(self._write([item]) for item in items)
            after = Manifest(ranges, before.outages)
            candles = [self._load(item) for item in ranges if item not in kept]
            # All candles of a file's span are known, so a gap in it is an outage.
            gaps = self._unexplained(
                pl.concat([pl.DataFrame(schema=CANDLE_SCHEMA), *candles]), after, kept
            )
            outages = [part for gap in gaps for part in intersection(gap, added)]
            self._publish(Manifest(ranges, tuple(joined([*before.outages, *outages]))))
            return True

    def _divided(self, ranges: Iterable[Range]) -> tuple[list[Range], list[Range]]:
        """Return the sound ranges and the damaged ones."""
        sound: list[Range] = []
        broken: list[Range] = []
        for item in ranges:
            try:
                self._sound(item)
                sound.append(item)
            except DamagedError:
                broken.append(item)
        return sound, broken

    def remove(self) -> None:
        """Remove all candles. The caller holds `lock`; its file stays for waiting processes."""
        with storage_errors(self.directory):
            # Without a manifest, files look like a series whose manifest was deleted. On a full
            # disk, no manifest can be written.
            with suppress(OSError):
                self._publish(Manifest())
            sweep(self.directory, self.files())
            (self.directory / "manifest.json").unlink(missing_ok=True)

    def lock(self, on_wait: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Lock the series against other writers; see `locked`."""
        return locked(self.directory, on_wait)


def _named(span: Span) -> bool:
    """Return whether `span` is long enough to be seen in the names of files, which have seconds."""
    return span[1] - span[0] >= 1000


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
