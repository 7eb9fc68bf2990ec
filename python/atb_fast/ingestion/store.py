"""What was fetched, kept as it was: every range with its source and its hash.

    {cache}/candles/{SYMBOL}/{timeframe}/manifest.json     the ranges, and the confirmed outages
                                        /*.parquet         a file per range, never changed
                                        /.lock
    {cache}/sentiment/manifest.json, feargreed.parquet

A range is a stretch of time whose every candle is known. Files get their names from their content,
and the manifest that names them is replaced last, so a reader sees the old or the new store and a
killed writer leaves only files that nobody names. Readers take no lock; writers one per series.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from atb_fast.atomic import write_atomic
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import StorageError
from atb_fast.ingestion.quality import Quality, holes, inspect
from atb_fast.ingestion.schemas import CANDLE_SCHEMA, SENTIMENT_SCHEMA

FORMAT = 1
#: Neighbouring ranges become one file up to here: few files to open, little to write again.
FILE_ROWS = 131_072

_TIMES = ("start", "end", "first", "last")

Span = tuple[int, int]
"""First millisecond, and the first behind it, since 1970."""


@dataclass(frozen=True)
class Range:
    """A stretch of time whose every candle is in one file.

    Attributes:
        start: First millisecond, since 1970.
        end: First millisecond behind it.
        file: Name of the file.
        rows: Candles in it.
        first: Open time of the first one; None without any.
        last: Open time of the last one.
        sha256: Of the file.
        source: Where the candles came from.
        fetched_at: When, UTC; of the newest part.
    """

    start: int
    end: int
    file: str
    rows: int
    first: int | None
    last: int | None
    sha256: str
    source: str
    fetched_at: str

    def to_dict(self) -> dict[str, Any]:
        """Return the range as the manifest has it: times as text."""
        times = {name: getattr(self, name) for name in _TIMES}
        texts = {name: None if ms is None else iso(ms) for name, ms in times.items()}
        return asdict(self) | texts

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Range:
        """Return what `to_dict` was given."""
        return cls(**row | {name: row[name] and _ms(row[name]) for name in _TIMES})


@dataclass(frozen=True)
class Piece:
    """Candles to be stored, and the stretch of time that they are all of."""

    start: int
    end: int
    candles: pl.DataFrame
    source: str
    fetched_at: str


@dataclass(frozen=True)
class Manifest:
    """Ranges and outages of a series, both ascending and disjoint."""

    ranges: tuple[Range, ...] = ()
    outages: tuple[Span, ...] = ()


@dataclass
class Finding:
    """What `verify` found in a series.

    Attributes:
        name: For example `BTCUSDT 1d`.
        problems: What must be repaired; empty if the series is sound.
        quality: Of the candles; None for sentiment, and if they cannot be read.
        outages: Confirmed holes.
        damaged: Ranges that do not verify.
    """

    name: str
    problems: list[str] = field(default_factory=list)
    quality: Quality | None = None
    outages: int = 0
    damaged: tuple[Range, ...] = ()


class CandleStore:
    """The candles of one symbol and timeframe."""

    def __init__(self, cache_dir: Path, symbol: str, timeframe: str) -> None:
        self.symbol = symbol
        self.timeframe = timeframe
        self.directory = cache_dir / "candles" / symbol / timeframe

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.symbol} {self.timeframe}"

    def manifest(self) -> Manifest:
        """Return what is stored.

        Raises:
            StorageError: The manifest is damaged.
        """
        document = _read_manifest(self.directory / "manifest.json")
        if document is None:
            return Manifest()
        try:
            ranges = tuple(Range.from_dict(row) for row in document["ranges"])
            outages = tuple((_ms(first), _ms(behind)) for first, behind in document["outages"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.directory / "manifest.json", repr(error)) from error
        if any(Path(item.file).name != item.file for item in ranges):
            raise _damaged(self.directory / "manifest.json", "it names a file outside of here")
        return Manifest(ranges, outages)

    def missing(self, start: int, end: int) -> list[Span]:
        """Return the parts of [start, end) that were never stored."""
        return _without((start, end), [(item.start, item.end) for item in self.manifest().ranges])

    def read(self, start: int, end: int) -> pl.DataFrame:
        """Return the stored candles that opened in [start, end), every file's hash verified.

        Raises:
            StorageError: A file is damaged or gone.
        """
        manifest = self.manifest()
        while True:
            try:
                return self._read(manifest, start, end)
            except StorageError:
                # Another process may have replaced the file since the manifest was read.
                newer = self.manifest()
                if newer == manifest:
                    raise
                manifest = newer

    def _read(self, manifest: Manifest, start: int, end: int) -> pl.DataFrame:
        inside = [item for item in manifest.ranges if item.start < end and item.end > start]
        frames = [self._load(item) for item in inside]
        candles = pl.concat([pl.DataFrame(schema=CANDLE_SCHEMA), *frames], rechunk=True)
        return _cut(candles, start, end)

    def commit(
        self, pieces: Sequence[Piece], outages: Iterable[Span], *, overwrite: bool = False
    ) -> None:
        """Store `pieces`; call with `lock` held.

        Args:
            pieces: Disjoint, and new unless `overwrite`.
            outages: Confirmed holes inside of them.
            overwrite: Whether they take the place of what is stored of their time.

        Raises:
            StorageError: The store cannot be written. It is unchanged then.
        """
        manifest = self.manifest()
        spans = [(piece.start, piece.end) for piece in pieces]
        items: list[Range | Piece] = list(pieces)
        for item in manifest.ranges:
            left = _without((item.start, item.end), spans)
            if left == [(item.start, item.end)]:
                items.append(item)
            elif overwrite and left:
                candles = self._load(item)
                items += [
                    Piece(*span, _cut(candles, *span), item.source, item.fetched_at)
                    for span in left
                ]
            elif not overwrite:
                raise AssertionError(f"{self.name}: {spans} overlaps {item}")
        items.sort(key=lambda item: item.start)
        kept = [part for span in manifest.outages for part in _without(span, spans)]
        with storage_errors(self.directory):
            ranges = [self._write(group) for group in _groups(items)]
            self._publish(Manifest(tuple(ranges), tuple(_joined([*kept, *outages]))))

    def _write(self, group: list[Range | Piece]) -> Range:
        """Return the range that holds all of `group`, its file written unless it was there."""
        if len(group) == 1 and isinstance(group[0], Range):
            return group[0]
        pieces = [self._piece(item) for item in group]
        start, end = pieces[0].start, pieces[-1].end
        candles = pl.concat([piece.candles for piece in pieces])
        data = _parquet(candles)
        digest = hashlib.sha256(data).hexdigest()
        file = f"{_compact(start)}_{_compact(end)}_{digest[:12]}.parquet"
        write_atomic(self.directory / file, data)
        sources = dict.fromkeys(name for piece in pieces for name in piece.source.split(", "))
        fetched_at = max(piece.fetched_at for piece in pieces)
        times = epoch_ms(candles)
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
        """Make `manifest` the one that readers see, then remove what it does not name."""
        document = {
            "format": FORMAT,
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "ranges": [item.to_dict() for item in manifest.ranges],
            "outages": [[iso(first), iso(behind)] for first, behind in manifest.outages],
        }
        write_atomic(self.directory / "manifest.json", _json(document))
        self._sweep(manifest)

    def _sweep(self, manifest: Manifest) -> None:
        named = {item.file for item in manifest.ranges} | {"manifest.json", ".lock"}
        for path in self.directory.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _load(self, item: Range) -> pl.DataFrame:
        frame = _load(self.directory / item.file, (item.sha256,), CANDLE_SCHEMA)
        if len(frame) != item.rows:
            raise _damaged(self.directory / item.file, f"{len(frame)} rows, not {item.rows}")
        return frame

    def verify(self) -> Finding:
        """Return what is wrong with the series."""
        finding = Finding(self.name)
        try:
            manifest = self.manifest()
        except StorageError as error:
            finding.problems.append(str(error))
            return finding
        finding.outages = len(manifest.outages)
        frames = [pl.DataFrame(schema=CANDLE_SCHEMA)]
        damaged: list[Range] = []
        for item in manifest.ranges:
            try:
                frames.append(self._sound(item))
            except StorageError as error:
                finding.problems.append(str(error))
                damaged.append(item)
        candles = pl.concat(frames)
        bar = TIMEFRAMES[self.timeframe]
        for hole in self._unexplained(candles, manifest, damaged):
            finding.problems.append(f"{self.directory}: {_text(hole)} was never asked for")
            damaged += [
                item
                for item in manifest.ranges
                if item not in damaged and item.start < hole[1] and item.end > hole[0]
            ]
        finding.damaged = tuple(damaged)
        finding.quality = inspect(candles, bar)
        return finding

    def _sound(self, item: Range) -> pl.DataFrame:
        frame = self._load(item)
        path = self.directory / item.file
        if len(frame) and not (item.start <= epoch_ms(frame)[0] and epoch_ms(frame)[-1] < item.end):
            raise _damaged(path, "it has candles outside of its range")
        if not inspect(frame, TIMEFRAMES[self.timeframe]).sound:
            raise _damaged(path, "it has bars that cannot be, doubled or out of order")
        return frame

    def _unexplained(
        self, candles: pl.DataFrame, manifest: Manifest, damaged: list[Range]
    ) -> list[Span]:
        """Return the holes that are neither outages nor outside of every range."""
        if candles.is_empty():
            return []
        bar = TIMEFRAMES[self.timeframe]
        known = [(item.start, item.end) for item in manifest.ranges if item not in damaged]
        outside = _without((known[0][0], known[-1][1]), known)
        found = holes(candles["timestamp"], bar, known[-1][1])
        explained = [*manifest.outages, *outside]
        parts = [part for hole in found for part in _without(hole, explained)]
        return [part for part in parts if part[1] - part[0] >= bar]

    def repair(self) -> list[Span]:
        """Drop what does not verify, with `lock` held, and return which times were lost."""
        with storage_errors(self.directory):
            try:
                manifest = self.manifest()
            except StorageError:
                (self.directory / "manifest.json").unlink()
                self._sweep(Manifest())
                return []
            damaged = self.verify().damaged
            if damaged:
                lost = [(item.start, item.end) for item in damaged]
                ranges = tuple(item for item in manifest.ranges if item not in damaged)
                kept = [part for span in manifest.outages for part in _without(span, lost)]
                self._publish(Manifest(ranges, tuple(kept)))
            else:
                self._sweep(manifest)
            return [(item.start, item.end) for item in damaged]

    def remove(self) -> None:
        """Remove all candles, with `lock` held; the lock itself stays for those who wait for it."""
        with storage_errors(self.directory):
            (self.directory / "manifest.json").unlink(missing_ok=True)
            self._sweep(Manifest())

    @contextmanager
    def lock(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the series, so that no other process writes it; see `locked`."""
        with locked(self.directory, on_wait):
            yield


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
        document = _read_manifest(self.directory / "manifest.json")
        while True:
            entries = {} if document is None else self._entries(document)
            try:
                data = _verified(self.path, entries)
                break
            except StorageError:
                newer = _read_manifest(self.directory / "manifest.json")
                if newer == document:
                    raise
                document = newer
        frame = _frame(self.path, data, SENTIMENT_SCHEMA)
        return entries[hashlib.sha256(data).hexdigest()], frame

    def _entries(self, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
        try:
            return {entry["sha256"]: entry for entry in document["index"]}
        except (KeyError, TypeError) as error:
            raise _damaged(self.directory / "manifest.json", repr(error)) from error

    def replace(self, index: pl.DataFrame, source: str, fetched_at: str) -> None:
        """Store `index` in place of what there is; call with `lock` held."""
        data = _parquet(index)
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
            manifest = {"format": FORMAT, "index": [entry, *before]}
            write_atomic(self.directory / "manifest.json", _json(manifest))
            write_atomic(self.path, data)
            self._sweep()

    def verify(self) -> Finding:
        """Return what is wrong with the index."""
        finding = Finding(self.name)
        try:
            if self.path.exists():
                days = self.read()["timestamp"].dt.epoch("d")
                if not (days.diff().drop_nulls() > 0).all():
                    finding.problems.append(f"{self.path}: days doubled or out of order")
        except StorageError as error:
            finding.problems.append(str(error))
        return finding

    def repair(self) -> list[Span]:
        """Drop what does not verify, with `lock` held; the whole history is lost then."""
        lost = bool(self.verify().problems)
        if lost:
            self.remove()
        with storage_errors(self.directory):
            self._sweep()
        return [(0, 0)] if lost else []

    def remove(self) -> None:
        """Remove the index, with `lock` held."""
        with storage_errors(self.directory):
            self.path.unlink(missing_ok=True)
            (self.directory / "manifest.json").unlink(missing_ok=True)

    def _sweep(self) -> None:
        for path in self.directory.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the index, so that no other process writes it; see `locked`."""
        with locked(self.directory, on_wait):
            yield


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
    except OSError as error:
        raise StorageError(
            f"{directory} cannot be written ({error.strerror}); free some room, or give another "
            "--cache-dir"
        ) from error


def epoch_ms(frame: pl.DataFrame) -> pl.Series:
    """Return the timestamps in milliseconds since 1970."""
    return frame["timestamp"].dt.epoch("ms")


def iso(ms: int) -> str:
    """Return milliseconds since 1970 as a UTC time."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def now_iso() -> str:
    """Return the time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(span: Span) -> str:
    return f"{iso(span[0])[:16]} to {iso(span[1])[:16]} UTC"


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _compact(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y%m%dT%H%M%S}"


def _cut(candles: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
    times = epoch_ms(candles)
    return candles.filter((times >= start) & (times < end))


def _without(span: Span, others: Iterable[Span]) -> list[Span]:
    """Return what is left of `span` outside of all `others`."""
    left = [span]
    for first, behind in others:
        left = [
            part
            for start, end in left
            for part in ((start, min(end, first)), (max(start, behind), end))
            if part[0] < part[1]
        ]
    return left


def intersection(span: Span, others: Iterable[Span]) -> list[Span]:
    """Return the parts of `span` that are inside of one of `others`."""
    parts = [(max(span[0], first), min(span[1], behind)) for first, behind in others]
    return [part for part in parts if part[0] < part[1]]


def _joined(spans: list[Span]) -> list[Span]:
    """Return `spans` in order, those that touch made one."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def _groups(items: Iterable[Range | Piece]) -> list[list[Range | Piece]]:
    """Return neighbours together that one file may hold."""
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


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    # Prices compress by a third at best, and that takes five times as long as all the rest.
    frame.write_parquet(buffer, compression="uncompressed", statistics=False)
    return buffer.getvalue()


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(document, dict):
        raise _damaged(path, "it is not a manifest")
    if document.get("format") != FORMAT:
        raise StorageError(
            f"{path} has format {document.get('format')!r}, this version reads {FORMAT}; use the "
            "version that wrote it, or another --cache-dir"
        )
    return document


def _load(path: Path, digests: Collection[str], schema: pl.Schema) -> pl.DataFrame:
    return _frame(path, _verified(path, digests), schema)


def _verified(path: Path, digests: Collection[str]) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _damaged(path, "it is gone") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() not in digests:
        raise _damaged(path, "its hash is not that of its manifest")
    return data


def _frame(path: Path, data: bytes, schema: pl.Schema) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(data)
    except pl.exceptions.PolarsError as error:
        raise _damaged(path, str(error)) from error
    if frame.schema != schema:
        raise _damaged(path, f"columns {frame.schema}")
    return frame


def _damaged(path: Path, what: str) -> StorageError:
    return StorageError(f"{path} is damaged: {what}; run: atb-fast data repair")
