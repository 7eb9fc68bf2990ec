"""Candles and sentiment from the store; what is missing there is fetched once and kept."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from atb_fast.callbacks import OnProgress, quiet
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import DataError, FetchError, StorageError
from atb_fast.ingestion.legacy_files import take_old_files
from atb_fast.ingestion.schemas import ATTRIBUTION
from atb_fast.ingestion.spans import (
    DAY_MS,
    Span,
    midnight,
    text,
)
from atb_fast.ingestion.store.candles import CandleStore, Piece
from atb_fast.ingestion.store.disk import flag, now_iso
from atb_fast.ingestion.store.sentiment import SentimentStore

log = logging.getLogger(__name__)

#: Bars that are fetched before they are stored: what a killed run can lose, and has in memory.
CHUNK_ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """The way to stored candles and sentiment.

    Attributes:
        cache_dir: Where the store is.
        offline: Open no socket; what is missing is an error. Stronger than `force_refresh`.
        force_refresh: Fetch all that is asked for anew; it takes the place of what is stored once
            it is complete.
        freshness_days: Days that the newest sentiment may be older than what is asked for.
        on_progress: Called while candles come in.
        now: The clock, milliseconds since 1970.
    """

    cache_dir: Path
    offline: bool = False
    force_refresh: bool = False
    freshness_days: int = 7
    on_progress: OnProgress = quiet
    now: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def candles(
        self, symbol: str, timeframe: str, first: date | None, last: date | None
    ) -> pl.DataFrame:
        """Return the closed candles of the days `first` to `last`, ascending, as stored.

        Args:
            symbol: For example BTCUSDT.
            timeframe: One of `TIMEFRAMES`.
            first: First day, UTC; default the first one there is.
            last: Last day, UTC, inclusive; default the last one there is.

        Returns:
            timestamp (ms, open time), open, high, low, close, volume.

        Raises:
            ArgumentError: The exchange does not know the symbol.
            DataError: No candle of the range has closed yet.
            FetchError: Something is missing and cannot be fetched.
            StorageError: The store is damaged, or cannot be written.
        """
        store = CandleStore(self.cache_dir, symbol, timeframe)
        span = self._span(store, first, last)
        missing = store.missing(*span)
        if missing or self._refresh:
            with store.lock(lambda: log.info("%s: another process is at it, waiting", store.name)):
                self.complete(store, span)
                candles = store.read(*span)
        else:
            candles = store.read(*span, lacking=())
        with suppress(OSError):  # when it was last used, for `data prune`
            os.utime(store.directory / "manifest.json")
        if not missing and not self._refresh:
            log.info("%s: %s candles from the store", store.name, f"{len(candles):,}")
        return candles

    def sentiment(self, last: date | None) -> pl.DataFrame:
        """Return the whole Fear & Greed history, fresh enough for the day `last`, default today.

        Returns:
            timestamp (ms, UTC midnight) and value (0..100), ascending.

        Raises:
            FetchError: It is missing or too old, and cannot be fetched.
            StorageError: The store is damaged, or cannot be written.
        """
        store = SentimentStore(self.cache_dir)
        today = datetime.fromtimestamp(self.now() / 1000, UTC).date()
        newest = min(last or today, today)
        needed = date.fromordinal(max(1, newest.toordinal() - self.freshness_days))
        if self._refresh or not self._is_fresh(store, needed):
            if self.offline:
                raise FetchError(
                    f"--offline, and the stored sentiment does not reach {needed}; run without "
                    "--offline, raise --freshness-days, or use --force-price-only"
                )
            with store.lock(lambda: log.info("sentiment: another process is at it, waiting")):
                if self._refresh or not self._is_fresh(store, needed):
                    self._fetch_sentiment(store)
            if not self._is_fresh(store, needed):
                log.warning("sentiment: %s has no day after %s", ATTRIBUTION, _last_day(store))
        else:
            log.info("sentiment: from the store. %s", ATTRIBUTION)
        index = store.read()
        with suppress(OSError):
            os.utime(store.directory / "manifest.json")
        return index

    @property
    def _refresh(self) -> bool:
        return self.force_refresh and not self.offline

    def _span(self, store: CandleStore, first: date | None, last: date | None) -> Span:
        """Return the milliseconds of the days asked for, without bars that have not closed."""
        start = max(0, midnight(first)) if first else 0
        closed = self.now() - TIMEFRAMES[store.timeframe] + 1
        end = min(midnight(last) + DAY_MS, closed) if last else closed
        stored = store.span if self.offline else None
        if stored:  # without a network the first and the last there is are the stored ones
            start = start if first else stored[0]
            end = end if last else min(end, stored[1])
        if start >= end:
            raise DataError(
                f"{store.name}: no candle from {first or 'the beginning'} to {last or 'now'} can "
                "have closed; give days that are over"
            )
        return start, end

    def complete(self, store: CandleStore, span: Span) -> None:
        """Make sure that all of `span` is stored; call with the store's lock held."""
        if self._refresh:
            self._fetch(store, [span])
            return
        missing = store.missing(*span)  # another process may have fetched it meanwhile
        if missing:
            take_old_files(store, missing, keep_last=self.offline)
            missing = store.missing(*span)
        if not missing:
            return
        if self.offline:
            raise FetchError(_offline_message(store, missing))
        self._fetch(store, missing)

    def _fetch(self, store: CandleStore, missing: list[Span]) -> None:
        # requests takes a tenth of a second to import, and a stored range needs none of it.
        from atb_fast.ingestion.exchange.session import Exchange

        began = time.perf_counter()
        rows = 0
        with Exchange(self.now()) as exchange:
            refreshed: list[Piece] = []
            outages: list[Span] = []
            for piece, holes in exchange.pieces(store, missing, CHUNK_ROWS, self.on_progress):
                rows += len(piece.candles)
                if self._refresh:
                    refreshed.append(piece)
                    outages += holes
                else:
                    store.commit([piece], holes)
            if refreshed:
                _refuse_less(store, refreshed)
                store.commit(refreshed, outages, overwrite=True)
            self.on_progress(store.name, rows, rows)  # holes made it fewer than were expected
            log.info(
                "%s: fetched %s candles in %s requests, %.1f s",
                store.name,
                f"{rows:,}",
                f"{exchange.requests:,}",
                time.perf_counter() - began,
            )

    def _is_fresh(self, store: SentimentStore, needed: date) -> bool:
        last = _last_day(store)
        return last is not None and last >= needed

    def _fetch_sentiment(self, store: SentimentStore) -> None:
        from atb_fast.ingestion.exchange.feargreed import fetch_index
        from atb_fast.ingestion.exchange.http import Endpoints, Http

        endpoints = Endpoints.from_environment()
        with Http() as http:
            index = fetch_index(http, endpoints)
        stored = None if self._refresh else store.entry()
        if stored and len(index) < stored["rows"]:
            raise FetchError(
                f"{endpoints.fng}: the index came with {len(index)} days, {stored['rows']} are "
                "stored; it may be cut short. --force-refresh takes it all the same"
            )
        store.replace(index, endpoints.fng, now_iso())
        log.info("sentiment: fetched %s days. %s", f"{len(index):,}", ATTRIBUTION)


def _last_day(store: SentimentStore) -> date | None:
    entry = store.entry()
    return date.fromisoformat(entry["last"]) if entry else None


def _refuse_less(store: CandleStore, pieces: list[Piece]) -> None:
    """Raise if `pieces` have fewer candles than they would replace."""
    try:
        before = sum(len(store.read(piece.start, piece.end)) for piece in pieces)
    except StorageError:
        return  # what is damaged may go
    after = sum(len(piece.candles) for piece in pieces)
    if after < before:
        raise FetchError(
            f"{store.name}: {after:,} candles came where {before:,} are stored, which stay; if it "
            f"is right, remove those first: atb-fast data clear {store.symbol} --timeframe "
            f"{store.timeframe}"
        )


def _offline_message(store: CandleStore, missing: list[Span]) -> str:
    ranges = ", ".join(text(span) for span in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    first, last = (
        datetime.fromtimestamp(ms / 1000, UTC).date() for ms in (missing[0][0], missing[-1][1] - 1)
    )
    return (
        f"--offline, and {store.name} is not stored for {ranges}{more}; fetch it with: "
        f"atb-fast data fetch {store.symbol} --timeframe {store.timeframe} "
        f"--start-date {first} --end-date {last}{flag(store.cache_dir)}"
    )
