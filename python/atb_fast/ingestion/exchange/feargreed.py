"""The Crypto Fear & Greed Index. Source: alternative.me, https://alternative.me/crypto/fear-and-greed-index/."""

from __future__ import annotations

import json
import time
from typing import Any

import polars as pl
import requests

from atb_fast.ingestion.exchange.http import Endpoints, Http, MalformedError
from atb_fast.ingestion.schemas import SENTIMENT_SCHEMA

_FIRST_MS = 1_517_443_200_000  # 2018-02-01, the first day there is


def fetch_index(http: Http, endpoints: Endpoints) -> pl.DataFrame:
    """Return the whole history, a row a day, ascending, as `SENTIMENT_SCHEMA` says.

    Stamps during a day count for that day; of two in one day the first counts, the one that was
    known when the day began.

    Raises:
        FetchError: No answer that can be used.
    """

    def read(response: requests.Response) -> pl.DataFrame:
        try:
            return _index(json.loads(response.content))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise MalformedError(f"the answer is not the index: {error!r}") from error

    return http.get(endpoints.fng + "/fng/", read, params={"limit": 0, "format": "json"})


def _index(document: Any) -> pl.DataFrame:
    problem = document["metadata"]["error"]
    if problem is not None:
        raise MalformedError(f"the answer is an error: {problem}")
    rows = [(int(row["timestamp"]) * 1000, float(row["value"])) for row in document["data"]]
    if not all(_FIRST_MS <= ms <= (time.time() + 86_400) * 1000 for ms, _ in rows):
        raise MalformedError("the answer has days before 2018-02-01, or to come")
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
        raise MalformedError("the answer is not the index: it is empty, or not within 0..100")
    return frame
