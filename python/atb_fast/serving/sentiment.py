"""Prepares the sentiment for scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from atb_fast.errors import DataError, counted
from atb_fast.features.frames import MOMENTUM
from atb_fast.features.specs import INDEX_COLUMNS
from atb_fast.serving.frames import check_index, to_polars

if TYPE_CHECKING:
    import polars as pl

    from atb_fast.features.frames import ArrowFrame

#: The Fear & Greed index as a frame with timestamp and value; `neutral`; or None for none.
Sentiment: TypeAlias = "ArrowFrame | Literal['neutral'] | None"


def with_momentum(table: pl.DataFrame, sentiment: Sentiment, timeframe: str) -> pl.DataFrame:
    """Return `table` with the column sentiment_momentum for scoring.

    An existing column is used unless `sentiment` is `neutral`.

    Raises:
        DataError: There is no sentiment, or it cannot be used.
    """
    import polars as pl

    if isinstance(sentiment, str) and sentiment == "neutral":
        kept = [table[name] for name in table.columns if name != MOMENTUM]
        return pl.DataFrame([*kept, pl.Series(MOMENTUM, np.zeros(len(table)))])
    if MOMENTUM in table.columns:
        return table
    from atb_fast.features.sentiment import merge_sentiment, sentiment_features

    index = read_index(sentiment)
    merged = merge_sentiment(table, sentiment_features(index), timeframe, whole_last_day=True)
    if len(table) and merged[MOMENTUM].null_count() == len(table):
        raise DataError(no_day(index))
    return merged


def with_index(table: pl.DataFrame, sentiment: Sentiment, lag_days: int) -> pl.DataFrame:
    """Return `table` with the columns of the index, as they were known; see `index_columns`.

    Existing columns of these names are replaced.

    Raises:
        DataError: There is no sentiment, or it cannot be used.
    """
    import polars as pl

    from atb_fast.features.sentiment import index_columns

    neutral = isinstance(sentiment, str) and sentiment == "neutral"
    index: Any = "neutral" if neutral else read_index(sentiment)
    if not neutral and "timestamp" not in table.columns:
        raise DataError(f"column 'timestamp' is missing; the frame has: {', '.join(table.columns)}")
    joined = index_columns(table, index, lag_days=lag_days)
    if not neutral and len(table) and joined[-1].min() == 1.0:
        raise DataError(no_day(index))
    kept = [column for column in table if column.name not in INDEX_COLUMNS]
    # `select` would need Polars' thread pool, which does not work in a forked process.
    return pl.DataFrame([*kept, *joined])


def read_index(sentiment: Sentiment) -> pl.DataFrame:
    """Return the Fear & Greed index, checked; see `check_index`.

    Raises:
        DataError: It is not a frame, or cannot be used.
    """
    if sentiment is None or isinstance(sentiment, str):
        raise DataError(
            f"this model uses sentiment, but sentiment is {sentiment!r}; pass the Fear & Greed "
            "index (a frame with timestamp and value), or sentiment='neutral'"
        )
    return check_index(to_polars(sentiment))


def no_day(index: pl.DataFrame) -> str:
    """Return the error message for an index that covers no day of the candles."""
    return (
        f"the sentiment ({counted(len(index), 'day')}) covers no day of the candles; pass the "
        "index of their range"
    )
