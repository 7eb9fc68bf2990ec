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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from threading import Thread
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from atb_fast.features.heads import Loss
from atb_fast.features.windows import WindowedData
from atb_fast.training.layers import DrawMask, Rows, forward, wiring
from atb_fast.training.programs import Program, compiling, description, made, variables
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
        weights: The weight of each label in the loss, float32, (rows,); None if all are 1.
    """

    rows: Any
    labels: Any
    length: int
    scaled_by_window: bool
    weights: Any = None

    @property
    def tables(self) -> list[Any]:
        """What programs read by row: the matrix, the labels, and their weights if any."""
        return [self.rows, self.labels, *([] if self.weights is None else [self.weights])]

    @classmethod
    def of(cls, data: WindowedData) -> Windows:
        """Copy the matrix and the labels of `data` to the device, with room for more rows."""
        rows = data.prepared.matrix.values
        # A program is compiled for one number of rows. With room at the end, the program of
        # yesterday's candles can be used for today's.
        room = ((0, -len(rows) % _ROWS), (0, 0))

        def column(values: NDArray[np.float64]) -> Any:
            return tf.constant(np.pad(values.astype(np.float32), room[0]))

        weights = data.labels.weights
        return cls(
            tf.constant(np.pad(rows, room)),
            column(data.labels.values),
            data.length,
            data.scaled_by_window,
            None if weights is None else column(weights),
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
            model: A Keras model that `layers` supports, compiled with the loss of its head.
            data: The matrix that windows are cut from, and their labels.
            batch_size: Windows per batch; the last batch of an epoch may be smaller.
            seed: Seed of dropout.
        """
        self._model = model
        self._tables = Windows.of(data).tables
        self._batch_size = batch_size
        self._seed = tf.constant(seed % 2**32, tf.uint32)
        model.optimizer.build(model.trainable_variables)
        self._programs = _programs(
            description(model, model.optimizer),
            data.length,
            data.scaled_by_window,
            data.output.head.loss,
        )

    def compile(self, windows: int) -> None:
        """Load or compile the programs side by side, for epochs of so many windows."""
        calls = (
            partial(self._programs.compile_train, self._model, *self._tables, self._seed),
            partial(self._programs.compile_evaluate, self._model, *self._tables),
        )
        shapes = (self._shape(windows), _steps(EVALUATED))
        empty = [(np.zeros(shape, np.int32), np.zeros(shape, np.float32), 0) for shape in shapes]

        def both() -> float:
            with compiling(), ThreadPoolExecutor() as threads:
                for done in [threads.submit(c, *e) for c, e in zip(calls, empty, strict=True)]:
                    done.result()
            return 0.0

        _interruptible(both)

    def train(self, starts: NDArray[np.int64], on_windows: _OnWindows | None = None) -> float:
        """Train one epoch on the windows at `starts`, and return their mean weighted loss.

        As in Keras' logs, the loss of a batch is measured before its step and with dropout.
        """
        program = partial(self._programs.train, self._model, *self._tables, self._seed)
        return self._run(program, starts, self._shape(len(starts)), on_windows)

    def evaluate(self, starts: NDArray[np.int64]) -> float:
        """Return the mean weighted loss of the windows at `starts`, without dropout."""
        program = partial(self._programs.evaluate, self._model, *self._tables)
        return self._run(program, starts, _steps(EVALUATED))

    def _shape(self, windows: int) -> tuple[int, int]:
        """Return the shape of a call that trains on so many windows, (steps, batch)."""
        return _steps(min(windows, self._batch_size))

    def _run(
        self,
        program: Callable[..., float],
        starts: NDArray[np.int64],
        shape: tuple[int, int],
        on_windows: _OnWindows | None = None,
    ) -> float:
        steps, size = shape
        batches = -(-len(starts) // size)
        chunks = -(-batches // steps)
        # All calls have the same shapes, so one program is enough. Padding in the last batch has
        # weight 0, so its gradient is that of a smaller batch; empty steps are not run.
        padded = np.full((chunks, steps, size), starts[-1], np.int32)
        real = np.zeros((chunks, steps, size), np.float32)
        padded.reshape(-1)[: len(starts)] = starts
        real.reshape(-1)[: len(starts)] = 1.0
        total = 0.0
        for chunk in range(chunks):
            count = tf.constant(min(steps, batches - chunk * steps))
            total += _interruptible(program, padded[chunk], real[chunk], count)
            if on_windows:
                on_windows(min((chunk + 1) * steps * size, len(starts)), len(starts))
        return total / len(starts)


def _steps(size: int) -> tuple[int, int]:
    """Return the shape of a call with batches of this size, (steps, batch)."""
    return max(1, CHUNK_WINDOWS // size), size


class _Programs:
    """The programs of all models with the same layers and optimizer."""

    def __init__(self, description: str, length: int, scaled_by_window: bool, loss: Loss) -> None:
        self._description, self._loss = description, loss
        self._length, self._scaled_by_window = length, scaled_by_window
        described = json.dumps([description, length, scaled_by_window, loss])
        self._train = Program("train_steps", described, partial(self._make, self._train_steps))
        self._evaluate = Program(
            "evaluate_steps", described, partial(self._make, self._evaluate_steps)
        )

    def train(self, model: Any, *arguments: Any) -> float:
        return float(self._train(_variables(model), *arguments))

    def evaluate(self, model: Any, *arguments: Any) -> float:
        return float(self._evaluate(_variables(model), *arguments))

    def compile_train(self, model: Any, *arguments: Any) -> None:
        self._train.compile(_variables(model), *arguments)

    def compile_evaluate(self, model: Any, *arguments: Any) -> None:
        self._evaluate.compile(_variables(model), *arguments)

    def _make(self, function: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
        """Return the function of a model, and the variables of the model."""
        model = made(self._description)
        return partial(function, model), _variables(model)

    def _train_steps(self, model: Any, *arguments: Any) -> Any:
        rows, labels, *weights, seed, starts, real, count = arguments
        windows = self._windows(rows, labels, *weights)
        trained = model.trainable_variables

        def draw(layer: Any, part: int, shape: Any, _: Rows) -> Any:
            return draw_mask(model, seed, layer, part, shape)

        def step(t: Any, total: Any) -> Any:
            with tf.GradientTape() as tape:
                lost = total_loss(model, windows, starts[t], real[t], draw, loss=self._loss)
                mean = lost / tf.reduce_sum(real[t])
            model.optimizer.apply(tape.gradient(mean, trained), trained)
            return t + 1, total + lost

        return tf.while_loop(lambda t, _: t < count, step, (0, 0.0))[1]

    def _evaluate_steps(self, model: Any, *arguments: Any) -> Any:
        rows, labels, *weights, starts, real, count = arguments
        windows = self._windows(rows, labels, *weights)

        def step(t: Any, total: Any) -> Any:
            lost = total_loss(model, windows, starts[t], real[t], None, loss=self._loss)
            return t + 1, total + lost

        return tf.while_loop(lambda t, _: t < count, step, (0, 0.0))[1]

    def _windows(self, rows: Any, labels: Any, weights: Any = None) -> Windows:
        return Windows(rows, labels, self._length, self._scaled_by_window, weights)


@cache
def _programs(description: str, length: int, scaled_by_window: bool, loss: Loss) -> _Programs:
    """Return the programs of all models with this description and loss."""
    return _Programs(description, length, scaled_by_window, loss)


def _variables(model: Any) -> list[Any]:
    """Return the variables of a model and of its optimizer."""
    return [*variables(model), *(each.value for each in model.optimizer.variables)]


def total_loss(
    model: Any,
    windows: Windows,
    starts: Any,
    real: Any,
    draw: DrawMask | None,
    *,
    loss: Loss = "mse",
) -> Any:
    """Return the sum of the weighted losses of a batch, in the graph.

    Keras divides it by the number of windows, not by the sum of their weights.

    Args:
        model: A Keras model supported by `layers`.
        windows: What the batch is cut from.
        starts: int32, (batch,).
        real: float32, (batch,): 1 for a window, 0 for padding.
        draw: Returns the dropout masks; None for no dropout.
        loss: The loss of a window.
    """
    size = starts.shape[0]
    edges = [size * part // _PARTS for part in range(_PARTS + 1)]
    slices = [slice(first, last) for first, last in pairwise(edges) if first < last]
    offsets = tf.range(windows.length)[:, None]
    parts = [tf.gather(windows.rows, offsets + starts[part]) for part in slices]
    if windows.scaled_by_window:
        parts = [scaled_by_window(x, axis=0) for x in parts]
    outputs = tf.concat(forward(model, parts, draw, logits=loss != "mse"), 0)
    labelled = starts + windows.length
    weights = real
    if windows.weights is not None:
        weights = real * tf.gather(windows.weights, labelled)
    return tf.reduce_sum(weights * _losses(loss, outputs, tf.gather(windows.labels, labelled)))


def _losses(loss: Loss, outputs: Any, labels: Any) -> Any:
    """Return the loss of each window, (batch,).

    Args:
        loss: The name of the loss.
        outputs: (batch, units); logits unless the loss is mse. Keras' losses use them too where it
            can find them, instead of clipped probabilities.
        labels: float32, (batch,).
    """
    if loss == "sparse_categorical_crossentropy":
        return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int32), outputs)
    if loss == "binary_crossentropy":
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, outputs[:, 0])
    return tf.square(outputs[:, 0] - labels)


def draw_mask(model: Any, seed: Any, layer: Any, part: int, shape: Any) -> Any:
    """Return a mask: 0 with probability `rate`, and 1 / (1 - rate) elsewhere."""
    step = tf.bitcast(tf.cast(model.optimizer.iterations, tf.int32), tf.uint32)
    number = [each for each, _ in wiring(model)].index(layer)
    stream = np.uint32(number * _PARTS + part)
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
