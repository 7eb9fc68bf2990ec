"""Wrong answers of the exchange, the archive and the server of the Fear & Greed index."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from exchange import Answer

HTML = b"<!DOCTYPE html><html><body>Please sign in to the network</body></html>"
#: Beyond the clock of the exchange.
_YEAR_MS = 366 * 86_400_000


@dataclass(frozen=True)
class Wrong:
    """A kind of wrong answer.

    Attributes:
        path: Pattern of the requests that get it.
        job: The command that sends such requests.
        made: Returns the answer.
        once: Whether only one request gets it. A server that always leaves out the same candles
            cannot be told from one that does not have them.
    """

    path: str
    job: str
    made: Callable[[random.Random], Answer]
    once: bool = False


def _status(code: int, **headers: str) -> Callable[[random.Random], Answer]:
    body = json.dumps({"code": -1003, "msg": "IP banned until 1735689600000."}).encode()
    return lambda _: Answer(code, body, {name.replace("_", "-"): headers[name] for name in headers})


def _body(body: bytes, **headers: str) -> Callable[[random.Random], Answer]:
    return lambda _: Answer(200, body, {name.replace("_", "-"): headers[name] for name in headers})


def _cut(rng: random.Random) -> Answer:
    return Answer(cut_at=-rng.randrange(1, 100), length=rng.random() < 0.5)


def _flipped(rng: random.Random) -> Answer:
    share, bit = rng.random(), rng.randrange(8)

    def flip(body: bytes) -> bytes:
        changed = bytearray(body)
        changed[int(share * len(changed))] ^= 1 << bit
        return bytes(changed)

    return Answer(change=flip)


def _rows(
    change: Callable[[list[list[Any]], int], list[Any]],
) -> Callable[[random.Random], Answer]:
    """Return an answer with changed candles; `change` gets all of them and the index of one."""

    def made(rng: random.Random) -> Answer:
        share = rng.random()

        def changed(body: bytes) -> bytes:
            rows = json.loads(body)
            return json.dumps(change(rows, int(share * len(rows))) if rows else rows).encode()

        return Answer(change=changed)

    return made


def _with(column: int, value: Any) -> Callable[[random.Random], Answer]:
    """Return an answer with a different value in one candle."""

    def change(rows: list[list[Any]], number: int) -> list[Any]:
        rows[number][column] = value
        return rows

    return _rows(change)


def _future(rows: list[list[Any]], number: int) -> list[Any]:
    return [*rows, [rows[-1][0] + _YEAR_MS, *rows[-1][1:6], rows[-1][6] + _YEAR_MS, *rows[-1][7:]]]


def _index(change: Callable[[list[dict[str, Any]], int], Any]) -> Callable[[random.Random], Answer]:
    def made(rng: random.Random) -> Answer:
        share = rng.random()

        def changed(body: bytes) -> bytes:
            document = json.loads(body)
            rows = document["data"]
            return json.dumps(document | {"data": change(rows, int(share * len(rows)))}).encode()

        return Answer(change=changed)

    return made


def _day(name: str, value: str) -> Callable[[random.Random], Answer]:
    def change(rows: list[dict[str, Any]], number: int) -> Any:
        rows[number][name] = value
        return rows

    return _index(change)


def _clock(days: int) -> Callable[[random.Random], Answer]:
    def shifted(body: bytes) -> bytes:
        return json.dumps(
            {"serverTime": json.loads(body)["serverTime"] + days * 86_400_000}
        ).encode()

    return lambda _: Answer(change=shifted)


_CANDLES = ("/api/v3/klines", "fetch")
_TIME = ("/api/v3/time", "fetch up to now")
_INDEX = ("/fng/", "fetch")
_ZIP = (r"\.zip$", "fetch from the archive")
_CHECKSUM = (r"\.CHECKSUM$", "fetch from the archive")
_LOOP = _status(302, Location="/api/v3/klines?limit=1")

ANSWERS = {
    **{
        f"{name}: {what}": Wrong(*where, made)
        for name, where in (
            ("candles", _CANDLES),
            ("time", _TIME),
            ("index", _INDEX),
            ("archive", _ZIP),
            ("checksum", _CHECKSUM),
        )
        for what, made in {
            "HTTP 403": _status(403),
            "HTTP 418": _status(418),
            "HTTP 429": _status(429, Retry_After="1"),
            "HTTP 451": _status(451),
            "HTTP 5xx": lambda rng: Answer(rng.choice((500, 502, 503, 504)), HTML),
            "cut": _cut,
            "HTML": _body(HTML),
            "empty": _body(b""),
            "wrong encoding": _body(b"[]" * 50, Content_Encoding="gzip"),
            "redirect to nowhere": _status(302, Location="/nowhere"),
            "slow": lambda rng: Answer(drip=rng.randrange(16, 256)),
        }.items()
    },
    **{
        f"{name}: {what}": Wrong(*where, made)
        for name, where in (("candles", _CANDLES), ("time", _TIME), ("index", _INDEX))
        for what, made in {
            "JSON of another kind": lambda rng: Answer(
                200, rng.choice((b"{}", b"null", b"[[]]", b"[1]", b'"x"', b"[NaN]", b'{"data": 1}'))
            ),
            "deep JSON": _body(b"[" * 100_000),
            "invalid UTF-8": _body(b'["\xff\xfe"]'),
        }.items()
    },
    "candles: redirect in a circle": Wrong(*_CANDLES, _LOOP),
    "candles: fewer columns": Wrong(*_CANDLES, _rows(lambda rows, _: [row[:6] for row in rows])),
    "candles: a row without columns": Wrong(
        *_CANDLES, _rows(lambda rows, n: [*rows[:n], [], *rows[n:]])
    ),
    "candles: duplicate": Wrong(*_CANDLES, _rows(lambda rows, n: [*rows[: n + 1], *rows[n:]])),
    "candles: unsorted": Wrong(*_CANDLES, _rows(lambda rows, _: rows[::-1])),
    "candles: of the future": Wrong(*_CANDLES, _rows(_future)),
    "candles: negative price": Wrong(*_CANDLES, _with(3, "-1.0")),
    "candles: high below low": Wrong(*_CANDLES, _with(2, "0.00000001")),
    "candles: NaN": Wrong(*_CANDLES, _with(4, "NaN")),
    "candles: infinite": Wrong(*_CANDLES, _with(5, "1e999")),
    "candles: huge time": Wrong(*_CANDLES, _with(0, 10**30)),
    "candles: text as time": Wrong(*_CANDLES, _with(0, "2024-01-01")),
    "candles: some are missing": Wrong(
        *_CANDLES, _rows(lambda rows, n: [*rows[:n], *rows[n + 5 :]]), once=True
    ),
    "candles: none": Wrong(*_CANDLES, _body(b"[]"), once=True),
    "time: huge": Wrong(*_TIME, _body(b'{"serverTime": 1' + b"0" * 30 + b"}")),
    "time: negative": Wrong(*_TIME, _body(b'{"serverTime": -1}')),
    "time: days behind": Wrong(*_TIME, _clock(-5)),
    "time: days ahead": Wrong(*_TIME, _clock(5)),
    "index: days are missing": Wrong(*_INDEX, _index(lambda rows, n: rows[: n // 2]), once=True),
    "index: value above 100": Wrong(*_INDEX, _day("value", "101")),
    "index: text as value": Wrong(*_INDEX, _day("value", "Fear")),
    "index: day of the future": Wrong(*_INDEX, _day("timestamp", "1999999999")),
    "archive: bit flip": Wrong(*_ZIP, _flipped),
    "archive: HTTP 404": Wrong(*_ZIP, _status(404)),
    "checksum: of another file": Wrong(*_CHECKSUM, _body(b"0" * 64 + b"  other.zip\n")),
}
