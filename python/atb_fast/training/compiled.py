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

from collections.abc import Callable
from itertools import pairwise
from threading import Thread
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData
from atb_fast.training.layers import DrawMask, apply
from atb_fast.training.tf_data import scaled_by_window

#: Windows per call of a program. A call takes a few seconds; progress is reported between calls.
CHUNK_WINDOWS = 6400
#: Windows evaluated at once; all of their activations are in memory.
EVALUATED = 512
#: Parts of a batch. On two cores, four parts were no faster; more cores were not measured.
_PARTS = 2
#: Seconds between checks for an interrupt while the main thread waits.
_HEARTBEAT = 0.2

#: Called during an epoch with the number of windows done and their total.
_OnWindows = Callable[[int, int], None]


class CompiledModel:
    """The epochs of a Keras model as compiled programs.

    The variables of the model and of its optimizer are the only state. Between two calls, the model
    can be saved, evaluated or changed like any other. TensorFlow keeps the machine code of each
    instance, about 20 MB, until the process ends.
    """

    def __init__(self, model: Any, data: WindowedData, batch_size: int, *, seed: int) -> None:
        """Copy the feature matrix to the device. Each program is compiled at its first call.

        Args:
            model: A Keras model compiled with the loss mse, and supported by `layers`.
            data: The matrix that windows are cut from, and their labels.
            batch_size: Windows per batch; the last batch of an epoch may be smaller.
            seed: Seed of dropout.
        """
        self._model = model
        self._length = data.length
        self._rows = tf.constant(data.prepared.matrix.values)
        self._scaled_by_window = data.scaled_by_window
        self._labels = tf.constant(data.labels.astype(np.float32))
        self._batch_size = batch_size
        self._seed = np.uint32(seed % 2**32)
        model.optimizer.build(model.trainable_variables)
        self._train_program = tf.function(self._train_steps, jit_compile=True, autograph=False)
        self._evaluate_program = tf.function(
            self._evaluate_steps, jit_compile=True, autograph=False
        )

    def train(self, starts: NDArray[np.int64], on_windows: _OnWindows | None = None) -> float:
        """Train one epoch on the windows at `starts`, and return their mean squared error.

        As in Keras' logs, the error of a batch is measured before its step and with dropout.
        """
        size = min(len(starts), self._batch_size)
        return self._run(self._train_program, starts, size, on_windows)

    def evaluate(self, starts: NDArray[np.int64]) -> float:
        """Return the mean squared error of the windows at `starts`, without dropout."""
        batches = -(-len(starts) // EVALUATED)
        return self._run(self._evaluate_program, starts, -(-len(starts) // batches))

    def _run(
        self,
        program: Any,
        starts: NDArray[np.int64],
        size: int,
        on_windows: _OnWindows | None = None,
    ) -> float:
        batches = -(-len(starts) // size)
        chunks = -(-batches // max(1, CHUNK_WINDOWS // size))
        steps = -(-batches // chunks)
        # All chunks have the same shape, so one program is enough. Padding in the last batch has
        # weight 0, so its gradient is that of a smaller batch; empty steps are not run.
        padded = np.full((chunks, steps, size), starts[-1], np.int32)
        weights = np.zeros((chunks, steps, size), np.float32)
        padded.reshape(-1)[: len(starts)] = starts
        weights.reshape(-1)[: len(starts)] = 1.0
        total = 0.0
        for chunk in range(chunks):
            count = min(steps, batches - chunk * steps)
            total += _interruptible(program, padded[chunk], weights[chunk], tf.constant(count))
            if on_windows:
                on_windows(min((chunk + 1) * steps * size, len(starts)), len(starts))
        return total / len(starts)

    def _train_steps(self, starts: Any, weights: Any, count: Any) -> Any:
        optimizer, variables = self._model.optimizer, self._model.trainable_variables

        def step(t: Any, total: Any) -> Any:
            with tf.GradientTape() as tape:
                error = self.squared_error(starts[t], weights[t], self.draw_mask)
                loss = error / tf.reduce_sum(weights[t])
            optimizer.apply(tape.gradient(loss, variables), variables)
            return t + 1, total + error

        return tf.while_loop(lambda t, _: t < count, step, (0, 0.0))[1]

    def _evaluate_steps(self, starts: Any, weights: Any, count: Any) -> Any:
        def step(t: Any, total: Any) -> Any:
            return t + 1, total + self.squared_error(starts[t], weights[t], None)

        return tf.while_loop(lambda t, _: t < count, step, (0, 0.0))[1]

    def squared_error(self, starts: Any, weights: Any, draw: DrawMask | None) -> Any:
        """Return the sum of the weighted squared errors of a batch, in the graph.

        Args:
            starts: int32, (batch,).
            weights: float32, (batch,).
            draw: Returns the dropout masks; None for no dropout.
        """
        size = starts.shape[0]
        edges = [size * part // _PARTS for part in range(_PARTS + 1)]
        slices = [slice(first, last) for first, last in pairwise(edges) if first < last]
        offsets = tf.range(self._length)[:, None]
        parts = [tf.gather(self._rows, offsets + starts[part]) for part in slices]
        if self._scaled_by_window:
            parts = [scaled_by_window(x, axis=0) for x in parts]
        for layer in self._model.layers:
            parts = apply(layer, parts, draw)
        predicted = tf.concat([x[:, 0] for x in parts], 0)
        actual = tf.gather(self._labels, starts + self._length)
        return tf.reduce_sum(weights * tf.square(predicted - actual))

    def draw_mask(self, layer: Any, part: int, shape: Any) -> Any:
        """Return a mask: 0 with probability `rate`, and 1 / (1 - rate) elsewhere."""
        step = tf.bitcast(tf.cast(self._model.optimizer.iterations, tf.int32), tf.uint32)
        stream = np.uint32(self._model.layers.index(layer) * _PARTS + part)
        key = _mix(_mix(step + _mix(self._seed)) + stream)
        places = tf.bitcast(tf.range(int(np.prod(shape))), tf.uint32)
        dropped = _mix(_mix(places) + key) < np.uint32(layer.rate * 2**32)
        return tf.reshape(tf.where(dropped, 0.0, 1.0 / (1.0 - layer.rate)), shape)


def _interruptible(program: Any, *arguments: Any) -> float:
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
