from __future__ import annotations

import polars as pl
import pytest

from atb_fast.config import TIMEFRAMES
from atb_fast.ingestion import sample


@pytest.mark.parametrize("timeframe", ["1h", "1d", "1w"])
def test_candles_are_well_formed(timeframe: str) -> None:
    frame = sample.candles("ETHUSDT", timeframe)
    steps = frame["timestamp"].diff().drop_nulls().dt.total_milliseconds().unique().to_list()
    assert steps == [TIMEFRAMES[timeframe]]
    body_low, body_high = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
    assert frame.select(
        (pl.col("low") <= body_low).all() & (pl.col("high") >= body_high).all(),
    ).item()
    assert frame.select((pl.col("low") > 0).all() & (pl.col("volume") > 0).all()).row(0) == (True,)
    assert frame.null_count().sum_horizontal().item() == 0


def test_the_same_market_every_time() -> None:
    assert sample.candles("BTCUSDT", "1d").equals(sample.candles("BTCUSDT", "1d"))
    assert not sample.candles("BTCUSDT", "1d").equals(sample.candles("ETHUSDT", "1d"))
    assert sample.sentiment().equals(sample.sentiment())


def test_sentiment_is_an_index() -> None:
    value = sample.sentiment()["value"]
    assert value.is_between(0, 100).all()
    assert (value == value.round()).all()
    assert value.n_unique() > 40
