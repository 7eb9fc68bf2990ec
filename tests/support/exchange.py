"""A local server for the exchange's REST API and archive, and for the Fear & Greed index.

It responds like the real servers with candles that a test provides, and with faults on request.
"""

from __future__ import annotations

import bisect
import csv
import hashlib
import io
import json
import random
import re
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl

from atb_fast.config import TIMEFRAMES

DAY_MS = TIMEFRAMES["1d"]
#: From here on, the timestamps of the archive are microseconds.
MICROSECONDS_FROM = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1000


@dataclass
class Answer:
    """A response, or a fault.

    Attributes:
        status: HTTP status.
        body: Replaces the correct body; None keeps it.
        headers: In addition to the usual headers.
        cut_at: Close the connection after this many bytes of the body; negative counts from its
            end.
        length: Whether to send Content-Length.
        change: Changes the body.
        drip: Send the body in pieces of this many bytes; None for one piece.
    """

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    length: bool = True
    change: Callable[[bytes], bytes] | None = None
    drip: int | None = None


class Exchange:
    """The server; use as a context. Its attributes may be changed at any time.

    Attributes:
        candles: By (symbol, timeframe): timestamp (ms, UTC) and five numbers, ascending. Candles
            that have not closed at `now` are sent as open candles.
        index: timestamp and value, ascending; days may be missing.
        now: The exchange's clock, milliseconds since 1970.
        latency: Seconds before each answer.
        weight_limit: Weight per minute above which the answer is 429, and 418 after three more
            requests.
        five_o_clock: Whether index values are stamped 05:00 instead of 00:00.
        unpublished: Days (ISO) that are missing from the archive.
        no_checksum: Days whose checksum file is missing.
        archive_lacks: Open times that are missing from the archive but not from the REST API.
        requests: The path and query of each request, in order.
    """

    def __init__(
        self, candles: dict[tuple[str, str], pl.DataFrame], index: pl.DataFrame, now: int
    ) -> None:
        self.candles = {
            key: (frame["timestamp"].dt.epoch("ms").to_list(), frame.drop("timestamp").rows())
            for key, frame in candles.items()
        }
        self.index = list(zip(index["timestamp"].dt.epoch("s"), index["value"], strict=True))
        self.now = now
        self.latency = 0.0
        self.weight_limit: int | None = None
        self.five_o_clock = False
        self.unpublished: set[str] = set()
        self.no_checksum: set[str] = set()
        self.archive_lacks: set[int] = set()
        self.requests: list[str] = []
        self._weight = 0
        self._refused = 0
        self._faults: list[tuple[re.Pattern[str], Answer]] = []
        self._cuts: random.Random | None = None
        self._hold: tuple[re.Pattern[str], int, threading.Event, threading.Event] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Exchange:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point the client to this server; the fallback host is /second."""
        return {
            "ATB_FAST_BINANCE_URL": self.url,
            "ATB_FAST_BINANCE_FALLBACK_URL": f"{self.url}/second",
            "ATB_FAST_ARCHIVE_URL": self.url,
            "ATB_FAST_FNG_URL": self.url,
            "NO_PROXY": "127.0.0.1",
        }

    def fault(self, path: str, answer: Answer, times: int = 1) -> None:
        """Send `answer` to the next `times` requests whose path and query match the pattern."""
        self._faults += [(re.compile(path), answer)] * times

    @contextmanager
    def holding(self, path: str, requests: int) -> Iterator[threading.Event]:
        """Hold back the answers to requests that match the pattern while the context lasts.

        Yields:
            An event that is set when this many of them have arrived.
        """
        held, release = threading.Event(), threading.Event()
        self._hold = (re.compile(path), requests, held, release)
        try:
            yield held
        finally:
            self._hold = None
            release.set()

    def cut_at_random(self, seed: int | None) -> None:
        """Cut half of the responses at a random byte, with or without their length; None stops."""
        self._cuts = None if seed is None else random.Random(seed)

    def faults_left(self, path: str) -> int:
        """Return the number of prepared answers for this pattern that were not sent yet."""
        return sum(1 for pattern, _ in self._faults if pattern.pattern == path)

    def forget_faults(self) -> None:
        """Send right answers only from now on."""
        with self._lock:
            self._faults.clear()

    def counts(self) -> Counter[str]:
        """Return the number of requests by path, with the archive's days counted together."""
        return Counter(re.sub(r"\?.*|/[^/]*\.zip", "", path) for path in self.requests)

    def answer(self, target: str) -> Answer:
        """Return the response to a request, possibly after a delay."""
        with self._lock:
            self.requests.append(target)
            hold = self._hold
            if hold and hold[0].search(target):
                if sum(1 for path in self.requests if hold[0].search(path)) >= hold[1]:
                    hold[2].set()
            else:
                hold = None
        if hold:
            hold[3].wait()
        time.sleep(self.latency)
        with self._lock:
            for number, (pattern, prepared) in enumerate(self._faults):
                if pattern.search(target):
                    del self._faults[number]
                    body = prepared.body
                    if body is None and prepared.status == 200:
                        body = self._right(target).body
                    if body is not None and prepared.change:
                        body = prepared.change(body)
                    return replace(prepared, body=body)
            answer = self._right(target)
            if self._cuts and answer.body and self._cuts.random() < 0.5:
                answer.cut_at = self._cuts.randrange(len(answer.body))
                answer.length = self._cuts.random() < 0.5
            return answer

    def _right(self, target: str) -> Answer:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix("/second")
        if path == "/api/v3/time":
            return self._weighed(1, _json({"serverTime": self.now}))
        if path == "/api/v3/klines":
            return self._weighed(2, self._klines(query))
        if path == "/fng/":
            return _json(self._fear_greed())
        if path.startswith("/data/spot/daily/klines/"):
            return self._archive(path)
        return Answer(404, b"not here")

    def _weighed(self, weight: int, answer: Answer) -> Answer:
        self._weight += weight
        answer.headers["X-MBX-USED-WEIGHT-1M"] = str(self._weight)
        if self.weight_limit is not None and self._weight > self.weight_limit:
            self._refused += 1
            if self._refused > 3:
                until = self.now + 120_000
                text = f"Way too much request weight used; IP banned until {until}."
                return _json({"code": -1003, "msg": text}, 418)
            refusal = _json({"code": -1003, "msg": "Too much request weight used"}, 429)
            refusal.headers = {"Retry-After": "1"}
            return refusal
        return answer

    def forget_weight(self) -> None:
        """Start a new minute of the rate limit."""
        self._weight = self._refused = 0

    def _klines(self, query: dict[str, str]) -> Answer:
        if query["interval"] not in TIMEFRAMES:
            return _json({"code": -1120, "msg": "Invalid interval."}, 400)
        key = query["symbol"], query["interval"]
        if query["symbol"] not in {symbol for symbol, _ in self.candles}:
            return _json({"code": -1121, "msg": "Invalid symbol."}, 400)
        start, end = int(query["startTime"]), int(query["endTime"])
        limit = min(int(query.get("limit", "500")), 1000)
        times, _ = self.candles.get(key, ([], []))
        rows: list[list[Any]] = []
        for number in range(bisect.bisect_left(times, start), len(times)):
            if times[number] > min(end, self.now) or len(rows) == limit:
                break
            rows.append(self.row(key, number))
        return _json(rows)

    def row(self, key: tuple[str, str], number: int) -> list[Any]:
        times, values = self.candles[key]
        bar = TIMEFRAMES[key[1]]
        open_, high, low, close, volume = (f"{value:.8f}" for value in values[number])
        behind = times[number] + bar - 1
        quote = f"{values[number][3] * values[number][4]:.8f}"
        return [times[number], open_, high, low, close, volume, behind, quote, 9, "1.0", "1.0", "0"]

    def _fear_greed(self) -> dict[str, Any]:
        shift = 5 * 3600 if self.five_o_clock else 0
        data = [
            {
                "value": f"{value:.0f}",
                "value_classification": "Fear" if value < 50 else "Greed",
                "timestamp": str(second + shift),
            }
            for second, value in reversed(self.index)
            if second * 1000 <= self.now
        ]
        data[0]["time_until_update"] = "68499"
        return {"name": "Fear and Greed Index", "data": data, "metadata": {"error": None}}

    def _archive(self, path: str) -> Answer:
        found = re.fullmatch(r".*/(\w+)/(\w+)/\1-\2-(\d{4}-\d\d-\d\d)\.zip(\.CHECKSUM)?", path)
        if found is None:
            return Answer(404, b"")
        symbol, timeframe, day, checksum = found.groups()
        start = int(datetime.fromisoformat(f"{day}T00:00+00:00").timestamp()) * 1000
        times, _ = self.candles.get((symbol, timeframe), ([], []))
        numbers = range(bisect.bisect_left(times, start), bisect.bisect_left(times, start + DAY_MS))
        if not numbers or day in self.unpublished or start + DAY_MS > self.now:
            return Answer(404, b"")
        if checksum and day in self.no_checksum:
            return Answer(404, b"")
        rows = [
            self.row((symbol, timeframe), number)
            for number in numbers
            if times[number] not in self.archive_lacks
        ]
        data = zipped(f"{symbol}-{timeframe}-{day}.csv", rows)
        if checksum:
            name = path.rsplit("/", 1)[-1].removesuffix(".CHECKSUM")
            return Answer(200, f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode())
        return Answer(200, data)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: tests kill clients and close connections on purpose."""


def zipped(name: str, rows: list[list[Any]]) -> bytes:
    """Return a file of the archive, with timestamps in microseconds from 2025 on."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        scale = 1000 if row[0] >= MICROSECONDS_FROM else 1
        writer.writerow([row[0] * scale, *row[1:6], row[6] * scale, *row[7:]])
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), text.getvalue(), zipfile.ZIP_DEFLATED)
    return data.getvalue()


def _json(document: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode())


def _handler(exchange: Exchange) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            answer = exchange.answer(self.path)
            body = answer.body or b""
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.length:
                self.send_header("Content-Length", str(len(body)))
            if answer.cut_at is not None or not answer.length:
                self.close_connection = True
                self.send_header("Connection", "close")
            self.end_headers()
            body = body[: answer.cut_at]
            size = answer.drip or max(1, len(body))
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(
                (exchange.now if timestamp is None else timestamp) / 1000, usegmt=True
            )

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
