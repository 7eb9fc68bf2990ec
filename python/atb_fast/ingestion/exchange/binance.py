"""Candles from Binance's REST interface.

https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import polars as pl
import requests

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import ArgumentError, FetchError
from atb_fast.ingestion.exchange.http import Endpoints, Http, MalformedError
from atb_fast.ingestion.quality import bad_bars, holes
from atb_fast.ingestion.schemas import CANDLE_SCHEMA
from atb_fast.ingestion.spans import Span, epoch_ms

log = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[int], None]  # gets the number of new rows

PAGE_ROWS = 1000
_DAY_MS = TIMEFRAMES["1d"]
#: The host that sends an answer may have another clock than the exchange.
_MARGIN_MS = 5_000
#: Half of what an address may use in a minute; a trading bot may live at the same address.
_WEIGHT_A_MINUTE = 3000
_COLUMNS = 12


class Binance:
    """Market data of the spot exchange.

    Args:
        http: For the requests.
        endpoints: Its two hosts.
        now: This machine's clock, milliseconds since 1970.

    Attributes:
        used: The hosts that candles came from, to be cleared by who reads it.
        clock: The exchange's time as it was last seen, milliseconds since 1970.
    """

    def __init__(self, http: Http, endpoints: Endpoints, now: int) -> None:
        self._http = http
        self._endpoints = endpoints
        self._base = endpoints.binance
        self.used: dict[str, None] = {}
        self.clock = now
        self._asked_for_time = False

    def server_time(self) -> int:
        """Return the exchange's clock, milliseconds since 1970."""

        def parse(document: Any, _: int | None) -> int:
            if not isinstance(document, dict) or type(document.get("serverTime")) is not int:
                raise MalformedError("the answer has no serverTime")
            return int(document["serverTime"])

        return self._get("/api/v3/time", {}, parse)

    def first_open(self, symbol: str, timeframe: str, start: int, end: int) -> int | None:
        """Return the open time of the first candle in [start, end), None if there is none."""
        page = self._page(symbol, timeframe, start, end, limit=1)
        return None if page.is_empty() else int(epoch_ms(page)[0])

    def candles(
        self, symbol: str, timeframe: str, start: int, end: int, progress: Progress
    ) -> pl.DataFrame:
        """Return the candles that opened in [start, end), ascending, as the exchange has them."""
        bar = TIMEFRAMES[timeframe]
        # The first page jumps to the first candle there is, so nothing is asked for before it.
        first = self._page(symbol, timeframe, start, end)
        progress(len(first))
        if first.is_empty():
            return first
        step = PAGE_ROWS * bar
        rest = int(epoch_ms(first)[-1]) + bar
        if len(first) < PAGE_ROWS:
            # A page that is not full was the last one, or the rest of it is a hole.
            return first

        def window(begin: int) -> pl.DataFrame:
            rows = self._window(symbol, timeframe, begin, min(begin + step, end))
            progress(len(rows))
            return rows

        return pl.concat([first, *self._http.parallel(window, range(rest, end, step))])

    def confirm_holes(
        self, candles: pl.DataFrame, symbol: str, timeframe: str, start: int, end: int
    ) -> tuple[pl.DataFrame, list[Span]]:
        """Ask again for every hole in [start, end).

        Returns:
            The candles with those that were found after all, and the holes that the exchange
            confirmed, (first, behind the last) millisecond each.
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
        """Return all of [start, end); a second page is needed only where bars left the grid."""
        pages = [self._page(symbol, timeframe, start, end)]
        while len(pages[-1]) == PAGE_ROWS:
            start = int(epoch_ms(pages[-1])[-1]) + TIMEFRAMES[timeframe]
            if start >= end:
                break
            pages.append(self._page(symbol, timeframe, start, end))
        return pl.concat(pages)

    def _page(
        self, symbol: str, timeframe: str, start: int, end: int, limit: int = PAGE_ROWS
    ) -> pl.DataFrame:
        """Return the closed candles of one answer."""
        bar = TIMEFRAMES.get(timeframe, 0)
        if end + bar > self.clock - _DAY_MS and not self._asked_for_time:
            # Before the page: what had closed then has closed in it.
            self.clock = self.server_time()
            self._asked_for_time = True  # not before: another thread would go on without it
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
            # This machine's clock may be ahead, by more than the request above can know of.
            limits = [closed] if date is None else [closed, date - _MARGIN_MS]
            if not self._asked_for_time and date is not None:
                self.clock = min(self.clock, date)
            return candles.filter(epoch_ms(candles) + bar <= min(limits))

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
                raise FetchError(_banned(response))
            try:
                document = json.loads(response.content)
            except ValueError as error:
                raise MalformedError("the answer is not JSON") from error
            if response.status_code == 400:
                raise _refusal(document, query)
            return parse(document, _date(response))

        try:
            return self._http.get(base + path, read, params=query, accepted=(400, 418, 451))
        except _RestrictedError:
            fallback = self._endpoints.binance_fallback
            if base == fallback:
                raise FetchError(
                    f"{base}: not available at this location (HTTP 451), and there is no other "
                    "host; give candles with --candles FILE"
                ) from None
            if self._base != fallback:  # another thread may have said so already
                log.info("%s is restricted at this location, going on with %s", base, fallback)
                self._base = fallback
            return self._get(path, query, parse)


class _RestrictedError(Exception):
    """HTTP 451: restricted location."""


def _date(response: requests.Response) -> int | None:
    """Return when the answer was sent, milliseconds since 1970, if it says so."""
    try:
        return round(parsedate_to_datetime(response.headers.get("Date", "")).timestamp() * 1000)
    except ValueError:
        return None


def _candles(rows: Any, start: int, end: int) -> pl.DataFrame:
    """Return a page as a frame; anything but sound bars of [start, end) is malformed."""
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == _COLUMNS and type(row[0]) is int for row in rows
    ):
        raise MalformedError(f"the answer is not a list of candles of {_COLUMNS} columns")
    columns = list(zip(*rows, strict=True)) or [()] * _COLUMNS
    try:
        times = pl.Series("timestamp", columns[0], pl.Int64)
        # float() rounds a decimal to the nearest float64, so prices are exact.
        values = {
            name: pl.Series(name, [float(text) for text in columns[number]], pl.Float64)
            for number, name in enumerate(CANDLE_SCHEMA.names()[1:], start=1)
        }
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedError(f"the answer has a time or a price that is none: {error}") from error
    if len(times) and not (
        start <= times[0] and times[-1] < end and (times.diff().drop_nulls() > 0).all()
    ):
        raise MalformedError("the answer has candles that were not asked for, or out of order")
    frame = pl.DataFrame(
        [times.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"), *values.values()]
    )
    bad = bad_bars(frame).arg_true()
    if len(bad):
        raise MalformedError(f"the answer has a bar that cannot be: {rows[bad[0]]}")
    return frame


def _refusal(document: Any, query: dict[str, Any]) -> Exception:
    """Return the error for HTTP 400, which names the value that is wrong."""
    code = document.get("code") if isinstance(document, dict) else None
    said = document.get("msg") if isinstance(document, dict) else document
    if code == -1121:
        return ArgumentError(f"symbol is {query['symbol']!r}, which Binance does not trade: {said}")
    if code == -1120:
        return ArgumentError(f"timeframe is {query['interval']!r}, unknown to Binance: {said}")
    asked = ", ".join(f"{name} {value}" for name, value in query.items())
    return FetchError(
        f"Binance refused the request for {asked}: {said} (code {code}); it may have changed, see "
        "whether a newer version of this program is there"
    )


def _banned(response: requests.Response) -> str:
    until = re.search(r"\b(\d{13})\b", response.text)
    when = "for a while"
    if until:
        when = f"until {datetime.fromtimestamp(int(until[1]) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"Binance banned this address {when} (HTTP 418); ask for nothing before that"
