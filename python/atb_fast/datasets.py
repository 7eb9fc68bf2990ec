"""Sequence windows as TensorFlow datasets.

Two ways, the same batches:

- `gathered_dataset` keeps the matrix inside of TensorFlow and cuts the windows in the graph. It is
  what training uses: only window starts are shuffled, no window exists before its batch, and no
  Python runs per batch.
- `generated_dataset` lets Rust fill each batch. It is for matrices that should not be copied into
  TensorFlow, and for consumers that want NumPy batches too (`FeatureMatrix.batches` alone).

Neither is cached: the windows of a matrix are `sequence_length` times its size, and cutting them
again is cheaper than reading them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.errors import DataError
from atb_fast.features import PreparedData

#: Share of the windows, oldest first, that a model is fitted on.
TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class WindowedData:
    """The windows of a feature matrix, split in time.

    Window `s` is rows `s` to `s + length - 1`; its target is the row behind it.

    Attributes:
        prepared: Features and targets by row.
        length: Rows in a window.
        train: Starts of the windows that are fitted, int64, ascending.
        test: Starts of those that come later, int64, ascending.
    """

    prepared: PreparedData
    length: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]

    def targets(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the target of each window, quote currency, shape (windows,)."""
        return self.prepared.target[starts + self.length]

    def persistence(self, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the last close inside each window: the forecast "no change"."""
        return self.prepared.target[starts + self.length - 1]

    def windows(self, starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the windows, shape (windows, length, features)."""
        return self.prepared.matrix.gather(starts, self.length)


def split_windows(prepared: PreparedData, length: int) -> WindowedData:
    """Return all windows that have a row behind them, the first 80 % for training.

    Raises:
        DataError: Too few rows for a window on each side.
    """
    count = len(prepared.matrix) - length
    train = int(count * TRAIN_SHARE)
    if train < 1 or count - train < 1:
        raise DataError(
            f"sequence length {length} needs at least {length + 2} complete rows, got "
            f"{len(prepared.matrix)} from {prepared.candles} candles; use a longer range or a "
            "shorter --sequence-length"
        )
    starts = np.arange(count, dtype=np.int64)
    return WindowedData(prepared, length, starts[:train], starts[train:])


def gathered_dataset(
    data: WindowedData,
    starts: NDArray[np.int64],
    batch_size: int,
    *,
    seed: int | None = None,
) -> Any:
    """Return a dataset that gathers its windows in the graph from the resident matrix.

    Args:
        data: The windows.
        starts: Which of them, in this order unless shuffled.
        batch_size: Windows in a batch; the last batch may be smaller.
        seed: Shuffle anew each epoch; in order if None.

    Returns:
        A tf.data.Dataset of (windows, targets), float32, shapes (batch, length, features) and
        (batch,).
    """
    import tensorflow as tf

    matrix = tf.constant(data.prepared.matrix.values)
    target = tf.constant(data.prepared.target.astype(np.float32))
    offsets = tf.range(data.length, dtype=tf.int64)

    def cut(start: Any) -> tuple[Any, Any]:
        windows = tf.gather(matrix, start[:, None] + offsets)
        return windows, tf.gather(target, start + data.length)

    dataset = tf.data.Dataset.from_tensor_slices(starts)
    if seed is not None:
        dataset = dataset.shuffle(len(starts), seed=seed, reshuffle_each_iteration=True)
    batches = dataset.batch(batch_size)
    return batches.map(cut, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def generated_dataset(
    data: WindowedData,
    starts: NDArray[np.int64],
    batch_size: int,
    *,
    seed: int | None = None,
) -> Any:
    """Return a dataset whose batches are filled by Rust; arguments as `gathered_dataset`.

    With a seed, the order of epoch `n` is that of `FeatureMatrix.batches(seed=seed, epoch=n)`.
    """
    import tensorflow as tf

    matrix = data.prepared.matrix
    target = data.prepared.target.astype(np.float32)
    epoch = -1

    def batches() -> Any:
        nonlocal epoch
        epoch += 1
        return matrix.batches(
            target, data.length, batch_size, starts=starts, seed=seed, epoch=epoch
        )

    signature = (
        tf.TensorSpec((None, data.length, matrix.shape[1]), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    count = -(-len(starts) // batch_size)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)
