"""The hidden states of an LSTM, with a gradient written for XLA.

The forward loop stores the activations that the gradient needs. Each step of a loop advances all
parts of the batch, so XLA can compute them on several cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# It writes in place; a scatter would copy the array at every step of a loop.
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

#: Hidden states, cell states and gate activations of all steps of one part.
_Saved = tuple[Any, Any, Any]


@tf.custom_gradient  # type: ignore[untyped-decorator]
def lstm_sequence(kernel: Any, recurrent: Any, bias: Any, *parts: Any) -> Any:
    """Return the hidden states of an LSTM whose initial state is zero.

    The cell is that of F. Gers, J. Schmidhuber and F. Cummins, Learning to Forget (2000), as in
    Keras.

    Args:
        kernel: (inputs, 4 * units), gates in Keras' order: input, forget, candidate, output.
        recurrent: (units, 4 * units).
        bias: (4 * units,).
        parts: (steps, batch, inputs) each.

    Returns:
        (steps, batch, units) for each part, and the gradient, as custom_gradient requires.
    """
    # Since sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, one fast tanh over all gates is enough. Halving a
    # weight is exact.
    halved = tf.constant(np.repeat([0.5, 0.5, 1.0, 0.5], recurrent.shape[0]), tf.float32)
    gates = recurrent * halved
    projected = [matmul(x, kernel * halved) + bias * halved for x in parts]
    saved = _forward(gates, projected)

    def gradient(*upstream: Any) -> tuple[Any, ...]:
        dzs = _backward(recurrent, saved, upstream)
        hidden = [hs for hs, _, _ in saved]
        return (
            tf.add_n([_kernel_gradient(x, dz) for x, dz in zip(parts, dzs, strict=True)]),
            tf.add_n([_kernel_gradient(h[:-1], dz[1:]) for h, dz in zip(hidden, dzs, strict=True)]),
            tf.add_n([tf.reduce_sum(dz, (0, 1)) for dz in dzs]),
            *(matmul(dz, tf.transpose(kernel)) for dz in dzs),
        )

    return [hs for hs, _, _ in saved], gradient


def matmul(x: Any, kernel: Any) -> Any:
    """Return the product over the last axis of `x`, as one matrix product."""
    product = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
    return tf.reshape(product, (*x.shape[:-1], kernel.shape[-1]))


def _forward(gates: Any, projected: Sequence[Any]) -> list[_Saved]:
    """Return the states and activations of each part, which the gradient needs.

    Args:
        gates: The recurrent kernel, halved for the sigmoids.
        projected: The inputs of the gates without recurrence, (steps, batch, 4 * units) each.
    """
    steps, units = projected[0].shape[0], gates.shape[0]

    def step(t: Any, h: Any, c: Any, saved: _Saved) -> tuple[Any, Any, _Saved]:
        hs, cs, zs = saved
        z = tf.tanh(zs[t] + tf.matmul(h, gates))
        i, f, g, o = _split(z, units)
        c = f * c + i * g
        h = o * tf.tanh(c)
        return h, c, (_put(hs, h, t), _put(cs, c, t), _put(zs, z, t))

    def initial(z: Any) -> tuple[Any, Any, _Saved]:
        # Each step overwrites its projection with its gate activations.
        saved = (_zeros(z, steps, units), _zeros(z, steps, units), z)
        return _zeros(z, units), _zeros(z, units), saved

    _, ends = tf.while_loop(
        lambda t, _: t < steps,
        lambda t, states: (t + 1, [step(t, *state) for state in states]),
        (0, [initial(z) for z in projected]),
    )
    return [saved for _, _, saved in ends]


def _backward(recurrent: Any, saved: Sequence[_Saved], upstream: Sequence[Any]) -> list[Any]:
    """Return the gradient with respect to the inputs of the gates, for each part."""
    back = tf.transpose(recurrent)
    steps, units = saved[0][0].shape[0], recurrent.shape[0]

    def step(t: Any, slope: Any, up: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        (by_gate, dh_dc, dc_dc), (dh, dc, dz) = slope, state
        dh = dh + up[t]
        dc = dc + dh * dh_dc[t]
        # Multiply before joining, because XLA joins finished arrays much faster.
        new = [d * s[t] for d, s in zip((dc, dc, dc, dh), by_gate, strict=True)]
        new_dz = tf.concat(new, 1)
        return tf.matmul(new_dz, back), dc * dc_dc[t], _put(dz, new_dz, t)

    slopes = [_slopes(cs, zs, units) for _, cs, zs in saved]
    _, ends = tf.while_loop(
        lambda t, _: t >= 0,
        lambda t, states: (
            t - 1,
            [step(t, *given) for given in zip(slopes, upstream, states, strict=True)],
        ),
        (
            steps - 1,
            [
                (_zeros(hs, units), _zeros(hs, units), _zeros(hs, steps, 4 * units))
                for hs, _, _ in saved
            ],
        ),
    )
    return [dz for _, _, dz in ends]


def _slopes(cs: Any, zs: Any, units: int) -> tuple[Any, ...]:
    """Return the local derivatives that each step multiplies with, for all steps at once.

    Args:
        cs: Cell states.
        zs: Gate activations.
        units: Number of units of the LSTM.

    Returns:
        The derivatives of the cell state with respect to the inputs of its three gates, and of the
        hidden state with respect to the input of the output gate; of the hidden state with respect
        to the cell state; and of the cell state with respect to the previous one.
    """
    i, f, g, o = _split(zs, units)
    before = tf.concat([tf.zeros_like(cs[:1]), cs[:-1]], 0)
    s = tf.tanh(cs)
    dc_dz = (g * i * (1 - i), before * f * (1 - f), i * (1 - g * g))
    return (*dc_dz, s * o * (1 - o)), o * (1 - s * s), f


def _split(z: Any, units: int) -> tuple[Any, ...]:
    """Return input gate, forget gate, candidate and output gate, from one tanh over all of them."""
    columns = [slice(k * units, (k + 1) * units) for k in range(4)]
    i, f, o = (0.5 * z[..., columns[k]] + 0.5 for k in (0, 1, 3))
    return i, f, z[..., columns[2]], o


def _put(array: Any, value: Any, t: Any) -> Any:
    return dynamic_update_slice(array, value[None], [t, 0, 0])


def _zeros(like: Any, *shape: int) -> Any:
    """Return zeros of `shape`, with the batch size of `like` inserted before the last axis."""
    return tf.zeros((*shape[:-1], like.shape[1], shape[-1]))


def _kernel_gradient(x: Any, dz: Any) -> Any:
    """Return the gradient of a kernel from its inputs and the gradient of its outputs."""
    flat = (tf.reshape(array, (-1, array.shape[-1])) for array in (x, dz))
    return tf.matmul(*flat, transpose_a=True)
