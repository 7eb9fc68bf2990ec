"""Error metrics, compared with scipy and pandas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from relabelling import relabelled
from scipy import stats

from atb_fast.evaluation.metrics import (
    directional_accuracy,
    return_deciles,
)
from atb_fast.evaluation.scoring import scoring_of
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData


def test_directional_accuracy_ignores_bars_that_do_not_move() -> None:
    last = np.full(103, 100.0)
    actual = last + 1
    actual[-3:] = 100.0  # did not move
    predicted = np.where(np.arange(103) < 53, 101.0, 99.0)
    found = directional_accuracy(last, actual, predicted)
    assert found is not None
    assert (found.share, found.bars, found.up_share) == (0.53, 100, 1.0)
    expected = stats.binomtest(53, 100).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_overlapping_horizons_are_counted_once(data: WindowedData) -> None:
    far = relabelled(data, PriceScale.linear(horizon=4))
    far = replace(far, parts=replace(data.parts, test=data.test[:41]))
    last, actual = far.persistence(far.test), far.targets(far.test)
    predicted = last + np.random.default_rng(1).standard_normal(41)
    scoring = scoring_of(far)
    found = scoring.figures(scoring.tested(far, predicted))
    expected = directional_accuracy(last[::4], actual[::4], predicted[::4])
    assert expected is not None
    assert found["directional_accuracy"] == expected.share
    assert found["directional_bars"] == expected.bars == 11
    near, wide = (return_deciles(last, actual, predicted, horizon) for horizon in (1, 4))
    np.testing.assert_allclose(wide.half_width, 2 * near.half_width)


def test_directional_accuracy_of_constant_prices() -> None:
    still = np.full(5, 3.0)
    assert directional_accuracy(still, still, still + 1) is None
    # A model that predicts no move predicts no direction.
    assert directional_accuracy(still, still + 1, still) is None


@pytest.mark.parametrize("count", [100, 403])
def test_deciles_equal_pandas(count: int) -> None:
    rng = np.random.default_rng(1)
    last = rng.uniform(50, 100, count)
    actual, predicted = (last * np.exp(rng.normal(0, 0.05, count)) for _ in range(2))
    predicted[:3] = [0.0, -1.0, -5.0]
    deciles = return_deciles(last, actual, predicted)
    assert deciles.left_out == 3

    frame = pd.DataFrame({"last": last, "actual": actual, "predicted": predicted})[3:]
    returns = pd.DataFrame(
        {name: frame[name] / frame["last"] - 1 for name in ("actual", "predicted")}
    )
    groups = returns.groupby(pd.qcut(returns["predicted"], 10))
    np.testing.assert_allclose(deciles.predicted, groups["predicted"].mean())
    np.testing.assert_allclose(deciles.actual, groups["actual"].mean())
    np.testing.assert_allclose(deciles.half_width, groups["actual"].sem() * stats.norm.ppf(0.975))
