"""Imports files that an older downloader left in the working directory."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import DataError
from atb_fast.ingestion.files import read_candles
from atb_fast.ingestion.quality import bar_length, inspect
from atb_fast.ingestion.spans import DAY_MS, Span, intersection, midnight, opened_in, timestamps_ms
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.disk import now_iso
from atb_fast.ingestion.store.manifest import Piece

log = logging.getLogger(__name__)

#: Where the older downloader kept its files, relative to the working directory.
OLD_FILES = Path("data")


def take_old_files(store: CandleStore, missing: list[Span], *, keep_last: bool) -> None:
    """Import the candles of `missing` that the older downloader's files contain.

    Args:
        store: The store; the caller holds its lock.
        missing: The ranges that are not stored.
        keep_last: Also import the last candle of each file. It may have been open when the file was
            written, because the modification time of a copied file is later. With a network, that
            candle is downloaded instead.
    """
    day = r"(\d{4}-\d\d-\d\d)"
    name = re.compile(rf"{store.symbol}_{store.timeframe}_{day}_{day}\.(csv|feather)")
    for path in sorted(OLD_FILES.glob(f"{store.symbol}_{store.timeframe}_*")):
        found = name.fullmatch(path.name)
        if not found:
            continue
        try:
            first, last = (midnight(date.fromisoformat(found[number])) for number in (1, 2))
            if not intersection((first, last + DAY_MS), missing):
                continue
            candles = _old_candles(path, TIMEFRAMES[store.timeframe])
        except (DataError, ValueError) as error:
            log.warning("ignoring an old file: %s", error)
            continue
        if not keep_last:
            candles = candles[:-1]
        pieces = [
            Piece(*part, opened_in(candles, part), f"file {path}", now_iso())
            for run in _runs(candles, TIMEFRAMES[store.timeframe])
            for part in intersection(run, missing)
        ]
        if pieces:
            store.commit(pieces, [])
            rows = sum(len(piece.candles) for piece in pieces)
            log.info("%s: imported %s candles from %s", store.name, f"{rows:,}", path)
            missing = [part for span in missing for part in store.missing(*span)]


def _old_candles(path: Path, bar: int) -> pl.DataFrame:
    """Return the candles that had closed when the file was written."""
    candles = read_candles(path)
    written = path.stat().st_mtime_ns // 1_000_000
    candles = candles.filter(timestamps_ms(candles) + bar <= written)
    quality = inspect(candles, bar)
    if len(candles) > 1 and bar_length(candles) != bar:
        raise DataError(f"{path}: the candles are not {bar // 60_000} minutes apart")
    if quality.off_grid > len(candles) // 2:
        raise DataError(f"{path}: the candles do not open on the grid; timestamps must be in UTC")
    if not quality.sound:
        raise DataError(f"{path}: {quality.bad_bars:,} impossible bars")
    return candles


def _runs(candles: pl.DataFrame, bar: int) -> Iterator[Span]:
    """Yield the spans between gaps. A gap in a file need not be a gap on the exchange."""
    times = timestamps_ms(candles)
    if times.is_empty():
        return
    breaks = (times.diff() > bar).arg_true().to_list()
    for begin, stop in zip([0, *breaks], [*breaks, len(times)], strict=True):
        yield int(times[begin]), int(times[stop - 1]) + bar
