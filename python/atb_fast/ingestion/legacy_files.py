"""Files that the old downloader left in the working directory."""

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
from atb_fast.ingestion.spans import DAY_MS, Span, epoch_ms, intersection, midnight, opened_in
from atb_fast.ingestion.store.candles import CandleStore, Piece
from atb_fast.ingestion.store.disk import now_iso

log = logging.getLogger(__name__)

#: Where the old downloader put its files, relative to the working directory.
OLD_FILES = Path("data")


def take_old_files(store: CandleStore, missing: list[Span], *, keep_last: bool) -> None:
    """Store what the old downloader's files have of `missing`.

    Args:
        store: With its lock held.
        missing: What is not stored.
        keep_last: Take the last candle of a file, too. It may have been running when the file was
            written, and copies of files do not tell; with a network it is fetched instead.
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
            log.warning("not used: %s", error)
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
            log.info("%s: reused %s candles of %s", store.name, f"{rows:,}", path)
            missing = [part for span in missing for part in store.missing(*span)]


def _old_candles(path: Path, bar: int) -> pl.DataFrame:
    """Return the sound candles of a file that had closed when it was written."""
    candles = read_candles(path)
    written = path.stat().st_mtime_ns // 1_000_000
    candles = candles.filter(epoch_ms(candles) + bar <= written)
    quality = inspect(candles, bar)
    if len(candles) > 1 and bar_length(candles) != bar:
        raise DataError(f"{path}: its candles are not {bar // 60_000} minutes apart")
    if quality.off_grid > len(candles) // 2:
        raise DataError(f"{path}: its candles do not open on the grid; is its time zone UTC?")
    if not quality.sound:
        raise DataError(f"{path}: {quality.bad_bars} of its bars are impossible")
    return candles


def _runs(candles: pl.DataFrame, bar: int) -> Iterator[Span]:
    """Yield the times that have all of their bars: of a hole it is not known whose it is."""
    times = epoch_ms(candles)
    if times.is_empty():
        return
    breaks = (times.diff() > bar).arg_true().to_list()
    for begin, behind in zip([0, *breaks], [*breaks, len(times)], strict=True):
        yield int(times[begin]), int(times[behind - 1]) + bar
