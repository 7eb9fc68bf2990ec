"""The Keras networks of the recipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.heads import LINEAR, Head

#: A linear forecast from the last row of a window: weights, shape (features,), and bias.
Base = tuple[NDArray[np.float64], float]


@dataclass(frozen=True)
class Network(ABC):
    """A network.

    To add one, subclass this and add the class to `NETWORKS`. Its fields are its keys in a recipe
    file.

    Attributes:
        kind: Its name in a recipe file.
    """

    kind: ClassVar[str]

    @abstractmethod
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
            head: The last layer.
            base: A linear forecast that is added to the output, and not trained; None for none.
            dtype_policy: `float32` or `mixed_float16`. The last layer is always float32, because
                float16 would round a price to 11 bits.
            start_at_zero: Initialize the last layer with zeros, so every output is 0 before
                training.

        Returns:
            A keras.Model: (batch, sequence_length, features) float32 to (batch, head.units)
            float32.
        """


@dataclass(frozen=True)
class CnnLstm(Network):
    """The convolutional LSTM of the trainer that atb-fast replaces."""

    kind = "cnn_lstm"

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
        """Return the uncompiled network; see `Network.build`."""
        from keras import Sequential, layers

        policy = {"dtype": dtype_policy}
        return Sequential(
            [
                layers.Input((sequence_length, features)),
                layers.Conv1D(64, 3, activation="relu", **policy),
                layers.MaxPooling1D(2, **policy),
                layers.Conv1D(128, 3, activation="relu", **policy),
                layers.MaxPooling1D(2, **policy),
                layers.LSTM(100, return_sequences=True, **policy),
                layers.Dropout(0.2, **policy),
                layers.LSTM(50, **policy),
                layers.Dropout(0.2, **policy),
                layers.Dense(50, activation="relu", **policy),
                layers.Dropout(0.2, **policy),
                layers.Dense(1, dtype="float32", kernel_initializer=_initializer(start_at_zero)),
            ]
        )


@dataclass(frozen=True)
class Lstm(Network):
    """The LSTM of the model that live strategies load.

    The last layer is linear, because the next close may lie outside the range of the window.
    """

    kind = "lstm"

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
        """Return the uncompiled network; see `Network.build`."""
        from keras import Sequential, layers

        policy = {"dtype": dtype_policy}
        return Sequential(
            [
                layers.Input((sequence_length, features)),
                layers.LSTM(128, return_sequences=True, **policy),
                layers.LSTM(64, **policy),
                layers.Dense(64, activation="relu", **policy),
                layers.Dense(1, dtype="float32", kernel_initializer=_initializer(start_at_zero)),
            ]
        )


def _initializer(zero: bool) -> str:
    return "zeros" if zero else "glorot_uniform"


#: The networks that a recipe can name.
NETWORKS: dict[str, type[Network]] = {made.kind: made for made in (CnnLstm, Lstm)}
