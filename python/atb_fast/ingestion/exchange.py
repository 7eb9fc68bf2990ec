"""Candles that are not stored, from the REST interface or the archive, piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.ingestion.archive import TIMEFRAMES_IN_ARCHIVE, Archive
from atb_fast.ingestion.binance import Binance
from atb_fast.ingestion.http import Endpoints, Http
from atb_fast.ingestion.schemas import CANDLE_SCHEMA
from atb_fast.ingestion.store import CandleStore, Piece, Span, epoch_ms, now_iso

if TYPE_CHECKING:
    from atb_fast.ingestion.fetch import OnProgress

_DAY_MS = TIMEFRAMES["1d"]


class Exchange:
    """A session with the exchange; use as a context.

    Args:
        now: This machine's clock, milliseconds since 1970.
        http: For tests.
    """

    def __init__(self, now: int, http: Http | None = None) -> None:
        self._http = http or Http()
        self._now = now
        self._endpoints = Endpoints.from_environment()
        self._rest = Binance(self._http, self._endpoints)
        self._archive = Archive(self._http, self._endpoints.archive, self._rest)

    def __enter__(self) -> Exchange:
        self._http.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.__exit__(*exception)

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self._http.requests

    def pieces(
        self, store: CandleStore, missing: list[Span], rows: int, on_progress: OnProgress
    ) -> Iterator[tuple[Piece, list[Span]]]:
        """Yield the candles of `missing`, about `rows` at a time, with their confirmed holes.

        Raises:
            ArgumentError: The exchange does not know the symbol.
            FetchError: The exchange cannot be reached, or gives nothing that can be used.
        """
        bar = TIMEFRAMES[store.timeframe]
        listed_at = min((item.start for item in store.manifest().ranges if item.rows), default=None)
        spans: list[tuple[int, int, int, bool]] = []
        for start, end in missing:
            listed = listed_at is not None and listed_at <= start
            begin: int | None = start
            # Pages jump to the listing by themselves; a long range would be many empty ones.
            if not listed and (
                (end - start) // bar > rows or store.timeframe in TIMEFRAMES_IN_ARCHIVE
            ):
                begin = self._rest.first_open(store.symbol, store.timeframe, start, end)
            spans.append((start, end, end if begin is None else begin, listed))
        progress = _Progress(
            store.name, sum((end - begin) // bar for _, end, begin, _ in spans), on_progress
        )
        closed = self._closed(max(end for _, end in missing), bar)
        for start, end, begin, listed in spans:
            # The piece with the first candle reaches back to `start`: nothing was listed before.
            known, seen = start, listed
            while known < end:
                # Whole days at a time: that is what the archive's files hold.
                behind = min((max(known, begin) + rows * bar) // _DAY_MS * _DAY_MS, end)
                candles = self._candles(store, max(known, begin), behind, progress)
                piece, holes = self._piece(store, candles, (known, behind), closed, listed=seen)
                if piece.end <= piece.start:
                    break
                seen = seen or len(piece.candles) > 0
                # That there is nothing at all is not worth remembering: it may be a mistake.
                if seen or listed_at is not None:
                    yield piece, holes
                known = behind

    def _closed(self, end: int, bar: int) -> int | None:
        """Return the exchange's time if bars before `end` may still be running, else None."""
        return self._rest.server_time() if end + bar > self._now - _DAY_MS else None

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
        closed: int | None,
        *,
        listed: bool,
    ) -> tuple[Piece, list[Span]]:
        """Return the closed candles of `span` and the holes that the exchange confirmed."""
        bar = TIMEFRAMES[store.timeframe]
        start, end = span
        if closed is not None:
            candles = candles.filter(epoch_ms(candles) + bar <= closed)
            # A bar that has just closed may not be there yet: the last one is known once it came.
            known = [(closed - bar) // bar * bar, *epoch_ms(candles).tail(1) + bar]
            end = min(end, max(known))
        candles, holes = self._rest.confirm_holes(
            candles, store.symbol, store.timeframe, end, start=start if listed else None
        )
        used = [self._rest.base]
        if store.timeframe in TIMEFRAMES_IN_ARCHIVE:
            used.insert(0, self._endpoints.archive)
        return Piece(start, end, candles, ", ".join(used), now_iso()), holes


class _Progress:
    """Counts rows from several threads."""

    def __init__(self, name: str, total: int, report: OnProgress) -> None:
        self._name, self._total, self._report = name, total, report
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            self._report(self._name, self._done, max(self._total, self._done))
