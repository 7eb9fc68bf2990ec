"""The manifest of a series of candles: which spans of time are in which files."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from atb_fast.ingestion.spans import Span, from_iso, iso, without

_FILE = re.compile(r"(\d{8}T\d{6})_(\d{8}T\d{6})_[0-9a-f]{12}\.parquet")
_TIMES = ("start", "end", "first", "last")


@dataclass(frozen=True)
class Range:
    """A span of time whose candles are all in one file.

    Attributes:
        start: First millisecond, since 1970.
        end: First millisecond after the end.
        file: Name of the file.
        rows: Number of candles.
        first: Open time of the first candle, or None if there is none.
        last: Open time of the last candle, or None if there is none.
        sha256: Hash of the file.
        source: Where the candles came from.
        fetched_at: When the newest part was downloaded, UTC.
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
        """Return the range as a manifest entry, with times as text."""
        times = {name: getattr(self, name) for name in _TIMES}
        texts = {name: None if ms is None else iso(ms) for name, ms in times.items()}
        return asdict(self) | texts

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Range:
        """Return the range of a manifest entry; the inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: The entry is invalid.
        """
        made = cls(**row | {name: row[name] and from_iso(row[name]) for name in _TIMES})
        texts = (made.file, made.sha256, made.source, made.fetched_at)
        whole = [made.rows, made.start, made.end]
        whole += [time for time in (made.first, made.last) if time is not None]
        if {*map(type, texts)} != {str} or {*map(type, whole)} != {int}:
            raise TypeError("a value has the wrong type")
        if not made.start < made.end:
            raise ValueError("the range is empty")
        return made


@dataclass(frozen=True)
class Piece:
    """Candles to store, and the span of time that they cover completely."""

    start: int
    end: int
    candles: pl.DataFrame
    source: str
    fetched_at: str


@dataclass(frozen=True)
class Manifest:
    """Ranges and confirmed outages of a series, both ascending and disjoint."""

    ranges: tuple[Range, ...] = ()
    outages: tuple[Span, ...] = ()

    def missing(self, span: Span) -> list[Span]:
        """Return the parts of `span` that are in no range."""
        return without(span, [(item.start, item.end) for item in self.ranges])


def file_name(span: Span, digest: str) -> str:
    """Return the name of the file for `span` with the hash `digest`."""
    start, end = (f"{datetime.fromtimestamp(ms / 1000, UTC):%Y%m%dT%H%M%S}" for ms in span)
    return f"{start}_{end}_{digest[:12]}.parquet"


def span_of(name: str) -> Span | None:
    """Return the span in the name of a file, to the second; None if it is not such a file."""
    found = _FILE.fullmatch(name)
    if found is None:
        return None
    try:
        start, end = (
            int(datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()) * 1000
            for text in found.groups()
        )
    except ValueError:  # digits that are not a time
        return None
    return start, end
