"""Calibration, compared with pandas, scikit-learn and scipy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from relabelling import of_kind
from scipy.stats import binomtest, norm
from sklearn.calibration import calibration_curve as sklearn_curve

from atb_fast.evaluation.calibration import calibration_curve, quantile_shares
from atb_fast.evaluation.scoring import scoring_of
from atb_fast.features.outputs import LogSigma
from atb_fast.features.windows import WindowedData


def happened(count: int, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0.2, 0.8, count)
    return rng.uniform(0, 1, count) < probability, probability


def test_deciles_equal_scikit_learn() -> None:
    hits, probability = happened(3000)
    found = calibration_curve(hits, probability)
    observed, predicted = sklearn_curve(hits, probability, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.predicted, predicted, rtol=1e-12)
    np.testing.assert_allclose(found.observed, observed, rtol=1e-12)
    assert found.windows.tolist() == [300] * 10


@pytest.mark.parametrize("horizon", [1, 24])
def test_intervals_are_those_of_wilson_for_windows_that_do_not_overlap(horizon: int) -> None:
    hits, probability = happened(2400)
    found = calibration_curve(hits, probability, horizon)
    z = norm.ppf(0.975)
    for share, low, high, windows in zip(
        found.observed, found.low, found.high, found.windows, strict=True
    ):
        count = windows // horizon
        center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
        assert (low, high) == pytest.approx((center - half, center + half))
        if horizon == 1:
            expected = binomtest(round(share * count), count).proportion_ci(method="wilson")
            assert (low, high) == pytest.approx((expected.low, expected.high))


def test_equal_probabilities_are_one_group() -> None:
    hits, _ = happened(100)
    found = calibration_curve(hits, np.full(100, 0.4))
    assert found.predicted == pytest.approx([0.4])
    assert found.observed == pytest.approx([hits.mean()])
    assert found.windows.tolist() == [100]


def test_a_single_window() -> None:
    found = calibration_curve(np.array([True]), np.array([0.7]), 336)
    assert (found.predicted[0], found.observed[0], found.windows[0]) == (0.7, 1.0, 1)
    assert 0.0 < found.low[0] < found.high[0] == 1.0


def test_shares_below_quantiles_are_counted(data: WindowedData) -> None:
    data = of_kind(data, "volatility")
    assert isinstance(data.output, LogSigma)
    levels = tuple(data.output.quantiles)
    tested = scoring_of(data).tested(data, data.base(data.test))
    found = quantile_shares(tested, levels)
    sigma = np.exp(data.base(data.test)) * np.sqrt(data.output.variance_factor)
    close = data.prepared.frame["close"].to_numpy()
    rows = data.prepared.matrix.rows[data.test + data.length - 1]
    returns = np.log(close[rows + 1] / close[rows])
    expected = [np.mean(returns / sigma <= each) for each in data.output.quantiles.values()]
    np.testing.assert_allclose(found.observed, expected)
    assert found.predicted.tolist() == list(levels)
    unknown = {**tested.further, "returns": np.full(len(returns), np.nan)}
    assert len(quantile_shares(replace(tested, further=unknown), levels).predicted) == 0
