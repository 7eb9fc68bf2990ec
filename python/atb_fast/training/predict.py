"""Predictions of a Keras model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.windows import WindowedData

#: Windows that are predicted at once.
PREDICT_BATCH = 256


def predict(model: Any, data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the forecast for each window; see `Output.forecasts`."""
    return data.forecasts(starts, predict_outputs(model, data, starts))


def predict_outputs(
    model: Any, data: WindowedData, starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the outputs for each window, in the unit of the labels; see `predict_batches`."""
    parts = np.split(starts, range(PREDICT_BATCH, len(starts), PREDICT_BATCH))
    return predict_batches(model, (data.windows(part) for part in parts))


def predict_batches(model: Any, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the outputs for all batches: (windows,) for one unit, else (windows, units)."""
    compute = _compute(model)
    outputs = np.concatenate([compute(batch) for batch in batches]).astype(np.float64)
    return outputs[:, 0] if outputs.shape[1:] == (1,) else outputs


def predict_batch(model: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what `model.predict_on_batch` returns, shape (windows, units).

    Keras would trace the network for every model and every batch size.
    """
    return _compute(model)(batch)


def _compute(model: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return the function that predicts a batch."""
    from atb_fast.training.layers import unknown

    if unknown(model):
        return lambda batch: np.asarray(model.predict_on_batch(batch))
    from atb_fast.training.programs import outputs

    program = outputs(model)
    return lambda batch: np.asarray(program(batch))


def inference(model: Any) -> tuple[Any, list[Any]]:
    """Return what a model computes as a tf.function, and the specification of its windows."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="features")]
    function = tf.function(
        lambda features: model(features, training=False), signature, autograph=False
    )
    return function, signature
