"""Reads candles and sentiment from the store, and downloads what the store lacks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import ArgumentError, DataError, FetchError, StorageError, counted
from atb_fast.ingestion.exchange.errors import UnreachableError
from atb_fast.ingestion.legacy_files import take_old_files
from atb_fast.ingestion.schemas import ATTRIBUTION
from atb_fast.ingestion.spans import DAY_MS, Span, intersection, midnight, text, without
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.disk import flag, now_iso
from atb_fast.ingestion.store.manifest import Piece
from atb_fast.ingestion.store.sentiment import SentimentStore

if TYPE_CHECKING:
    from atb_fast.ingestion.exchange.session import Exchange

log = logging.getLogger(__name__)

_WAITING = "%s: another process is downloading this range; waiting for it"

#: Candles per commit: the most that a killed run loses and the most that is kept in memory.
CHUNK_ROWS = 100_000
#: Clocks that differ by more are reported.
_CLOCKS_DIFFER_MS = 60_000


class NoReplacementError(FetchError):
    """The exchange responded, but what it has must not replace what is stored."""


@dataclass
class _Clock:
    """What is known about the clock of the exchange.

    Attributes:
        ahead: Milliseconds by which it is ahead of this machine's; None if that is unknown.
    """

    ahead: int | None = None


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Reads candles and sentiment through the store.

    The exchange's clock decides which candles have closed. It is asked for its time if the range
    reaches the present.

    Attributes:
        cache_dir: The cache directory.
        offline: Open no connection; data that is not stored is an error. It takes precedence over
            `force_refresh`.
        force_refresh: Download the whole range again. It replaces the stored data once the
            download is complete.
        freshness_days: Days by which stored sentiment may be older than the requested end.
        listener: Receives the progress of downloads.
        now: Returns the time of this machine, in milliseconds since 1970.
        without_sentiment: The option that skips sentiment, named in error messages.
    """

    cache_dir: Path
    offline: bool = False
    force_refresh: bool = False
    freshness_days: int = 7
    listener: Listener = SILENT
    now: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    without_sentiment: str = "--force-price-only"
    _clock: _Clock = field(default_factory=_Clock, init=False, repr=False, compare=False)

    def candles(
        self, symbol: str, timeframe: str, first: date | None, last: date | None
    ) -> pl.DataFrame:
        """Return the closed candles of the days `first` to `last`, ascending.

        Args:
            symbol: For example BTCUSDT.
            timeframe: One of `TIMEFRAMES`.
            first: First day, UTC. Default: the first day the exchange has.
            last: Last day, UTC, inclusive. Default: up to the last closed candle.

        Returns:
            timestamp (ms, open time), open, high, low, close, volume.

        Raises:
            ArgumentError: The exchange does not list the symbol.
            DataError: No candle of the range has closed yet.
            FetchError: Candles are not stored and cannot be downloaded.
            StorageError: The store is damaged or cannot be written.
        """
        store = CandleStore(self.cache_dir, symbol, timeframe)
        if self._reaches_present(store, first, last):
            self._ask_for_time()
        span = self._span(store, first, last)
        missing = store.missing(*span)
        if missing or self._refresh:
            with store.lock(lambda: log.info(_WAITING, store.name)):
                self.complete(store, span)
                candles = store.read(*span)
        else:
            candles = store.read(*span, lacking=())
        with suppress(OSError):  # records the last use, for `data prune`
            os.utime(store.directory / "manifest.json")
        if not missing and not self._refresh:
            log.info("%s: %s from the store", store.name, counted(len(candles), "candle"))
        return candles

    def sentiment(self, last: date | None) -> pl.DataFrame:
        """Return the full Fear & Greed history, recent enough for the day `last` (default: today).

        Returns:
            timestamp (ms, UTC midnight) and value (0..100), ascending.

        Raises:
            FetchError: The index is not stored or too old, and cannot be downloaded.
            StorageError: The store is damaged or cannot be written.
        """
        store = SentimentStore(self.cache_dir)
        if last and last > self._today() and not self._is_fresh(store, self._needed(last)):
            self._ask_for_time()
        needed = self._needed(min(last or self._today(), self._today()))
        if self._refresh or not self._is_fresh(store, needed):
            if self.offline:
                raise FetchError(
                    f"stored sentiment does not reach {needed}, and --offline forbids a download; "
                    "run without --offline, raise --freshness-days, or pass "
                    f"{self.without_sentiment}"
                )
            with store.lock(lambda: log.info(_WAITING, store.name)):
                if self._refresh or not self._is_fresh(store, needed):
                    try:
                        self._fetch_sentiment(store, overwrite=self._refresh)
                    except UnreachableError as error:
                        raise UnreachableError(
                            f"{error}. To do without sentiment, pass {self.without_sentiment}"
                        ) from error
            if not self._is_fresh(store, needed):
                log.warning("sentiment ends on %s. %s", _last_day(store), ATTRIBUTION)
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
        """Return the requested days in milliseconds, up to the last bar that has closed."""
        start = max(0, midnight(first)) if first else 0
        closed = self._closed(store)
        stored = store.span
        if stored:
            closed = max(closed, stored[1])  # only closed candles are stored
            if self.offline:  # a range without a start or an end is the stored one
                start = start if first else stored[0]
                closed = closed if last else stored[1]
        end = min(midnight(last) + DAY_MS, closed) if last else closed
        if start >= end:
            raise DataError(
                f"{store.name}: no candle from {first or 'the beginning'} to {last or 'now'} has "
                "closed yet; choose days in the past"
            )
        return start, end

    def complete(self, store: CandleStore, span: Span) -> None:
        """Download what the store lacks of `span`. The caller holds the store's lock."""
        if self._refresh:
            self._fetch(store, [span], overwrite=True)
            return
        missing = store.missing(*span)  # checked again: another process may have just stored it
        if missing and store.unlisted(store.manifest()):
            store.rebuild()  # a killed process has left files that are complete
            missing = store.missing(*span)
        if missing:
            take_old_files(store, missing, keep_last=self.offline)
            missing = store.missing(*span)
        if not missing:
            return
        if self.offline:
            raise FetchError(_offline_message(store, missing))
        self._fetch(store, missing, overwrite=False)

    def replace(self, store: CandleStore | SentimentStore, span: Span | None) -> None:
        """Download damaged data, and replace it once the download is complete.

        Args:
            store: The caller holds its lock.
            span: The damaged candles; None for sentiment.

        Raises:
            FetchError: There is no complete download, and the store is unchanged.
            StorageError: The store cannot be written.
        """
        if isinstance(store, SentimentStore):
            self._fetch_sentiment(store, overwrite=True)
            return
        assert span
        try:
            self._fetch(store, [span], overwrite=True)
        except ArgumentError as error:  # the symbol is no longer listed
            raise NoReplacementError(str(error)) from error
        if intersection(span, store.verify().damaged):
            raise NoReplacementError(
                f"{store.name}: the exchange has no candles for {text(span)}. To do without them, "
                f"run: {_clear(store)}"
            )

    def _fetch(self, store: CandleStore, missing: list[Span], *, overwrite: bool) -> None:
        # Importing requests takes 0.1 s, and a range that is stored does not need it.
        from atb_fast.ingestion.exchange.session import Exchange

        began = time.perf_counter()
        rows = 0
        with self._asked(Exchange(self._now(), exact=self._clock.ahead is not None)) as exchange:
            refreshed: list[Piece] = []
            outages: list[Span] = []
            for piece, holes in exchange.pieces(store, missing, CHUNK_ROWS, self.listener):
                rows += len(piece.candles)
                if overwrite:
                    refreshed.append(piece)
                    outages += holes
                else:
                    store.commit([piece], holes)
            if refreshed:
                _refuse_less(store, refreshed)
                store.commit(refreshed, outages, overwrite=True)
            # Because of gaps, there may be fewer rows than expected.
            self.listener.fetched(store.name, rows, rows)
            log.info(
                "%s: downloaded %s with %s in %.1f s",
                store.name,
                counted(rows, "candle"),
                counted(exchange.requests, "request"),
                time.perf_counter() - began,
            )

    def _now(self) -> int:
        """Return the time of the exchange, or that of this machine until the exchange is asked."""
        return self.now() + (self._clock.ahead or 0)

    def _closed(self, store: CandleStore) -> int:
        """Return the millisecond before which a candle must open to have closed by now."""
        return self._now() - TIMEFRAMES[store.timeframe] + 1

    def _today(self) -> date:
        return datetime.fromtimestamp(self._now() / 1000, UTC).date()

    def _needed(self, newest: date) -> date:
        """Return the day that a fresh index reaches, if `newest` is the last day of the range."""
        return date.fromordinal(max(1, newest.toordinal() - self.freshness_days))

    def _reaches_present(self, store: CandleStore, first: date | None, last: date | None) -> bool:
        """Return whether candles that are not stored may not have closed yet."""
        if last is None:
            return True
        start, end = max(0, midnight(first or date.min)), midnight(last) + DAY_MS
        return end > self._closed(store) and (self._refresh or bool(store.missing(start, end)))

    def _ask_for_time(self) -> None:
        """Ask the exchange for its time, unless it is known.

        Raises:
            FetchError: The exchange is unreachable or sends no usable response.
        """
        if self.offline or self._clock.ahead is not None:
            return
        from atb_fast.ingestion.exchange.session import Exchange

        with self._asked(Exchange(self._now())) as exchange:
            exchange.ask_for_time()

    @contextmanager
    def _asked(self, exchange: Exchange) -> Iterator[Exchange]:
        """Open a session with the exchange, and learn the time from it."""
        with exchange:
            try:
                yield exchange
            finally:
                if self._clock.ahead is None and exchange.ahead is not None:
                    self._clock.ahead = exchange.ahead
                    _compare_clocks(exchange.ahead)

    def _is_fresh(self, store: SentimentStore, needed: date) -> bool:
        last = _last_day(store)
        return last is not None and last >= needed

    def _fetch_sentiment(self, store: SentimentStore, *, overwrite: bool) -> None:
        from atb_fast.ingestion.exchange.feargreed import fetch_index
        from atb_fast.ingestion.exchange.http import Endpoints, Http

        endpoints = Endpoints.from_environment()
        with Http() as http:
            index = fetch_index(http, endpoints, self._now())
        stored = None if overwrite else store.entry()
        if stored and len(index) < stored["rows"]:
            raise FetchError(
                f"{endpoints.fng} returned {counted(len(index), 'day')}, expected at least the "
                f"{stored['rows']} that are stored; the response may be truncated. Try again "
                "later, or pass --force-refresh to accept it"
            )
        store.replace(index, endpoints.fng, now_iso())
        log.info("sentiment: downloaded %s. %s", counted(len(index), "day"), ATTRIBUTION)


def _last_day(store: SentimentStore) -> date | None:
    entry = store.entry()
    return date.fromisoformat(entry["last"]) if entry else None


def _refuse_less(store: CandleStore, pieces: list[Piece]) -> None:
    """Raise FetchError if `pieces` have fewer candles than they would replace."""
    try:
        before = sum(len(store.read(piece.start, piece.end)) for piece in pieces)
    except StorageError:  # a damaged file; the manifest knows how many candles it had
        spans = [(piece.start, piece.end) for piece in pieces]
        ranges = store.manifest().ranges
        before = sum(item.rows for item in ranges if not without((item.start, item.end), spans))
    after = sum(len(piece.candles) for piece in pieces)
    if after < before:
        raise NoReplacementError(
            f"{store.name}: the exchange returned {counted(after, 'candle')}, expected at least "
            f"the {before:,} that are stored; nothing was replaced. If the new data is right, "
            f"first run {_clear(store)}"
        )


def _clear(store: CandleStore) -> str:
    return (
        f"atb-fast data clear {store.symbol} --timeframe {store.timeframe}{flag(store.cache_dir)}"
    )


def _compare_clocks(ahead: int) -> None:
    """Warn if the clock of this machine differs from that of the exchange."""
    if abs(ahead) <= _CLOCKS_DIFFER_MS:
        return
    units = {"days": 86_400_000, "hours": 3_600_000, "minutes": 60_000, "seconds": 1000}
    unit = next(unit for unit, size in units.items() if round(abs(ahead) / size) >= 2)
    log.warning(
        "the clock of this machine is %d %s %s that of the exchange, which decides which candles "
        "have closed; set the clock",
        round(abs(ahead) / units[unit]),
        unit,
        "behind" if ahead > 0 else "ahead of",
    )


def _offline_message(store: CandleStore, missing: list[Span]) -> str:
    ranges = ", ".join(text(span) for span in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    first, last = (
        datetime.fromtimestamp(ms / 1000, UTC).date() for ms in (missing[0][0], missing[-1][1] - 1)
    )
    return (
        f"{store.name} is not stored for {ranges}{more}, and --offline forbids a download; run: "
        f"atb-fast data fetch {store.symbol} --timeframe {store.timeframe} "
        f"--start-date {first} --end-date {last}{flag(store.cache_dir)}"
    )
