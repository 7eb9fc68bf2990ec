"""Sharpe ratios of the best of many strategies, compared with purgedcv and published figures."""

from __future__ import annotations

import math

import numpy as np
import purgedcv
import pytest

from atb_fast import ArgumentError, deflated_sharpe
from atb_fast.experiments.sharpe import expected_best_sharpe, probabilistic_sharpe


def test_the_example_of_bailey_and_lopez_de_prado() -> None:
    # The Deflated Sharpe Ratio, 2014: 100 trials with a variance of 1/2, five years of 250 days.
    benchmark = expected_best_sharpe(100, 0.5 / 250)
    assert benchmark == pytest.approx(0.1132, abs=5e-5)
    found = probabilistic_sharpe(
        2.5 / math.sqrt(250), 1250, skewness=-3, kurtosis=10, benchmark=benchmark
    )
    assert found == pytest.approx(0.9004, abs=5e-5)


@pytest.mark.parametrize("trials", [1, 2, 40])
def test_deflated_sharpe_equals_purgedcv(trials: int) -> None:
    rng = np.random.default_rng(trials)
    returns = 0.0003 + 0.01 * rng.standard_t(5, 4000)
    sharpes = 0.01 * rng.standard_normal(trials)
    variance = float(np.var(sharpes, ddof=1)) if trials > 1 else 0.0
    expected = purgedcv.deflated_sharpe_ratio(returns, trials, variance)
    # purgedcv estimates skewness and kurtosis without bias.
    assert deflated_sharpe(returns, sharpes.tolist()) == pytest.approx(expected, abs=1e-3)


def test_deflated_sharpe_of_the_best_of_many_strategies_without_skill() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        returns = rng.standard_normal((200, 20))
        sharpes = returns.mean(axis=0) / returns.std(axis=0)
        found.append(deflated_sharpe(returns[:, sharpes.argmax()], sharpes.tolist()))
        assert deflated_sharpe(returns[:, sharpes.argmax()], sharpes[:1].tolist()) > found[-1]
    assert np.mean(np.array(found) > 0.95) <= 0.05


def test_sharpe_ratios_without_variance() -> None:
    assert math.isnan(deflated_sharpe([0.0] * 5, [0.0]))
    assert math.isnan(deflated_sharpe([0.1] * 7, [0.0, 0.1]))
    assert probabilistic_sharpe(1.0, 9, skewness=2.0, kurtosis=5.0) == 1.0
    assert probabilistic_sharpe(1.0, 9, skewness=2.0, kurtosis=5.0, benchmark=2.0) == 0.0
    assert probabilistic_sharpe(1.0, 9, skewness=2.0, kurtosis=5.0, benchmark=1.0) == 0.5


@pytest.mark.parametrize(
    ("returns", "sharpes", "message"),
    [
        ([0.1], [0.1], "returns has the shape .* at least 3 numbers"),
        ([0.1, 0.2, 0.3], [], "sharpes has the shape .* at least 1"),
        ([0.1, math.inf, 0.3], [1], "returns contains NaN or infinity"),
    ],
)
def test_invalid_arguments(returns: list[float], sharpes: list[float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        deflated_sharpe(returns, sharpes)
