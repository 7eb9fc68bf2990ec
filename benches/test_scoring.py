"""Scoring a basic bundle, compared with onnxruntime alone on the same windows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
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
    parts = [matrix.gather(part, LENGTH) for part in np.split(starts, range(16, 2000, 16))]

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
def test_one_bar(benchmark: Any, bundle: Bundle, case: Case) -> None:
    """Score the newest bar, from 120 candles, and time onnxruntime alone between two rounds.

    Both alternate, because the speed of a shared machine changes from second to second.
    """
    benchmark.group = f"scoring one bar, {case}"
    candles = case.candles.tail(LENGTH)
    window = bundle.features(candles).gather(np.array([0]), LENGTH)
    session = onnxruntime.InferenceSession(bundle.path / "model.onnx", _one_thread())
    feed = {session.get_inputs()[0].name: window}
    seconds: list[float] = []

    def alone() -> None:
        begin = perf_counter()
        session.run(None, feed)
        seconds.append(perf_counter() - begin)

    price = benchmark.pedantic(bundle.predict_last, (candles,), setup=alone, rounds=800)
    benchmark.extra_info["onnxruntime"] = median(seconds)
    assert np.isfinite(price)


@pytest.mark.parametrize("case", ["1.3M"], indirect=True)
@pytest.mark.parametrize("library", ["polars", "pyarrow", "pandas"])
def test_one_bar_of_a_long_market(benchmark: Any, bundle: Bundle, case: Case, library: str) -> None:
    """Score the newest bar from every candle there is: the time must not depend on their number."""
    benchmark.group = f"scoring one bar, given candles, {case}"
    minute = load_bundle(bundle.path)
    minute.metadata["timeframe"] = "1m"
    candles = case.candles
    frame = {"polars": candles, "pyarrow": candles.to_arrow(), "pandas": candles.to_pandas()}
    price = benchmark.pedantic(minute.predict_last, (frame[library],), rounds=100, warmup_rounds=5)
    assert price == minute.predict_last(candles.tail(LENGTH))


@HOURLY
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 16, 64, 256])
def test_batches(benchmark: Any, bundle: Bundle, case: Case, batch: int, threads: int) -> None:
    """Run onnxruntime alone on 1,024 windows; the batch size of `predict` was chosen by this."""
    benchmark.group = f"batches of windows, {case}, threads: {threads}"
    windows = bundle.features(case.candles.tail(1024 + LENGTH)).gather(np.arange(1024), LENGTH)
    parts = [windows[first : first + batch] for first in range(0, 1024, batch)]

    def run() -> Any:
        if threads == 1:
            return np.concatenate([bundle.run(part) for part in parts])
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(bundle.run, parts)))

    got = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    np.testing.assert_array_equal(got, bundle.run(windows))  # equal to the last bit


def _one_thread() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options
