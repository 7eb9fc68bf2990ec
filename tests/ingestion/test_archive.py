"""The bulk archive, over a socket and from a local copy."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from exchange import Answer, Exchange, zipped

from atb_fast import _core
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import FetchError
from atb_fast.ingestion.exchange.archive import Archive
from atb_fast.ingestion.exchange.binance import Binance
from atb_fast.ingestion.exchange.http import Endpoints, Http

MINUTE = TIMEFRAMES["1m"]
DAY = TIMEFRAMES["1d"]
START = int(datetime(2024, 12, 30, tzinfo=UTC).timestamp()) * 1000
KEY = ("BTCUSDT", "1m")


@pytest.fixture
def minutes(exchange: Exchange) -> pl.DataFrame:
    """Four days of synthetic minutes across the change to microseconds, all of them closed."""
    rng = np.random.default_rng(5)
    close = 95_000 * np.exp(np.cumsum(rng.normal(0, 1e-4, 4 * 1440)))
    frame = pl.DataFrame(
        {
            "timestamp": pl.Series(range(START, START + 4 * DAY, MINUTE))
            .cast(pl.Datetime("ms"))
            .dt.replace_time_zone("UTC"),
            "open": close,
            "high": close + 10,
            "low": close - 10,
            "close": close,
            "volume": rng.random(len(close)),
        }
    ).with_columns(pl.col(pl.Float64).round(8))
    set_minutes(exchange, frame)
    exchange.now = START + 5 * DAY
    return frame


def set_minutes(exchange: Exchange, frame: pl.DataFrame) -> None:
    times = frame["timestamp"].dt.epoch("ms").to_list()
    exchange.candles[KEY] = (times, frame.drop("timestamp").rows())


@pytest.fixture
def archive(exchange: Exchange) -> Iterator[Archive]:
    with Http(lambda _: False) as http:
        endpoints = Endpoints.from_environment()
        yield Archive(http, endpoints.archive, Binance(http, endpoints, exchange.now))


def fetch(archive: Archive, start: int = START, end: int = START + 4 * DAY) -> pl.DataFrame:
    return archive.candles(*KEY, start, end, lambda _: None)


def test_days_of_milliseconds_and_microseconds(
    archive: Archive, exchange: Exchange, minutes: pl.DataFrame
) -> None:
    assert fetch(archive).equals(minutes)
    counts = exchange.counts()
    assert sum(counts.values()) == 8  # a file and its checksum for each day
    assert "/api/v3/klines" not in counts


def test_parts_of_days_come_from_rest(
    archive: Archive, exchange: Exchange, minutes: pl.DataFrame
) -> None:
    got = fetch(archive, START + 100 * MINUTE, START + 3 * DAY + 50 * MINUTE)
    assert got.equals(minutes[100 : 3 * 1440 + 50])
    assert exchange.counts()["/api/v3/klines"] == 3  # 1340 minutes and 50


def test_missing_days_come_from_rest(
    archive: Archive, exchange: Exchange, minutes: pl.DataFrame
) -> None:
    exchange.unpublished = {"2024-12-31", "2025-01-01"}
    assert fetch(archive).equals(minutes)
    assert exchange.counts()["/api/v3/klines"] == 3  # 2880 minutes in one range


def test_a_file_without_checksum_is_logged_and_used(
    archive: Archive, exchange: Exchange, minutes: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    exchange.no_checksum = {"2024-12-31"}
    assert fetch(archive).equals(minutes)
    assert "no checksum for BTCUSDT-1m-2024-12-31.zip" in caplog.text


def test_a_wrong_checksum_is_requested_again(
    archive: Archive, exchange: Exchange, minutes: pl.DataFrame
) -> None:
    exchange.fault("12-31.zip.CHECKSUM", Answer(body=b"0" * 64 + b"  file\n"))
    assert fetch(archive).equals(minutes)
    assert "/api/v3/klines" not in exchange.counts()


def bomb() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("day.csv", b"0" * 10_000_000)
    return data.getvalue()


def day_of(row: list[object], count: int = 1) -> bytes:
    return zipped("day.csv", [row] * count)


GOOD = [START + DAY, "2", "3", "1", "2", "1", START + DAY + MINUTE - 1, "1", 1, "1", "1", "0"]

DAMAGED = {
    "wrong checksum": (None, "checksum"),
    "no zip": (b"<html>", "corrupt zip"),
    "bomb": (bomb(), "expands beyond"),
    "another day": (day_of([START, *GOOD[1:]]), "a later time of the same day"),
    "doubled": (day_of(GOOD, 2), "row 1: opened at"),
    "a price that is none": (day_of([*GOOD[:4], "n/a", *GOOD[5:]]), "found 'n/a'"),
    "an impossible candle": (day_of([*GOOD[:2], "1.5", *GOOD[3:]]), "impossible candle"),
}


@pytest.mark.parametrize(("data", "reason"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_replaced_by_rest(
    archive: Archive,
    exchange: Exchange,
    minutes: pl.DataFrame,
    caplog: pytest.LogCaptureFixture,
    data: bytes | None,
    reason: str,
) -> None:
    caplog.set_level("INFO")
    checksum = f"{hashlib.sha256(data).hexdigest()}  file" if data else "0" * 64
    if data:
        exchange.fault(r"12-31.zip$", Answer(body=data), times=2)
    exchange.fault(r"12-31.zip.CHECKSUM$", Answer(body=checksum.encode()), times=2)
    assert fetch(archive).equals(minutes)
    assert exchange.counts()["/api/v3/klines"] == 2
    assert reason in caplog.text
    assert "1 of 4 days are missing or corrupt" in caplog.text


def test_a_damaged_file_that_is_missing_the_second_time(
    archive: Archive, exchange: Exchange, minutes: pl.DataFrame
) -> None:
    exchange.no_checksum = {"2024-12-30"}
    exchange.fault(r"12-30.zip$", Answer(body=b"junk"))
    exchange.fault(r"12-30.zip$", Answer(404))
    assert fetch(archive).equals(minutes)
    assert exchange.counts()["/api/v3/klines"] == 2


def test_a_missing_local_copy(tmp_path: Path) -> None:
    with Http() as http:
        rest = Binance(http, Endpoints.from_environment(), 0)
        with pytest.raises(FetchError, match="no such directory"):
            Archive(http, (tmp_path / "typo").as_uri(), rest)


def test_a_local_copy_needs_no_requests(
    exchange: Exchange, minutes: pl.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "a copy" / "data/spot/daily/klines/BTCUSDT/1m"
    folder.mkdir(parents=True)
    for day in ("2024-12-30", "2024-12-31", "2025-01-01", "2025-01-02"):
        name = f"BTCUSDT-1m-{day}.zip"
        data = exchange.answer(f"/data/spot/daily/klines/BTCUSDT/1m/{name}").body
        assert data
        (folder / name).write_bytes(data)
    exchange.requests.clear()
    with Http() as http:
        base = (tmp_path / "a copy").as_uri()
        local = Archive(http, base, Binance(http, Endpoints.from_environment(), exchange.now))
        assert fetch(local).equals(minutes)
    assert exchange.requests == []


def test_numbers_equal_python(minutes: pl.DataFrame, exchange: Exchange) -> None:
    data = exchange.answer("/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.zip").body
    assert data
    day = (START + 2 * DAY, data)
    table, problems = _core.read_archive([day], max_rows=1440, day_ms=DAY)
    assert problems == []
    ours = pl.DataFrame(table)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        rows = list(csv.reader(file.read("BTCUSDT-1m-2025-01-01.csv").decode().splitlines()))
    assert ours["timestamp"].dt.epoch("us").to_list() == [int(row[0]) for row in rows]
    for column, name in enumerate(("open", "high", "low", "close", "volume"), start=1):
        assert ours[name].to_list() == [float(row[column]) for row in rows]
    table, problems = _core.read_archive([day], max_rows=1439, day_ms=DAY)
    assert pl.DataFrame(table).is_empty()
    assert problems == [(0, "more than 1439 rows")]
