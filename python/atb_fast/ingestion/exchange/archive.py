"""Candles from the bulk archive of Binance, https://github.com/binance/binance-public-data.

There is one zip per day, with the same candles as the REST API. Downloads cost no request weight.
Monthly files are known to differ from the REST API, so they are not used.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import polars as pl
import requests

from atb_fast._core import read_archive
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import FetchError, counted
from atb_fast.ingestion.exchange.binance import Binance, Progress
from atb_fast.ingestion.exchange.http import Http
from atb_fast.ingestion.spans import DAY_MS, Span, joined

log = logging.getLogger(__name__)

#: For longer bars, a page of the REST API has more than ten days and is faster.
TIMEFRAMES_IN_ARCHIVE = ("1m", "3m", "5m")


class Archive:
    """Client of the daily files of the spot exchange.

    Args:
        http: Sends the requests.
        base: Address of the archive, or `file:///path` for a local copy of its tree.
        rest: Fallback for days that the archive lacks.
    """

    def __init__(self, http: Http, base: str, rest: Binance) -> None:
        self._http = http
        self._base = base
        url = urlsplit(base)
        self._local = Path(unquote(url.path)) if url.scheme == "file" else None
        self._rest = rest
        #: The address, if candles came from it. Callers clear it.
        self.used: dict[str, None] = {}
        if self._local and not self._local.is_dir():
            raise FetchError(f"{base}: no such directory; fix ATB_FAST_ARCHIVE_URL")

    def candles(
        self, symbol: str, timeframe: str, start: int, end: int, progress: Progress
    ) -> pl.DataFrame:
        """Return the candles that opened in [start, end), ascending.

        Partial days, and days whose file is missing or corrupt, come from the REST API.
        """
        first, after = -(-start // DAY_MS) * DAY_MS, end // DAY_MS * DAY_MS
        days = range(first, after, DAY_MS)
        if not days:
            return self._rest.candles(symbol, timeframe, start, end, progress)
        frame, absent = self._days(symbol, timeframe, days, progress)
        edges = [part for part in ((start, first), (after, end)) if part[0] < part[1]]
        others = [
            self._rest.candles(symbol, timeframe, *part, progress) for part in (*absent, *edges)
        ]
        return pl.concat([frame, *others], rechunk=True).sort("timestamp") if others else frame

    def _days(
        self, symbol: str, timeframe: str, days: Sequence[int], progress: Progress
    ) -> tuple[pl.DataFrame, list[Span]]:
        """Return the candles of `days`, and the spans of days without a valid file."""
        rows = DAY_MS // TIMEFRAMES[timeframe]

        def download(day: int) -> tuple[int, bytes] | None:
            data = self._file(symbol, timeframe, day)
            progress(0 if data is None else rows)
            return None if data is None else (day, data)

        def parse(files: list[tuple[int, bytes]]) -> tuple[pl.DataFrame, dict[int, str]]:
            table, problems = read_archive(files, max_rows=rows, day_ms=DAY_MS)
            return pl.DataFrame(table), {files[number][0]: text for number, text in problems}

        # Threads hide the latency of a network. That of a disk is too small to matter.
        each = map if self._local else self._http.parallel
        files = [file for file in each(download, days) if file is not None]
        frame, damaged = parse(files)
        there = {day for day, _ in files} - set(damaged)
        if damaged:  # retry once, in case the transfer corrupted the file
            again = [file for file in each(download, damaged) if file is not None]
            late, damaged = parse(again)
            frame = pl.concat([frame, late]).sort("timestamp")
            there |= {day for day, _ in again} - set(damaged)
            for day, reason in damaged.items():
                name = _path(symbol, timeframe, day).rsplit("/", 1)[-1]
                log.warning("archive: %s: %s", name, reason)
        if there:
            self.used[self._base] = None
        if len(there) < len(days):
            log.info(
                "archive: %s of %s are missing or corrupt; downloading them from the REST API",
                f"{len(days) - len(there):,}",
                counted(len(days), "day"),
            )
        return frame, joined((day, day + DAY_MS) for day in days if day not in there)

    def _file(self, symbol: str, timeframe: str, day: int) -> bytes | None:
        """Return the file of a day with its checksum verified, or None if there is none."""
        path = _path(symbol, timeframe, day)
        name = path.rsplit("/", 1)[-1]
        for _ in range(2):
            data = self._get(path)
            if data is None:
                return None
            checksum = self._get(f"{path}.CHECKSUM")
            if checksum is None:
                log.info("archive: no checksum for %s; using the file unchecked", name)
                return data
            if checksum[:64].lower() == hashlib.sha256(data).hexdigest().encode():
                return data
        log.warning("archive: %s does not match its checksum", name)
        return None

    def _get(self, path: str) -> bytes | None:
        """Return a file of the archive, or None if it does not exist."""
        if self._local:
            try:
                return (self._local / path[1:]).read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise FetchError(
                    f"{self._base}{path} cannot be read: {error.strerror}; fix "
                    "ATB_FAST_ARCHIVE_URL, or unset it"
                ) from error

        def read(response: requests.Response) -> bytes | None:
            return None if response.status_code == 404 else response.content

        return self._http.get(self._base + path, read, accepted=(404,))


def _path(symbol: str, timeframe: str, day: int) -> str:
    date = datetime.fromtimestamp(day / 1000, UTC).date()
    name = f"{symbol}-{timeframe}-{date}.zip"
    return f"/data/spot/daily/klines/{symbol}/{timeframe}/{name}"
