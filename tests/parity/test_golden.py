"""Features and windows, compared with those of the legacy trainer on the same real candles."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atb_fast import FeatureMatrix, TrainingConfig
from atb_fast.evaluation.metrics import rmse
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import load_market
from atb_fast.recipes import prepare, split

LENGTH = 120


@pytest.fixture(scope="module")
def config(shared: Path) -> TrainingConfig:
    return TrainingConfig(
        symbol="BTCUSDT",
        candles=shared / "data" / "BTCUSDT_1d_2017-08-17_2024-12-31.parquet",
        sentiment=shared / "data" / "fear_greed_1d_2018-02-01_2025-05-02.parquet",
        start_date=date(2019, 1, 1),
        end_date=date(2024, 12, 1),
    )


@pytest.fixture(scope="module")
def prepared(config: TrainingConfig) -> PreparedData:
    return prepare(load_market(config), config, now=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def data(prepared: PreparedData, config: TrainingConfig) -> WindowedData:
    return split(prepared, config)


@pytest.fixture(scope="module")
def golden(shared: Path) -> pl.DataFrame:
    name = "legacy_features_BTCUSDT_1d_2019-01-01_2024-12-01.parquet"
    return pl.read_parquet(shared / "golden" / name)


@pytest.fixture(scope="module")
def seeds(shared: Path) -> Any:
    return json.loads((shared / "golden" / "legacy_seeds.json").read_text())


def test_features_equal_the_golden_file(
    config: TrainingConfig, prepared: PreparedData, golden: pl.DataFrame
) -> None:
    names = [name for name in golden.columns if name.endswith("_scaled")]
    assert prepared.matrix.names == names
    assert prepared.timestamps.to_list() == golden["timestamp"].to_list()
    np.testing.assert_array_equal(prepared.close, golden["close"].to_numpy())

    market = load_market(config)
    assert market.sentiment is not None
    from atb_fast.features.sentiment import merge_sentiment, sentiment_features

    frame = merge_sentiment(market.candles, sentiment_features(market.sentiment), "1d")
    assert prepared.pipeline
    float64 = prepared.pipeline.transform_float64(frame)
    np.testing.assert_allclose(float64, golden[names].to_numpy(), rtol=0, atol=1e-12)


def test_sentiment_assessment_equals_the_legacy_run(prepared: PreparedData) -> None:
    assert prepared.assessment is not None
    assert prepared.assessment.score == pytest.approx(0.6)
    assert prepared.assessment.recommendation == "hybrid_with_fallback"
    assert prepared.assessment.gaps == (("2024-10-26", "2024-10-26"),)


def test_windows_hash_to_the_golden_hash(data: WindowedData, seeds: Any) -> None:
    expected = seeds["windows"]
    starts = np.concatenate([data.train, data.test])
    assert (len(data.train), len(data.test)) == (expected["train"], expected["test"])
    copied = data.windows(starts)
    assert isinstance(data.prepared.matrix, FeatureMatrix)
    viewed = np.ascontiguousarray(data.prepared.matrix.windows(LENGTH)[:-1])
    for windows in (copied, viewed):
        assert list(windows.shape) == expected["shape"]
        assert (
            hashlib.sha256(windows.tobytes()).hexdigest()
            == (expected["sha256_X_float32_le_C_order"])
        )
    targets = data.targets(starts)
    assert hashlib.sha256(targets.tobytes()).hexdigest() == expected["sha256_y_float64_le"]


def test_persistence_equals_the_legacy_run(data: WindowedData, seeds: Any) -> None:
    error = rmse(data.targets(data.test), data.persistence(data.test))
    assert error == pytest.approx(seeds["persistence_test_rmse"], abs=5e-4)


def test_hourly_candles_with_gaps(shared: Path) -> None:
    config = TrainingConfig(
        symbol="BTCUSDT",
        timeframe="1h",
        candles=shared / "data" / "BTCUSDT_1h_2017-08-17_2024-12-31.parquet",
        sentiment=shared / "data" / "fear_greed_1d_2018-02-01_2025-05-02.parquet",
        start_date=date(2019, 1, 1),
        end_date=date(2024, 12, 1),
    )
    market = load_market(config)
    made = prepare(market, config, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert made.model_type == "sentiment"
    # The 29 bars of the warm-up and the hours of the last day after midnight have no sentiment.
    assert len(made.matrix) == len(market.candles) - 29 - 23
    assert np.isfinite(made.matrix.values).all()
