"""The Crypto Fear & Greed Index. Source: alternative.me, https://alternative.me/crypto/fear-and-greed-index/."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import requests

from atb_fast.ingestion.exchange.http import Endpoints, Http, MalformedError, date_of
from atb_fast.ingestion.schemas import SENTIMENT_SCHEMA
from atb_fast.ingestion.spans import DAY_MS

_FIRST_MS = 1_517_443_200_000  # 2018-02-01, the first day of the index


def fetch_index(http: Http, endpoints: Endpoints, now: int) -> pl.DataFrame:
    """Return the full history, one row per day, ascending, in `SENTIMENT_SCHEMA`.

    Timestamps within a day count for that day. If a day has two values, the earlier one is used,
    because it was known first.

    Args:
        http: Sends the request.
        endpoints: The address.
        now: The time in milliseconds since 1970, for a server that does not say its own.

    Raises:
        FetchError: There is no usable response.
    """

    def read(response: requests.Response) -> pl.DataFrame:
        try:
            return _index(json.loads(response.content), date_of(response) or now)
        except (
            *(ValueError, TypeError, KeyError, AttributeError, OverflowError),
            RecursionError,  # for JSON that is nested too deeply
        ) as error:
            raise MalformedError("the response is not the Fear & Greed index") from error

    return http.get(endpoints.fng + "/fng/", read, params={"limit": 0, "format": "json"})


def _index(document: Any, now: int) -> pl.DataFrame:
    problem = document["metadata"]["error"]
    if problem is not None:
        raise MalformedError(f"the server reported an error: {problem}")
    rows = [(int(row["timestamp"]) * 1000, float(row["value"])) for row in document["data"]]
    if not all(_FIRST_MS <= ms <= now + DAY_MS for ms, _ in rows):
        raise MalformedError("the response has days before 2018-02-01 or in the future")
    frame = (
        pl.DataFrame(rows, schema=["timestamp", "value"], orient="row")
        .sort("timestamp")
        .with_columns(
            pl.col("timestamp")
            .cast(pl.Datetime("ms"))
            .dt.replace_time_zone("UTC")
            .dt.truncate("1d")
        )
        .unique("timestamp", keep="first", maintain_order=True)
        .cast(SENTIMENT_SCHEMA)
    )
    if frame.is_empty() or not frame["value"].is_between(0, 100).all():
        raise MalformedError("the response is empty or has values outside 0..100")
    return frame
