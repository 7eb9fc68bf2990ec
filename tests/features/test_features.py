from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from atb_fast import TrainingConfig
from atb_fast.errors import DataError
from atb_fast.features.sentiment import assess, sentiment_features
from atb_fast.features.windows import windows
from atb_fast.ingestion import sample
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def config(**options: Any) -> TrainingConfig:
    return TrainingConfig(**{"symbol": "BTCUSDT", "source": "sample", **options})


def days(first: date, count: int) -> pl.DataFrame:
    start = datetime.combine(first, datetime.min.time(), UTC)
    times = [start + timedelta(days=i) for i in range(count)]
    return pl.DataFrame({"timestamp": times, "sentiment_momentum": [0.0] * count})


def test_momentum_equals_pandas_pct_change() -> None:
    value = [50.0, 0.0, 0.0, 25.0, 120.0, 80.0, 80.0]
    frame = pl.DataFrame({"timestamp": range(len(value)), "value": value})
    primary = pd.Series(value).clip(0, 100) / 100
    expected = primary.pct_change().replace([np.inf, -np.inf], np.nan).fillna(0.0)
    got = sentiment_features(frame)["sentiment_momentum"]
    np.testing.assert_allclose(got, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("sentiment", "age", "score", "recommendation"),
    [
        ((date(2024, 1, 1), 101), 0, 1.0, "full_sentiment"),
        ((date(2024, 1, 1), 101), 365, 0.6, "hybrid_with_fallback"),
        ((date(2024, 1, 1), 51), 0, 1.0, "full_sentiment"),
        ((date(2024, 1, 1), 31), 365, 0.36, "price_only"),
        ((date(2024, 1, 1), 31), 73, 0.36 + 0.4 * 0.8, "hybrid_with_fallback"),
        ((date(2020, 1, 1), 31), 0, 0.0, "price_only"),
    ],
)
def test_assessment(
    sentiment: tuple[date, int], age: int, score: float, recommendation: str
) -> None:
    # The candles span 100 days, so 31 days of sentiment cover 0.3 of them.
    candles, rows = days(date(2024, 1, 1), 101), days(*sentiment)
    last = rows["timestamp"][-1]
    found = assess(candles, rows, now=last + timedelta(days=age, hours=5))
    assert found.score == pytest.approx(score)
    assert found.recommendation == recommendation
    assert found.freshness_days == age


def test_assessment_lists_gaps_and_empty_sentiment() -> None:
    candles = days(date(2024, 1, 1), 10)
    rows = candles.filter(~pl.col("timestamp").dt.day().is_in([4, 5, 8]))
    assert assess(candles, rows, now=NOW).gaps == (
        ("2024-01-04", "2024-01-05"),
        ("2024-01-08", "2024-01-08"),
    )
    nothing = assess(candles, rows.clear(), force=True, now=NOW)
    assert (nothing.recommendation, nothing.freshness_days) == ("price_only", None)


def test_force_sentiment_overrides_the_score(market: Market) -> None:
    rows = market.sentiment
    assert rows is not None
    old = Market(market.candles, rows.head(40))
    assert prepare(old, config(), now=NOW).model_type == "price"
    # Only the forty days with sentiment remain.
    with pytest.raises(DataError, match=r"least 2,639 \(including 2,517 that lack a feature\)"):
        prepare(old, config(force_sentiment=True), now=NOW)


def test_forced_sentiment_that_is_missing(market: Market) -> None:
    assert market.sentiment is not None
    later = market.candles.filter(pl.col("timestamp").dt.year() >= 2023)
    early = market.sentiment.filter(pl.col("timestamp").dt.year() < 2020)
    with pytest.raises(DataError, match=r"the sentiment \(2018-02-01 to 2019-12-31\) has no day"):
        prepare(Market(later, early), config(force_sentiment=True), now=NOW)


def test_no_candle_with_every_feature(market: Market) -> None:
    shifted = market.candles.with_columns(pl.col("timestamp") + timedelta(hours=4))
    with pytest.raises(
        DataError, match=r"no candle has a value for every feature: .* Fear & Greed"
    ):
        prepare(Market(shifted, market.sentiment), config(force_sentiment=True), now=NOW)


def test_constant_prices_are_named(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    close = market.candles["close"].to_numpy().copy()
    close[100:131] = 5000.0
    flat = market.candles.with_columns(close=pl.Series(close))
    with caplog.at_level("INFO"):
        made = prepare(Market(flat, None), config(force_price_only=True))
    # 14 differences of 0 end at each of the bars 114 to 130.
    assert len(made.matrix) == len(flat) - 29 - 17
    assert (
        "46 of 2,557 candles left out: 29 in the warm-up, 17 after it; by feature, after its own "
        "warm-up: undefined: rsi_scaled in 17"
    ) in caplog.text


@pytest.mark.parametrize("recipe", ["legacy", "basic", "causal"])
def test_a_market_that_never_moves_is_rejected(market: Market, recipe: str) -> None:
    flat = market.candles.with_columns(close=pl.lit(5000.0))
    with pytest.raises(DataError, match="the close is 5000 in all 2,557 candles; use candles of"):
        prepare(Market(flat, None), config(recipe=recipe, force_price_only=True))


def test_price_only_has_no_sentiment(market: Market) -> None:
    made = prepare(Market(market.candles, None), config(force_price_only=True))
    assert made.model_type == "price"
    assert made.assessment is None
    assert len(made.matrix.names) == 9
    assert len(made.matrix) == len(market.candles) - 29


def test_candle_without_sentiment_is_dropped(market: Market) -> None:
    assert market.sentiment is not None
    missing = datetime(2023, 5, 5, tzinfo=UTC)
    holed = Market(market.candles, market.sentiment.filter(pl.col("timestamp") != missing))
    span = {"start_date": date(2022, 1, 1), "end_date": date(2024, 1, 1)}
    cut = market.candles.filter(
        pl.col("timestamp").is_between(
            datetime(2022, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
        )
    )
    made = prepare(Market(cut, holed.sentiment), config(**span), now=NOW)
    assert made.model_type == "sentiment"
    assert missing not in made.timestamps.to_list()
    assert len(made.matrix) == len(cut) - 29 - 1


def test_hourly_bars_after_midnight_of_the_last_day_are_dropped() -> None:
    candles = sample.candles("BTCUSDT", "1h").filter(
        pl.col("timestamp") >= datetime(2024, 6, 1, tzinfo=UTC)
    )
    cut = candles.filter(pl.col("timestamp") < datetime(2024, 9, 2, tzinfo=UTC))
    options = {"timeframe": "1h", "start_date": date(2024, 6, 1), "end_date": date(2024, 9, 1)}
    made = prepare(Market(cut, sample.sentiment()), config(**options), now=NOW)
    assert made.timestamps[-1] == datetime(2024, 9, 1, tzinfo=UTC)
    assert len(made.matrix) == len(cut) - 29 - 23


def test_windows_of_a_frame(market: Market) -> None:
    got = windows(market.candles, 50)
    columns = ["open", "high", "low", "close", "volume"]
    values = market.candles.select(columns).to_numpy().astype(np.float32)
    expected = np.lib.stride_tricks.sliding_window_view(values, 50, axis=0).transpose(0, 2, 1)
    np.testing.assert_array_equal(got, expected)
    assert np.shares_memory(got[0], got[1])
    one = windows(market.candles.to_pandas(), 7, ["close"])
    np.testing.assert_array_equal(one[:, :, 0], windows(market.candles, 7)[:, :, 3])
    with pytest.raises(DataError, match="a window needs at least 50 rows, got 3"):
        windows(market.candles.head(3), 50)


def test_split_and_persistence(market: Market) -> None:
    made = prepare(Market(market.candles, None), config(force_price_only=True))
    data = split(made, config())
    count = len(made.matrix) - 120
    assert len(data.train) == int(count * 0.8)
    np.testing.assert_array_equal(np.concatenate([data.train, data.test]), np.arange(count))
    close = market.candles["close"].to_numpy()[29:]
    np.testing.assert_array_equal(data.targets(data.test), close[120:][data.test])
    np.testing.assert_array_equal(data.persistence(data.test), close[119:-1][data.test])
