"""The layers that compiled epochs support, and how each is computed.

Tensors are time-major, (steps, batch, channels). A layer takes the batch in independent parts and
returns one output for each. To support another kind of layer, add it to `_LAYERS`.

Only the rows that the output depends on are computed. In a network of dilated convolutions, the
last row depends on only a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import Any

import numpy as np
import tensorflow as tf
from keras import Sequential, activations, layers

# The public API has no name for the type of a model that is a graph of layers.
from keras.src.models.functional import Functional

from atb_fast.features.heads import LINEAR, Head
from atb_fast.training.lstm import lstm_sequence, matmul

#: Rows of a sequence, for example of a window; None for a value without that axis.
Rows = range | None
#: Returns a dropout mask; takes a layer, the number of a part, a shape, and the rows of the mask.
DrawMask = Callable[[Any, int, Any, Rows], Any]
#: A value of a network: a tensor for each part of a batch.
_Parts = list[Any]


def unsupported(model: Any, head: Head = LINEAR) -> str | None:
    """Return why `model` cannot be trained in compiled epochs; None if it can.

    Args:
        model: A Keras model.
        head: The last layer that its target needs.
    """
    if reason := unknown(model):
        return reason
    if model.output_shape != (None, head.units):
        return f"its output shape is {model.output_shape}, expected (None, {head.units})"
    last = model.layers[-1]
    # The loss of probabilities is computed from what comes before their activation.
    expected = activations.get(head.activation)
    if head != LINEAR and not (type(last) is layers.Dense and last.activation is expected):
        return f"layer {last.name} is not a Dense with the activation {head.activation}"
    return None


def unknown(model: Any) -> str | None:
    """Return why the outputs of `model` cannot be computed here; None if they can."""
    # A subclass may compute anything, so it is not supported.
    if type(model) not in (Sequential, Functional):
        return "it is neither a Sequential nor a functional model"
    if not model.built:
        return "it has no input shape yet"
    reasons = (f"layer {layer.name} {reason}" for layer in model.layers for reason in _odd(layer))
    return next(reasons, None) or _odd_graph(model)


def wiring(model: Any) -> list[tuple[Any, tuple[int, ...]]]:
    """Return the layers of a model, each with the numbers of the values that it takes.

    The value 0 is the input of the model, and `n` is the output of the n-th layer. That of the last
    layer is the output of the model.

    Raises:
        LookupError: A layer is used twice, or takes something that no layer returns.
    """
    if type(model) is Sequential:
        return [(layer, (number,)) for number, layer in enumerate(model.layers)]
    numbers = {id(tensor): number for number, tensor in enumerate(model.inputs)}
    found: list[tuple[Any, tuple[int, ...]]] = []
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        given = layer.input if type(layer) in _MERGES else [layer.input]
        found.append((layer, tuple(numbers[id(tensor)] for tensor in given)))
        numbers[id(layer.output)] = len(found)
    if numbers[id(model.outputs[0])] != len(found):
        raise LookupError(model.outputs[0])
    return found


def _odd_graph(model: Any) -> str | None:
    """Return why the layers of a model, which are all supported, cannot be computed in order."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return f"it has {len(model.inputs)} inputs and {len(model.outputs)} outputs"
    if len(model.output_shape) != 2:
        return f"its output shape is {model.output_shape}, expected two axes"
    try:
        wiring(model)
    except LookupError:
        return "it uses a layer twice, or operations that are not layers"
    if type(model) is Sequential:
        return None
    calls = [call for each in model.get_config()["layers"] for call in each["inbound_nodes"]]
    # Without options, `training` is stored as None or False.
    if any(value not in (None, False) for call in calls for value in call["kwargs"].values()):
        return "it passes options such as training=True to a layer"
    return None


def forward(model: Any, parts: _Parts, draw: DrawMask | None, *, logits: bool = False) -> _Parts:
    """Return the outputs of a supported model for each part of a batch.

    Args:
        model: The model.
        parts: Windows, (steps, batch, channels) each.
        draw: Returns the dropout masks; None for no dropout.
        logits: Whether to return the outputs before the activation of the last layer, a `Dense`.
    """
    wired = wiring(model)
    shapes = [model.input_shape, *(layer.output.shape for layer, _ in wired)]
    steps = [shape[1] if len(shape) == 3 else None for shape in shapes]
    rows = _needed(wired, steps)
    values = [[_take(x, range(x.shape[0]), rows[0]) for x in parts]]
    for number, (layer, sources) in enumerate(wired, 1):
        inputs = []
        for source in sources:
            needed = _rows_for(layer, rows[number], steps[source])
            inputs.append([_take(x, rows[source], needed) for x in values[source]])
        if logits and number == len(wired):
            return [_linear(layer, x) for x in inputs[0]]
        values.append(_LAYERS[type(layer)].compute(layer, inputs, draw, rows[number]))
    return values[-1]


def _needed(wired: list[tuple[Any, tuple[int, ...]]], steps: list[int | None]) -> list[Rows]:
    """Return the rows of each value that are computed: those that the output depends on.

    Args:
        wired: The layers; see `wiring`.
        steps: Number of rows of each value; None if it has no such axis.
    """
    needed: list[Rows] = [None] * len(steps)
    for number in range(len(wired), 0, -1):
        layer, sources = wired[number - 1]
        every = steps[number]
        if every is not None and _LAYERS[type(layer)].needs is _every_row:
            needed[number] = range(every)
        for source in sources:
            rows = _rows_for(layer, needed[number], steps[source])
            needed[source] = _together([each for each in (needed[source], rows) if each])
    return needed


def _rows_for(layer: Any, wanted: Rows, steps: int | None) -> Rows:
    """Return the rows of an input of `layer` that the rows `wanted` of its output depend on."""
    if steps is None:
        return None
    return _LAYERS[type(layer)].needs(layer, wanted, steps)


def _together(parts: list[range]) -> Rows:
    """Return the shortest range that contains all of `parts`; None if there are none."""
    if not parts:
        return None
    first, last = min(part.start for part in parts), max(part[-1] for part in parts)
    gaps = [part.step for part in parts if len(part) > 1] + [part.start - first for part in parts]
    return range(first, last + 1, gcd(*gaps) or 1)


def _from_start(rows: range) -> range:
    """Return `rows` without those before the first row of a sequence, which is row 0."""
    return rows[len(range(rows.start, min(0, rows.stop), rows.step)) :]


def _take(x: Any, given: Rows, wanted: Rows) -> Any:
    """Return the rows `wanted` of `x`, which has the rows `given`; those before row 0 are zeros."""
    if given is None or wanted is None or given == wanted:
        return x
    inside = _from_start(wanted)
    found = []
    if len(inside) < len(wanted):
        found.append(tf.zeros((len(wanted) - len(inside), *x.shape[1:]), x.dtype))
    if inside:
        first, last = given.index(inside[0]), given.index(inside[-1])
        stride = given.index(inside[1]) - first if len(inside) > 1 else 1
        found.append(x[first : last + 1 : stride])
    return tf.concat(found, 0)


def _odd(layer: Any) -> Iterator[str]:
    """Yield the reasons why `layer` is not supported, its type first."""
    if isinstance(layer, layers.InputLayer):
        return
    if type(layer) not in _LAYERS:
        yield f"is a {type(layer).__name__}"
        return
    if layer.compute_dtype != "float32" or any(w.dtype != "float32" for w in layer.weights):
        yield f"computes in {layer.compute_dtype}, or has weights that are not float32"
    if len(layer.trainable_weights) not in (0, len(layer.weights)):
        yield "is frozen in part"
    for name, allowed in _LAYERS[type(layer)].settings.items():
        if getattr(layer, name) not in allowed:
            yield f"has {name} {getattr(layer, name)!r}"
    if isinstance(layer, layers.MaxPooling1D) and layer.strides != layer.pool_size:
        yield f"has strides {layer.strides!r}, other than its pool_size"
    if type(layer) in _ELEMENTWISE_MERGES and len({each.shape for each in layer.input}) > 1:
        yield "has inputs of different shapes"
    if isinstance(layer, layers.Dropout) and not layer.rate < 1:
        yield f"has rate {layer.rate!r}"
    for part in (layer, getattr(layer, "cell", layer)):
        for name, value in vars(part).items():
            if name.endswith(("_regularizer", "_constraint")) and value is not None:
                yield f"has a {name}"


def _conv1d(layer: Any, inputs: list[_Parts], _: DrawMask | None, wanted: Rows) -> _Parts:
    # One matrix product of shifted copies, because XLA's convolution has a slow gradient.
    assert wanted is not None
    given, taps = _conv1d_rows(layer, wanted, 0), _taps(layer, wanted)
    kernel = tf.reshape(layer.kernel, (-1, layer.filters))

    def convolved(x: Any) -> Any:
        shifted = tf.concat([_take(x, given, tap) for tap in taps], -1)
        return layer.activation(matmul(shifted, kernel) + layer.bias)

    return [convolved(x) for x in inputs[0]]


def _conv1d_rows(layer: Any, wanted: Rows, _: int) -> Rows:
    assert wanted is not None
    return _together([rows for tap in _taps(layer, wanted) if (rows := _from_start(tap))])


def _taps(layer: Any, wanted: range) -> list[range]:
    """Return the rows that each row of the kernel of a convolution is multiplied with."""
    width, dilation = layer.kernel_size[0], layer.dilation_rate[0]
    first = (1 - width) * dilation if layer.padding == "causal" else 0
    shifts = [first + i * dilation for i in range(width)]
    return [range(wanted.start + s, wanted.stop + s, wanted.step) for s in shifts]


def _max_pooling1d(layer: Any, x: Any) -> Any:
    size = layer.pool_size[0]
    steps = x.shape[0] // size
    blocks = tf.reshape(x[: steps * size], (steps, size, *x.shape[1:]))
    return reduce(tf.maximum, (blocks[:, i] for i in range(size)))


def _average_pooling1d(layer: Any, x: Any) -> Any:
    # A product with a band of weights. At the ends, fewer rows are averaged.
    size, steps = layer.pool_size[0], x.shape[0]
    ahead = np.arange(steps) - np.arange(steps)[:, None] + (size - 1) // 2
    band = ((ahead >= 0) & (ahead < size)).astype(np.float32)
    band /= band.sum(axis=1, keepdims=True)
    return tf.reshape(tf.matmul(band, tf.reshape(x, (steps, -1))), x.shape)


def _cropping1d_rows(layer: Any, wanted: Rows, _: int) -> Rows:
    assert wanted is not None
    first, _ = layer.cropping
    return range(wanted.start + first, wanted.stop + first, wanted.step)


def _flatten(_: Any, x: Any) -> Any:
    if len(x.shape) == 2:
        return x
    return tf.reshape(tf.transpose(x, (1, 0, 2)), (x.shape[1], -1))


def _layer_normalization(layer: Any, x: Any) -> Any:
    mean = tf.reduce_mean(x, -1, keepdims=True)
    centered = x - mean
    variance = tf.reduce_mean(tf.square(centered), -1, keepdims=True)
    return centered * (tf.math.rsqrt(variance + layer.epsilon) * layer.gamma) + layer.beta


def _dense(layer: Any, x: Any) -> Any:
    return layer.activation(_linear(layer, x))


def _linear(layer: Any, x: Any) -> Any:
    """Return the output of a dense layer before its activation."""
    return matmul(x, layer.kernel) + layer.bias


def _lstm(layer: Any, inputs: list[_Parts], _: DrawMask | None, __: Rows) -> _Parts:
    cell = layer.cell
    weights = (cell.kernel, cell.recurrent_kernel, cell.bias)
    hidden = lstm_sequence(*(tf.convert_to_tensor(weight) for weight in weights), *inputs[0])
    return hidden if layer.return_sequences else [h[-1] for h in hidden]


def _dropout(layer: Any, inputs: list[_Parts], draw: DrawMask | None, rows: Rows) -> _Parts:
    (parts,) = inputs
    if draw is None:
        return parts
    return [x * draw(layer, number, x.shape, rows) for number, x in enumerate(parts)]


#: Takes a layer, its inputs, the function for dropout masks, and the rows of the output to compute.
_Compute = Callable[[Any, list[_Parts], DrawMask | None, Rows], _Parts]
#: Takes a layer, rows of its output, and the number of rows of its input; returns rows of that.
_Needs = Callable[[Any, Rows, int], Rows]


def _each(function: Callable[..., Any]) -> _Compute:
    """Return a function that computes a layer by applying `function` to each part of its inputs."""
    return lambda layer, inputs, _, __: [function(layer, *x) for x in zip(*inputs, strict=True)]


def _every_row(_: Any, __: Rows, steps: int) -> Rows:
    return range(steps)


def _same_rows(_: Any, wanted: Rows, __: int) -> Rows:
    return wanted


@dataclass(frozen=True)
class _Layer:
    """How a kind of layer is computed, and the values supported for its settings.

    The inputs of `compute` have the rows that `needs` returns.
    """

    compute: _Compute
    settings: dict[str, tuple[Any, ...]]
    needs: _Needs = _every_row


#: Layers with several inputs.
_ELEMENTWISE_MERGES = (layers.Add, layers.Subtract)
_MERGES = (*_ELEMENTWISE_MERGES, layers.Concatenate)
#: Activations that act on each value alone, so the order of the axes does not matter.
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
_LAST = {"data_format": ("channels_last",)}
_PLAIN = {"padding": ("valid",), **_LAST}
_LAYERS: dict[type, _Layer] = {
    layers.Conv1D: _Layer(
        _conv1d,
        {
            **_LAST,
            "padding": ("valid", "causal"),
            "strides": ((1,),),
            "groups": (1,),
            "use_bias": (True,),
            "activation": _ELEMENTWISE,
        },
        _conv1d_rows,
    ),
    layers.MaxPooling1D: _Layer(_each(_max_pooling1d), _PLAIN),
    layers.AveragePooling1D: _Layer(
        _each(_average_pooling1d), {**_LAST, "padding": ("same",), "strides": ((1,),)}
    ),
    layers.Cropping1D: _Layer(_each(lambda _, x: x), {}, _cropping1d_rows),
    layers.Flatten: _Layer(_each(_flatten), _LAST),
    layers.Add: _Layer(_each(lambda _, *x: reduce(tf.add, x)), {}, _same_rows),
    layers.Subtract: _Layer(_each(lambda _, a, b: a - b), {}, _same_rows),
    layers.Concatenate: _Layer(_each(lambda _, *x: tf.concat(x, -1)), {"axis": (-1,)}, _same_rows),
    layers.LayerNormalization: _Layer(
        _each(_layer_normalization),
        {"axis": ([-1],), "center": (True,), "scale": (True,), "rms_scaling": (False,)},
        _same_rows,
    ),
    layers.Activation: _Layer(
        _each(lambda layer, x: layer.activation(x)), {"activation": _ELEMENTWISE}, _same_rows
    ),
    layers.Dense: _Layer(
        _each(_dense),
        {"use_bias": (True,), "activation": (*_ELEMENTWISE, activations.softmax)},
        _same_rows,
    ),
    layers.LSTM: _Layer(
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
    layers.Dropout: _Layer(_dropout, {"noise_shape": (None,), "seed": (None,)}, _same_rows),
}
