"""Half-open spans of time, in milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

import polars as pl

from atb_fast.config import TIMEFRAMES

Span = tuple[int, int]
"""The first millisecond, and the first one after the end."""

DAY_MS = TIMEFRAMES["1d"]


def without(span: Span, others: Iterable[Span]) -> list[Span]:
    """Return the parts of `span` that are in none of `others`."""
    left = [span]
    for first, after in others:
        left = [
            part
            for start, end in left
            for part in ((start, min(end, first)), (max(start, after), end))
            if part[0] < part[1]
        ]
    return left


def intersection(span: Span, others: Iterable[Span]) -> list[Span]:
    """Return the parts of `span` that are in one of `others`."""
    parts = [(max(span[0], first), min(span[1], after)) for first, after in others]
    return [part for part in parts if part[0] < part[1]]


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return `spans` sorted, with adjacent and overlapping ones merged."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def opened_in(candles: pl.DataFrame, span: Span) -> pl.DataFrame:
    """Return the candles that open within `span`."""
    times = timestamps_ms(candles)
    return candles.filter((times >= span[0]) & (times < span[1]))


def timestamps_ms(frame: pl.DataFrame) -> pl.Series:
    """Return the timestamps in milliseconds since 1970."""
    return frame["timestamp"].dt.epoch("ms")


def iso(ms: int) -> str:
    """Return a time in milliseconds as ISO 8601 text in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def from_iso(text: str) -> int:
    """Return the time in milliseconds; the inverse of `iso`."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def text(span: Span) -> str:
    """Return a span as readable text."""
    return f"{iso(span[0])[:16]} to {iso(span[1])[:16]} UTC"


def midnight(day: date) -> int:
    """Return the first millisecond of a UTC day."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
