"""Downloads missing candles from the REST API or the archive, in pieces."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.ingestion.exchange.archive import TIMEFRAMES_IN_ARCHIVE, Archive
from atb_fast.ingestion.exchange.binance import Binance
from atb_fast.ingestion.exchange.http import Endpoints, Http
from atb_fast.ingestion.schemas import CANDLE_SCHEMA
from atb_fast.ingestion.spans import DAY_MS, Span, iso, opened_in, timestamps_ms
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.disk import now_iso
from atb_fast.ingestion.store.manifest import Piece, Range

if TYPE_CHECKING:
    from atb_fast.callbacks import Listener

log = logging.getLogger(__name__)

_LATE_MS = TIMEFRAMES["1h"]


class Exchange:
    """A session with the exchange. Use it as a context manager.

    Args:
        now: The time, in milliseconds since 1970. The exchange's clock decides which candles have
            closed.
        exact: Whether `now` is the time of the exchange, rather than that of this machine.
    """

    def __init__(self, now: int, *, exact: bool = False) -> None:
        self._http = Http()
        self._endpoints = Endpoints.from_environment()
        self._rest = Binance(self._http, self._endpoints, now, exact=exact)
        self._archive = Archive(self._http, self._endpoints.archive, self._rest)

    def __enter__(self) -> Exchange:
        self._http.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.__exit__(*exception)

    @property
    def requests(self) -> int:
        """Number of requests sent."""
        return self._http.requests

    @property
    def ahead(self) -> int | None:
        """Milliseconds by which the exchange is ahead of `now`; None before the first response."""
        return self._rest.ahead

    def ask_for_time(self) -> None:
        """Ask the exchange for its time; see `ahead`.

        Raises:
            FetchError: The exchange is unreachable or sends no usable response.
        """
        self._rest.server_time()

    def pieces(
        self, store: CandleStore, missing: list[Span], rows: int, listener: Listener
    ) -> Iterator[tuple[Piece, list[Span]]]:
        """Yield the candles of `missing`, about `rows` at a time, with confirmed gaps.

        Raises:
            ArgumentError: The exchange does not list the symbol.
            FetchError: The exchange is unreachable or sends no usable response.
        """
        bar = TIMEFRAMES[store.timeframe]
        stored = [item for item in store.manifest().ranges if item.first is not None]
        begins = [self._begin(store, span, stored, rows) for span in missing]
        total = sum((end - begin) // bar for (_, end), begin in zip(missing, begins, strict=True))
        progress = _Progress(store.name, total, listener)
        for (start, end), begin in zip(missing, begins, strict=True):
            known, listed = start, _listed(stored, start)
            while known < end:
                first = max(known, begin)
                # Whole days, because a file of the archive holds one day.
                stop = min((first + rows * bar) // DAY_MS * DAY_MS, end)
                stop = max(stop, min(first + bar, end))
                self._rest.used.clear()
                self._archive.used.clear()
                candles = self._candles(store, first, stop, progress)
                piece, holes = self._piece(store, candles, (known, stop), stored, listed=listed)
                if piece.end <= piece.start:
                    break
                yield piece, holes
                listed = listed or len(piece.candles) > 0
                if piece.end < stop:
                    break
                known = stop

    def _begin(self, store: CandleStore, span: Span, stored: Sequence[Range], rows: int) -> int:
        """Return where the candles of `span` begin, or its start if a lookup saves no requests."""
        start, end = span
        long = (end - start) // TIMEFRAMES[store.timeframe] > rows
        if _listed(stored, start) or not (long or store.timeframe in TIMEFRAMES_IN_ARCHIVE):
            return start  # pages start at the first existing candle anyway
        first = self._rest.first_open(store.symbol, store.timeframe, start, end)
        return end if first is None else first

    def _candles(
        self, store: CandleStore, start: int, end: int, progress: Callable[[int], None]
    ) -> pl.DataFrame:
        if start >= end:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        if store.timeframe in TIMEFRAMES_IN_ARCHIVE:
            return self._archive.candles(store.symbol, store.timeframe, start, end, progress)
        return self._rest.candles(store.symbol, store.timeframe, start, end, progress)

    def _piece(
        self,
        store: CandleStore,
        candles: pl.DataFrame,
        span: Span,
        stored: Sequence[Range],
        *,
        listed: bool,
    ) -> tuple[Piece, list[Span]]:
        """Return the known part of `span`, and the gaps in it that the exchange confirmed.

        `span` is known up to its last candle, or completely if a later candle exists. Neither a
        clock nor an empty response proves that there is no candle.
        """
        bar = TIMEFRAMES[store.timeframe]
        start, end = span
        candles, holes = self._rest.confirm_holes(
            candles, store.symbol, store.timeframe, start, end
        )
        covered = int(timestamps_ms(candles)[-1]) + bar if len(candles) else start
        if covered < end:
            short = end - covered < bar  # less than one bar: the next download gets it
            if short or not self._goes_on(store, end, stored):
                end = covered
                holes = [hole for hole in holes if hole[0] < end]
                if not short:
                    log.info("%s: no candles after %s yet", store.name, iso(covered)[:16])
        for hole in holes:
            # A candle that has been missing for less than an hour may only be late.
            if hole[1] > self._rest.clock - _LATE_MS:
                end = min(end, hole[0])
        candles = opened_in(candles, (start, end))
        holes = [hole for hole in holes if hole[0] < end]
        if not listed:  # the time before the first candle of the symbol is not a gap
            holes = [hole for hole in holes if hole[0] > start]
        used = ", ".join([*self._archive.used, *self._rest.used]) or self._endpoints.binance
        return Piece(start, end, candles, used, now_iso()), holes

    def _goes_on(self, store: CandleStore, end: int, stored: Sequence[Range]) -> bool:
        """Return whether a candle exists at or after `end`."""
        if any(item.last is not None and item.last >= end for item in stored):
            return True
        later = self._rest.clock + DAY_MS
        if end >= later:
            return False
        return self._rest.first_open(store.symbol, store.timeframe, end, later) is not None


def _listed(stored: Sequence[Range], start: int) -> bool:
    """Return whether a candle before `start` is stored, so that the symbol was listed."""
    return any(item.first is not None and item.first < start for item in stored)


class _Progress:
    """Sums the rows that several threads report."""

    def __init__(self, name: str, total: int, listener: Listener) -> None:
        self._name, self._total, self._listener = name, total, listener
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            self._listener.fetched(self._name, self._done, max(self._total, self._done))
