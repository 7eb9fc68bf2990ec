"""The Keras networks of the recipes."""

from __future__ import annotations

from typing import Any


def build_model(
    sequence_length: int,
    features: int,
    *,
    dtype_policy: str = "float32",
    start_at_zero: bool = False,
) -> Any:
    """Return the uncompiled convolutional LSTM of the legacy recipe.

    Args:
        sequence_length: Rows per window, at least 10.
        features: Columns per window.
        dtype_policy: `float32` or `mixed_float16`. The last layer is always float32, because
            float16 would round a price to 11 bits.
        start_at_zero: Initialize the last layer with zeros, so every output is 0 before training.

    Returns:
        A keras.Model: (batch, sequence_length, features) float32 to (batch, 1) float32.
    """
    from keras import Sequential, layers

    policy = {"dtype": dtype_policy}
    last = "zeros" if start_at_zero else "glorot_uniform"
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
            layers.Dense(1, dtype="float32", kernel_initializer=last),
        ]
    )


def build_basic_model(sequence_length: int, features: int, *, dtype_policy: str = "float32") -> Any:
    """Return the uncompiled LSTM of the basic model; see `build_model` for the arguments.

    The last layer is linear, because the next close may lie outside the range of the window.
    """
    from keras import Sequential, layers

    policy = {"dtype": dtype_policy}
    return Sequential(
        [
            layers.Input((sequence_length, features)),
            layers.LSTM(128, return_sequences=True, **policy),
            layers.LSTM(64, **policy),
            layers.Dense(64, activation="relu", **policy),
            layers.Dense(1, dtype="float32"),
        ]
    )
