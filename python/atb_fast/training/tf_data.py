"""Windows as TensorFlow datasets.

There are two ways to get the same batches:

- `gathered_dataset` keeps the matrix in TensorFlow and cuts the windows in the graph. Training uses
  it: only window starts are shuffled, windows exist one batch at a time, and no Python runs for a
  batch.
- `generated_dataset` lets Rust fill each batch. It is for matrices that should not be copied into
  TensorFlow.

Neither is cached. All windows together are `sequence_length` times as large as the matrix, and
cutting them again is cheaper than reading them back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix
from atb_fast.errors import ArgumentError
from atb_fast.features.windows import WindowedData


def trained_windows(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the windows as a compiled program cuts them, so that they can be compared."""
    import tensorflow as tf

    # The graph copies its constants, so it gets only the rows of these windows.
    wanted = starts[:, None] + np.arange(data.length)
    rows, places = np.unique(wanted, return_inverse=True)
    places = places.reshape(wanted.shape)

    def cut() -> Any:
        windows = tf.gather(tf.constant(data.prepared.matrix.values[rows]), places)
        return scaled_by_window(windows, axis=1) if data.scaled_by_window else windows

    return np.asarray(tf.function(cut, jit_compile=True, autograph=False)())


def scaled_by_window(windows: Any, axis: int) -> Any:
    """Return windows of raw candles, each scaled by its own values, in the graph.

    Each value becomes `(x - min) / (max - min)`, with the minimum and maximum of its column up to
    that row, or 0.5 while these are equal. The result is bit-identical to `CandleMatrix.gather`.

    Args:
        windows: Raw windows, float64, without missing values.
        axis: The axis of the rows.

    Returns:
        float32, in the shape of `windows`.
    """
    import tensorflow as tf

    def cumulative(better: Callable[[Any, Any], Any]) -> Any:
        # A scan with doubling steps (W. Hillis and G. Steele, Data Parallel Algorithms, 1986),
        # because XLA has no cumulative minimum that is fast on a CPU.
        best, step = windows, 1
        while step < windows.shape[axis]:
            first, _ = tf.split(best, [step, best.shape[axis] - step], axis)
            before, _ = tf.split(best, [best.shape[axis] - step, step], axis)
            best = better(best, tf.concat([first, before], axis))
            step *= 2
        return best

    low, high = cumulative(tf.minimum), cumulative(tf.maximum)
    flat, half = tf.equal(low, high), tf.constant(0.5, windows.dtype)
    scaled = (windows - low) / tf.where(flat, tf.ones_like(low), high - low)
    return tf.cast(tf.where(flat, half, scaled), tf.float32)


def epoch_order(starts: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return `starts` in the order of an epoch, counted from 0, regardless of earlier epochs."""
    return np.random.default_rng([seed, epoch]).permutation(starts)


def gathered_dataset(
    data: WindowedData,
    starts: NDArray[np.int64],
    batch_size: int,
    *,
    seed: int | None = None,
    first_epoch: int = 0,
) -> Any:
    """Return a dataset that gathers its windows from the matrix in the graph.

    Args:
        data: The windows.
        starts: The windows to use, in this order unless shuffled.
        batch_size: Windows per batch; the last batch may be smaller.
        seed: Shuffles each epoch differently, see `epoch_order`; None keeps the order.
        first_epoch: The epoch of the first iteration, counted from 0.

    Returns:
        A tf.data.Dataset of (windows, labels), or (windows, labels, weights) if the labels have
        weights, float32, shapes (batch, length, features) and (batch,).
    """
    import tensorflow as tf

    matrix = tf.constant(data.prepared.matrix.values)
    columns = [data.labels.values]
    if data.labels.weights is not None:
        columns.append(data.labels.weights)
    columns = [tf.constant(column.astype(np.float32)) for column in columns]
    offsets = tf.range(data.length, dtype=tf.int64)

    # AutoGraph would write a file to the temporary folder and leave it there.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def cut(start: Any) -> tuple[Any, ...]:
        windows = tf.gather(matrix, start[:, None] + offsets)
        if data.scaled_by_window:
            windows = scaled_by_window(windows, axis=1)
        return windows, *(tf.gather(column, start + data.length) for column in columns)

    dataset = tf.data.Dataset.from_tensor_slices(starts)
    if seed is not None:
        # `Dataset.shuffle` would store each 8-byte start as a tensor of 150 bytes.
        epochs = itertools.count(first_epoch)

        def order() -> Any:
            yield epoch_order(starts, seed, next(epochs))

        signature = tf.TensorSpec((len(starts),), tf.int64)
        orders = tf.data.Dataset.from_generator(order, output_signature=signature)
        dataset = orders.flat_map(tf.data.Dataset.from_tensor_slices)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(starts)))
    batches = dataset.batch(batch_size)
    return batches.map(cut, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def generated_dataset(
    data: WindowedData,
    starts: NDArray[np.int64],
    batch_size: int,
    *,
    seed: int | None = None,
) -> Any:
    """Return a dataset whose batches are filled by Rust; see `gathered_dataset` for the arguments.

    With a seed, the order of epoch `n` is that of `FeatureMatrix.batches(seed=seed, epoch=n)`.

    Raises:
        ArgumentError: The windows are those of raw candles, or their labels have weights.
    """
    import tensorflow as tf

    matrix = data.prepared.matrix
    if isinstance(matrix, CandleMatrix):
        raise ArgumentError(
            "generated_dataset does not support windows of raw candles; use gathered_dataset"
        )
    if data.labels.weights is not None:
        raise ArgumentError(
            "generated_dataset does not support labels with weights; use gathered_dataset"
        )
    labels = data.labels.values.astype(np.float32)
    epoch = -1

    def batches() -> Any:
        nonlocal epoch
        epoch += 1
        return matrix.batches(
            labels, data.length, batch_size, starts=starts, seed=seed, epoch=epoch
        )

    signature = (
        tf.TensorSpec((None, data.length, matrix.shape[1]), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    count = -(-len(starts) // batch_size)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)
