"""The Fear & Greed client, over a socket."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from exchange import Answer, Exchange

from atb_fast.errors import FetchError
from atb_fast.ingestion.exchange.feargreed import fetch_index
from atb_fast.ingestion.exchange.http import ATTEMPTS, Endpoints, Http

#: The clock of this machine is wrong, and the Date header of the response is right.
NOW = 0


def fetch() -> pl.DataFrame:
    with Http(lambda _: False) as http:
        return fetch_index(http, Endpoints.from_environment(), NOW)


@pytest.mark.parametrize("at_five", [False, True])
def test_the_whole_history(exchange: Exchange, true_index: pl.DataFrame, at_five: bool) -> None:
    exchange.five_o_clock = at_five
    got = fetch()
    days = got["timestamp"].dt.epoch("ms")
    known = true_index.filter(
        pl.col("timestamp").dt.epoch("ms") + at_five * 18_000_000 <= exchange.now
    )
    assert got.equals(known)
    assert (days % 86_400_000 == 0).all()
    assert exchange.requests == ["/fng/?limit=0&format=json"]


def test_missing_days_stay_missing(exchange: Exchange, shared: object) -> None:
    days = fetch()["timestamp"].dt.strftime("%Y-%m-%d").to_list()
    gone = {"2018-04-14", "2018-04-15", "2018-04-16", "2024-10-26"}
    assert not gone & set(days)
    assert {"2018-04-13", "2018-04-17", "2024-10-25", "2024-10-27"} <= set(days)


def document(*rows: tuple[Any, Any], error: Any = None) -> Answer:
    data = [{"value": value, "timestamp": stamp} for stamp, value in rows]
    return Answer(body=json.dumps({"data": data, "metadata": {"error": error}}).encode())


def test_the_first_of_two_values_in_a_day_is_used(exchange: Exchange) -> None:
    midnight = 1_700_006_400  # 2023-11-15
    exchange.fault("fng", document((midnight + 18_000, "30"), (midnight, "20")))
    assert fetch().rows() == [(datetime.fromtimestamp(midnight, UTC), 20.0)]


@pytest.mark.parametrize(
    "answer",
    [
        document(),
        document(("1700006400", "101")),
        document(("1700006400", "-1")),
        document(("1700006400", "fear")),
        document(("soon", "50")),
        document(("1700006400000", "50")),
        document(("99999999999", "50")),
        document(("9" * 25, "50")),
        document(("1517356800", "50")),
        document(("1700006400", None)),
        document(("1700006400", "50"), error="quota"),
        Answer(body=b"[]"),
        Answer(body=b"{}"),
        Answer(body=b"<html>"),
        Answer(body=b"[" * 100_000),
        Answer(503),
        Answer(cut_at=-100),
        Answer(cut_at=-100, length=False),
    ],
)
def test_retries_until_the_response_is_valid(exchange: Exchange, answer: Answer) -> None:
    expected = fetch()
    exchange.fault("fng", answer)
    assert fetch().equals(expected)
    exchange.fault("fng", answer, times=ATTEMPTS)
    with pytest.raises(FetchError, match="/fng/"):
        fetch()
