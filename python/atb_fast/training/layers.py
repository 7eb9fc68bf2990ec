"""The layers that compiled epochs support, and how each is computed.

Tensors are time-major, (steps, batch, channels). A layer takes the batch in independent parts and
returns one output for each. To support another kind of layer, add it to `_LAYERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import tensorflow as tf
from keras import Sequential, activations, layers

from atb_fast.training.lstm import lstm_sequence, matmul

#: Returns a dropout mask; takes a layer, the number of a part, and a shape.
DrawMask = Callable[[Any, int, Any], Any]


def unsupported(model: Any) -> str | None:
    """Return why `model` cannot be trained in compiled epochs; None if it can."""
    # A subclass may compute anything, so it is not supported.
    if type(model) is not Sequential:
        return "it is not a Sequential model"
    if not model.built:
        return "it has no input shape yet"
    if model.output_shape != (None, 1):
        return f"its output shape is {model.output_shape}, expected (None, 1)"
    reasons = (f"layer {layer.name} {reason}" for layer in model.layers for reason in _odd(layer))
    return next(reasons, None)


def apply(layer: Any, parts: list[Any], draw: DrawMask | None) -> list[Any]:
    """Return the outputs of a layer for each part of a batch.

    Args:
        layer: A layer of a supported model.
        parts: (steps, batch, channels) or (batch, channels) each.
        draw: Returns the dropout masks; None for no dropout.
    """
    return _LAYERS[type(layer)].compute(layer, parts, draw)


def _odd(layer: Any) -> Iterator[str]:
    """Yield the reasons why `layer` is not supported, its type first."""
    if type(layer) not in _LAYERS:
        yield f"is a {type(layer).__name__}"
        return
    if layer.compute_dtype != "float32" or any(w.dtype != "float32" for w in layer.weights):
        yield f"computes in {layer.compute_dtype}, or has weights that are not float32"
    if not layer.trainable:
        yield "is frozen"
    for name, allowed in _LAYERS[type(layer)].settings.items():
        if getattr(layer, name) not in allowed:
            yield f"has {name} {getattr(layer, name)!r}"
    if isinstance(layer, layers.MaxPooling1D) and layer.strides != layer.pool_size:
        yield f"has strides {layer.strides!r}, other than its pool_size"
    if isinstance(layer, layers.Dropout) and not layer.rate < 1:
        yield f"has rate {layer.rate!r}"
    for part in (layer, getattr(layer, "cell", layer)):
        for name, value in vars(part).items():
            if name.endswith(("_regularizer", "_constraint")) and value is not None:
                yield f"has a {name}"


def _conv1d(layer: Any, x: Any) -> Any:
    # One matrix product of shifted copies, because XLA's convolution has a slow gradient.
    width = layer.kernel_size[0]
    steps = x.shape[0] - width + 1
    shifted = tf.concat([x[i : i + steps] for i in range(width)], -1)
    kernel = tf.reshape(layer.kernel, (-1, layer.filters))
    return layer.activation(matmul(shifted, kernel) + layer.bias)


def _max_pooling1d(layer: Any, x: Any) -> Any:
    size = layer.pool_size[0]
    steps = x.shape[0] // size
    blocks = tf.reshape(x[: steps * size], (steps, size, *x.shape[1:]))
    return reduce(tf.maximum, (blocks[:, i] for i in range(size)))


def _dense(layer: Any, x: Any) -> Any:
    return layer.activation(matmul(x, layer.kernel) + layer.bias)


def _lstm(layer: Any, parts: list[Any], _: DrawMask | None) -> list[Any]:
    cell = layer.cell
    weights = (cell.kernel, cell.recurrent_kernel, cell.bias)
    hidden = lstm_sequence(*(tf.convert_to_tensor(weight) for weight in weights), *parts)
    return hidden if layer.return_sequences else [h[-1] for h in hidden]


def _dropout(layer: Any, parts: list[Any], draw: DrawMask | None) -> list[Any]:
    if draw is None:
        return parts
    return [x * draw(layer, number, x.shape) for number, x in enumerate(parts)]


_Compute = Callable[[Any, list[Any], DrawMask | None], list[Any]]


def _each(function: Callable[[Any, Any], Any]) -> _Compute:
    """Return a function that computes a layer by applying `function` to each part."""
    return lambda layer, parts, _: [function(layer, x) for x in parts]


@dataclass(frozen=True)
class _Layer:
    """How a kind of layer is computed, and the values supported for its settings."""

    compute: _Compute
    settings: dict[str, tuple[Any, ...]]


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
_PLAIN = {"padding": ("valid",), "data_format": ("channels_last",)}
_LAYERS: dict[type, _Layer] = {
    layers.Conv1D: _Layer(
        _each(_conv1d),
        {
            **_PLAIN,
            "strides": ((1,),),
            "dilation_rate": ((1,),),
            "groups": (1,),
            "use_bias": (True,),
            "activation": _ELEMENTWISE,
        },
    ),
    layers.MaxPooling1D: _Layer(_each(_max_pooling1d), _PLAIN),
    layers.Dense: _Layer(_each(_dense), {"use_bias": (True,), "activation": _ELEMENTWISE}),
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
    layers.Dropout: _Layer(_dropout, {"noise_shape": (None,), "seed": (None,)}),
}
