"""Every network with every head: its arithmetic, its fit, its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
from small_networks import COMBINATIONS, HEADS, NETWORKS, with_head

from atb_fast import TrainingConfig
from atb_fast.bundles import onnx_export
from atb_fast.config import Engine, FitOptions
from atb_fast.errors import ArgumentError, TrainingError
from atb_fast.features.heads import LINEAR, SIGMOID, Head
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import networks, prepare, split
from atb_fast.recipes.networks import CnnLstm, DLinear, Linear, Lstm, Mlp, Tcn
from atb_fast.training.engine import fit
from atb_fast.training.layers import unsupported
from atb_fast.training.predict import predict_batch, predict_outputs
from atb_fast.training.programs import description, made

LENGTH = 20
FEATURES = 9
SOFTMAX = Head("softmax", 3)


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", force_price_only=True, sequence_length=LENGTH
    )
    return split(prepare(Market(market.candles.head(250), None), config), config)


def some_windows(count: int, length: int = LENGTH) -> Any:
    return np.random.default_rng(1).normal(size=(count, length, FEATURES)).astype(np.float32)


def randomized(model: Any) -> Any:
    """Give a model random weights of every layer, also of those that start at 0 or 1."""
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    return model


def test_the_default_lstms_are_those_of_before_there_were_heads() -> None:
    import keras
    from keras import Sequential, layers

    def cnn_lstm() -> Any:
        return [
            layers.Conv1D(64, 3, activation="relu"),
            layers.MaxPooling1D(2),
            layers.Conv1D(128, 3, activation="relu"),
            layers.MaxPooling1D(2),
            layers.LSTM(100, return_sequences=True),
            layers.Dropout(0.2),
            layers.LSTM(50),
            layers.Dropout(0.2),
            layers.Dense(50, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(1),
        ]

    def lstm() -> Any:
        return [
            layers.LSTM(128, return_sequences=True),
            layers.LSTM(64),
            layers.Dense(64, activation="relu"),
            layers.Dense(1),
        ]

    def unnamed(layer: Any) -> Any:
        return {**layer.get_config(), "name": type(layer).__name__}

    for network, stack in ((CnnLstm(), cnn_lstm), (Lstm(), lstm)):
        keras.utils.set_random_seed(5)
        expected = Sequential([layers.Input((LENGTH, FEATURES)), *stack()])
        keras.utils.set_random_seed(5)
        model = network.build(LENGTH, FEATURES)
        assert type(model) is Sequential
        assert list(map(unnamed, model.layers)) == list(map(unnamed, expected.layers))
        for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_linear_is_one_product_of_the_last_rows() -> None:
    x = some_windows(5)
    for bars in (1, 4, LENGTH):
        model = randomized(Linear(bars=bars).build(LENGTH, FEATURES, head=SOFTMAX))
        kernel, bias = model.get_weights()
        outputs = x[:, LENGTH - bars :].reshape(5, -1) @ kernel + bias
        expected = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(predict_batch(model, x), expected, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 4, 7, 1000])
def test_dlinear_splits_a_window_into_trend_and_rest(kernel: int) -> None:
    x = some_windows(5)
    model = randomized(DLinear(kernel=kernel).build(LENGTH, FEATURES))
    weights, bias = model.get_weights()
    size = min(kernel, LENGTH)
    offset = pd.api.indexers.FixedForwardWindowIndexer(window_size=size)
    rows = np.pad(x, ((0, 0), ((size - 1) // 2, 0), (0, 0)), constant_values=np.nan)
    trend = np.stack(
        [pd.DataFrame(each).rolling(offset, min_periods=1).mean()[:LENGTH] for each in rows]
    )
    flat = np.concatenate([trend.reshape(5, -1), (x - trend).reshape(5, -1)], axis=1)
    np.testing.assert_allclose(predict_batch(model, x), flat @ weights + bias, atol=1e-5)


def test_mlp_is_a_chain_of_products() -> None:
    x = some_windows(5)
    model = randomized(Mlp(units=7, layers=3, dropout=0.5).build(LENGTH, FEATURES))
    values = x.reshape(5, -1)
    *hidden, (kernel, bias) = np.array_split(np.array(model.get_weights(), object), 4)
    for weights, shift in hidden:
        values = np.maximum(values @ weights + shift, 0.0)
    np.testing.assert_allclose(predict_batch(model, x), values @ kernel + bias, atol=1e-5)


def test_tcn_equals_a_loop_over_rows() -> None:
    x = some_windows(3)
    network = Tcn(filters=5, kernel=2, blocks=3, dropout=0.3)
    model = randomized(network.build(LENGTH, FEATURES))
    weights = iter(model.get_weights())

    def convolved(rows: Any, kernel: Any, bias: Any, dilation: int) -> Any:
        out = np.zeros((*rows.shape[:2], kernel.shape[2])) + bias
        for t in range(LENGTH):
            for i in range(len(kernel)):
                if (s := t - (len(kernel) - 1 - i) * dilation) >= 0:
                    out[:, t] += rows[:, s] @ kernel[i]
        return out

    values = x.astype(np.float64)
    for block in range(3):
        skip, y = values, values
        stored = [next(weights) for _ in range(4)]
        if block == 0:
            # Keras lists the layers of a graph by depth, so the product of the skip comes last.
            skip = convolved(values, next(weights), next(weights), 1)
        convolution, shift, gamma, beta = stored
        y = convolved(y, convolution, shift, 2**block)
        mean, variance = y.mean(axis=2, keepdims=True), y.var(axis=2, keepdims=True)
        y = np.maximum((y - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0.0)
        values = skip + y
    kernel, bias = weights
    np.testing.assert_allclose(predict_batch(model, x), values[:, -1] @ kernel + bias, atol=1e-4)


def test_tcn_sees_63_bars_by_default() -> None:
    model = randomized(Tcn().build(80, FEATURES))
    x = some_windows(1, 80)
    before = predict_batch(model, x)
    x[:, : 80 - 63] += 1.0
    np.testing.assert_array_equal(predict_batch(model, x), before)
    x[:, 80 - 63] += 1.0
    assert not np.array_equal(predict_batch(model, x), before)


@pytest.mark.parametrize("head", [LINEAR, SIGMOID, SOFTMAX], ids=HEADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_every_network(tmp_path: Path, name: str, head: Head) -> None:
    import keras
    import onnx
    import onnxruntime

    base = (np.linspace(-1, 1, FEATURES), 0.5) if head == LINEAR else None
    model = randomized(NETWORKS[name].build(LENGTH, FEATURES, head=head, base=base))
    x = some_windows(300)
    expected = model.predict_on_batch(x)
    assert expected.shape == (300, head.units)
    if head == SOFTMAX:
        np.testing.assert_allclose(expected.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(predict_batch(model, x), expected, rtol=1e-5, atol=1e-6)

    model.save(tmp_path / "model.keras")
    with ZipFile(tmp_path / "model.keras") as archive:
        assert b"atb_fast" not in archive.read("config.json")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(x), expected)

    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_export.convert(model, properties={}))
    scale = float(np.abs(expected).max())
    assert max(onnx_export.check(path, x, expected, scale=scale).values()) <= 1e-5
    graph = onnx.load(path)
    assert [opset.version for opset in graph.opset_import] == [17]
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in graph.graph.node}
    (output,) = onnxruntime.InferenceSession(path).get_outputs()
    assert output.shape[1:] == [head.units]


@pytest.mark.parametrize("head", [LINEAR, SIGMOID, SOFTMAX], ids=HEADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_description_of_a_model_is_enough_to_build_it(name: str, head: Head) -> None:
    base = (np.linspace(-1, 1, FEATURES), 0.5) if head == LINEAR else None
    model = randomized(NETWORKS[name].build(LENGTH, FEATURES, head=head, base=base))
    assert unsupported(model, head) is None
    copy = made(description(model))
    assert description(copy) == description(model)
    shapes = [[tuple(v.shape) for v in each.trainable_variables] for each in (model, copy)]
    assert shapes[0] == shapes[1]
    copy.set_weights(model.get_weights())
    x = some_windows(4)
    np.testing.assert_allclose(copy.predict_on_batch(x), model.predict_on_batch(x), rtol=1e-6)
    # Models of the same kind share a program, whatever Keras calls their layers.
    again = NETWORKS[name].build(LENGTH, FEATURES, head=head, base=base)
    assert description(again) == description(model)


def quick_fit(model: Any, data: WindowedData, engine: Engine, **options: Any) -> Any:
    return fit(model, data, FitOptions(engine=engine, seed=1, **{"epochs": 2, **options}))


@pytest.mark.parametrize(("name", "head"), COMBINATIONS)
def test_the_keras_engine_trains_every_network(data: WindowedData, name: str, head: str) -> None:
    data = with_head(data, head)
    model = NETWORKS[name].build(LENGTH, FEATURES, head=data.output.head)
    before = [np.asarray(weight) for weight in model.weights]
    fitted = quick_fit(model, data, "keras")
    names = {"loss", "val_loss"} | ({"rmse", "val_rmse"} if head == "linear" else set())
    assert set(fitted.history) == names
    assert np.isfinite(list(fitted.history.values())).all()
    assert not all(map(np.array_equal, before, model.weights))
    shape = (len(data.test), 3) if head == "softmax" else (len(data.test),)
    assert predict_outputs(model, data, data.test).shape == shape


@pytest.mark.parametrize("engine", ["compiled", "keras"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_base_is_where_training_starts(data: WindowedData, name: str, engine: Engine) -> None:
    base = (np.linspace(-1, 1, FEATURES), 0.5)
    data = with_head(data, "linear")
    data = replace(data, labels=replace(data.labels, base=base))
    model = NETWORKS[name].build(LENGTH, FEATURES, base=base, start_at_zero=True)
    np.testing.assert_allclose(
        predict_outputs(model, data, data.test), data.base(data.test), rtol=1e-5, atol=1e-6
    )
    frozen = [np.array(weight) for weight in model.get_layer("base").get_weights()]
    if engine == "keras" and name not in ("linear", "tcn"):
        return  # one network of each kind is enough for Keras itself
    quick_fit(model, data, engine)
    for a, b in zip(model.get_layer("base").get_weights(), frozen, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(predict_outputs(model, data, data.test) - data.base(data.test)).max() > 1e-3


@pytest.mark.parametrize(("name", "head"), COMBINATIONS)
def test_half_precision_has_a_float32_twin(data: WindowedData, name: str, head: str) -> None:
    data = with_head(data, head)
    model = NETWORKS[name].build(
        LENGTH, FEATURES, head=data.output.head, dtype_policy="mixed_float16"
    )
    fitted = quick_fit(model, data, "keras", epochs=1)
    assert np.isfinite(list(fitted.history.values())).all()
    assert model.get_layer("head").compute_dtype == "float32"
    twin = NETWORKS[name].build(LENGTH, FEATURES, head=data.output.head)
    twin.set_weights(model.get_weights())
    a, b = (predict_outputs(each, data, data.test) for each in (model, twin))
    np.testing.assert_allclose(a, b, atol=0.02)


def test_a_base_does_not_change_the_initial_weights() -> None:
    import keras

    weights = []
    for base in (None, (np.ones(FEATURES), 0.0)):
        keras.utils.set_random_seed(7)
        model = Tcn(filters=4, blocks=2).build(LENGTH, FEATURES, base=base)
        weights.append([np.asarray(weight) for weight in model.trainable_variables])
    assert all(map(np.array_equal, *weights))


@pytest.mark.parametrize("kind", networks.NETWORKS)
def test_sizes_are_checked(kind: str) -> None:
    for key in networks.NETWORKS[kind]().values:
        for wrong in (0 if key != "dropout" else 1.0, "8", None, 10**9 + 1):
            with pytest.raises(ArgumentError, match=rf"^{kind}.{key}: found .*, expected an?"):
                networks.NETWORKS[kind](**{key: wrong})


def test_linear_needs_windows_as_long_as_its_bars() -> None:
    with pytest.raises(ArgumentError, match=r"linear.bars: found 21, expected at most the 20 bars"):
        Linear(bars=21).build(LENGTH, FEATURES)


@pytest.mark.parametrize("engine", ["auto", "compiled", "keras"])
def test_a_model_without_the_head_of_the_target_is_rejected(
    data: WindowedData, engine: Engine
) -> None:
    model = Mlp(units=4).build(LENGTH, FEATURES)
    with pytest.raises(TrainingError, match=r"\(None, 1\), expected \(None, 3\).* softmax"):
        quick_fit(model, with_head(data, "softmax"), engine)


def test_probabilities_without_their_activation_train_with_keras(
    data: WindowedData, caplog: pytest.LogCaptureFixture
) -> None:
    from keras import Sequential, layers

    model = Sequential(
        [
            layers.Input((LENGTH, FEATURES)),
            layers.Flatten(),
            layers.Dense(3, name="outputs"),
            layers.Activation("linear", name="last"),
        ]
    )
    with pytest.raises(TrainingError, match="layer last is not a Dense with the activation soft"):
        quick_fit(model, with_head(data, "softmax"), "compiled")
