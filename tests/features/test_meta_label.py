"""Fires, outcomes and features of meta-labeling, compared with loops and pandas."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.typing import NDArray

from atb_fast.features.meta_label import FEATURES, Exits, Fires, aligned, features, fires
from atb_fast.ingestion import sample

HOUR = 3_600_000
QUICK = Exits(bars=3)


def candles_of(
    close: list[float], high: list[float] | None = None, low: list[float] | None = None
) -> pl.DataFrame:
    """Hourly candles with these prices."""
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(hours=i) for i in range(len(close))]
    prices = {"open": close, "high": high or close, "low": low or close, "close": close}
    return pl.DataFrame(
        {"timestamp": pl.Series(times, dtype=pl.Datetime("ms", "UTC")), **prices},
        schema_overrides=dict.fromkeys(prices, pl.Float64),
    ).with_columns(volume=pl.lit(1.0))


def fired(candles: pl.DataFrame, at: dict[int, float], exits: Exits = QUICK) -> Fires:
    """The fires if the primary predicts these returns at these bars, and nothing elsewhere."""
    predictions = np.full(len(candles), np.nan)
    for bar, predicted in at.items():
        predictions[bar] = candles["close"][bar] * (1 + predicted)
    return fires(candles, predictions, exits, HOUR)


def market(bars: int = 2400, seed: int = 3) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Hourly candles that often reach the exits, with two gaps and missing values; predictions."""
    rng = np.random.default_rng(seed)
    candles = sample.candles("BTCUSDT", "1h").tail(bars)
    predictions = candles["close"].to_numpy() * (1 + rng.normal(0, 0.002, bars))
    predictions[rng.random(bars) < 0.1] = np.nan
    predictions[bars // 2 : bars // 2 + 100] = np.nan
    gaps = np.ones(bars, bool)
    gaps[[700, 701, 2100]] = False
    holes = pl.Series([None if i in (1000, 1500) else 1 for i in range(bars)])
    candles = candles.with_columns(close=pl.col("close") * holes, high=pl.col("high") * holes)
    return candles.filter(pl.Series(gaps)), predictions[gaps]


@pytest.mark.parametrize(
    ("predicted", "side"), [(1e-9, 1), (0.0, 0), (-0.0004, 0), (-0.0006, -1), (math.nan, 0)]
)
def test_a_fire_needs_a_predicted_return(predicted: float, side: int) -> None:
    found = fired(candles_of([100.0] * 5), {1: predicted})
    assert found.sides.tolist() == [0, side, 0, 0, 0]
    np.testing.assert_allclose(found.predicted[1], predicted, atol=1e-12)


@pytest.mark.parametrize(
    ("side", "high", "low", "close", "result", "end", "outcome"),
    [
        # The profit, exactly reached, is filled at its level.
        (1, [100, 103.9, 104, 100], [100, 96, 99, 99], [100] * 4, 0.04, 2, 1),
        (-1, [100, 101, 101, 100], [100, 96.1, 96, 99], [100] * 4, 0.04, 2, 1),
        # The stop is filled at the extreme of the bar.
        (1, [100, 101, 100, 100], [100, 95.1, 90, 99], [100] * 4, -0.10, 2, 0),
        (-1, [100, 104.9, 111, 100], [100, 99, 99, 99], [100] * 4, -0.11, 2, 0),
        # In one bar, the stop comes first.
        (1, [100, 106, 100, 100], [100, 94, 99, 99], [100] * 4, -0.06, 1, 0),
        (-1, [100, 106, 100, 100], [100, 94, 99, 99], [100] * 4, -0.06, 1, 0),
        # The bar of the fire itself does not count.
        (1, [120, 101, 101, 101], [80, 99, 99, 99], [100, 100, 100, 101], 0.01, 3, 1),
        # After the last bar, the close decides; it must cover the cost.
        (1, [100, 101, 101, 101], [100, 99, 99, 99], [100, 100, 100, 100.3], 0.003, 3, 1),
        (1, [100, 101, 101, 101], [100, 99, 99, 99], [100, 100, 100, 100.1], 0.001, 3, 0),
        (-1, [100, 101, 101, 101], [100, 99, 99, 99], [100, 100, 100, 99.7], 0.003, 3, 1),
        (-1, [100, 101, 101, 101], [100, 99, 99, 99], [100, 100, 100, 100.3], -0.003, 3, 0),
    ],
)
def test_outcomes(  # one row for each rule
    side: int,
    high: list[float],
    low: list[float],
    close: list[float],
    result: float,
    end: int,
    outcome: int,
) -> None:
    found = fired(candles_of(close, high, low), {0: 0.01 * side})
    np.testing.assert_allclose(found.returns[0], result, atol=1e-12)
    assert found.ends[0] == end
    assert found.outcomes[0] == outcome


def test_a_trade_that_the_candles_do_not_show_to_its_end_is_not_resolved() -> None:
    flat = [100.0] * 6
    found = fired(candles_of(flat), dict.fromkeys(range(6), 0.01))
    assert found.ends.tolist() == [3, 4, 5, -1, -1, -1]
    assert np.isnan(found.outcomes[3:]).all()

    # An exit before the end of the candles is known.
    found = fired(candles_of(flat, [100.0] * 5 + [104.0]), {4: 0.01})
    assert found.ends[4] == 5

    for column, value in (("low", None), ("high", None), ("close", None), ("low", 0.0)):
        broken = candles_of([100.0] * 9)
        values = broken[column].to_list()
        values[4] = value
        broken = broken.with_columns(pl.Series(column, values, dtype=pl.Float64))
        found = fired(broken, dict.fromkeys((0, 1, 2, 3, 5), 0.01))
        assert found.ends[[0, 1, 2, 3, 5]].tolist() == [3, -1, -1, -1, 8]

    # A bar is missing: rows 3 and 4 are two hours apart.
    apart = candles_of([100.0] * 9).filter(pl.int_range(pl.len()) != 4)
    found = fired(apart, dict.fromkeys((0, 1, 4), 0.01))
    assert found.ends[[0, 1, 4]].tolist() == [3, -1, 7]


def _outcome(
    bars: list[tuple[datetime, float, float, float]], bar: int, side: int, exits: Exits
) -> tuple[float, int] | None:
    """The return of one trade and the bar at which it ends.

    Each bar is its time, high, low and close.
    """
    entry = bars[bar][3]
    stop, profit = entry * (1 - side * exits.stop_loss), entry * (1 + side * exits.take_profit)
    for now in range(bar + 1, bar + exits.bars + 1):
        if now == len(bars) or bars[now][0] - bars[now - 1][0] != timedelta(hours=1):
            return None
        _, high, low, close = bars[now]
        if math.isnan(high + low + close):
            return None
        if side == 1 and low <= stop:
            return low / entry - 1, now
        if side == -1 and high >= stop:
            return -(high / entry - 1), now
        if (side == 1 and high >= profit) or (side == -1 and low <= profit):
            return exits.take_profit, now
    return side * (close / entry - 1), now


def naive(
    candles: pl.DataFrame, predictions: NDArray[np.float64], exits: Exits
) -> tuple[dict[int, tuple[int, float, int]], pd.DataFrame]:
    """Side, return and end of each resolved fire, and the features: loops over bars, and pandas."""
    frame = candles.to_pandas()
    close, count = frame["close"], len(frame)
    columns = (frame[name].tolist() for name in ("timestamp", "high", "low", "close"))
    bars = list(zip(*columns, strict=True))
    found: dict[int, tuple[int, float, int]] = {}
    for bar, price in enumerate(close):
        predicted = (predictions[bar] - price) / price
        side = 1 if predicted > 0 else -1 if predicted < -0.0005 else 0
        made = _outcome(bars, bar, side, exits) if side else None
        if made:
            found[bar] = (side, *made)

    rates = []
    ended = sorted((end, at, won) for at, (_, won, end) in found.items())
    for bar in range(count):
        known = [each for each in ended if each[0] <= bar]
        newest = [won - exits.cost > 0 for _, _, won in known[-20:]]
        rates.append(float(np.mean(newest)) if newest else 0.5)

    def line(values: NDArray[np.float64]) -> float:
        if (values == values[0]).all():
            return 0.0
        slope, intercept = np.polyfit(np.arange(50), values, 1)
        rest = values - intercept - slope * np.arange(50)
        r2 = 1 - (rest @ rest) / np.square(values - values.mean()).sum()
        return float(slope * r2) if r2 >= 0.2 else 0.0

    score = np.log(close).rolling(50).apply(line, raw=True)
    trend, lasted = np.full(count, np.nan), np.zeros(count)
    state, history = None, []  # the signs since the trend began
    for bar in range(count):
        if np.isnan(score[bar]):
            continue
        sign = float(np.sign(score[bar]))
        state = sign if state is None else state
        history.append(sign)
        agreeing = [s == state for s in history]
        if sum(agreeing) >= 12 and not any(agreeing[-3:]):
            state, history = sign, [sign]
        trend[bar], lasted[bar] = state, len(history)

    deviation = (score - score.rolling(252).mean()) / score.rolling(252).std(ddof=0)
    confidence = deviation.abs().clip(0, 3) / 3
    for bar in range(count):
        if lasted[bar] >= 10:
            confidence[bar] += min(0.2, lasted[bar] / 50)
        if lasted[bar] < 3:
            confidence[bar] *= 0.8
    previous = close.shift()
    ranges = [frame["high"] - frame["low"], frame["high"] - previous, previous - frame["low"]]
    atr = pd.concat(ranges, axis=1).max(axis=1, skipna=False).rolling(14).mean()
    high = (atr >= atr.rolling(252).quantile(0.7)).astype(float)
    hour = frame["timestamp"].dt.hour
    made_features: dict[str, Any] = {
        "realized_vol_48": close.pct_change(fill_method=None).rolling(48).std(),
        "rolling_hit_rate_20": pd.Series(rates),
        "session_sin": np.sin(2 * np.pi * hour / 24),
        "session_cos": np.cos(2 * np.pi * hour / 24),
        "regime_trend_encoded": pd.Series(trend),
        "regime_volatility_encoded": high.where(atr.rolling(252).count() == 252),
        "regime_confidence": confidence.clip(upper=1),
        "predicted_return_magnitude": ((predictions - close) / close).abs(),
    }
    return found, pd.DataFrame(made_features)


@pytest.mark.parametrize("exits", [Exits(), Exits(0.01, 0.01, 30, 0.001)])
def test_agrees_with_loops_and_pandas(exits: Exits) -> None:
    candles, predictions = market()
    found = fires(candles, predictions, exits, HOUR)
    got = features(candles, found, HOUR).to_pandas()
    expected, values = naive(candles, predictions, exits)
    bars = np.flatnonzero(found.ends >= 0)
    assert bars.tolist() == list(expected)
    assert found.sides[bars].tolist() == [side for side, _, _ in expected.values()]
    assert found.ends[bars].tolist() == [end for _, _, end in expected.values()]
    np.testing.assert_allclose(found.returns[bars], [won for _, won, _ in expected.values()])
    # Every kind of outcome and of regime occurs.
    assert {*found.outcomes[bars]} == {0.0, 1.0}
    assert {*found.sides.tolist()} == {-1, 0, 1}
    assert tuple(got.columns) == FEATURES == tuple(values.columns)
    assert {*got["regime_trend_encoded"].dropna()} == {-1.0, 0.0, 1.0}
    assert {*got["regime_volatility_encoded"].dropna()} == {0.0, 1.0}
    for name in FEATURES:
        np.testing.assert_allclose(got[name], values[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("cut", [400, 1400, 2222])
def test_the_future_changes_no_feature(cut: int) -> None:
    candles, predictions = market()
    whole = fires(candles, predictions, Exits(), HOUR)
    known = fires(candles.head(cut), predictions[:cut], Exits(), HOUR)
    expected = features(candles.head(cut), known, HOUR)
    assert features(candles, whole, HOUR).head(cut).equals(expected)
    # Outcomes that were known do not change either, and those that were not are only added.
    resolved = known.ends >= 0
    np.testing.assert_array_equal(whole.ends[:cut][resolved], known.ends[resolved])
    assert (whole.ends[:cut][~resolved & (known.sides != 0)] >= cut - 1).any()

    other = market(seed=4)[0].tail(len(candles) - cut).drop("timestamp") * 1.5
    changed = pl.concat([candles.head(cut), candles.tail(-cut).select("timestamp").hstack(other)])
    again = fires(changed, predictions, Exits(), HOUR)
    assert features(changed, again, HOUR).head(cut).equals(expected)


def test_a_market_that_does_not_move_has_no_trend() -> None:
    found = fired(candles_of([100.0] * 600), {}, Exits())
    last = features(candles_of([100.0] * 600), found, HOUR).tail(1).to_dicts()[0]
    assert (last["regime_trend_encoded"], last["regime_volatility_encoded"]) == (0.0, 1.0)
    assert (last["realized_vol_48"], last["rolling_hit_rate_20"]) == (0.0, 0.5)
    assert last["regime_confidence"] == pytest.approx(0.2)  # the trend has lasted
    assert last["predicted_return_magnitude"] is None


def test_predictions_are_those_of_the_bar_itself() -> None:
    candles = candles_of([100.0, 101.0, 102.0, 103.0])
    times = candles["timestamp"]
    given = pl.DataFrame({"timestamp": times.gather([0, 3]), "prediction": [99.0, None]})
    np.testing.assert_array_equal(aligned(candles, given), [99.0, np.nan, np.nan, np.nan])
    # Of another unit and time zone, unsorted, and as integers.
    micros = times.gather([2, 1]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone("Asia/Tokyo")
    for each in (micros, micros.dt.epoch("ms")):
        frame = pl.DataFrame({"timestamp": each, "prediction": [7.0, 8.0]})
        np.testing.assert_array_equal(aligned(candles, frame), [np.nan, 8.0, 7.0, np.nan])
