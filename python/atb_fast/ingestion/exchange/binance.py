"""Candles from the Binance REST API.

https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import polars as pl
import requests

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import ArgumentError, FetchError
from atb_fast.ingestion.exchange.errors import UnreachableError
from atb_fast.ingestion.exchange.http import Endpoints, Http, MalformedError, date_of
from atb_fast.ingestion.quality import bad_bars, holes
from atb_fast.ingestion.schemas import CANDLE_SCHEMA
from atb_fast.ingestion.spans import DAY_MS, Span, timestamps_ms

log = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[int], None]  # called with the number of new rows

PAGE_ROWS = 1000
#: The clock of the responding host may differ from that of the exchange by this much.
_MARGIN_MS = 5_000
#: Half of the limit for an IP address, because a trading bot may use the same address.
_WEIGHT_A_MINUTE = 3000
_COLUMNS = 12
#: The year 2100; later times are invalid.
_LAST_MS = 4_102_444_800_000


class Binance:
    """Client of the market data of the spot exchange.

    Args:
        http: Sends the requests.
        endpoints: The two hosts.
        now: The time, in milliseconds since 1970.
        exact: Whether `now` is the time of the exchange, rather than that of this machine.

    Attributes:
        used: The hosts that candles came from. Callers clear it.
        clock: The last known time of the exchange, in milliseconds since 1970.
        ahead: Milliseconds by which the exchange is ahead of `now`; None before the first response.
    """

    def __init__(self, http: Http, endpoints: Endpoints, now: int, *, exact: bool = False) -> None:
        self._http = http
        self._endpoints = endpoints
        self._base = endpoints.binance
        self.used: dict[str, None] = {}
        self.clock = now
        self.ahead: int | None = None
        self._asked_for_time = exact
        self._offset = now - time.monotonic_ns() // 1_000_000

    def server_time(self) -> int:
        """Return the time of the exchange, in milliseconds since 1970."""

        def parse(document: Any, _: int | None) -> int:
            found = document.get("serverTime") if isinstance(document, dict) else None
            if type(found) is not int or not 0 <= found < _LAST_MS:
                raise MalformedError("the response has no valid serverTime")
            return found

        server = self._get("/api/v3/time", {}, parse)
        self.ahead = server - self._now()
        return server

    def _now(self) -> int:
        return self._offset + time.monotonic_ns() // 1_000_000

    def first_open(self, symbol: str, timeframe: str, start: int, end: int) -> int | None:
        """Return the open time of the first candle in [start, end), or None if there is none."""
        page = self._page(symbol, timeframe, start, end, limit=1)
        return None if page.is_empty() else int(timestamps_ms(page)[0])

    def candles(
        self, symbol: str, timeframe: str, start: int, end: int, progress: Progress
    ) -> pl.DataFrame:
        """Return the closed candles that opened in [start, end), ascending."""
        bar = TIMEFRAMES[timeframe]
        # The first page starts at the first existing candle, so no request covers the time before.
        first = self._page(symbol, timeframe, start, end)
        progress(len(first))
        if first.is_empty():
            return first
        step = PAGE_ROWS * bar
        rest = int(timestamps_ms(first)[-1]) + bar
        if len(first) < PAGE_ROWS:
            # A page that is not full is the last one; anything missing after it is a gap.
            return first

        def window(begin: int) -> pl.DataFrame:
            rows = self._window(symbol, timeframe, begin, min(begin + step, end))
            progress(len(rows))
            return rows

        return pl.concat([first, *self._http.parallel(window, range(rest, end, step))])

    def confirm_holes(
        self, candles: pl.DataFrame, symbol: str, timeframe: str, start: int, end: int
    ) -> tuple[pl.DataFrame, list[Span]]:
        """Request each gap in [start, end) again.

        Returns:
            The candles, including those that the second request returned, and the gaps that the
            exchange confirmed, as half-open spans in milliseconds since 1970.
        """

        def ask(hole: Span) -> pl.DataFrame:
            return self._window(symbol, timeframe, *hole)

        confirmed: set[Span] = set()
        while True:
            found = holes(candles["timestamp"], TIMEFRAMES[timeframe], end, start=start)
            unsure = [hole for hole in found if hole not in confirmed]
            if not unsure:
                return candles, found
            pages = list(self._http.parallel(ask, unsure))
            confirmed |= {hole for hole, page in zip(unsure, pages, strict=True) if len(page) == 0}
            candles = pl.concat([candles, *pages]).sort("timestamp")

    def _window(self, symbol: str, timeframe: str, start: int, end: int) -> pl.DataFrame:
        """Return the candles of [start, end). Only bars off the grid need a second page."""
        pages = [self._page(symbol, timeframe, start, end)]
        while len(pages[-1]) == PAGE_ROWS:
            start = int(timestamps_ms(pages[-1])[-1]) + TIMEFRAMES[timeframe]
            if start >= end:
                break
            pages.append(self._page(symbol, timeframe, start, end))
        return pl.concat(pages)

    def _page(
        self, symbol: str, timeframe: str, start: int, end: int, limit: int = PAGE_ROWS
    ) -> pl.DataFrame:
        """Return the closed candles of one response."""
        bar = TIMEFRAMES.get(timeframe, 0)
        if end + bar > self.clock - DAY_MS and not self._asked_for_time:
            # Get the time before the page: a candle that has closed by then is final in the page.
            self.clock = self.server_time()
            self._asked_for_time = True  # set last, so that no other thread skips this
        closed = self.clock
        query = {
            "symbol": symbol,
            "interval": timeframe,
            "startTime": start,
            "endTime": end - 1,
            "limit": limit,
        }

        def read(document: Any, date: int | None) -> pl.DataFrame:
            candles = _candles(document, start, end)
            # The check above fails if the local clock is more than a day ahead; the Date header
            # does not depend on it.
            limits = [closed] if date is None else [closed, date - _MARGIN_MS]
            if not self._asked_for_time and date is not None:
                self.clock = min(self.clock, date)
            return candles.filter(timestamps_ms(candles) + bar <= min(limits))

        candles = self._get("/api/v3/klines", query, read)
        if len(candles):
            self.used[self._base] = None
        return candles

    def _get(self, path: str, query: dict[str, Any], parse: Callable[[Any, int | None], T]) -> T:
        base = self._base

        def read(response: requests.Response) -> T:
            used = response.headers.get("X-MBX-USED-WEIGHT-1M", "0")
            if used.isdigit() and int(used) >= _WEIGHT_A_MINUTE:
                self._http.pause(60.5 - time.time() % 60)
            if response.status_code == 451:
                raise _RestrictedError
            if response.status_code == 418:
                raise UnreachableError(_banned(response))
            try:
                document = json.loads(response.content)
            except (ValueError, RecursionError) as error:
                raise MalformedError("the response is not JSON") from error
            if response.status_code == 400:
                raise _refusal(document, query)
            date = date_of(response)
            if self.ahead is None and date is not None:
                self.ahead = date - self._now()
            return parse(document, date)

        try:
            return self._http.get(base + path, read, params=query, accepted=(400, 418, 451))
        except _RestrictedError:
            fallback = self._endpoints.binance_fallback
            if base == fallback:
                raise UnreachableError(
                    f"{base}: not available at your location (HTTP 451), like the other host; set "
                    "ATB_FAST_BINANCE_URL to a mirror"
                ) from None
            if self._base != fallback:  # another thread may have switched already
                log.info("%s is restricted at your location; using %s", base, fallback)
                self._base = fallback
            return self._get(path, query, parse)


class _RestrictedError(Exception):
    """HTTP 451: restricted location."""


def _candles(rows: Any, start: int, end: int) -> pl.DataFrame:
    """Return a page as a frame.

    Raises:
        MalformedError: The page is not a list of valid, ascending bars of [start, end).
    """
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == _COLUMNS and type(row[0]) is int for row in rows
    ):
        raise MalformedError(f"the response is not a list of candles with {_COLUMNS} columns")
    columns = list(zip(*rows, strict=True)) or [()] * _COLUMNS
    try:
        times = pl.Series("timestamp", columns[0], pl.Int64)
        # float() rounds decimals to the nearest float64.
        values = {
            name: pl.Series(name, [float(text) for text in columns[number]], pl.Float64)
            for number, name in enumerate(CANDLE_SCHEMA.names()[1:], start=1)
        }
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]  # without the hints that Polars adds for programmers
        raise MalformedError(f"the response has an invalid time or price: {reason}") from error
    if len(times) and not (
        start <= times[0] and times[-1] < end and (times.diff().drop_nulls() > 0).all()
    ):
        raise MalformedError("the response has candles out of order or outside the requested range")
    frame = pl.DataFrame(
        [times.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"), *values.values()]
    )
    bad = bad_bars(frame).arg_true()
    if len(bad):
        raise MalformedError(f"the response has an impossible bar: {rows[bad[0]]}")
    return frame


def _refusal(document: Any, query: dict[str, Any]) -> Exception:
    """Return the error for HTTP 400, naming the invalid value."""
    code = document.get("code") if isinstance(document, dict) else None
    said = document.get("msg") if isinstance(document, dict) else document
    if code == -1121:
        return ArgumentError(
            f"Binance does not list the symbol {query['symbol']!r}; check the spelling, for "
            "example BTCUSDT"
        )
    if code == -1120:
        return ArgumentError(
            f"Binance has no timeframe {query['interval']!r}; use another --timeframe"
        )
    asked = ", ".join(f"{name} {value}" for name, value in query.items())
    return FetchError(
        f"Binance rejected the request for {asked}: {said} (code {code}); its API may have "
        "changed, so look for a newer version of atb-fast"
    )


def _banned(response: requests.Response) -> str:
    until = re.search(r"\b(\d{13})\b", response.text)
    when = "for a while"
    if until:
        when = f"until {datetime.fromtimestamp(int(until[1]) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"Binance banned this IP address {when} (HTTP 418); do not send requests until then"
