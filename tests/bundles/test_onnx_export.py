"""Graphs that take raw candles, compared with graphs that take features."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest

from atb_fast import FeaturePipeline, load_bundle
from atb_fast.bundles.candle_graph import CandleFeatures
from atb_fast.bundles.onnx_export import convert
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import BundleError, DataError, ExportError
from atb_fast.features.specs import Specs, compiled
from atb_fast.recipes import library
from atb_fast.serving.model import OnnxModel

LENGTH, LOOKBACK = 120, 29
LEGACY = library.get("legacy")


@pytest.fixture(scope="module")
def frame(truth: Callable[[str, str], pl.DataFrame]) -> pl.DataFrame:
    momentum = np.random.default_rng(0).normal(0.0, 0.1, 900)
    return truth("BTCUSDT", "1d").tail(900).with_columns(sentiment_momentum=pl.Series(momentum))


@pytest.fixture(scope="module")
def pipeline(frame: pl.DataFrame) -> FeaturePipeline:
    return fitted(LEGACY.specs, frame)


@pytest.fixture(scope="module")
def computed(pipeline: FeaturePipeline) -> CandleFeatures:
    return computed_by(LEGACY.specs, pipeline)


def fitted(specs: Specs, frame: pl.DataFrame) -> FeaturePipeline:
    return FeaturePipeline(compiled(specs, 86_400_000)).fit(frame)


def computed_by(specs: Specs, pipeline: FeaturePipeline) -> CandleFeatures:
    expressions = tuple(spec.expression for spec in specs.values())
    return CandleFeatures(expressions, tuple(pipeline.scalers))


@pytest.fixture(scope="module")
def model() -> Any:
    """A network whose outputs are about as large as prices, with random weights."""
    import keras

    from atb_fast.recipes.networks import CnnLstm

    keras.utils.set_random_seed(1)
    made = CnnLstm().build(LENGTH, 10)
    kernel, _ = made.layers[-1].get_weights()
    made.layers[-1].set_weights([kernel * 1e5, np.array([5e4])])
    return made


def run(content: bytes, **feeds: Any) -> Any:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.astype(np.float32) for name, value in feeds.items()})[0]


def raw_windows(frame: pl.DataFrame, starts: Any) -> Any:
    values = frame.select(CANDLE_COLUMNS).to_numpy()
    return values[np.asarray(starts)[:, None] + np.arange(LENGTH)]


def test_window_features_equal_the_pipeline_once_averages_are_full(
    frame: pl.DataFrame, pipeline: FeaturePipeline, computed: CandleFeatures
) -> None:
    starts = [0, 100, 500]
    neutral = frame.with_columns(sentiment_momentum=pl.lit(0.0))
    whole = pipeline.transform(neutral)
    for start, window in zip(starts, computed.of_windows(raw_windows(frame, starts)), strict=True):
        expected = whole.values[start : start + LENGTH - LOOKBACK]
        np.testing.assert_allclose(window[LOOKBACK:], expected, rtol=0, atol=1e-6)
    # Before that, averages are over fewer rows: other values, but in the same range.
    first = computed.of_windows(raw_windows(frame, [500]))[0]
    before = whole.values[500 - LOOKBACK : 500]
    assert 1e-4 < np.abs(first[:LOOKBACK] - before).max() < 1.0


def test_a_graph_of_candles_agrees_with_a_graph_of_features(
    frame: pl.DataFrame, computed: CandleFeatures, model: Any
) -> None:
    starts = np.arange(0, 780, 13)
    windows = raw_windows(frame, starts)
    features = run(convert(model, properties={}), features=computed.of_windows(windows))
    candles = run(convert(model, properties={}, candles=computed), candles=windows)
    assert np.ptp(features) > 1000
    np.testing.assert_allclose(candles, features, rtol=1e-4)


@pytest.fixture(scope="module")
def momentum(frame: pl.DataFrame) -> Any:
    """The sentiment of the windows at 3 and 400, shape (2, LENGTH, 1)."""
    values = frame["sentiment_momentum"].to_numpy()
    return values[np.array([3, 400])[:, None] + np.arange(LENGTH)][:, :, None]


def load(content: bytes, tmp_path: Path) -> OnnxModel:
    (tmp_path / "model.onnx").write_bytes(content)
    return OnnxModel(tmp_path / "model.onnx", LENGTH, 5)


def with_optional_input(content: bytes) -> bytes:
    """The file as early versions exported it: the constant is an optional input of the graph."""
    made = onnx.load_from_string(content)
    sentiment = onnx.helper.make_tensor_value_info(
        "sentiment_momentum", onnx.TensorProto.FLOAT, ["sentiment_batch", LENGTH, 1]
    )
    made.graph.input.append(sentiment)
    del made.metadata_props[:]
    return bytes(made.SerializeToString())


def test_sentiment_is_neutral_unless_it_is_given(
    frame: pl.DataFrame,
    pipeline: FeaturePipeline,
    computed: CandleFeatures,
    model: Any,
    momentum: Any,
    tmp_path: Path,
) -> None:
    content = convert(model, properties={}, candles=computed)
    windows = raw_windows(frame, [3, 400])
    neutral = run(content, candles=windows)
    loaded = load(content, tmp_path)
    assert loaded.takes_sentiment
    np.testing.assert_array_equal(loaded.run(windows.astype(np.float32)), neutral)
    zeros = np.concatenate([windows, np.zeros((2, LENGTH, 1))], axis=2).astype(np.float32)
    np.testing.assert_array_equal(loaded.run(zeros), neutral)
    both = np.concatenate([windows, momentum], axis=2).astype(np.float32)
    given = loaded.run(both)
    assert np.abs(given - neutral).min() > 1.0
    # In bundles of early versions, the optional input is in the file: the result is the same.
    older = load(with_optional_input(content), tmp_path)
    assert older.takes_sentiment
    np.testing.assert_array_equal(older.run(both), given)
    np.testing.assert_array_equal(older.run(windows.astype(np.float32)), neutral)
    index = [feature.name for feature in pipeline.features].index("sentiment_momentum_scaled")
    features = computed.of_windows(windows)
    features[:, :, index] = pipeline.scalers[index].transform(momentum.ravel()).reshape(2, LENGTH)
    expected = run(convert(model, properties={}), features=features)
    np.testing.assert_allclose(given, expected, rtol=1e-4)


def test_a_graph_without_sentiment_takes_none(
    frame: pl.DataFrame, model: Any, tmp_path: Path
) -> None:
    import keras

    from atb_fast.recipes.networks import CnnLstm

    keras.utils.set_random_seed(1)
    specs = LEGACY.used(index=False)
    prices = computed_by(specs, fitted(specs, frame))
    content = convert(CnnLstm().build(LENGTH, 9), properties={}, candles=prices)
    assert not load(content, tmp_path).takes_sentiment
    # A file whose property names an input that the graph cannot have.
    made = onnx.load_from_string(content)
    onnx.helper.set_model_props(made, {"optional_input": "sentiment_momentum"})
    with pytest.raises(BundleError, match="'sentiment_momentum' is not a constant of the graph"):
        load(bytes(made.SerializeToString()), tmp_path)


def test_onnxruntime_logs_no_warnings(models_of_candles: Path) -> None:
    """With default settings, as in engines."""
    path = next(models_of_candles.glob("BTCUSDT/sentiment/latest/model.onnx"))
    code = (
        "import sys, numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(path)!r}, "
        "providers=['CPUExecutionProvider'])\n"
        "(feed,) = session.get_inputs()\n"
        "window = numpy.ones((1, *feed.shape[1:]), numpy.float32)\n"
        "print(feed.shape[1:], session.run(None, {feed.name: window})[0].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[120, 5] (1, 1)\n"
    assert done.stderr == ""


def test_constant_prices(computed: CandleFeatures, model: Any) -> None:
    windows = np.full((1, LENGTH, 5), 100.0)
    got = run(convert(model, properties={}, candles=computed), candles=windows)
    expected = run(convert(model, properties={}), features=computed.of_windows(windows))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_names_and_properties_of_the_file(computed: CandleFeatures, model: Any) -> None:
    content = convert(model, properties={"a": "1"}, candles=computed)
    assert content == convert(model, properties={"a": "1"}, candles=computed)
    made = onnx.load_from_string(content)
    onnx.checker.check_model(made, full_check=True)
    assert (made.ir_version, made.producer_name) == (8, "atb-fast")
    assert [(o.domain, o.version) for o in made.opset_import] == [("", 17)]
    assert {p.key: p.value for p in made.metadata_props} == {
        "a": "1",
        "optional_input": "sentiment_momentum",
    }
    assert [value.name for value in made.graph.input] == ["candles"]
    assert [value.name for value in made.graph.output] == ["prediction"]
    assert not made.graph.value_info
    operators = [node.op_type for node in made.graph.node]
    assert operators.count("LSTM") == 2
    assert "Loop" not in operators


def test_a_graph_with_a_loop_is_rejected() -> None:
    import keras

    def with_gru(**options: bool) -> Any:
        layers = [keras.layers.GRU(4, **options), keras.layers.Dense(1)]
        return keras.Sequential([keras.layers.Input((10, 5)), *layers])

    with pytest.raises(ExportError, match="contains a Loop, which engines run 15 to 40"):
        convert(with_gru(), properties={})
    convert(with_gru(unroll=True), properties={})


def test_windows_across_a_day_without_sentiment(shared: Path, tmp_path: Path) -> None:
    """2024-10-26 has no sentiment: features skip it, raw candles do not."""
    from atb_fast import TrainingConfig, run_training_pipeline

    data = shared / "data"
    config: dict[str, Any] = {"symbol": "BTCUSDT", "start_date": "2023-09-01", "epochs": 1}
    config |= {"candles": data / "BTCUSDT_1d_2017-08-17_2024-12-31.parquet", "engine": "keras"}
    config |= {"sentiment": data / "fear_greed_1d_2018-02-01_2025-05-02.parquet"}
    config |= {"end_date": "2024-12-01", "skip_plots": True, "skip_robustness": True}
    result = run_training_pipeline(TrainingConfig(**config, registry=tmp_path, onnx_input="ohlcv"))
    with np.load(Path(result.paths["samples.npz"])) as samples:
        assert np.diff(samples["ends"]).tolist() == [LENGTH] * 15
        times = samples["timestamps"][-LENGTH:]
    missing = datetime(2024, 10, 26, tzinfo=UTC)
    assert missing.timestamp() * 1000 in times
    metadata = json.loads(Path(result.paths["metadata.json"]).read_text())
    assert metadata["verification"]["feature_skew"] == 0.0
    assert metadata["verification"]["prediction_difference"] < 1e-4


def test_a_bundle_that_takes_candles(models_of_candles: Path, frame: pl.DataFrame) -> None:
    """Scored from only the five columns, and by `load_bundle`."""
    bundle = load_bundle("BTCUSDT:1d:sentiment", registry=models_of_candles)
    assert bundle.uses_sentiment == "optional"
    candles = frame.drop("sentiment_momentum")
    got = bundle.predict(candles)["prediction"]
    assert got.null_count() == LENGTH
    content = (bundle.path / "model.onnx").read_bytes()
    expected = run(content, candles=raw_windows(candles, [0, 500, len(candles) - LENGTH - 1]))
    np.testing.assert_allclose(got.gather([120, 620, -1]), expected[:, 0], rtol=1e-6)
    with_sentiment = bundle.predict(frame, frame.select("timestamp", value=pl.lit(50.0)))
    assert with_sentiment["prediction"][-1] != got[-1]  # the column of the frame is used
    still = candles.select("timestamp", value=pl.lit(50.0))
    neutral = bundle.predict(candles, still)["prediction"]
    np.testing.assert_allclose(neutral.drop_nulls(), got.drop_nulls(), rtol=1e-6)
    document = json.loads((bundle.path / "metadata.json").read_text())
    assert [f["name"] for f in document["computed_features"]][-1] == "sentiment_momentum_scaled"
    with pytest.raises(DataError, match="column 'open' is missing"):
        bundle.predict(candles.drop("open"))
