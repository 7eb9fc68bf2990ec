"""The REST client, over a socket, against a server that behaves like the exchange."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from exchange import Answer, Exchange

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import ArgumentError, FetchError
from atb_fast.ingestion.exchange.binance import Binance
from atb_fast.ingestion.exchange.http import ATTEMPTS, LONGEST_WAIT, Endpoints, Http

DAY = TIMEFRAMES["1d"]
HOUR = TIMEFRAMES["1h"]
START = 1_546_300_800_000  # 2019-01-01
Truth = Callable[[str, str], pl.DataFrame]


@pytest.fixture
def waits() -> list[float]:
    """Seconds that the client would have waited."""
    return []


@pytest.fixture
def client(exchange: Exchange, waits: list[float]) -> Iterator[Binance]:
    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    with Http(wait) as http:
        yield Binance(http, Endpoints.from_environment(), exchange.now)


def between(frame: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
    times = frame["timestamp"].dt.epoch("ms")
    return frame.filter((times >= start) & (times < end))


def fetch(client: Binance, start: int, end: int, timeframe: str = "1d") -> pl.DataFrame:
    return client.candles("BTCUSDT", timeframe, start, end, lambda _: None)


def test_pages_join_to_the_exact_candles(client: Binance, exchange: Exchange, truth: Truth) -> None:
    end = START + 2162 * DAY
    got = fetch(client, START, end)
    assert got.equals(between(truth("BTCUSDT", "1d"), START, end))
    assert exchange.counts() == {"/api/v3/klines": 3}


def test_candles_begin_at_the_listing(client: Binance, exchange: Exchange, truth: Truth) -> None:
    first = truth("BTCUSDT", "1d")["timestamp"].dt.epoch("ms")[0]
    got = fetch(client, 0, START)
    assert got.equals(between(truth("BTCUSDT", "1d"), 0, START))
    assert client.first_open("BTCUSDT", "1d", 0, START) == first
    assert client.first_open("BTCUSDT", "1d", 0, first) is None


def test_a_page_is_requested_by_start_and_end(client: Binance, exchange: Exchange) -> None:
    fetch(client, START, START + 10 * DAY)
    assert exchange.requests == [
        "/api/v3/klines?symbol=BTCUSDT&interval=1d&startTime=1546300800000"
        "&endTime=1547164799999&limit=1000"
    ]


def test_a_restricted_location_uses_the_second_host(
    client: Binance, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    exchange.fault("^/api", Answer(451, b'{"code": 0, "msg": "restricted location"}'))
    assert len(fetch(client, START, START + 1500 * DAY)) == 1500
    assert [path.split("?")[0] for path in exchange.requests] == [
        "/api/v3/klines",
        "/second/api/v3/klines",
        "/second/api/v3/klines",
    ]
    assert "is restricted at your location" in caplog.text
    exchange.fault("^/second", Answer(451))
    with pytest.raises(FetchError, match="like the other host"):
        fetch(client, START, START + DAY)


def test_too_much_weight_waits_as_long_as_requested(
    client: Binance, exchange: Exchange, waits: list[float]
) -> None:
    exchange.fault("klines", Answer(429, b"{}", {"Retry-After": "7"}))
    assert len(fetch(client, START, START + DAY)) == 1
    assert max(waits) == pytest.approx(7, abs=0.2)


def test_a_wait_of_hours_is_capped(client: Binance, exchange: Exchange, waits: list[float]) -> None:
    exchange.fault("klines", Answer(429, b"{}", {"Retry-After": "86400"}), times=ATTEMPTS)
    with pytest.raises(FetchError, match=f"HTTP 429, {ATTEMPTS} times in a row"):
        fetch(client, START, START + DAY)
    assert LONGEST_WAIT - 1 < max(waits) <= LONGEST_WAIT


def test_requests_pause_at_half_of_the_weight(
    client: Binance, exchange: Exchange, waits: list[float]
) -> None:
    exchange.fault("klines", Answer(headers={"X-MBX-USED-WEIGHT-1M": "2999"}))
    fetch(client, START, START + DAY)
    assert waits == []
    exchange.fault("klines", Answer(headers={"X-MBX-USED-WEIGHT-1M": "3000"}))
    fetch(client, START, START + DAY)
    fetch(client, START, START + DAY)
    assert len(waits) == 1
    assert 0 < waits[0] <= 60.5  # the rest of the minute


def test_a_ban_stops_immediately_and_says_until_when(client: Binance, exchange: Exchange) -> None:
    exchange.weight_limit = 0
    exchange.fault("klines", Answer(418, b'{"code":-1003,"msg":"banned until 1735650000000."}'))
    with pytest.raises(FetchError, match="until 2024-12-31 13:00:00 UTC"):
        fetch(client, START, START + DAY)
    assert len(exchange.requests) == 1


def test_ignoring_the_weight_leads_to_a_ban(client: Binance, exchange: Exchange) -> None:
    exchange.weight_limit = 2
    fetch(client, START, START + DAY)
    with pytest.raises(FetchError, match="banned this IP address until 2024-12-31 12:36:56 UTC"):
        fetch(client, START, START + DAY)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(403, b"<html>Forbidden</html>"), "blocked by a firewall"),
        (Answer(404, b"gone"), "HTTP 404: 'gone'"),
        (Answer(400, b'{"code": -1100, "msg": "Illegal characters"}'), "Illegal characters"),
        (Answer(400, b'{"code": -1130, "msg": "Bad limit"}'), "limit 1000: Bad limit"),
    ],
)
def test_fatal_responses_are_not_retried(
    client: Binance, exchange: Exchange, answer: Answer, message: str
) -> None:
    exchange.fault("klines", answer)
    with pytest.raises(FetchError, match=message):
        fetch(client, START, START + DAY)
    assert len(exchange.requests) == 1


def test_open_candles_are_dropped_by_the_time_of_the_response(
    client: Binance, exchange: Exchange, truth: Truth
) -> None:
    # Half of the days have closed, but the local clock says that all have.
    exchange.now = START + 50 * DAY + DAY // 2
    got = fetch(client, START, START + 100 * DAY)
    assert got.equals(between(truth("BTCUSDT", "1d"), START, START + 50 * DAY))
    assert "/api/v3/time" not in exchange.counts()
    assert client.clock == exchange.now


def test_near_the_present_the_time_of_the_exchange_is_requested(
    client: Binance, exchange: Exchange, truth: Truth
) -> None:
    end = exchange.now
    client.clock += 3 * DAY  # the local clock is ahead
    exchange.now -= DAY
    got = fetch(client, end - 10 * DAY, end + 5 * DAY)
    assert got.equals(between(truth("BTCUSDT", "1d"), end - 10 * DAY, exchange.now - DAY))
    assert exchange.counts() == {"/api/v3/time": 1, "/api/v3/klines": 1}


def test_unknown_symbols_and_timeframes_are_named(client: Binance) -> None:
    with pytest.raises(ArgumentError, match="symbol 'NOPEUSDT'; check the spelling"):
        client.candles("NOPEUSDT", "1d", START, START + DAY, lambda _: None)
    with pytest.raises(ArgumentError, match="has no timeframe '1x'"):
        client._page("BTCUSDT", "1x", START, START + DAY)


def row(**changes: Any) -> list[Any]:
    columns = {"time": START, "open": "2", "high": "3", "low": "1", "close": "2", "volume": "4"}
    tail = [START + DAY - 1, "8", 1, "1", "1", "0"]
    return [*(columns | changes).values(), *tail]


def body(*rows: Any) -> bytes:
    return json.dumps(rows).encode()


GARBLED = {
    "cut, with its length": Answer(cut_at=50),
    "cut, without": Answer(cut_at=50, length=False),
    "empty": Answer(body=b""),
    "html": Answer(body=b"<html>"),
    "deep": Answer(body=b"[" * 100_000),
    "no list": Answer(body=b'{"a": 1}'),
    "short row": Answer(body=body([1, 2])),
    "text for a time": Answer(body=body(row(time="x"))),
    "huge time": Answer(body=body(row(time=10**30))),
    "no price": Answer(body=body(row(open="about 2"))),
    "nan": Answer(body=body(row(open="NaN"))),
    "null": Answer(body=body(row(close=None))),
    "infinite": Answer(body=body(row(high="1e999"))),
    "negative": Answer(body=body(row(low="-1"))),
    "zero": Answer(body=body(row(low="0"))),
    "high below close": Answer(body=body(row(high="1.5"))),
    "low above open": Answer(body=body(row(low="2.5"))),
    "not asked for": Answer(body=body(row(time=START - DAY))),
    "doubled": Answer(body=body(row(), row())),
    "backwards": Answer(body=body(row(time=START + HOUR), row())),
    "unavailable": Answer(503, b'{"code": -1008, "msg": "overloaded"}'),
    "unknown": Answer(500, b'{"code": -1000, "msg": "unknown error"}'),
}


@pytest.mark.parametrize("answer", GARBLED.values(), ids=GARBLED.keys())
def test_retries_until_the_response_is_valid(
    client: Binance, exchange: Exchange, truth: Truth, answer: Answer, waits: list[float]
) -> None:
    exchange.fault("klines", answer, times=2)
    got = fetch(client, START, START + 5 * DAY)
    assert got.equals(between(truth("BTCUSDT", "1d"), START, START + 5 * DAY))
    assert len(exchange.requests) == 3
    assert len(waits) == 2
    assert waits[1] > waits[0] > 0
    exchange.fault("klines", answer, times=ATTEMPTS)
    with pytest.raises(FetchError, match=f"{ATTEMPTS} times in a row") as error:
        fetch(client, START, START + 5 * DAY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("time", ["null", "-1", "1.5", "true", '"soon"', "1" + "0" * 30])
def test_retries_until_the_time_is_valid(client: Binance, exchange: Exchange, time: str) -> None:
    answer = Answer(body=f'{{"serverTime": {time}}}'.encode())
    exchange.fault("time", answer)
    assert client.server_time() == exchange.now
    exchange.fault("time", answer, times=ATTEMPTS)
    with pytest.raises(FetchError, match="the response has no valid serverTime"):
        client.server_time()


def test_an_unreachable_exchange(waits: list[float]) -> None:
    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    with Http(wait) as http:
        client = Binance(http, Endpoints(binance="http://127.0.0.1:9"), 2 * START)
        with pytest.raises(FetchError, match=r"127.0.0.1:9/api.*Connection refused"):
            fetch(client, START, START + DAY)
    assert len(waits) == ATTEMPTS - 1


def without(frame: pl.DataFrame, hours: list[int]) -> pl.DataFrame:
    gone = [START + hour * HOUR for hour in hours]
    return frame.filter(~frame["timestamp"].dt.epoch("ms").is_in(gone))


def hourly(exchange: Exchange, truth: Truth, missing: list[int]) -> pl.DataFrame:
    """Give the exchange 100 hours without the `missing` ones."""
    candles = truth("BTCUSDT", "1d")
    candles = between(candles, START, START + 100 * DAY).with_columns(
        timestamp=pl.Series(range(START, START + 100 * HOUR, HOUR))
        .cast(pl.Datetime("ms"))
        .dt.replace_time_zone("UTC")
    )
    candles = without(candles, missing)
    times = candles["timestamp"].dt.epoch("ms").to_list()
    exchange.candles["BTCUSDT", "1h"] = (times, candles.drop("timestamp").rows())
    return candles


def test_each_gap_is_requested_individually(
    client: Binance, exchange: Exchange, truth: Truth
) -> None:
    candles = hourly(exchange, truth, [0, 7, 8, 50, 98, 99])
    end = START + 100 * HOUR
    got = fetch(client, START, end, "1h")
    exchange.requests.clear()
    got, outages = client.confirm_holes(got, "BTCUSDT", "1h", START, end)
    assert got.equals(candles)
    expected = [(0, 1), (7, 9), (50, 51), (98, 100)]
    assert outages == [(START + first * HOUR, START + behind * HOUR) for first, behind in expected]
    asked = [re.findall(r"Time=(\d+)", path) for path in exchange.requests]
    assert sorted((int(first), int(last) + 1) for first, last in asked) == outages


def test_candles_missing_in_a_page_are_found(
    client: Binance, exchange: Exchange, truth: Truth
) -> None:
    candles = hourly(exchange, truth, [40])
    rows = [exchange.row(("BTCUSDT", "1h"), n) for n in range(99) if not 30 <= n < 60]
    exchange.fault("klines", Answer(body=json.dumps(rows).encode()))
    got = fetch(client, START, START + 100 * HOUR, "1h")
    assert len(got) == 69
    got, outages = client.confirm_holes(got, "BTCUSDT", "1h", START, START + 100 * HOUR)
    assert got.equals(candles)
    assert outages == [(START + 40 * HOUR, START + 41 * HOUR)]


def test_bars_off_the_grid_are_kept(client: Binance, exchange: Exchange, truth: Truth) -> None:
    # As after 2018-02-09: where bars return to the grid, 1001 open within 1000 hours.
    source = truth("BTCUSDT", "1d")[:2200]
    shift = 28 * 60_000
    times = [START + n * HOUR - (HOUR - shift if n < 1500 else 0) for n in range(2200)]
    exchange.candles["BTCUSDT", "1h"] = (times, source.drop("timestamp").rows())
    got = fetch(client, START, START + 2200 * HOUR, "1h")
    assert got["timestamp"].dt.epoch("ms").to_list() == [t for t in times if t >= START]
