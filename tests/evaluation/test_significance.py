"""Significance, compared with scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from relabelling import relabelled
from scipy import stats

from atb_fast.evaluation.significance import (
    diebold_mariano,
    equal,
    is_worse,
    mcnemar,
    verdict,
    wilson_interval,
)
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (7, 7), (1, 1), (53, 100), (4000, 7777)])
def test_wilson_interval_equals_scipy(hits: int, count: int) -> None:
    low, high = wilson_interval(hits / count, count)
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= hits / count <= high <= 1


@pytest.mark.parametrize("horizon", [1, 4])
def test_diebold_mariano_is_a_t_statistic(data: WindowedData, horizon: int) -> None:
    far = relabelled(data, PriceScale.linear(horizon=horizon))
    some = replace(far, parts=replace(data.parts, test=data.test[:-8]))
    actual, last = some.targets(some.test), some.persistence(some.test)
    rng = np.random.default_rng(3)
    predicted = last + 0.3 * (actual - last) + rng.standard_normal(len(last))
    own, other = (predicted - actual) ** 2, (last - actual) ** 2
    gain = other - own
    got = diebold_mariano(own, other, horizon)
    if horizon == 1:
        expected = stats.ttest_1samp(gain, 0.0).statistic
        assert got == pytest.approx(expected * np.sqrt(len(gain) / (len(gain) - 1)), rel=1e-9)
    else:
        apart = gain - gain.mean()
        covariances = np.correlate(apart, apart, "full")[len(gain) - 1 :][:4] / len(gain)
        variance = 2 * covariances.sum() - covariances[0]
        assert got == pytest.approx(gain.mean() / np.sqrt(variance / len(gain)), rel=1e-9)
    assert diebold_mariano(other, own, horizon) == -got
    assert diebold_mariano(other, other, horizon) == 0.0


@pytest.mark.parametrize("bars", [100, 997])
def test_rounding_is_no_variance(bars: int) -> None:
    """The mean of a constant difference is rounded, so its variance is not exactly 0."""
    assert diebold_mariano(np.full(bars, 0.3), np.full(bars, 0.4)) == 0.0


def test_forecasts_that_differ_by_rounding_are_equal() -> None:
    """A network that predicts the class shares does so in float32, and always on the same side."""
    rng = np.random.default_rng(5)
    actual = rng.random(2000) < 0.7
    share = 0.7000001
    losses = [-np.log(np.where(actual, p, 1 - p)) for p in (share, float(np.float32(share)), 0.69)]
    assert losses[0].mean() != losses[1].mean()
    assert equal(losses[0], losses[1])
    assert diebold_mariano(losses[0], losses[1]) == 0.0
    assert not equal(losses[0], losses[2])
    assert diebold_mariano(losses[0], losses[2]) != 0.0


def test_rounding_of_many_bars_does_not_become_significant() -> None:
    """Differences of 1e-7 on every bar would be hundreds of standard errors."""
    other = np.random.default_rng(6).exponential(1.0, 1000)
    noise = np.random.default_rng(7).uniform(0.9e-7, 1.1e-7, 1000)
    assert (noise.mean() / noise.std()) * 1000**0.5 > 100
    assert diebold_mariano(other + noise, other) == 0.0
    assert diebold_mariano(other + 1e3 * noise, other) < -100


def test_the_statistic_of_infinite_losses_is_undefined() -> None:
    losses, other = np.array([1.0, np.inf, 2.0]), np.array([1.0, 2.0, 3.0])
    for pair in ((losses, other), (other, losses), (losses, losses)):
        assert np.isnan(diebold_mariano(*pair))
    assert not equal(losses, other)
    assert equal(losses, losses)


def test_autocovariances_whose_sum_is_negative_are_weighted() -> None:
    """Losses that alternate; by N. Newey and K. West, the variance is positive all the same."""
    rng = np.random.default_rng(2)
    gain = np.where(np.arange(400) % 2, 1.0, -1.0) + rng.normal(0.05, 0.1, 400)
    apart = gain - gain.mean()
    covariances = [np.sum(apart[lag:] * apart[: 400 - lag]) / 400 for lag in range(4)]
    assert covariances[0] + 2 * sum(covariances[1:]) < 0
    variance = covariances[0] + 2 * sum((1 - lag / 4) * covariances[lag] for lag in (1, 2, 3))
    got = diebold_mariano(np.zeros(400), gain, horizon=4)
    assert got == pytest.approx(gain.mean() / np.sqrt(variance / 400), rel=1e-9)


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (0, 1), (3, 0), (8, 15), (60, 41), (900, 1000), (30_000, 29_000)]
)
def test_mcnemar_equals_scipy(better: int, worse: int) -> None:
    both = np.ones(5, bool)
    right = np.concatenate([both, np.ones(better, bool), np.zeros(worse, bool), ~both])
    other = np.concatenate([both, np.zeros(better, bool), np.ones(worse, bool), ~both])
    found = mcnemar(right, other)
    assert (found.better, found.worse) == (better, worse)
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("error", "statistic", "expected"),
    [
        (0.9, 2.0, "better than"),
        (0.9, 1.9, "statistically indistinguishable from"),
        (1.0, 0.0, "equal to"),
        (1.0 + 1e-9, 0.0, "equal to"),  # except for rounding
        (1.0 + 1e-9, -2.0, "worse than"),
        (1.1, -1.9, "statistically indistinguishable from"),
        (1.1, -2.0, "worse than"),
        (np.inf, np.nan, "worse than"),
    ],
)
def test_only_significant_differences_are_called_so(
    error: float, statistic: float, expected: str
) -> None:
    assert verdict(error, 1.0, statistic, "HAR") == f"{expected} HAR"


@pytest.mark.parametrize(
    ("error", "statistic", "expected"),
    [
        (1.1, -2.0, True),
        (1.1, -1.9, False),
        (1.1, 0.0, True),  # on every bar by the same amount
        (1.0, 0.0, False),
        (1.0 + 1e-9, 0.0, False),  # rounding
        (np.inf, np.nan, True),
        (0.9, 3.0, False),
    ],
)
def test_a_difference_that_never_varies_is_not_chance(
    error: float, statistic: float, expected: bool
) -> None:
    assert is_worse(error, 1.0, statistic) is expected
