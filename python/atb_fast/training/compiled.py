"""Training and evaluation as compiled programs of many steps, over a feature matrix in memory.

Keras' `fit` starts every step from Python and every operation from TensorFlow's executor. For a
network this small, that takes longer than the arithmetic. Here XLA compiles many steps into one
program: it cuts the windows out of the matrix, runs the network forward and backward, and applies
the model's own optimizer to its own variables. The arithmetic is that of Keras, up to rounding; the
random numbers for shuffling and dropout differ.

The layout suits XLA on a CPU:

- A batch is split into two independent parts to use two cores: a step is 10% faster than with one.
- Tensors are time-major, (steps, batch, channels), so shifts and pools are contiguous blocks.
- Layers are computed as in `layers` and `lstm`.
- Dropout uses a counter-based generator; that of Keras takes longer than the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from threading import Lock, Thread
from typing import Any

import numpy as np
import tensorflow as tf
from keras import Input, Sequential
from keras.saving import deserialize_keras_object, serialize_keras_object
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData
from atb_fast.training.compile_cache import kept_programs
from atb_fast.training.layers import DrawMask, apply
from atb_fast.training.startup import quiet
from atb_fast.training.tf_data import scaled_by_window

#: Windows per call of a program. A call takes a few seconds; progress is reported between calls.
CHUNK_WINDOWS = 6400
#: Windows evaluated at once; all of their activations are in memory.
EVALUATED = 64
#: The number of rows on the device is a multiple of this.
_ROWS = 1024
#: Parts of a batch. On two cores, four parts were no faster; more cores were not measured.
_PARTS = 2
#: Seconds between checks for an interrupt while the main thread waits.
_HEARTBEAT = 0.2

#: Called during an epoch with the number of windows done and their total.
_OnWindows = Callable[[int, int], None]


@dataclass(frozen=True)
class Windows:
    """What batches are cut from.

    Attributes:
        rows: The feature matrix, (rows, features).
        labels: The label of each row, float32, (rows,).
        length: Rows in a window.
        scaled_by_window: Whether each window is scaled by its own values.
    """

    rows: Any
    labels: Any
    length: int
    scaled_by_window: bool

    @classmethod
    def of(cls, data: WindowedData) -> Windows:
        """Copy the matrix and the labels of `data` to the device, with room for more rows."""
        rows = data.prepared.matrix.values
        # A program is compiled for one number of rows. With room at the end, the program of
        # yesterday's candles can be used for today's.
        room = ((0, -len(rows) % _ROWS), (0, 0))
        labels = data.labels.astype(np.float32)
        return cls(
            tf.constant(np.pad(rows, room)),
            tf.constant(np.pad(labels, room[0])),
            data.length,
            data.scaled_by_window,
        )


class CompiledModel:
    """The epochs of a Keras model as compiled programs.

    The variables of the model and of its optimizer are the only state. Between two calls, the model
    can be saved, evaluated or changed like any other. Models with the same layers share their
    programs, so only the first one in a process is traced and compiled.
    """

    def __init__(self, model: Any, data: WindowedData, batch_size: int, *, seed: int) -> None:
        """Copy the feature matrix to the device. A program is compiled at its first call.

        Args:
            model: A Keras model compiled with the loss mse, and supported by `layers`.
            data: The matrix that windows are cut from, and their labels.
            batch_size: Windows per batch; the last batch of an epoch may be smaller.
            seed: Seed of dropout.
        """
        self._model = model
        self._windows = Windows.of(data)
        self._batch_size = batch_size
        self._seed = tf.constant(seed % 2**32, tf.uint32)
        model.optimizer.build(model.trainable_variables)
        self._programs = _programs(_description(model), data.length, data.scaled_by_window)

    def train(self, starts: NDArray[np.int64], on_windows: _OnWindows | None = None) -> float:
        """Train one epoch on the windows at `starts`, and return their mean squared error.

        As in Keras' logs, the error of a batch is measured before its step and with dropout.
        """
        size = min(len(starts), self._batch_size)
        steps = max(1, CHUNK_WINDOWS // size)
        return self._run(self._programs.train, starts, steps, size, on_windows)

    def evaluate(self, starts: NDArray[np.int64]) -> float:
        """Return the mean squared error of the windows at `starts`, without dropout."""
        steps = max(1, CHUNK_WINDOWS // EVALUATED)
        return self._run(self._programs.evaluate, starts, steps, EVALUATED)

    def _run(
        self,
        program: Callable[..., float],
        starts: NDArray[np.int64],
        steps: int,
        size: int,
        on_windows: _OnWindows | None = None,
    ) -> float:
        batches = -(-len(starts) // size)
        chunks = -(-batches // steps)
        # All calls have the same shapes, so one program is enough. Padding in the last batch has
        # weight 0, so its gradient is that of a smaller batch; empty steps are not run.
        padded = np.full((chunks, steps, size), starts[-1], np.int32)
        weights = np.zeros((chunks, steps, size), np.float32)
        padded.reshape(-1)[: len(starts)] = starts
        weights.reshape(-1)[: len(starts)] = 1.0
        tables = self._windows.rows, self._windows.labels
        total = 0.0
        for chunk in range(chunks):
            count = tf.constant(min(steps, batches - chunk * steps))
            batch = padded[chunk], weights[chunk]
            total += _interruptible(program, self._model, tables, self._seed, batch, count)
            if on_windows:
                on_windows(min((chunk + 1) * steps * size, len(starts)), len(starts))
        return total / len(starts)


class _Program:
    """A function that is traced and compiled once for each shape of its arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = tf.function(function, jit_compile=True, autograph=False)
        self._compiled: set[tuple[Any, ...]] = set()

    def __call__(self, *arguments: Any) -> float:
        shapes = tuple(tuple(array.shape) for array in tf.nest.flatten(arguments))
        if shapes in self._compiled:
            return float(self._function(*arguments))
        with quiet(), kept_programs():
            result = float(self._function(*arguments))
        self._compiled.add(shapes)
        return result


class _Programs:
    """The programs of all models with the same layers.

    A program works on the variables of a model of its own, so each call copies the variables of the
    given model and of its optimizer, and copies them back after training.
    """

    def __init__(self, model: Any, length: int, scaled_by_window: bool) -> None:
        self._own = model
        self._length, self._scaled_by_window = length, scaled_by_window
        self._train = _Program(self._train_steps)
        self._evaluate = _Program(self._evaluate_steps)
        # After an interrupt, a program finishes in the background.
        self._busy = Lock()

    def train(self, model: Any, *arguments: Any) -> float:
        with self._busy:
            _copy(model, self._own)
            error = self._train(*arguments)
            _copy(self._own, model)
        return error

    def evaluate(self, model: Any, *arguments: Any) -> float:
        with self._busy:
            _copy(model, self._own)
            return self._evaluate(*arguments)

    def _train_steps(self, tables: Any, seed: Any, batches: Any, count: Any) -> Any:
        model, windows = self._own, self._windows(*tables)
        starts, weights = batches
        variables = model.trainable_variables

        def draw(layer: Any, part: int, shape: Any) -> Any:
            return draw_mask(model, seed, layer, part, shape)

        def step(t: Any, total: Any) -> Any:
            with tf.GradientTape() as tape:
                error = squared_error(model, windows, starts[t], weights[t], draw)
                loss = error / tf.reduce_sum(weights[t])
            model.optimizer.apply(tape.gradient(loss, variables), variables)
            return t + 1, total + error

        return tf.while_loop(lambda t, _: t < count, step, (0, 0.0))[1]

    def _evaluate_steps(self, tables: Any, _: Any, batches: Any, count: Any) -> Any:
        windows = self._windows(*tables)
        starts, weights = batches

        def step(t: Any, total: Any) -> Any:
            return t + 1, total + squared_error(self._own, windows, starts[t], weights[t], None)

        return tf.while_loop(lambda t, _: t < count, step, (0, 0.0))[1]

    def _windows(self, rows: Any, labels: Any) -> Windows:
        return Windows(rows, labels, self._length, self._scaled_by_window)


def _description(model: Any) -> str:
    """Return the input shape, the layers and the optimizer of a model as JSON.

    Names and initializers are left out, because programs do not depend on them.
    """
    items = [serialize_keras_object(item) for item in (*model.layers, model.optimizer)]
    for item in items:
        config = item["config"]
        config["name"] = None
        config.update({key: "zeros" for key in config if key.endswith("_initializer")})
    return json.dumps({"input_shape": model.input_shape[1:], "items": items}, sort_keys=True)


@cache
def _programs(description: str, length: int, scaled_by_window: bool) -> _Programs:
    """Return the programs of all models with this description."""
    given = json.loads(description)
    # The same names in every process, so that compiled programs are found again.
    for i, item in enumerate(given["items"]):
        item["config"]["name"] = f"item_{i}"
    *layers, optimizer = map(deserialize_keras_object, given["items"])
    model = Sequential([Input(given["input_shape"]), *layers], name="model")
    optimizer.build(model.trainable_variables)
    model.optimizer = optimizer
    return _Programs(model, length, scaled_by_window)


def _copy(source: Any, target: Any) -> None:
    """Copy the variables of a model and of its optimizer."""
    pairs = zip(source.trainable_variables, target.trainable_variables, strict=True)
    for one, other in chain(
        pairs, zip(source.optimizer.variables, target.optimizer.variables, strict=True)
    ):
        other.value.assign(one.value, read_value=False)


def squared_error(
    model: Any, windows: Windows, starts: Any, weights: Any, draw: DrawMask | None
) -> Any:
    """Return the sum of the weighted squared errors of a batch, in the graph.

    Args:
        model: A Keras model supported by `layers`.
        windows: What the batch is cut from.
        starts: int32, (batch,).
        weights: float32, (batch,).
        draw: Returns the dropout masks; None for no dropout.
    """
    size = starts.shape[0]
    edges = [size * part // _PARTS for part in range(_PARTS + 1)]
    slices = [slice(first, last) for first, last in pairwise(edges) if first < last]
    offsets = tf.range(windows.length)[:, None]
    parts = [tf.gather(windows.rows, offsets + starts[part]) for part in slices]
    if windows.scaled_by_window:
        parts = [scaled_by_window(x, axis=0) for x in parts]
    for layer in model.layers:
        parts = apply(layer, parts, draw)
    predicted = tf.concat([x[:, 0] for x in parts], 0)
    actual = tf.gather(windows.labels, starts + windows.length)
    return tf.reduce_sum(weights * tf.square(predicted - actual))


def draw_mask(model: Any, seed: Any, layer: Any, part: int, shape: Any) -> Any:
    """Return a mask: 0 with probability `rate`, and 1 / (1 - rate) elsewhere."""
    step = tf.bitcast(tf.cast(model.optimizer.iterations, tf.int32), tf.uint32)
    stream = np.uint32(model.layers.index(layer) * _PARTS + part)
    key = _mix(_mix(step + _mix(seed)) + stream)
    places = tf.bitcast(tf.range(int(np.prod(shape))), tf.uint32)
    dropped = _mix(_mix(places) + key) < np.uint32(layer.rate * 2**32)
    return tf.reshape(tf.where(dropped, 0.0, 1.0 / (1.0 - layer.rate)), shape)


def _interruptible(program: Callable[..., float], *arguments: Any) -> float:
    """Return the result of `program`, but react to interrupts while it compiles and runs.

    Python handles signals between two instructions of its main thread, and calling a program is one
    instruction. Therefore the program runs in another thread. After an interrupt, it finishes in
    the background.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(float(program(*arguments)))
        except BaseException as error:
            results.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    # A signal that reaches another thread does not wake this one if it waits without a timeout.
    while thread.is_alive():
        thread.join(_HEARTBEAT)
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return float(result)


def _mix(x: Any) -> Any:
    """Return uint32 numbers with mixed bits, by the finalizer of MurmurHash3 (A. Appleby)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        shifted = tf.bitwise.right_shift(x, np.uint32(shift))
        x = tf.bitwise.bitwise_xor(x, shifted) * np.uint32(factor)
    return x
