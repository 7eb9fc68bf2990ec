"""The labels of bars, compared with pandas and with loops that follow their definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from atb_fast.recipes.targets.labels import binary_direction, smoothed_return

HOUR = 3_600_000
HOURS = np.arange(6) * HOUR
CLOSE = np.array([100.0, 101, 101, 99, 103, 102])
Closes = tuple[NDArray[np.int64], NDArray[np.float64]]


@pytest.fixture(params=range(3))
def closes(request: pytest.FixtureRequest) -> Closes:
    """Open times with gaps, and closes with equal, missing and impossible ones."""
    rng = np.random.default_rng(request.param)
    times = HOUR * rng.choice([1, 2], 800, p=[0.98, 0.02]).cumsum()
    close = 50.0 + rng.integers(-1, 2, 800).cumsum()
    bad = rng.choice(800, 25, replace=False)
    close[bad] = rng.choice([np.nan, 0.0, -1.0, np.inf], 25)
    return times, close


def test_golden_vectors() -> None:
    for horizon, expected in ((1, [1, 0, 0, 1, 0, np.nan]), (2, [1, 0, 1, 1, np.nan, np.nan])):
        got = binary_direction(HOURS, CLOSE, bar_ms=HOUR, horizon=horizon)
        np.testing.assert_array_equal(got, expected)
    got = smoothed_return(HOURS, CLOSE, bar_ms=HOUR, horizon=2)
    np.testing.assert_allclose(got, [0.01, -0.009901, 0, 0.035354, np.nan, np.nan], atol=5e-7)


@pytest.mark.parametrize("horizon", [1, 2, 24, 799, 800, 5000])
def test_direction_equals_a_loop(closes: Closes, horizon: int) -> None:
    times, close = closes
    expected = [np.nan] * len(times)
    for row, last in zip(range(len(times)), range(horizon, len(times)), strict=False):
        pair = close[[row, last]]
        if times[last] - times[row] == horizon * HOUR and (np.isfinite(pair) & (pair > 0)).all():
            expected[row] = float(pair[1] > pair[0])
    got = binary_direction(times, close, bar_ms=HOUR, horizon=horizon)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("horizon", [1, 2, 24, 799, 800, 5000])
def test_smoothed_return_equals_pandas(closes: Closes, horizon: int) -> None:
    times, close = closes
    # On a grid of hours, a gap is a missing price, as a price that is not above 0.
    usable = np.isfinite(close) & (close > 0)
    grid = pd.Series(close[usable], index=times[usable]).reindex(
        np.arange(times[0], times[-1] + HOUR, HOUR)
    )
    # Adding up anew in each window, because rolling sums of pandas drift.
    mean = grid.rolling(horizon).apply(np.mean, raw=True).shift(-horizon)
    expected = (mean / grid - 1).reindex(times)
    got = smoothed_return(times, close, bar_ms=HOUR, horizon=horizon)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(expected).all() == (horizon > 24)


def test_one_bad_price_affects_only_the_labels_that_read_it() -> None:
    times, close = np.arange(40) * HOUR, np.linspace(10.0, 20.0, 40)
    for bad in (np.nan, 0.0, -1.0, np.inf):
        close[20] = bad
        smoothed = smoothed_return(times, close, bar_ms=HOUR, horizon=5)
        np.testing.assert_array_equal(
            np.flatnonzero(np.isnan(smoothed)), [*range(15, 21), *range(35, 40)]
        )
        direction = binary_direction(times, close, bar_ms=HOUR, horizon=5)
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(direction)), [15, 20, *range(35, 40)])
