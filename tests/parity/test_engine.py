"""The compiled engine compared with plain Keras: gradients, epochs, callbacks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import COMBINATIONS, HEADS, NETWORKS, with_head

from atb_fast import TrainingConfig
from atb_fast.config import Engine, FitOptions
from atb_fast.errors import ArgumentError, TrainingError
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market, load_market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.networks import CnnLstm, Lstm, Network
from atb_fast.training import compiled
from atb_fast.training.compiled import CompiledModel, Windows, draw_mask, total_loss
from atb_fast.training.engine import fit
from atb_fast.training.layers import unsupported

LENGTH = 24


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", force_price_only=True, sequence_length=LENGTH
    )
    return split(prepare(Market(market.candles.head(300), None), config), config)


def made(data: WindowedData, *, dropout: bool = True) -> Any:
    """Return a model with the same weights every time, compiled as by the engine."""
    import keras

    keras.utils.set_random_seed(3)
    build = (Lstm() if data.scaled_by_window else CnnLstm()).build
    model = build(data.length, data.prepared.matrix.shape[1])
    for layer in model.layers:
        if not dropout and hasattr(layer, "rate"):
            layer.rate = 0.0
    model.compile("adam", "mse", metrics=[keras.metrics.RootMeanSquaredError(name="rmse")])
    return model


def masks(model: Any, data: WindowedData, size: int) -> dict[str, Any]:
    """Return a mask (batch, ...) for each dropout layer."""
    rng = np.random.default_rng(0)
    shapes = {
        layer.name: (size, *layer.output.shape[1:])
        for layer in model.layers
        if "rate" in vars(layer)
    }
    return {
        name: np.where(rng.random(shape) < 0.2, 0.0, 1.25).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("size", [1, 7, 32])
def test_gradients_equal_keras(data: WindowedData, size: int, dropout: bool) -> None:
    import tensorflow as tf

    model = made(data)
    starts = data.train[:size]
    given = masks(model, data, size)
    target = data.targets(starts).astype(np.float32)

    x = tf.constant(data.windows(starts))
    with tf.GradientTape() as tape:
        for layer in model.layers:
            x = x * given[layer.name] if dropout and layer.name in given else layer(x)
        loss = tf.reduce_sum(tf.square(x[:, 0] - target))
    expected = tape.gradient(loss, model.trainable_variables)

    # Like the last batch of an epoch: with padding of weight 0, and in two parts.
    padded = size + 5
    indices = np.minimum(np.arange(padded), size - 1)
    starts = data.train[indices].astype(np.int32)
    weights = (np.arange(padded) < size).astype(np.float32)
    parts = np.split(indices, [padded // 2])

    def draw(layer: Any, part: int, shape: Any, rows: Any) -> Any:
        mask = given[layer.name][parts[part]]
        return tf.constant(np.moveaxis(mask[:, rows], 0, -2) if mask.ndim == 3 else mask)

    windows = Windows.of(data)

    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def compute(starts: Any, weights: Any) -> Any:
        with tf.GradientTape() as tape:
            masked = draw if dropout else None
            error = total_loss(model, windows, starts, weights, masked)
        return error, tape.gradient(error, model.trainable_variables)

    error, got = compute(starts, weights)

    assert float(error) == pytest.approx(float(loss), rel=1e-5)
    for variable, a, b in zip(model.trainable_variables, got, expected, strict=True):
        difference = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert difference <= 1e-5, f"{variable.path} {difference}"


def built(network: Network, data: WindowedData, *, dropout: bool, base: Any = None) -> Any:
    """Return a model with random weights of every layer, also of those that start at 0 or 1."""
    import keras

    if not dropout and "dropout" in network.values:
        network = type(network)(**{**network.values, "dropout": 0.0})
    keras.utils.set_random_seed(3)
    shape = data.length, data.prepared.matrix.shape[1]
    model = network.build(*shape, head=data.output.head, base=base)
    rng = np.random.default_rng(4)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
    return model


def masked_copy(model: Any, given: dict[str, Any]) -> Any:
    """Return a Keras model with the same weights that multiplies by masks instead of dropout."""
    import keras

    def call(layer: Any, x: Any, **options: Any) -> Any:
        return x * given[layer.name] if layer.name in given else layer(x, **options)

    functional = keras.Model(model.inputs[0], model.outputs[0])
    copy = keras.models.clone_model(functional, call_function=call)
    copy.set_weights([np.asarray(weight) for weight in model.weights])
    return copy


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_every_network_equal_keras(data: WindowedData, name: str, head: str) -> None:
    import keras
    import tensorflow as tf

    data, size = with_head(data, head), 11
    base = (np.linspace(-1, 1, data.prepared.matrix.shape[1]), 0.3) if head == "linear" else None
    model = built(NETWORKS[name], data, dropout=True, base=base)
    given = masks(model, data, size)
    starts = data.train[:size]
    labels = data.labels.values[starts + LENGTH].astype(np.float32)[:, None]
    weights = np.ones(size)
    if data.labels.weights is not None:
        weights = data.labels.weights[starts + LENGTH]

    copy = masked_copy(model, given)
    loss = keras.losses.get(data.output.head.loss)
    with tf.GradientTape() as tape:
        losses = loss(labels, copy(data.windows(starts), training=False))
        expected_loss = tf.reduce_sum(losses * weights.astype(np.float32))
    expected = tape.gradient(expected_loss, copy.trainable_variables)

    parts = np.split(np.arange(size), [size // 2])

    def draw(layer: Any, part: int, shape: Any, rows: Any) -> Any:
        mask = given[layer.name][parts[part]]
        return tf.constant(np.moveaxis(mask[:, rows], 0, -2) if mask.ndim == 3 else mask)

    windows = Windows.of(data)

    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def compute() -> Any:
        with tf.GradientTape() as tape:
            total = total_loss(
                model,
                windows,
                tf.constant(starts, tf.int32),
                tf.ones(size),
                draw,
                loss=data.output.head.loss,
            )
        return total, tape.gradient(total, model.trainable_variables)

    total, got = compute()
    assert float(total) == pytest.approx(float(expected_loss), rel=1e-5)
    for variable, a, b in zip(model.trainable_variables, got, expected, strict=True):
        difference = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert difference <= 1e-5, f"{variable.path} {difference}"


@pytest.mark.parametrize(("name", "head"), COMBINATIONS)
def test_epochs_of_every_network_follow_keras(data: WindowedData, name: str, head: str) -> None:
    data = with_head(data, head)
    assert len(data.train) % 32 != 0  # the last batch is smaller
    assert_follows(data, lambda: built(NETWORKS[name], data, dropout=False), epochs=5)


@pytest.mark.parametrize("head", HEADS)
def test_the_keras_engine_follows_keras(data: WindowedData, head: str) -> None:
    data = with_head(data, head)
    assert_follows(
        data, lambda: built(NETWORKS["mlp"], data, dropout=False), epochs=3, engine="keras"
    )


def in_order(
    data: WindowedData, model: Any, *, epochs: int, batch_size: int, seed: int
) -> dict[str, Any]:
    """Return the history of plain Keras on NumPy windows, in the engine's order of windows."""
    import keras

    loss, labels = data.output.head.loss, data.labels
    metrics = [keras.metrics.RootMeanSquaredError(name="rmse")] if loss == "mse" else []
    model.compile("adam", loss, metrics=metrics)
    x, y = data.windows(data.train), labels.values[data.train + data.length]
    test = [data.windows(data.validation), labels.values[data.validation + data.length]]
    weights = None
    if labels.weights is not None:
        weights = labels.weights[data.train + data.length]
        test.append(labels.weights[data.validation + data.length])
    history: dict[str, Any] = {}
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        one = model.fit(
            x[order],
            y[order],
            batch_size,
            1,
            0,
            validation_data=tuple(test),
            shuffle=False,
            sample_weight=None if weights is None else weights[order],
        ).history
        for name, values in one.items():
            history.setdefault(name, []).extend(values)
    return history


def assert_follows(
    data: WindowedData,
    make: Callable[[], Any],
    *,
    epochs: int,
    batch_size: int = 32,
    engine: Engine = "compiled",
) -> None:
    expected = in_order(data, make(), epochs=epochs, batch_size=batch_size, seed=5)
    fitted = fit(
        make(),
        data,
        FitOptions(engine=engine, epochs=epochs, batch_size=batch_size, patience=epochs, seed=5),
    )
    assert fitted.engine == engine
    assert set(fitted.history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(fitted.history[name], values, rtol=1e-3, err_msg=name)
        # A few epochs change little, so compare the changes as well.
        learned = abs(values[-1] - values[0])
        assert np.abs(np.subtract(fitted.history[name], values)).max() <= 0.05 * learned, name


@pytest.mark.parametrize("batch_size", [32, pytest.param(50, marks=pytest.mark.long)])
def test_epochs_follow_keras(data: WindowedData, batch_size: int) -> None:
    assert len(data.train) % batch_size != 0  # the last batch is smaller
    assert_follows(data, lambda: made(data, dropout=False), epochs=20, batch_size=batch_size)


CASES: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "canonical": ("1d", {}, 120, 32, 20),
    "batch 256": ("1d", {}, 120, 256, 5),
    "60 bars": ("1d", {}, 60, 32, 5),
    "price only": ("1d", {"force_price_only": True}, 120, 32, 5),
    "hourly": ("1h", {"end_date": date(2019, 3, 1)}, 120, 32, 5),
    "basic": ("1h", {"recipe": "basic", "end_date": date(2019, 2, 1)}, 120, 32, 5),
    "short": ("1d", {"start_date": date(2023, 7, 1)}, 30, 32, 3),
    "short basic": ("1h", {"recipe": "basic", "end_date": date(2019, 1, 22)}, 30, 32, 3),
}


@pytest.mark.parametrize(
    "case",
    [name if "short" in name else pytest.param(name, marks=pytest.mark.long) for name in CASES],
)
def test_epochs_follow_keras_on_real_candles(shared: Path, case: str) -> None:
    timeframe, options, length, batch_size, epochs = CASES[case]
    given: dict[str, Any] = {"start_date": date(2019, 1, 1), "end_date": date(2024, 12, 1)}
    given["candles"] = shared / "data" / f"BTCUSDT_{timeframe}_2017-08-17_2024-12-31.parquet"
    if not {"force_price_only", "recipe"} & set(options):
        given["sentiment"] = shared / "data" / "fear_greed_1d_2018-02-01_2025-05-02.parquet"
    config = TrainingConfig(symbol="BTCUSDT", timeframe=timeframe, **given | options)
    object.__setattr__(config, "sequence_length", length)  # also of the basic recipe
    windows = split(prepare(load_market(config), config), config)
    assert_follows(
        windows, lambda: made(windows, dropout=False), epochs=epochs, batch_size=batch_size
    )


def test_long_epochs_are_cut_into_programs(
    data: WindowedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = made(data), made(data)
    order = np.random.default_rng(0).permutation(data.train)
    done: list[tuple[int, int]] = []
    losses = [CompiledModel(whole, data, 32, seed=1).train(order)]
    monkeypatch.setattr(compiled, "CHUNK_WINDOWS", 96)
    program = CompiledModel(cut, data, 32, seed=1)
    losses.append(program.train(order, lambda *at: done.append(at)))
    total = len(order)
    assert done == [(n, total) for n in (*range(96, total, 96), total)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for a, b in zip(whole.get_weights(), cut.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_evaluation_equals_keras(data: WindowedData, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(data)
    expected, _ = model.evaluate(data.windows(data.train), data.targets(data.train), verbose=0)
    program = CompiledModel(model, data, 32, seed=1)
    assert program.evaluate(data.train) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(compiled, "EVALUATED", 50)  # more than one batch, the last one smaller
    assert CompiledModel(model, data, 32, seed=1).evaluate(data.train) == pytest.approx(
        expected, rel=1e-5
    )


def test_dropout_masks(data: WindowedData) -> None:
    import tensorflow as tf

    model = made(data)
    first, second, _ = (layer for layer in model.layers if "rate" in vars(layer))
    shape = (60, 16, 100)

    def draw(layer: Any = first, part: int = 0, seed: int = 1) -> Any:
        return draw_mask(model, tf.constant(seed, tf.uint32), layer, part, shape).numpy()

    mask = draw()
    assert set(np.unique(mask)) == {0.0, np.float32(1.25)}
    # The share of 96,000 draws has a standard deviation of 0.0013.
    assert np.mean(mask == 0) == pytest.approx(0.2, abs=0.006)
    assert np.mean(mask == 0, axis=(1, 2)) == pytest.approx(0.2, abs=0.05)
    np.testing.assert_array_equal(draw(), mask)
    others = [draw(second), draw(part=1), draw(seed=2)]
    model.optimizer.iterations.assign_add(1)
    others.append(draw())
    for other in others:
        # Independent masks drop 4% together.
        assert np.mean((mask == 0) & (other == 0)) == pytest.approx(0.04, abs=0.004)


def test_dropout_is_on_in_training_and_off_in_evaluation(data: WindowedData) -> None:
    with_dropout, without = made(data), made(data, dropout=False)
    for model in (with_dropout, without):
        # Predictions are then as large as prices, and masks change them.
        last = model.layers[-1]
        last.kernel.assign(1e5 * last.kernel)
    programs = [CompiledModel(m, data, 32, seed=1) for m in (with_dropout, without)]
    evaluated = [program.evaluate(data.test) for program in programs]
    assert evaluated[0] == evaluated[1]
    trained = [program.train(data.train) for program in programs]
    assert abs(trained[0] / trained[1] - 1) > 1e-3


def quick_fit(model: Any, data: WindowedData, *, callbacks: Any = (), **options: Any) -> Any:
    given = {"epochs": 4, "batch_size": 32, "seed": 1, "engine": "compiled", **options}
    return fit(model, data, FitOptions(**given), callbacks=callbacks)


def test_keras_callbacks(data: WindowedData, tmp_path: Path) -> None:
    import keras
    from keras import callbacks

    rates: list[float] = []
    model = made(data)
    fitted = quick_fit(
        model,
        data,
        callbacks=[
            callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_loss", save_best_only=True),
            callbacks.TensorBoard(tmp_path / "board"),
            callbacks.CSVLogger(tmp_path / "log.csv"),
            callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch >= 2 else rate),
            callbacks.LambdaCallback(
                on_epoch_end=lambda *_: rates.append(float(model.optimizer.learning_rate))
            ),
        ],
    )
    assert rates == [pytest.approx(1e-3)] * 2 + [0.0] * 2
    # The program reads the learning rate at every call: with 0, nothing is learned.
    assert fitted.history["val_loss"][2] == fitted.history["val_loss"][3]
    assert fitted.history["val_loss"][0] != fitted.history["val_loss"][1]
    best = keras.models.load_model(tmp_path / "best.keras")
    for a, b in zip(best.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "log.csv").read_text().count("\n") == 5
    assert list((tmp_path / "board").rglob("events.*"))


def test_a_callback_may_stop_it(data: WindowedData) -> None:
    from keras import callbacks

    model = made(data)

    def stop(epoch: int, _: Any) -> None:
        model.stop_training = epoch == 1

    fitted = quick_fit(model, data, callbacks=[callbacks.LambdaCallback(on_epoch_end=stop)])
    assert fitted.epochs == 2


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_a_loss_that_diverges_keeps_the_best_epoch(data: WindowedData, engine: str) -> None:
    from keras import callbacks

    model = made(data)

    def break_it(epoch: int, _: Any = None) -> None:
        if epoch == 2:
            model.layers[-1].bias.assign([np.nan])

    breaking = callbacks.LambdaCallback(on_epoch_begin=break_it)
    fitted = quick_fit(model, data, engine=engine, epochs=9, callbacks=[breaking])
    assert (fitted.epochs, fitted.diverged) == (3, 3)
    assert fitted.best_epoch in {1, 2}
    kept = CompiledModel(model, data, 32, seed=1).evaluate(data.test)
    assert kept == pytest.approx(fitted.history["val_loss"][fitted.best_epoch - 1], rel=1e-5)


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_no_callback_hides_that_the_first_epoch_diverged(data: WindowedData, engine: str) -> None:
    from keras import callbacks

    model = made(data)

    def go_on(*_: Any) -> None:
        model.layers[-1].bias.assign([np.nan])
        model.stop_training = False

    meddling = callbacks.LambdaCallback(on_epoch_begin=go_on, on_epoch_end=go_on)
    with pytest.raises(TrainingError, match="the loss is not a finite number in epoch 1"):
        quick_fit(model, data, engine=engine, callbacks=[meddling])


def test_unsupported_models_train_with_keras(
    data: WindowedData, caplog: pytest.LogCaptureFixture
) -> None:
    import keras
    from keras import Sequential, layers, ops

    def model(*some: Any) -> Any:
        return Sequential([layers.Input((LENGTH, 9)), *some, layers.Dense(1)])

    def norm() -> Any:
        return model(layers.BatchNormalization(name="norm"), layers.LSTM(3))

    class Own(Sequential):  # type: ignore[misc]
        """May compute anything."""

    def conv(**options: Any) -> Any:
        return model(layers.Conv1D(9, 3, name="c", **options), layers.LSTM(3))

    def pool(*options: int) -> Any:
        return model(layers.MaxPooling1D(*options, name="p"), layers.LSTM(3))

    def lstm(**options: Any) -> Any:
        return model(layers.LSTM(5, name="l", **options))

    def drop(rate: float, **options: Any) -> Any:
        return model(layers.LSTM(3), layers.Dropout(rate, name="o", **options))

    def dense(**options: Any) -> Any:
        return model(layers.LSTM(3), layers.Dense(5, name="d", **options))

    def average(**options: Any) -> Any:
        options = {"pool_size": 3, "strides": 1, "padding": "same", **options}
        return model(layers.AveragePooling1D(name="a", **options), layers.Flatten())

    def normalized(**options: Any) -> Any:
        return model(layers.LayerNormalization(name="z", **options), layers.Flatten())

    def graph(hidden: Any) -> Any:
        windows = keras.Input((LENGTH, 9))
        return keras.Model(windows, layers.Dense(1)(layers.Flatten()(hidden(windows))))

    def broadcast(x: Any) -> Any:
        return layers.Add(name="m")([x, layers.Cropping1D((LENGTH - 1, 0))(x)])

    twice, partly = layers.Dense(9), lstm()
    partly.layers[0].cell.kernel.trainable = False
    plain = [
        made(data),
        conv(),
        conv(dilation_rate=2, padding="causal"),
        pool(3),
        lstm(),
        drop(0.1),
        dense(activation="relu"),
        dense(activation="softmax"),
        dense(trainable=False),
        average(),
        normalized(),
        graph(lambda x: layers.Subtract()([x, layers.Dense(9)(x)])),
    ]
    assert [unsupported(built) for built in plain] == [None] * len(plain)
    cases = [
        (Own([layers.Input((LENGTH, 9)), layers.LSTM(3), layers.Dense(1)]), "neither a Sequential"),
        (Sequential([layers.LSTM(3), layers.Dense(1)]), "it has no input shape yet"),
        (model(layers.LSTM(3, return_sequences=True)), "its output shape is (None, 24, 1)"),
        (norm(), "layer norm is a BatchNormalization"),
        (conv(strides=2), "layer c has strides (2,)"),
        (conv(groups=3), "layer c has groups 3"),
        (conv(padding="same"), "layer c has padding 'same'"),
        (conv(use_bias=False), "layer c has use_bias False"),
        (conv(activation="softmax"), "layer c has activation "),
        (conv(bias_regularizer="l2"), "layer c has a bias_regularizer"),
        (pool(3, 1), "layer p has strides (1,)"),
        (lstm(dropout=0.1), "layer l has dropout 0.1"),
        (lstm(recurrent_dropout=0.1), "layer l has recurrent_dropout 0.1"),
        (lstm(activation="relu"), "layer l has activation "),
        (lstm(recurrent_activation="relu"), "layer l has recurrent_activation "),
        (lstm(go_backwards=True), "layer l has go_backwards True"),
        (lstm(use_bias=False), "layer l has use_bias False"),
        (lstm(recurrent_regularizer="l2"), "layer l has a recurrent_regularizer"),
        (lstm(activity_regularizer="l2"), "layer l has a activity_regularizer"),
        (lstm(dtype="mixed_float16"), "layer l computes in float16"),
        (drop(1.0), "layer o has rate 1.0"),
        (drop(0.1, seed=7), "layer o has seed 7"),
        (drop(0.1, noise_shape=(None, 1)), "layer o has noise_shape (None, 1)"),
        (dense(kernel_constraint="non_neg"), "layer d has a kernel_constraint"),
        (dense(use_bias=False), "layer d has use_bias False"),
        (dense(activation="softmax", bias_constraint="non_neg"), "layer d has a bias_constraint"),
        (average(strides=2), "layer a has strides (2,)"),
        (average(padding="valid"), "layer a has padding 'valid'"),
        (normalized(axis=1), "layer z has axis [1]"),
        (normalized(center=False), "layer z has center False"),
        (graph(ops.relu), "operations that are not layers"),
        (graph(lambda x: twice(twice(x))), "it uses a layer twice"),
        (graph(lambda x: layers.Dropout(0.1)(x, training=True)), "options such as training=True"),
        (graph(broadcast), "layer m has inputs of different shapes"),
        (partly, "layer l is frozen in part"),
    ]
    for built, reason in cases:
        assert reason in (unsupported(built) or "")

    with pytest.raises(TrainingError, match=r"layer norm is a Batch.*use --engine keras"):
        quick_fit(norm(), data)
    with caplog.at_level("INFO"):
        fitted = quick_fit(norm(), data, engine="auto", epochs=1)
    assert fitted.engine == "keras"
    assert "using the keras engine, because layer norm is a Batch" in caplog.text


def test_batch_callbacks_train_with_keras(
    data: WindowedData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from keras import callbacks

    often = callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"), save_freq=3)
    with pytest.raises(
        TrainingError, match="ModelCheckpoint is called for every batch; use --engine keras"
    ):
        quick_fit(made(data), data, callbacks=[often])
    batches: list[int] = []
    counting = callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(batch)
    )
    with caplog.at_level("INFO"):
        fitted = quick_fit(made(data), data, engine="auto", epochs=1, callbacks=[counting])
    assert fitted.engine == "keras"
    assert batches == list(range(-(-len(data.train) // 32)))
    assert "because LambdaCallback is called for every batch" in caplog.text


def test_batches_are_not_larger_than_the_data(data: WindowedData) -> None:
    losses = [CompiledModel(made(data), data, n, seed=1).train(data.train) for n in (10**9, 10**5)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("wrong", [{"engine": "Compiled"}, {"epochs": 0}, {"batch_size": 0}])
def test_wrong_arguments(data: WindowedData, wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"expected (one of auto, compiled, keras|at least 1)"):
        quick_fit(made(data), data, **wrong)
