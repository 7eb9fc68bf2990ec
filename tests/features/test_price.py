"""Conversion of outputs to prices, compared with the formulas of the contract with the engines."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import polars as pl
import pytest

from atb_fast import BundleError, CandleMatrix, FeatureMatrix, PriceScale

OUTPUTS = np.array([-0.5, 0.0, 0.25, 1.5])
STARTS = np.array([0, 3, 40, 7])
LAST = np.array([10.0, 20.0, 30.0, 40.0])


@pytest.fixture(scope="module")
def candles() -> CandleMatrix:
    values = np.random.default_rng(0).uniform(1.0, 9.0, (50, 2))
    frame = pl.DataFrame({"close": values[:, 0], "volume": values[:, 1]})
    return CandleMatrix(frame, ["volume", "close"])


def test_linear(candles: CandleMatrix) -> None:
    scale = PriceScale.linear(100.0, 3.0)
    np.testing.assert_array_equal(
        scale.forecasts(OUTPUTS, candles, STARTS, LAST), OUTPUTS * 3 + 100
    )
    same = PriceScale.linear()
    np.testing.assert_array_equal(same.forecasts(OUTPUTS, candles, STARTS, LAST), OUTPUTS)


def test_rolling_minmax(candles: CandleMatrix) -> None:
    got = PriceScale.rolling_minmax(10).forecasts(OUTPUTS, candles, STARTS, LAST)
    closes = candles.values[:, 1]
    for price, output, start in zip(got, OUTPUTS, STARTS, strict=True):
        window = closes[start : start + 10]
        assert price == window.min() + output * (window.max() - window.min())


def test_log_return() -> None:
    matrix = FeatureMatrix(np.zeros((50, 1), np.float32), ["x"])
    scale = PriceScale.log_return(0.02, horizon=3)
    got = scale.forecasts(OUTPUTS, matrix, STARTS, LAST)
    np.testing.assert_array_equal(got, LAST * np.exp(OUTPUTS * 0.02))
    assert np.isinf(scale.forecasts(np.array([1e9]), matrix, STARTS[:1], LAST[:1])).all()


@pytest.mark.parametrize(
    ("scale", "document"),
    [
        (PriceScale.linear(), {"mean": 0.0, "std": 1.0}),
        (PriceScale.linear(5.0, 2.0), {"mean": 5.0, "std": 2.0}),
        (PriceScale.linear(horizon=4), {"mean": 0.0, "std": 1.0, "horizon": 4}),
        (
            PriceScale.rolling_minmax(120),
            {"method": "rolling_minmax", "window": 120, "target_feature": "close"},
        ),
        (
            PriceScale.log_return(0.03, horizon=2),
            {"method": "log_return", "scale": 0.03, "horizon": 2},
        ),
    ],
)
def test_documents(scale: PriceScale, document: dict[str, Any]) -> None:
    assert scale.to_dict() == document
    assert PriceScale.from_dict(document) == scale
    assert PriceScale.from_dict(document | {"unknown": "key"}) == scale
    with pytest.raises(FrozenInstanceError):
        scale.mean = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "cannot be converted to a price: metadata.json has no price_normalization"),
        ({}, "cannot be converted to a price"),
        ([1], r"price_normalization is \[1\], expected an object"),
        ({"method": "zscore"}, "cannot be read .KeyError: 'mean'.; expected mean and std"),
        ({"mean": 0.0}, "KeyError: 'std'"),
        ({"mean": "x", "std": 1.0}, "ValueError: could not convert"),
        ({"mean": 10**400, "std": 1.0}, "OverflowError"),
        ({"mean": float("nan"), "std": 1.0}, "mean is nan and std is 1.0, expected finite numbers"),
        ({"mean": 0.0, "std": float("inf")}, "expected finite numbers"),
        ({"mean": 0.0, "std": 1.0, "horizon": 0}, "horizon is 0, expected an integer from 1"),
        ({"method": "rolling_minmax", "target_feature": "close"}, "KeyError: 'window'"),
        (
            {"method": "rolling_minmax", "window": 1.5, "target_feature": "close"},
            "window is 1.5, expected an integer",
        ),
        (
            {"method": "rolling_minmax", "window": 120, "target_feature": "open"},
            "target_feature is 'open', expected 'close'",
        ),
        ({"method": "log_return", "scale": 0.1}, "KeyError: 'horizon'"),
        ({"method": "log_return", "scale": 0.1, "horizon": True}, "horizon is True"),
        ({"method": "log_return", "scale": 0.1, "horizon": 1 << 21}, "horizon is 2097152"),
        ({"method": "log_return", "scale": 0.0, "horizon": 1}, "scale is 0.0, expected"),
        ({"method": "log_return", "scale": float("nan"), "horizon": 1}, "scale is nan, expected"),
        ({"method": "log_return", "scale": 100.0, "horizon": 1}, "above 0 and below 100"),
        ({"method": "log_return", "scale": None, "horizon": 1}, "TypeError"),
    ],
)
def test_documents_that_cannot_be_used(document: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        PriceScale.from_dict(document)
