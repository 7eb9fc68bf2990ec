"""Training and evaluation as compiled programs: many steps each, over the resident matrix.

Keras' `fit` starts every step from Python and every operation from TensorFlow's executor; with a
network this small that takes longer than the arithmetic. Here XLA compiles one program of many
steps: it cuts the windows out of the matrix, runs the network forward and back, and lets the
model's own optimizer change the model's own variables. It is Keras' arithmetic, to rounding, with
other random numbers for shuffling and dropout.

What XLA is good at on a CPU decides how the layers are written:

- A batch is two parts that know nothing of each other, so that two cores have work: on two cores a
  step takes a tenth less than with one part.
- Tensors are time-major, (steps, batch, channels): shifts and pools are contiguous blocks.
- A convolution is one matrix product of shifted copies; XLA's own has a slow gradient.
- An LSTM projects all steps with one product, and saves on its way forward what the way back needs.
- Dropout draws from a counter-based generator; Keras' takes longer than the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import pairwise
from threading import Thread
from typing import Any

import numpy as np
import tensorflow as tf
from keras import Sequential, activations, layers
from numpy.typing import NDArray

# Writes in place; a scatter would copy the array at every step of a loop.
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

from atb_fast.features.windows import WindowedData
from atb_fast.training.tf_data import scaled_by_window

#: Windows of one call of a program: a few seconds, after which progress is shown.
_CHUNK_WINDOWS = 6400
#: Windows that are evaluated at once; their activations are in memory together.
_EVALUATED = 512
#: Of a batch. On two cores, four were no faster; more cores were not measured.
_PARTS = 2
#: Seconds after which the waiting main thread looks whether it was interrupted.
_HEARTBEAT = 0.2

#: Returns a dropout mask for a layer, a part of the batch (by number) and a shape.
DrawMask = Callable[[Any, int, Any], Any]
#: Called during an epoch with the windows that are done and their number in all.
WindowsCallback = Callable[[int, int], None]


def unsupported(model: Any) -> str | None:
    """Return why `model` cannot be trained here, None if it can."""
    # A subclass may compute anything.
    if type(model) is not Sequential:
        return "it is not a Sequential model"
    if not model.built:
        return "it has no input shape yet"
    if model.output_shape != (None, 1):
        return f"its output is {model.output_shape}, not one value"
    reasons = (f"layer {layer.name} {reason}" for layer in model.layers for reason in _odd(layer))
    return next(reasons, None)


def _odd(layer: Any) -> Iterator[str]:
    """Give what is not known about `layer`, the type first."""
    if type(layer) not in _LAYERS:
        yield f"is a {type(layer).__name__}"
        return
    if layer.compute_dtype != "float32" or any(w.dtype != "float32" for w in layer.weights):
        yield f"computes in {layer.compute_dtype}, with weights not all float32"
    if not layer.trainable:
        yield "is frozen"
    for name, allowed in _LAYERS[type(layer)][1].items():
        if getattr(layer, name) not in allowed:
            yield f"has {name} {getattr(layer, name)!r}"
    if isinstance(layer, layers.MaxPooling1D) and layer.strides != layer.pool_size:
        yield f"has strides {layer.strides!r}, other than pool_size"
    if isinstance(layer, layers.Dropout) and not layer.rate < 1:
        yield f"has rate {layer.rate!r}"
    for part in (layer, getattr(layer, "cell", layer)):
        for name, value in vars(part).items():
            if name.endswith(("_regularizer", "_constraint")) and value is not None:
                yield f"has a {name}"


def _conv1d(layer: Any, x: Any) -> Any:
    width = layer.kernel_size[0]
    steps = x.shape[0] - width + 1
    shifted = tf.concat([x[i : i + steps] for i in range(width)], -1)
    kernel = tf.reshape(layer.kernel, (-1, layer.filters))
    return layer.activation(_matmul(shifted, kernel) + layer.bias)


def _max_pooling1d(layer: Any, x: Any) -> Any:
    size = layer.pool_size[0]
    steps = x.shape[0] // size
    blocks = tf.reshape(x[: steps * size], (steps, size, *x.shape[1:]))
    return reduce(tf.maximum, (blocks[:, i] for i in range(size)))


def _dense(layer: Any, x: Any) -> Any:
    return layer.activation(_matmul(x, layer.kernel) + layer.bias)


def _lstm(layer: Any, parts: list[Any]) -> list[Any]:
    cell = layer.cell
    weights = (cell.kernel, cell.recurrent_kernel, cell.bias)
    hidden = _lstm_sequence(*(tf.convert_to_tensor(weight) for weight in weights), *parts)
    return hidden if layer.return_sequences else [h[-1] for h in hidden]


def _matmul(x: Any, kernel: Any) -> Any:
    product = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
    return tf.reshape(product, (*x.shape[:-1], kernel.shape[-1]))


def _kernel_gradient(x: Any, dz: Any) -> Any:
    """Return inputs times gradients of what they made, summed over steps and batch."""
    flat = (tf.reshape(array, (-1, array.shape[-1])) for array in (x, dz))
    return tf.matmul(*flat, transpose_a=True)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _lstm_sequence(kernel: Any, recurrent: Any, bias: Any, *parts: Any) -> Any:
    """Return the hidden states of an LSTM that starts from zeros.

    The cell is that of F. Gers, J. Schmidhuber and F. Cummins, Learning to Forget (2000), as in
    Keras. The loops advance all parts in each step: XLA runs what is independent on both cores.

    Args:
        kernel: (inputs, 4 * units), gates in Keras' order: input, forget, candidate, output.
        recurrent: (units, 4 * units).
        bias: (4 * units,).
        parts: (steps, batch, inputs) each.

    Returns:
        (steps, batch, units) for each part; by custom_gradient, how to go back.
    """
    steps, units = parts[0].shape[0], recurrent.shape[0]
    columns = [slice(k * units, (k + 1) * units) for k in range(4)]

    def put(array: Any, value: Any, t: Any) -> Any:
        return dynamic_update_slice(array, value[None], [t, 0, 0])

    def zeros(x: Any, *shape: int) -> Any:
        return tf.zeros((*shape[:-1], x.shape[1], shape[-1]))

    def split(z: Any) -> tuple[Any, ...]:
        i, f, o = (0.5 * z[..., columns[k]] + 0.5 for k in (0, 1, 3))
        return i, f, z[..., columns[2]], o

    # sigmoid(z) is tanh(z / 2) / 2 + 1 / 2. So one tanh over all gates does, in one fast loop;
    # halving a weight is exact.
    halved = tf.constant(np.repeat([0.5, 0.5, 1.0, 0.5], units), tf.float32)
    gates = recurrent * halved
    projected = [_matmul(x, kernel * halved) + bias * halved for x in parts]

    def forward(t: Any, h: Any, c: Any, saved: tuple[Any, ...]) -> tuple[Any, ...]:
        hs, cs, zs = saved
        z = tf.tanh(zs[t] + tf.matmul(h, gates))
        i, f, g, o = split(z)
        c = f * c + i * g
        h = o * tf.tanh(c)
        return h, c, (put(hs, h, t), put(cs, c, t), put(zs, z, t))

    def initial(x: Any, z: Any) -> tuple[Any, ...]:
        # Each step puts its gates in the place of what was projected for it.
        saved = (zeros(x, steps, units), zeros(x, steps, units), z)
        return zeros(x, units), zeros(x, units), saved

    _, ends = tf.while_loop(
        lambda t, _: t < steps,
        lambda t, states: (t + 1, [forward(t, *state) for state in states]),
        (0, [initial(x, z) for x, z in zip(parts, projected, strict=True)]),
    )
    saved = [end[2] for end in ends]

    def gradient(*upstream: Any) -> tuple[Any, ...]:
        back = tf.transpose(recurrent)

        def slopes(cs: Any, zs: Any) -> tuple[Any, ...]:
            """Return what the changes of a step are multiplied with, for all steps at once."""
            i, f, g, o = split(zs)
            before = tf.concat([tf.zeros_like(cs[:1]), cs[:-1]], 0)
            s = tf.tanh(cs)
            # The state with what goes into its three gates, the output with what goes into its own.
            dc_dz = (g * i * (1 - i), before * f * (1 - f), i * (1 - g * g))
            return (*dc_dz, s * o * (1 - o)), o * (1 - s * s), f

        def backward(t: Any, slope: Any, up: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
            (by_gate, dh_dc, dc_dc), (dh, dc, dz) = slope, state
            dh = dh + up[t]
            dc = dc + dh * dh_dc[t]
            # Multiplied before they are joined: XLA joins finished arrays much faster.
            new = [d * s[t] for d, s in zip((dc, dc, dc, dh), by_gate, strict=True)]
            new_dz = tf.concat(new, 1)
            return tf.matmul(new_dz, back), dc * dc_dc[t], put(dz, new_dz, t)

        by_part = [slopes(cs, zs) for _, cs, zs in saved]
        _, ends = tf.while_loop(
            lambda t, _: t >= 0,
            lambda t, states: (
                t - 1,
                [backward(t, *given) for given in zip(by_part, upstream, states, strict=True)],
            ),
            (
                steps - 1,
                [(zeros(x, units), zeros(x, units), zeros(x, steps, 4 * units)) for x in parts],
            ),
        )
        dzs = [end[2] for end in ends]
        hidden = [hs for hs, _, _ in saved]
        return (
            tf.add_n([_kernel_gradient(x, dz) for x, dz in zip(parts, dzs, strict=True)]),
            tf.add_n([_kernel_gradient(h[:-1], dz[1:]) for h, dz in zip(hidden, dzs, strict=True)]),
            tf.add_n([tf.reduce_sum(dz, (0, 1)) for dz in dzs]),
            *(_matmul(dz, tf.transpose(kernel)) for dz in dzs),
        )

    return [hs for hs, _, _ in saved], gradient


#: Each value by itself: these may be given any part of the batch, in any order of axes.
_ELEMENTWISE = (
    activations.linear,
    activations.relu,
    activations.tanh,
    activations.sigmoid,
    activations.elu,
    activations.selu,
    activations.gelu,
    activations.silu,
    activations.softplus,
)
_PLAIN = {"padding": ("valid",), "data_format": ("channels_last",)}
#: How a layer is computed, and the settings it may have for that. An LSTM sees all parts at once,
#: dropout is drawn, and the others see one part.
_LAYERS: dict[type, tuple[Callable[..., Any] | None, dict[str, Any]]] = {
    layers.Conv1D: (
        _conv1d,
        {
            **_PLAIN,
            "strides": ((1,),),
            "dilation_rate": ((1,),),
            "groups": (1,),
            "use_bias": (True,),
            "activation": _ELEMENTWISE,
        },
    ),
    layers.MaxPooling1D: (_max_pooling1d, _PLAIN),
    layers.Dense: (_dense, {"use_bias": (True,), "activation": _ELEMENTWISE}),
    layers.LSTM: (
        _lstm,
        {
            "activation": (activations.tanh,),
            "recurrent_activation": (activations.sigmoid,),
            "use_bias": (True,),
            "dropout": (0.0,),
            "recurrent_dropout": (0.0,),
            "go_backwards": (False,),
            "stateful": (False,),
            "return_state": (False,),
        },
    ),
    layers.Dropout: (None, {"noise_shape": (None,), "seed": (None,)}),
}


def _apply(layer: Any, parts: list[Any], draw: DrawMask | None) -> list[Any]:
    function = _LAYERS[type(layer)][0]
    if isinstance(layer, layers.LSTM):
        return _lstm(layer, parts)
    if function is not None:
        return [function(layer, x) for x in parts]
    if draw is None:
        return parts
    return [x * draw(layer, number, x.shape) for number, x in enumerate(parts)]


class CompiledModel:
    """A compiled Keras model, and its epochs as programs.

    The model's variables and those of its optimizer are the only state: between two calls the model
    can be saved, evaluated or changed as any other. TensorFlow keeps the machine code of each
    instance as long as the process lives, about 20 MB.
    """

    def __init__(self, model: Any, data: WindowedData, batch_size: int, *, seed: int) -> None:
        """Put the feature matrix on the device; the programs are compiled by their first call.

        Args:
            model: `unsupported` returned None for it; its loss is mean squared error.
            data: What windows are cut from.
            batch_size: Windows in a batch; the last one of an epoch may be smaller.
            seed: Of dropout.
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

    def train(self, starts: NDArray[np.int64], on_windows: WindowsCallback | None = None) -> float:
        """Fit the windows at `starts` once, in this order; return their mean squared error.

        As in Keras' logs, the error of a batch is from before its step and with dropout.
        """
        size = min(len(starts), self._batch_size)
        return self._run(self._train_program, starts, size, on_windows)

    def evaluate(self, starts: NDArray[np.int64]) -> float:
        """Return the mean squared error of the windows at `starts`, without dropout."""
        batches = -(-len(starts) // _EVALUATED)
        return self._run(self._evaluate_program, starts, -(-len(starts) // batches))

    def _run(
        self,
        program: Any,
        starts: NDArray[np.int64],
        size: int,
        on_windows: WindowsCallback | None = None,
    ) -> float:
        batches = -(-len(starts) // size)
        chunks = -(-batches // max(1, _CHUNK_WINDOWS // size))
        steps = -(-batches // chunks)
        # All chunks have one shape, for one program. What fills the last batch has no weight, so
        # its gradient is that of a smaller batch; steps without any window are not run.
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
                error = self.squared_error(starts[t], weights[t], self._draw_mask)
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
            draw: Dropout masks; no dropout if None.
        """
        size = starts.shape[0]
        edges = [size * part // _PARTS for part in range(_PARTS + 1)]
        slices = [slice(first, last) for first, last in pairwise(edges) if first < last]
        offsets = tf.range(self._length)[:, None]
        parts = [tf.gather(self._rows, offsets + starts[part]) for part in slices]
        if self._scaled_by_window:
            parts = [scaled_by_window(x, axis=0) for x in parts]
        for layer in self._model.layers:
            parts = _apply(layer, parts, draw)
        predicted = tf.concat([x[:, 0] for x in parts], 0)
        actual = tf.gather(self._labels, starts + self._length)
        return tf.reduce_sum(weights * tf.square(predicted - actual))

    def _draw_mask(self, layer: Any, part: int, shape: Any) -> Any:
        """Return 0 at a share `rate` of the places, 1 / (1 - rate) elsewhere."""
        step = tf.bitcast(tf.cast(self._model.optimizer.iterations, tf.int32), tf.uint32)
        stream = np.uint32(self._model.layers.index(layer) * _PARTS + part)
        key = _mix(_mix(step + _mix(self._seed)) + stream)
        places = tf.bitcast(tf.range(int(np.prod(shape))), tf.uint32)
        dropped = _mix(_mix(places) + key) < np.uint32(layer.rate * 2**32)
        return tf.reshape(tf.where(dropped, 0.0, 1.0 / (1.0 - layer.rate)), shape)


def _interruptible(program: Any, *arguments: Any) -> float:
    """Return what `program` gives; an interrupt is heard while it is compiled and while it runs.

    Python hears signals between instructions of its main thread, and a program is one of them. One
    that was interrupted runs to its end beside whatever follows.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(float(program(*arguments)))
        except BaseException as error:
            results.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    # A signal may reach another thread, and does not wake one that waits without end.
    while thread.is_alive():
        thread.join(_HEARTBEAT)
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return float(result)


def _mix(x: Any) -> Any:
    """Return uint32 numbers with their bits mixed: the finalizer of MurmurHash3 (A. Appleby)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        shifted = tf.bitwise.right_shift(x, np.uint32(shift))
        x = tf.bitwise.bitwise_xor(x, shifted) * np.uint32(factor)
    return x
