"""The volatility target and its recipe, compared with pandas, NumPy and scikit-learn."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.typing import NDArray

from atb_fast import TrainingConfig
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import ArgumentError
from atb_fast.evaluation.leak import find_leaks
from atb_fast.features.outputs import LogSigma
from atb_fast.features.specs import compiled, unscaled
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion import sample
from atb_fast.ingestion.market import Market
from atb_fast.recipes import documents, prepare, split
from atb_fast.recipes.targets.volatility import (
    Volatility,
    log_volatility,
    returns_after,
    variance_factor,
)

HOUR = TIMEFRAMES["1h"]
PRICES = ("high", "low", "close")


def config(timeframe: str = "1d", **options: Any) -> TrainingConfig:
    given = {"symbol": "BTCUSDT", "source": "sample", "recipe": "volatility"}
    return TrainingConfig(**{**given, "timeframe": timeframe, **options})


@pytest.fixture(scope="module")
def hourly() -> pl.DataFrame:
    return sample.candles("BTCUSDT", "1h").tail(3000)


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    return split(prepare(market, config()), config())


def volatility(candles: pl.DataFrame, horizon: int, bar_ms: int = HOUR) -> NDArray[np.float64]:
    times = candles["timestamp"].dt.epoch("ms").to_numpy()
    prices = [candles[name].to_numpy() for name in PRICES]
    return log_volatility(times, *prices, bar_ms=bar_ms, horizon=horizon)


def test_one_bar_is_parkinsons_estimate(hourly: pl.DataFrame) -> None:
    frame = hourly.to_pandas()
    expected = 0.5 * np.log(np.log(frame["high"] / frame["low"]) ** 2 / (4 * np.log(2)))
    np.testing.assert_allclose(volatility(hourly, 1), expected, rtol=1e-9)


def test_several_bars_are_the_realized_volatility(hourly: pl.DataFrame) -> None:
    returns = np.log(hourly.to_pandas()["close"]).diff()
    expected = np.log(np.sqrt((returns**2).rolling(24).sum()))
    np.testing.assert_allclose(volatility(hourly, 24), expected, rtol=1e-9)


@pytest.mark.parametrize("horizon", [1, 3])
def test_a_volatility_of_zero_and_bad_prices_are_unknown(
    hourly: pl.DataFrame, horizon: int
) -> None:
    prices = {name: hourly[name].to_numpy().copy() for name in PRICES}
    for name in PRICES:
        prices[name][100:104] = 50.0
        prices[name][[200, 210, 220]] = [np.nan, 0.0, -1.0]
    times = hourly["timestamp"].dt.epoch("ms").to_numpy()
    found = log_volatility(times, *prices.values(), bar_ms=HOUR, horizon=horizon)
    unknown = set(np.flatnonzero(np.isnan(found)))
    if horizon == 1:
        assert unknown == {*range(100, 104), 200, 210, 220}
    else:
        bad = {row + k for row in (200, 210, 220) for k in range(4)}
        # Of the four equal closes, only the last has three returns of 0 before it.
        assert unknown == {0, 1, 2, 103} | bad


def test_several_bars_must_be_consecutive(hourly: pl.DataFrame) -> None:
    gap = pl.concat([hourly.head(500), hourly.slice(510)])
    found = volatility(gap, 3)
    assert list(np.flatnonzero(np.isnan(found))) == [0, 1, 2, 500, 501, 502]
    np.testing.assert_allclose(found[503:], volatility(hourly, 3)[513:], rtol=1e-12)
    assert not np.isnan(volatility(gap, 1)).any()


@pytest.mark.parametrize("horizon", [1, 5])
def test_labels_are_the_bars_after_a_window(market: Market, horizon: int) -> None:
    options = config(horizon=horizon)
    data = split(prepare(market, options), options)
    frame = market.candles.to_pandas()
    logs = np.log(frame["close"])
    now = 0.5 * np.log((logs.diff() ** 2).rolling(horizon).sum())
    if horizon == 1:
        now = np.log(np.log(frame["high"] / frame["low"]) / (2 * np.sqrt(np.log(2))))
    every = data.parts.every
    rows = data.prepared.matrix.rows[every + data.length - 1]
    np.testing.assert_allclose(data.targets(every), now.shift(-horizon).to_numpy()[rows], rtol=1e-9)
    np.testing.assert_array_equal(data.fitted(every), data.targets(every))
    np.testing.assert_allclose(data.persistence(every), now.to_numpy()[rows], rtol=1e-9)
    expected = (logs.shift(-horizon) - logs).to_numpy()[rows]
    np.testing.assert_allclose(returns_after(data, every), expected, atol=1e-12)
    assert data.output == LogSigma(horizon)


def test_with_a_lag_the_label_is_one_bar_later(market: Market) -> None:
    recipe = documents.from_document(document() | {"timeframe": "1d", "lag": 1})
    options = TrainingConfig(symbol="BTCUSDT", source="sample", recipe=recipe, horizon=3)
    data = split(prepare(market, options), options)
    close = np.log(market.candles["close"].to_numpy())
    last = data.prepared.matrix.rows[data.test + data.length - 1]
    moves = np.stack([close[last + k + 1] - close[last + k] for k in (1, 2, 3)])
    np.testing.assert_allclose(
        data.targets(data.test), 0.5 * np.log(np.square(moves).sum(axis=0)), rtol=1e-9
    )
    before = np.stack([close[last - k] - close[last - k - 1] for k in (0, 1, 2)])
    np.testing.assert_allclose(
        data.persistence(data.test), 0.5 * np.log(np.square(before).sum(axis=0)), rtol=1e-9
    )
    # Bands are around the last close of the window.
    expected = close[last + 4] - close[last]
    np.testing.assert_allclose(returns_after(data, data.test), expected, atol=1e-12)


def flattened(candles: pl.DataFrame, rows: list[int]) -> pl.DataFrame:
    """Return `candles` with bars in which nothing was traded."""
    flat = pl.int_range(pl.len()).is_in(rows)
    kept = pl.when(flat).then(pl.col("open"))
    prices = [kept.otherwise(pl.col(name)).alias(name) for name in PRICES]
    return candles.with_columns(*prices, volume=pl.when(flat).then(0.0).otherwise("volume"))


def test_bars_without_a_range_are_left_out_and_counted(
    hourly: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [1500, 1501, 2000]
    options = config("1h")
    with caplog.at_level(logging.INFO, "atb_fast"):
        some = prepare(Market(flattened(hourly, rows), None), options)
        starts = options.definition.starts(some, options)
    # Every bar keeps its features: a mean skips the bars that have no range.
    assert list(some.matrix.rows) == list(range(some.pipeline.warmup, 3000))  # type: ignore[union-attr]
    forecast = some.matrix.rows[starts + options.sequence_length - 1] + 1
    first = int(some.matrix.rows[0]) + options.sequence_length
    assert sorted(set(range(first, 3000)) - set(forecast)) == rows
    assert "3 with a volatility of 0 or a missing price" in caplog.text
    # Persistence from a bar without a range is the volatility of the last one that has one.
    data = split(some, options)
    at = data.parts.every[data.prepared.matrix.rows[data.parts.every + data.length - 1] == 1501]
    expected = volatility(hourly, 1)[1499]
    if len(at):  # not dropped between two parts
        assert data.persistence(at)[0] == pytest.approx(expected)


def test_features_equal_pandas(hourly: pl.DataFrame) -> None:
    made = evaluated(flattened(hourly, [1500]), "1h")
    frame = flattened(hourly, [1500]).to_pandas()
    spread = np.log(frame["high"] / frame["low"])
    logs = np.log(spread.where(spread > 0))
    means = {n: logs.rolling(n, min_periods=1).mean() for n in (6, 24, 168, 720)}
    returns = np.log(frame["close"]).diff()
    loss = returns.clip(upper=0)
    floored = np.log(spread + 0.00001)
    times = frame["timestamp"] + pd.Timedelta(hours=1)
    week = frame["volume"].rolling(168).mean()
    expected = {
        "har_1h": logs.fillna(means[6]),
        **{f"har_{n}h": mean for n, mean in means.items()},
        **{
            f"same_hour_week_{w + 1}": sum(floored.shift(24 * (7 * w + d) - 1) for d in range(1, 8))
            / 7
            for w in range(4)
        },
        "hour_sin": np.sin(2 * np.pi * times.dt.hour / 24),
        "hour_cos": np.cos(2 * np.pi * times.dt.hour / 24),
        "weekday_sin": np.sin(2 * np.pi * times.dt.day_of_week / 7),
        "weekday_cos": np.cos(2 * np.pi * times.dt.day_of_week / 7),
        **{
            name: (times.dt.day_name() == name.title()).astype(float)
            for name in ("saturday", "sunday", "monday")
        },
        "volume_1h": np.log(1 + frame["volume"] / week),
        "volume_24h": np.log(1 + frame["volume"].rolling(24).mean() / week),
        "return_size": returns.abs(),
        "loss": loss,
        **{f"loss_{n}h": np.sqrt((loss**2).rolling(n).mean()) for n in (24, 168)},
    }
    assert list(made) == list(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(
            made[name][720:], column.to_numpy()[720:], rtol=1e-7, atol=1e-12, err_msg=name
        )


def test_daily_features_equal_pandas(market: Market) -> None:
    made, frame = evaluated(market.candles, "1d"), market.candles.to_pandas()
    logs = np.log(np.log(frame["high"] / frame["low"]))
    month, returns = frame["volume"].rolling(30).mean(), np.log(frame["close"]).diff()
    loss = returns.clip(upper=0)
    expected = {
        **{f"har_{n}d": logs.rolling(n).mean() for n in (1, 7, 30)},
        "volume_1d": np.log(1 + frame["volume"] / month),
        "volume_7d": np.log(1 + frame["volume"].rolling(7).mean() / month),
        **{f"loss_{n}d": np.sqrt((loss**2).rolling(n).mean()) for n in (7, 30)},
    }
    shared = {"weekday_sin", "weekday_cos", "saturday", "sunday", "monday", "return_size", "loss"}
    assert set(made) == {*expected, *shared}
    for name, column in expected.items():
        np.testing.assert_allclose(
            made[name][30:], column.to_numpy()[30:], rtol=1e-7, atol=1e-12, err_msg=name
        )


def evaluated(candles: pl.DataFrame, timeframe: str) -> dict[str, NDArray[np.float64]]:
    """Return the unscaled features of the recipe for a timeframe."""
    specs = config(timeframe).definition.specs  # type: ignore[attr-defined]
    values = unscaled(compiled(specs, TIMEFRAMES[timeframe])).evaluate(candles)
    return dict(zip(specs, values.T, strict=True))


def test_the_factor_and_the_quantiles_are_estimated_before_the_test(data: WindowedData) -> None:
    target = Volatility(quantiles=(0.05, 0.5, 0.95))
    rng = np.random.default_rng(5)
    outputs = data.labels.values + rng.normal(0, 0.3, len(data.labels.values))

    def predict(starts: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(outputs[starts + data.length])

    found = target.calibrated(data, predict)
    assert isinstance(found, LogSigma)
    actual = data.targets(data.validation)
    factor = variance_factor(actual, predict(data.validation))
    assert found.variance_factor == pytest.approx(factor)
    assert factor == pytest.approx(np.mean(np.exp(2 * (actual - predict(data.validation)))))
    seen = np.concatenate([data.train, data.validation])
    ratio = returns_after(data, seen) / (np.exp(predict(seen)) * np.sqrt(factor))
    expected = np.quantile(ratio, [0.05, 0.5, 0.95])
    np.testing.assert_allclose(list(found.quantiles.values()), expected, rtol=1e-9)
    assert list(found.quantiles) == [0.05, 0.5, 0.95]
    assert Volatility().calibrated(data, predict) == replace(found, quantiles={})


@pytest.mark.parametrize("timeframe", ["1h", "1d"])
@pytest.mark.parametrize("horizon", [1, 7])
def test_the_recipe_does_not_look_ahead(
    market: Market, hourly: pl.DataFrame, timeframe: str, horizon: int
) -> None:
    some = Market(hourly, None) if timeframe == "1h" else market
    report = find_leaks(some, config(timeframe, horizon=horizon), cuts=40)
    assert report.leaks == ()


def test_the_base_is_har(data: WindowedData) -> None:
    assert data.labels.base is not None
    weights, _ = data.labels.base
    names = np.array(data.prepared.matrix.names)
    assert set(names[weights != 0]) == {"har_1d", "har_7d", "har_30d"}
    error = data.targets(data.train) - data.base(data.train)
    assert abs(error.mean()) < 1e-5


def document(**features: str) -> dict[str, Any]:
    target = {"kind": "volatility"}
    made = features or {"har_1": "log(log(high / low))"}
    return {"name": "mine", "features": made, "target": target}


def test_without_a_har_feature_there_is_one_clear_error() -> None:
    with pytest.raises(ArgumentError, match="at least one whose name begins with har_"):
        documents.from_document(document(range="log(high / low)"))
    assert documents.from_document(document(har_1="log(log(high / low))")).name == "mine"


def test_quantiles_must_ascend() -> None:
    for wrong in ([0.5, 0.05], [0.5, 0.5]):
        with pytest.raises(ArgumentError, match="expected ascending numbers"):
            Volatility(quantiles=tuple(wrong))


def test_each_level_has_a_column_named_after_its_percentage() -> None:
    levels = {0.001: -3.0, 0.004: -2.5, 0.025: -2.0, 0.05: -1.6, 0.07: -1.5, 0.5: 0.0, 0.975: 2.0}
    output = LogSigma(variance_factor=4.0, quantiles=levels)
    found = output.columns(np.log([0.01]), np.array([100.0]))
    names = ["q00.1", "q00.4", "q02.5", "q05", "q07", "q50", "q97.5"]
    assert list(found) == ["sigma", *(f"price_{name}" for name in names)]
    assert found["sigma"][0] == pytest.approx(0.02)
    assert found["price_q02.5"][0] == pytest.approx(100 * np.exp(-0.04))


def test_the_scaler_of_windows_is_one_clear_error() -> None:
    with pytest.raises(ArgumentError, match="does not support the scaler 'window'"):
        documents.from_document(document(har_1="close") | {"scaler": "window"})
