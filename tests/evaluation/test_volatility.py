"""Measures of volatility, compared with pandas, scikit-learn and scipy, and the baselines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_pinball_loss, r2_score

from atb_fast import TrainingConfig
from atb_fast.evaluation.volatility import (
    band_measures,
    baselines,
    coverage,
    ewma,
    pinball,
    qlike,
    r_squared,
    rolling_quantiles,
)
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.targets.volatility import returns_after, variance_factor

RNG = np.random.default_rng(7)
ACTUAL = RNG.normal(-4.0, 0.7, 500)
FORECAST = ACTUAL + RNG.normal(0.2, 0.5, 500)
#: ln sigma of one bar is ln(ln(high / low)) minus this.
OFFSET = np.log(2.0 * np.sqrt(np.log(2.0)))


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe="volatility", timeframe="1d")
    return split(prepare(market, config), config)


@pytest.fixture(scope="module")
def frame(data: WindowedData) -> pd.DataFrame:
    """The candles with the anchors of the test windows as index."""
    return data.prepared.frame.to_pandas()


def test_qlike_is_the_formula_on_variances() -> None:
    a, f = np.exp(2 * ACTUAL), np.exp(2 * FORECAST)
    np.testing.assert_allclose(qlike(ACTUAL, FORECAST), a / f - np.log(a / f) - 1, rtol=1e-9)
    assert (qlike(ACTUAL, ACTUAL) == 0).all()


def test_the_variance_factor_minimizes_qlike() -> None:
    best = minimize_scalar(lambda shift: qlike(ACTUAL, FORECAST + shift).mean())
    assert variance_factor(ACTUAL, FORECAST) == pytest.approx(np.exp(2 * best.x), rel=1e-6)


def test_r_squared_equals_sklearn() -> None:
    assert r_squared(ACTUAL, FORECAST) == pytest.approx(r2_score(ACTUAL, FORECAST), rel=1e-12)
    assert np.isnan(r_squared(np.ones(3), np.zeros(3)))


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_pinball_equals_sklearn(level: float) -> None:
    expected = mean_pinball_loss(ACTUAL, FORECAST, alpha=level)
    assert pinball(ACTUAL, FORECAST, level).mean() == pytest.approx(expected, rel=1e-12)


def test_coverage_includes_both_ends() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0])
    assert coverage(values, np.full(4, 1.0), np.full(4, 2.0)) == 0.5


def test_ewma_equals_pandas() -> None:
    returns = RNG.normal(0, 0.01, 300)
    returns[[0, 1, 50, 51, 200]] = np.nan
    expected = pd.Series(returns**2).ewm(alpha=0.06, adjust=False, ignore_na=True).mean()
    np.testing.assert_allclose(ewma(returns, 0.94), expected, rtol=1e-12)


def test_no_change_is_the_volatility_of_the_last_bar(
    data: WindowedData, frame: pd.DataFrame
) -> None:
    rows = data.prepared.matrix.rows[data.test + data.length - 1]
    logs = np.log(np.log(frame["high"] / frame["low"])) - OFFSET
    np.testing.assert_allclose(baselines(data)["persistence"].values, logs.to_numpy()[rows])
    np.testing.assert_allclose(data.targets(data.test), logs.shift(-1).to_numpy()[rows])


def test_ewma_has_no_mean_error_on_the_training_windows(
    data: WindowedData, frame: pd.DataFrame
) -> None:
    squares = np.log(frame["close"]).diff() ** 2
    level = 0.5 * np.log(squares.ewm(alpha=0.06, adjust=False, ignore_na=True).mean()).to_numpy()
    train, test = (
        level[data.prepared.matrix.rows[part + data.length - 1]] for part in (data.train, data.test)
    )
    expected = test - np.mean(train - data.targets(data.train))
    np.testing.assert_allclose(baselines(data)["EWMA"].values, expected, rtol=1e-9)


def test_har_is_least_squares_on_means_of_the_log_range(
    data: WindowedData, frame: pd.DataFrame
) -> None:
    logs = np.log(np.log(frame["high"] / frame["low"])) - OFFSET
    columns = np.column_stack([logs.rolling(n).mean() for n in (1, 7, 30)])
    train, test = (
        columns[data.prepared.matrix.rows[part + data.length - 1]]
        for part in (data.train, data.test)
    )
    expected = LinearRegression().fit(train, data.targets(data.train)).predict(test)
    # The matrix is float32.
    np.testing.assert_allclose(baselines(data)["HAR"].values, expected, atol=1e-5)


def test_each_baseline_has_its_own_factor(data: WindowedData) -> None:
    for forecast in baselines(data).values():
        assert forecast.variance_factor > 1
        np.testing.assert_allclose(
            np.exp(2 * forecast.scaled), forecast.variance_factor * np.exp(2 * forecast.values)
        )
    factor = variance_factor(data.targets(data.validation), data.base(data.validation))
    assert baselines(data)["HAR"].variance_factor == factor


def test_rolling_quantiles_equal_pandas(data: WindowedData, frame: pd.DataFrame) -> None:
    rows = data.prepared.matrix.rows[data.test + data.length - 1]
    past = np.log(frame["close"]).diff()
    np.testing.assert_allclose(
        returns_after(data, data.test), past.shift(-1).to_numpy()[rows], atol=1e-15
    )
    found = rolling_quantiles(data, [0.05, 0.5, 0.95])
    for i, level in enumerate((0.05, 0.5, 0.95)):
        expected = past.rolling(30).quantile(level).to_numpy()[rows]
        np.testing.assert_allclose(found[:, i], expected, atol=1e-12)


def test_bands_are_measured_where_both_exist() -> None:
    levels = [0.05, 0.5, 0.95]
    returns = RNG.normal(0, 0.02, 400)
    bands = np.outer(RNG.uniform(0.01, 0.03, 400), [-1.6, 0.1, 1.6])
    rolling = np.outer(np.full(400, 0.02), [-1.2, 0.0, 1.2])
    rolling[:50, 1] = np.nan
    found = band_measures(levels, returns, bands, rolling)
    assert found["band"] == pytest.approx(0.9)
    for prefix, quantiles in (("", bands[50:]), ("rolling_", rolling[50:])):
        values = returns[50:]
        losses = [
            mean_pinball_loss(values, quantiles[:, i], alpha=level)
            for i, level in enumerate(levels)
        ]
        assert found[f"{prefix}pinball"] == pytest.approx(np.mean(losses))
        inside = (values >= quantiles[:, 0]) & (values <= quantiles[:, -1])
        assert found[f"{prefix}coverage"] == pytest.approx(inside.mean())
    assert band_measures(levels, returns, bands, np.full((400, 3), np.nan)) == {
        "band": pytest.approx(0.9)
    }


def test_closes_that_do_not_move_have_no_infinite_ewma(market: Market) -> None:
    candles = market.candles.head(600)
    values = {"open": 100.0, "high": 101.0, "low": 99.0, "close": 100.0}
    still = {name: candles[name].to_numpy().copy() for name in values}
    for name, value in values.items():
        still[name][:200] = value
    config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe="volatility", timeframe="1d")
    some = split(prepare(Market(candles.with_columns(pl.DataFrame(still)), None), config), config)
    assert np.isfinite(baselines(some)["EWMA"].values).all()
