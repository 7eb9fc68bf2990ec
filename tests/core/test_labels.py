"""triple_barrier, called from Python and compared with a loop that follows the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.typing import NDArray

from atb_fast import _core
from atb_fast.errors import ArgumentError, DataError

HOUR = 3_600_000
#: The extension, for calls that a type checker would refuse.
UNTYPED: Any = _core
GOLDEN: dict[str, Any] = {
    "timestamps": np.arange(7) * HOUR,
    "high": [100.0, 103.9, 104.0, 101.0, 100.5, 106.0, 100.0],
    "low": [100.0, 96.0, 99.0, 94.9, 99.5, 94.0, 100.0],
    "close": [100.0] * 7,
    "bar_ms": HOUR,
    "horizon": 3,
    "take_profit": 0.04,
    "stop_loss": 0.05,
}


def naive(bars: pd.DataFrame, horizon: int, take_profit: float, stop_loss: float) -> list[float]:
    """Return the labels of hourly bars, one after the other, from slices of a frame."""
    labels = []
    for at, entry in enumerate(bars["close"]):
        ahead = bars.iloc[at + 1 : at + 1 + horizon]
        clock = bars["timestamps"].iloc[at] + HOUR * np.arange(1, horizon + 1)
        prices = np.append(ahead[["high", "low"]].to_numpy().ravel(), entry)
        if not np.array_equal(ahead["timestamps"], clock) or not _good(prices).all():
            labels.append(np.nan)
            continue
        stops = np.flatnonzero(ahead["low"] <= entry * (1 - stop_loss))
        profits = np.flatnonzero(ahead["high"] >= entry * (1 + take_profit))
        stop, profit = (hits[0] if len(hits) else horizon for hits in (stops, profits))
        labels.append(0.0 if stop == profit == horizon else -1.0 if stop <= profit else 1.0)
    return labels


def _good(prices: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(prices) & (prices > 0)


def random_bars(rows: int, seed: int) -> pd.DataFrame:
    """Return hourly bars in whole numbers, with equal prices, gaps and bad prices."""
    rng = np.random.default_rng(seed)
    close = 1000.0 + rng.integers(-6, 7, rows).cumsum()
    high, low = close + rng.integers(0, 9, rows), close - rng.integers(0, 9, rows)
    steps = rng.choice([1.0, 2.0, 0.5], rows, p=[0.99, 0.005, 0.005])
    times = (HOUR * steps.cumsum()).astype(np.int64)
    bars = pd.DataFrame({"timestamps": times, "high": high, "low": low, "close": close})
    for name in ("high", "low", "close"):
        bad = rng.choice(rows, rows // 200, replace=False)
        bars.loc[bad, name] = rng.choice([np.nan, 0.0, -5.0, np.inf], len(bad))
    return bars


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("horizon", "take_profit", "stop_loss"),
    [(1, 0.002, 0.002), (7, 0.01, 0.005), (24, 0.02, 0.02), (50, 0.05, 0.03)],
)
def test_it_equals_a_loop_over_the_rows(
    seed: int, horizon: int, take_profit: float, stop_loss: float
) -> None:
    bars = random_bars(1200, seed)
    got = _core.triple_barrier(
        *(bars[name] for name in ("timestamps", "high", "low", "close")),
        bar_ms=HOUR,
        horizon=horizon,
        take_profit=take_profit,
        stop_loss=stop_loss,
    )
    expected = naive(bars, horizon, take_profit, stop_loss)
    np.testing.assert_array_equal(got, expected)
    assert {-1.0, 0.0, 1.0} <= set(got[~np.isnan(got)])


def test_golden_vector() -> None:
    labels = _core.triple_barrier(**GOLDEN)
    np.testing.assert_array_equal(labels, [1, 1, -1, -1, np.nan, np.nan, np.nan])
    assert labels.dtype == np.float64


def test_a_barrier_before_the_bad_bar_does_not_make_a_label_known() -> None:
    # The label of row 1 is decided in row 2.
    for name in ("high", "low"):
        for bad in (np.nan, 0.0, -1.0, np.inf):
            prices = list(GOLDEN[name])
            prices[4] = bad
            got = _core.triple_barrier(**GOLDEN | {name: prices})
            np.testing.assert_array_equal(got, [1, *[np.nan] * 6])
    late = np.where(np.arange(7) < 4, 0, HOUR) + GOLDEN["timestamps"]
    got = _core.triple_barrier(**GOLDEN | {"timestamps": late})
    np.testing.assert_array_equal(got, [1, *[np.nan] * 6])


def test_series_of_polars_and_empty_arrays() -> None:
    arrays = {name: pl.Series(GOLDEN[name]) for name in ("timestamps", "high", "low", "close")}
    got = _core.triple_barrier(**GOLDEN | arrays)
    np.testing.assert_array_equal(got, _core.triple_barrier(**GOLDEN))
    assert _core.triple_barrier(**GOLDEN | {name: [] for name in arrays}).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon is 0, expected an integer of at least 1"),
        ({"horizon": 1.5}, r"horizon is 1\.5, expected an integer of at least 1"),
        ({"bar_ms": -1}, "bar_ms is -1, expected an integer of at least 1"),
        ({"threads": 0}, "threads is 0, expected an integer of at least 1"),
        ({"take_profit": 0}, "take_profit is 0, expected a finite number above 0"),
        ({"take_profit": "4%"}, "take_profit is '4%', expected a number"),
        ({"stop_loss": 1.0}, "stop_loss is 1, expected a number above 0 and below 1"),
        ({"stop_loss": np.nan}, "stop_loss is NaN, expected a number above 0 and below 1"),
        ({"high": [1.0]}, "high is of length 1, expected length 7, that of timestamps"),
        ({"low": ["a"] * 7}, "low is .*, expected a one-dimensional array of numbers"),
        ({"close": None}, "close is None, expected a one-dimensional array of numbers"),
        ({"timestamps": [1.5] * 7}, "timestamps is .*, expected a .* array of integers"),
    ],
)
def test_arguments(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        UNTYPED.triple_barrier(**GOLDEN | change)


def test_times_must_ascend() -> None:
    times = [0, 1, 3, 3, 4, 5, 6]
    with pytest.raises(DataError, match="row 3: timestamp 3 ms follows 3 ms"):
        _core.triple_barrier(**GOLDEN | {"timestamps": times})
