"""A batch iterator that several threads share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from atb_fast._core import FeatureMatrix

ROWS, LENGTH, THREADS = 3000, 20, 4


def test_every_batch_goes_to_one_thread_and_is_whole() -> None:
    values = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    targets = np.arange(ROWS, dtype=np.float32)
    batches = FeatureMatrix(values, ["a", "b"]).batches(targets, LENGTH, 7, seed=1)
    ready = Barrier(THREADS)

    def take(_: int) -> list[float]:
        ready.wait()
        seen: list[float] = []
        for x, y in batches:
            # Each window ends with the row before its target.
            np.testing.assert_array_equal(x[:, -1, 0], 2 * (y - 1))
            seen += y.tolist()
        return seen

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(take, range(THREADS)))
    assert sorted(label for part in parts for label in part) == list(range(LENGTH, ROWS))
