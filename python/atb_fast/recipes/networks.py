"""The Keras networks of the recipes.

They are made of Keras' own layers, so `model.keras` loads without atb_fast, and of layers that
`training.layers` supports, so the compiled engine trains them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.errors import ArgumentError
from atb_fast.features.heads import LINEAR, Head
from atb_fast.recipes.keys import Part, key

#: A linear forecast from the last row of a window: weights, shape (features,), and bias.
Base = tuple[NDArray[np.float64], float]
#: A Keras layer, or a function of a Keras tensor for a part with branches.
_Step = Callable[[Any], Any]


@dataclass(frozen=True)
class Network(Part):
    """A network.

    To add one, subclass this and add the class to `NETWORKS`. Its fields are its keys in a recipe
    file.

    Attributes:
        kind: Its name in a recipe file.
    """

    @abstractmethod
    def hidden(self, sequence_length: int, policy: str) -> Sequence[_Step]:
        """Return the layers before the head, in order.

        Args:
            sequence_length: Rows per window.
            policy: The dtype policy of the layers.

        Returns:
            Layers, or functions of tensors: (batch, sequence_length, features) to (batch, n).
        """

    def build(
        self,
        sequence_length: int,
        features: int,
        *,
        head: Head = LINEAR,
        base: Base | None = None,
        dtype_policy: str = "float32",
        start_at_zero: bool = False,
    ) -> Any:
        """Return the uncompiled network.

        Args:
            sequence_length: Rows per window, at least 10.
            features: Columns per window.
            head: The last layer. In the model, it is the layer `head`.
            base: A linear forecast that is added to the output, and not trained; None for none. In
                the model, it is the layer `base`. It needs a linear head.
            dtype_policy: `float32` or `mixed_float16`. The last layer is always float32, because
                float16 would round a price to 11 bits.
            start_at_zero: Initialize the head with zeros, so before training every output is 0, or
                that of `base`.

        Returns:
            A keras.Model: (batch, sequence_length, features) float32 to (batch, head.units)
            float32.

        Raises:
            ArgumentError: The network needs longer windows.
        """
        from keras import Input, Model, Sequential, layers

        steps = [
            *self.hidden(sequence_length, dtype_policy),
            layers.Dense(
                head.units,
                activation=head.activation,
                kernel_initializer="zeros" if start_at_zero else "glorot_uniform",
                dtype="float32",
                name="head",
            ),
        ]
        windows = outputs = Input((sequence_length, features))
        if base is None and all(isinstance(step, layers.Layer) for step in steps):
            return Sequential([windows, *steps])
        for step in steps:
            outputs = step(outputs)
        if base is not None:
            assert head == LINEAR
            outputs = layers.Add(dtype="float32")([outputs, _based(windows, base)])
        return Model(windows, outputs)


@dataclass(frozen=True)
class Linear(Network):
    """A linear model of the last rows, and the baseline for all other networks.

    The engine `exact` solves it: ridge regression for a linear head, else logistic regression with
    an L2 penalty. The other engines train it by gradient descent with early stopping, and ignore
    `l2`.

    Attributes:
        bars: Number of newest rows of a window that it reads.
        l2: Penalty on the sum of squared weights, without the bias: `alpha` of scikit-learn's
            Ridge, and 1 / C of its LogisticRegression.
    """

    kind = "linear"

    bars: int = key(1, minimum=1, maximum=4096)
    l2: float = key(1.0, minimum=1e-6, maximum=1e9)

    def hidden(self, sequence_length: int, policy: str) -> Sequence[_Step]:
        """Return the last rows, flattened; see `Network.hidden`."""
        if self.bars > sequence_length:
            raise ArgumentError(
                f"linear.bars: found {self.bars:,}, expected at most the {sequence_length:,} bars "
                "of a window; use fewer, or a longer --sequence-length"
            )
        return _last_rows(self.bars, sequence_length, "float32")


@dataclass(frozen=True)
class DLinear(Network):
    """A linear map of the trend in a window, and another one of the remainder.

    The trend is a moving average (A. Zeng et al., Are Transformers Effective for Time Series
    Forecasting?, 2023). At the ends of a window, it averages fewer bars.

    Attributes:
        kernel: Bars of the moving average.
    """

    kind = "dlinear"

    kernel: int = key(25, minimum=1, maximum=4096)

    def hidden(self, sequence_length: int, policy: str) -> Sequence[_Step]:
        """Return trend and remainder, flattened; see `Network.hidden`."""
        from keras import layers

        def decomposed(windows: Any) -> Any:
            kernel = min(self.kernel, sequence_length)
            trend = layers.AveragePooling1D(kernel, 1, padding="same", dtype="float32")(windows)
            rest = layers.Subtract(dtype="float32")([windows, trend])
            flat = [layers.Flatten(dtype="float32")(each) for each in (trend, rest)]
            return layers.Concatenate(dtype="float32")(flat)

        return [decomposed]


@dataclass(frozen=True)
class Mlp(Network):
    """Dense layers over the whole window.

    Attributes:
        units: Units of each layer.
        layers: Number of hidden layers.
        dropout: Share of the units that are dropped in training.
    """

    kind = "mlp"

    units: int = key(64, minimum=1, maximum=4096)
    layers: int = key(2, minimum=1, maximum=32)
    dropout: float = key(0.1, minimum=0, maximum=0.9)

    def hidden(self, sequence_length: int, policy: str) -> Sequence[_Step]:
        """Return the layers; see `Network.hidden`."""
        from keras import layers

        made: list[_Step] = [layers.Flatten(dtype=policy)]
        for _ in range(self.layers):
            made.append(layers.Dense(self.units, activation="relu", dtype=policy))
            made += _dropout(self.dropout, policy)
        return made


@dataclass(frozen=True)
class Tcn(Network):
    """A temporal convolutional network.

    It follows S. Bai et al., An Empirical Evaluation of Generic Convolutional and Recurrent
    Networks for Sequence Modeling (2018), but with one convolution in a block, and with layer
    normalization. The convolutions are causal, and the dilation of each is twice that of the one
    before. The output depends on the last `1 + (kernel - 1) * (2**blocks - 1)` bars: 63 by default,
    127 with six blocks.

    Attributes:
        filters: Filters of each convolution.
        kernel: Rows that a convolution reads.
        blocks: Number of residual blocks.
        dropout: Share of the values that are dropped in training.
    """

    kind = "tcn"

    filters: int = key(32, minimum=1, maximum=1024)
    kernel: int = key(3, minimum=2, maximum=64)
    blocks: int = key(5, minimum=1, maximum=12)
    dropout: float = key(0.1, minimum=0, maximum=0.9)

    def hidden(self, sequence_length: int, policy: str) -> Sequence[_Step]:
        """Return the blocks and the last row; see `Network.hidden`."""
        blocks = [partial(self._block, 2**number, policy) for number in range(self.blocks)]
        return [*blocks, *_last_rows(1, sequence_length, policy)]

    def _block(self, dilation: int, policy: str, x: Any) -> Any:
        """Return the output of a residual block, (batch, sequence_length, filters)."""
        from keras import layers

        causal = {"padding": "causal", "dilation_rate": dilation}
        y = layers.Conv1D(self.filters, self.kernel, **causal, dtype=policy)(x)
        y = layers.LayerNormalization(dtype=policy)(y)
        y = layers.Activation("relu", dtype=policy)(y)
        for layer in _dropout(self.dropout, policy):
            y = layer(y)
        if x.shape[-1] != self.filters:
            x = layers.Conv1D(self.filters, 1, dtype=policy)(x)
        return layers.Add(dtype=policy)([x, y])


@dataclass(frozen=True)
class CnnLstm(Network):
    """The convolutional LSTM of the trainer that atb-fast replaces.

    Attributes:
        filters: Filters of the first convolution; the second one has twice as many.
        units: Units of the first LSTM; the second one and the dense layer have half as many.
        dropout: Share of the values that are dropped in training.
    """

    kind = "cnn_lstm"

    filters: int = key(64, minimum=1, maximum=1024)
    units: int = key(100, minimum=2, maximum=4096)
    dropout: float = key(0.2, minimum=0, maximum=0.9)

    def hidden(self, sequence_length: int, policy: str) -> Sequence[_Step]:
        """Return the layers; see `Network.hidden`."""
        from keras import layers

        half = self.units // 2
        return [
            layers.Conv1D(self.filters, 3, activation="relu", dtype=policy),
            layers.MaxPooling1D(2, dtype=policy),
            layers.Conv1D(2 * self.filters, 3, activation="relu", dtype=policy),
            layers.MaxPooling1D(2, dtype=policy),
            layers.LSTM(self.units, return_sequences=True, dtype=policy),
            *_dropout(self.dropout, policy),
            layers.LSTM(half, dtype=policy),
            *_dropout(self.dropout, policy),
            layers.Dense(half, activation="relu", dtype=policy),
            *_dropout(self.dropout, policy),
        ]


@dataclass(frozen=True)
class Lstm(Network):
    """The LSTM of the model that live strategies load.

    For prices, its last layer is linear, because the next close may lie outside the range of the
    window.

    Attributes:
        units: Units of the first LSTM; the second one and the dense layer have half as many.
    """

    kind = "lstm"

    units: int = key(128, minimum=2, maximum=4096)

    def hidden(self, sequence_length: int, policy: str) -> Sequence[_Step]:
        """Return the layers; see `Network.hidden`."""
        from keras import layers

        half = self.units // 2
        return [
            layers.LSTM(self.units, return_sequences=True, dtype=policy),
            layers.LSTM(half, dtype=policy),
            layers.Dense(half, activation="relu", dtype=policy),
        ]


def _dropout(rate: float, policy: str) -> list[Any]:
    """Return a dropout layer; none if the rate is 0."""
    from keras import layers

    return [layers.Dropout(rate, dtype=policy)] if rate else []


def _last_rows(count: int, sequence_length: int, policy: str) -> list[Any]:
    """Return the layers that cut the newest rows of a sequence and flatten them."""
    from keras import layers

    before = sequence_length - count
    cropping = [layers.Cropping1D((before, 0), dtype=policy)] if before else []
    return [*cropping, layers.Flatten(dtype=policy)]


def _based(windows: Any, base: Base) -> Any:
    """Return the linear forecast from the last row of each window, (batch, 1)."""
    from keras import layers

    weights, bias = base
    row = windows
    for layer in _last_rows(1, windows.shape[1], "float32"):
        row = layer(row)
    # A random initializer would draw from the generator of the other layers.
    dense = layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="base")
    forecast = dense(row)
    dense.set_weights([np.asarray(weights, np.float32)[:, None], np.array([bias], np.float32)])
    dense.trainable = False
    return forecast


class OwnNetwork(Part):
    """The network of a recipe class that overrides `build`: any Keras network."""

    kind = "own"


#: The networks that a recipe can name.
NETWORKS: dict[str, type[Network]] = {
    made.kind: made for made in (Linear, DLinear, Mlp, Tcn, Lstm, CnnLstm)
}
