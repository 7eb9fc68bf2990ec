"""Scoring a basic bundle, compared with onnxruntime alone on the same windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from incumbents import Case

from atb_fast import Bundle, TrainingConfig, load_bundle, run_training_pipeline

LENGTH = 120
HOURLY = pytest.mark.parametrize("case", ["64k"], indirect=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("models")
    config: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "timeframe": "1h"}
    config |= {"recipe": "basic", "start_date": "2024-11-20", "epochs": 1, "engine": "keras"}
    config |= {"promote": "always"}
    run_training_pipeline(TrainingConfig(**config, registry=root, skip_plots=True))
    return load_bundle("BTCUSDT:1h:basic", registry=root)


@HOURLY
@pytest.mark.parametrize("way", ["predict", "two threads", "onnxruntime"])
def test_every_bar(benchmark: Any, bundle: Bundle, case: Case, way: str) -> None:
    """Score the newest 2,000 bars. The time of onnxruntime does not include making windows."""
    benchmark.group = f"scoring every bar, {case}"
    candles = case.candles.tail(2000 + LENGTH)
    matrix = bundle.features(candles)
    starts = np.arange(2000)
    parts = [matrix.gather(part, LENGTH) for part in np.split(starts, range(64, 2000, 64))]

    two = load_bundle(bundle.path, threads=2)

    def predict(bundle: Bundle = bundle) -> Any:
        return bundle.predict(candles)["prediction"][LENGTH:].to_numpy()

    ways: dict[str, Any] = {
        "predict": predict,
        "two threads": lambda: predict(two),
        "onnxruntime": lambda: np.concatenate([bundle.run(part) for part in parts])[:, 0],
    }
    got = benchmark.pedantic(ways[way], rounds=5, warmup_rounds=1)
    if way == "onnxruntime":
        low, high = matrix.ranges("close", starts, LENGTH)  # type: ignore[union-attr]
        got = low + got.astype(np.float64) * (high - low)
    np.testing.assert_allclose(got, predict(), rtol=1e-6)


@HOURLY
@pytest.mark.parametrize("way", ["predict_last", "onnxruntime"])
def test_one_bar(benchmark: Any, bundle: Bundle, case: Case, way: str) -> None:
    """Score the newest bar, from 120 candles."""
    benchmark.group = f"scoring one bar, {case}"
    candles = case.candles.tail(LENGTH)
    window = bundle.features(candles).gather(np.array([0]), LENGTH)
    ways: dict[str, Any] = {
        "predict_last": lambda: bundle.predict_last(candles),
        "onnxruntime": lambda: bundle.run(window),
    }
    result = benchmark.pedantic(ways[way], rounds=400, warmup_rounds=50)
    assert np.isfinite(result)
