"""Rank correlations, compared with scipy and with the spread over simulated markets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import signal, stats

from atb_fast.evaluation.ranks import rank_correlation
from atb_fast.evaluation.significance import p_value


def deviation(found: Any) -> float:
    return float((found.high - found.low) / (2 * stats.norm.ppf(0.975)))


@pytest.mark.parametrize("distinct", [3, 40, 10**6])
def test_the_value_equals_scipy(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    x = rng.integers(0, distinct, 300).astype(float)
    y = np.round(x / distinct + rng.normal(0, 1, 300), 1)
    found = rank_correlation(x, y)
    assert found is not None
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.low < found.value < found.high


def test_windows_without_a_value_are_left_out() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 100))
    expected = rank_correlation(x[2:], y[2:])
    x[0], y[1] = np.nan, np.nan
    assert rank_correlation(x, y) == expected


def test_undefined() -> None:
    some = np.arange(50.0)
    assert rank_correlation(np.ones(50), some) is None
    assert rank_correlation(some, np.ones(50)) is None
    assert rank_correlation(some[:2], some[:2]) is None
    assert rank_correlation(np.full(50, np.nan), some) is None
    perfect = rank_correlation(some, some)
    assert perfect is not None
    assert perfect.value == pytest.approx(1.0)
    assert perfect.high == pytest.approx(1.0)


def simulated(correlation: float, horizon: int, seed: int, count: int = 1500) -> Any:
    """Return forecasts that persist, and returns whose horizons overlap."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=count + horizon)
    actual = np.convolve(noise, np.ones(horizon), "valid")[:count] / horizon**0.5
    if horizon == 1:
        other = rng.normal(size=count)
    else:
        other = signal.lfilter([1.0], [1.0, -0.9], rng.normal(size=count)) / 2.3
    return correlation * actual + (1 - correlation**2) ** 0.5 * other, actual


@pytest.mark.parametrize(("correlation", "horizon"), [(0.0, 1), (0.5, 1), (0.0, 12)])
def test_the_interval_is_as_wide_as_the_spread_over_markets(
    correlation: float, horizon: int
) -> None:
    markets = [simulated(correlation, horizon, seed) for seed in range(300)]
    found = [rank_correlation(x, y, horizon) for x, y in markets]
    values = np.array([each.value for each in found if each])
    widths = [deviation(each) for each in found if each]
    assert len(values) == 300
    # The spread of 300 values has an error of 4%.
    assert np.mean(widths) == pytest.approx(values.std(), rel=0.15)
    true = 6 / np.pi * np.arcsin(correlation / 2)  # of two normal distributions
    inside = np.mean([each.low <= true <= each.high for each in found if each])
    assert 0.9 <= inside <= 0.99


def test_overlapping_horizons_make_the_interval_wider() -> None:
    x, y = simulated(0.0, 24, 1)
    near, far = rank_correlation(x, y), rank_correlation(x, y, 24)
    assert near is not None
    assert far is not None
    assert far.lags == 46
    assert deviation(far) > 1.2 * deviation(near)


@pytest.mark.parametrize("statistic", [0.0, 0.5, -1.96, 3.0, -40.0])
def test_p_values_equal_scipy(statistic: float) -> None:
    assert p_value(statistic) == pytest.approx(2 * stats.norm.sf(abs(statistic)), rel=1e-12)
