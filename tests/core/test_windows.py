"""The zero-copy window view, gather and the batch iterator, compared with NumPy."""

from __future__ import annotations

import gc
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from core_features import of_column

from atb_fast import _core
from atb_fast.errors import ArgumentError, DataError

ROWS, FEATURES, LENGTH = 500, 4, 20


@pytest.fixture
def values() -> Any:
    return np.random.default_rng(3).random((ROWS, FEATURES), dtype=np.float32)


@pytest.fixture
def matrix(values: Any) -> _core.FeatureMatrix:
    return _core.FeatureMatrix(values, ["a", "b", "c", "d"])


def reference(values: Any, length: int) -> Any:
    return np.lib.stride_tricks.sliding_window_view(values, length, axis=0).transpose(0, 2, 1)


def test_rows_of_the_frame_are_kept(values: Any) -> None:
    rows = np.delete(np.arange(ROWS + 3), [7, 8, 400])
    names = ["a", "b", "c", "d"]
    np.testing.assert_array_equal(_core.FeatureMatrix(values, names, rows=rows).rows, rows)
    np.testing.assert_array_equal(_core.FeatureMatrix(values, names).rows, np.arange(ROWS))
    for bad in (rows[1:], rows[::-1], rows - 1, np.zeros(ROWS, int)):
        with pytest.raises(ArgumentError, match=f"expected {ROWS} strictly ascending ones from 0"):
            _core.FeatureMatrix(values, names, rows=bad)


def test_rows_are_one_read_only_array(matrix: Any) -> None:
    candles = _core.CandleMatrix(pl.DataFrame({"x": [1.0, 2.0]}), ["x"])
    for rows, again in ((matrix.rows, matrix.rows), (candles.rows, candles.rows)):
        assert rows is again
        with pytest.raises(ValueError, match="read-only"):
            rows[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            rows.flags.writeable = True


@pytest.mark.parametrize("length", [1, 20, ROWS])
def test_view_equals_sliding_window_view(matrix: Any, values: Any, length: int) -> None:
    view = matrix.windows(length)
    assert view.shape == (ROWS - length + 1, length, FEATURES)
    np.testing.assert_array_equal(view, reference(values, length))


def test_view_shares_memory_and_is_read_only(matrix: Any) -> None:
    view = matrix.windows(LENGTH)
    assert np.shares_memory(view, matrix.values)
    assert np.shares_memory(view[0], view[1])
    assert view.strides == (4 * FEATURES, 4 * FEATURES, 4)
    for array in (view, view[3], matrix.values):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_view_keeps_the_matrix_alive(values: Any) -> None:
    view = _core.FeatureMatrix(values, list("abcd")).windows(LENGTH)
    base = view.base
    assert isinstance(base, _core.FeatureMatrix)
    del base
    gc.collect()
    rubbish = [np.full((ROWS, FEATURES), 9.0, np.float32) for _ in range(50)]
    np.testing.assert_array_equal(view, reference(values, LENGTH))
    assert len(rubbish) == 50


def test_the_matrix_has_its_own_copy(values: Any) -> None:
    matrix = _core.FeatureMatrix(values[::2], list("abcd"))
    expected = values[::2].copy()
    values[:] = 0
    np.testing.assert_array_equal(matrix.values, expected)


def test_gather_equals_fancy_indexing(matrix: Any, values: Any) -> None:
    starts = np.random.default_rng(5).integers(0, ROWS - LENGTH + 1, 64)
    expected = values[starts[:, None] + np.arange(LENGTH)]
    batch = matrix.gather(starts, LENGTH)
    np.testing.assert_array_equal(batch, expected)
    assert batch.flags.c_contiguous
    assert batch.flags.writeable
    out = np.empty_like(batch)
    assert matrix.gather(starts, LENGTH, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(matrix.gather(starts[::2], LENGTH), expected[::2])
    assert matrix.gather(np.array([], np.int64), LENGTH).shape == (0, LENGTH, FEATURES)


def test_gather_arguments(matrix: Any) -> None:
    with pytest.raises(ArgumentError, match=r"window start 481 \(position 1\) with length 20"):
        matrix.gather(np.array([0, 481]), LENGTH)
    with pytest.raises(ArgumentError, match=r"start -1 .* expected 0 <= start <= 480"):
        matrix.gather(np.array([-1]), LENGTH)
    with pytest.raises(ArgumentError, match=r"expected a C-contiguous float32 array of shape"):
        matrix.gather(np.array([0]), LENGTH, out=np.empty((1, LENGTH + 1, FEATURES), np.float32))
    strided = np.empty((1, LENGTH, 2 * FEATURES), np.float32)[:, :, ::2]
    with pytest.raises(ArgumentError, match="C-contiguous"):
        matrix.gather(np.array([0]), LENGTH, out=strided)
    with pytest.raises(ArgumentError, match="out is not a float32 array of three dimensions"):
        matrix.gather(np.array([0]), LENGTH, out=np.empty((1, LENGTH, FEATURES)))
    with pytest.raises(ArgumentError, match="out cannot be written"):
        matrix.gather(np.array([0]), LENGTH, out=matrix.windows(LENGTH)[:1])
    with pytest.raises(ArgumentError, match="length is 0"):
        matrix.windows(0)
    with pytest.raises(DataError, match="a window needs at least 501 rows, got 500"):
        matrix.windows(501)
    large = _core.FeatureMatrix(np.zeros((2**16, 1), np.float32), ["x"])
    with pytest.raises(MemoryError, match="gather fewer windows at a time"):
        large.gather(np.zeros(2**28, np.int8).astype(np.int64)[: 2**26], 2**16)
    bad: list[Any] = [np.array([0.5]), [0.5], None, np.array([[0]])]
    for starts in bad:
        with pytest.raises(ArgumentError, match=r"starts is .*, expected a one-dim.* of integers"):
            matrix.gather(starts, LENGTH)
    good: list[Any] = [np.array([3], np.int32), np.array([3], np.uint8), [3], pl.Series([3])]
    for starts in good:
        np.testing.assert_array_equal(matrix.gather(starts, LENGTH)[0], matrix.values[3:23])
    assert matrix.gather([], LENGTH).shape == (0, LENGTH, FEATURES)
    for values in (np.ones((2, 2)), np.ones(2, np.float32), [[1.0]], None):
        with pytest.raises(ArgumentError, match=r"^values is .*, expected a two-dimensional float"):
            _core.FeatureMatrix(values, ["a"])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="names is 3, expected a name or a list of names"):
        _core.FeatureMatrix(matrix.values, 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="4 columns and names has 1"):
        _core.FeatureMatrix(matrix.values, ["a"])


def test_batches_in_order_are_the_legacy_windows(matrix: Any, values: Any) -> None:
    targets = np.arange(ROWS, dtype=np.float32)
    x, y = [], []  # the loop of the old trainer: X[i - T:i] with the target of row i
    for i in range(LENGTH, ROWS):
        x.append(values[i - LENGTH : i])
        y.append(targets[i])
    batches = list(matrix.batches(targets, LENGTH, 32))
    assert len(batches) == len(matrix.batches(targets, LENGTH, 32)) == 15
    assert [len(b[1]) for b in batches] == [32] * 15
    np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), x)
    np.testing.assert_array_equal(np.concatenate([b[1] for b in batches]), y)


def test_shuffled_batches_are_seeded_permutations(matrix: Any) -> None:
    targets = np.arange(ROWS, dtype=np.float32)

    def order(**options: Any) -> list[float]:
        batches = matrix.batches(targets, LENGTH, 7, **options)
        return [float(y) for _, part in batches for y in part]

    first = order(seed=1)
    assert first == order(seed=1, epoch=0)
    assert first != order(seed=1, epoch=1)
    assert first != order(seed=2)
    assert sorted(first) == order()
    some = np.array([5, 3, 9])
    assert order(starts=some) == [25.0, 23.0, 29.0]


def test_shuffled_windows_go_with_their_targets(matrix: Any, values: Any) -> None:
    for x, y in matrix.batches(np.arange(ROWS, dtype=np.float32), LENGTH, 50, seed=4):
        for window, target in zip(x, y.astype(int), strict=True):
            np.testing.assert_array_equal(window, values[target - LENGTH : target])


def test_batches_arguments(matrix: Any) -> None:
    targets = np.zeros(ROWS, np.float32)
    with pytest.raises(
        ArgumentError, match="targets has 3 values, expected one for each of the 500"
    ):
        matrix.batches(targets[:3], LENGTH, 32)
    with pytest.raises(ArgumentError, match="targets is of type ndarray with dtype float64 and "):
        matrix.batches(targets.astype(np.float64), LENGTH, 32)
    with pytest.raises(ArgumentError, match=r"starts is \[0.5\], expected a one-dim.* of integers"):
        matrix.batches(targets, LENGTH, 32, starts=[0.5])
    with pytest.raises(ArgumentError, match="batch_size is 0"):
        matrix.batches(targets, LENGTH, 0)
    with pytest.raises(ArgumentError, match="window start 480"):
        matrix.batches(targets, LENGTH, 8, starts=np.array([480]))
    with pytest.raises(DataError, match="a window needs at least 500 rows, got 499"):
        matrix.batches(targets, ROWS, 8)


@pytest.fixture
def no_preemption() -> Iterator[None]:
    """Let Python threads run until they release the GIL on their own."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("no_preemption")
def test_gather_releases_the_gil() -> None:
    matrix = _core.FeatureMatrix(np.zeros((20_000, 10), np.float32), [str(i) for i in range(10)])
    starts = np.zeros(20_000, np.int64)
    out = np.empty((20_000, 120, 10), np.float32)

    def ran_meanwhile() -> bool:
        """Return whether this thread ran while another one was in `gather`."""
        begun, ended = threading.Event(), False

        def gather() -> None:
            nonlocal ended
            begun.set()
            matrix.gather(starts, 120, out=out)
            ended = True

        worker = threading.Thread(target=gather)
        worker.start()
        begun.wait()
        result = not ended
        worker.join()
        return result

    # On a busy machine this thread may wake up too late, but not every time.
    assert any(ran_meanwhile() for _ in range(200))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_work_after_a_fork() -> None:
    # Large enough for several threads, here and in the child.
    frame = pl.DataFrame({"x": np.arange(200_000.0)})
    arrow = frame.to_arrow()
    pipeline = _core.FeaturePipeline([of_column("x", "x")]).fit(arrow)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child() -> None:
        queue.put(len(pipeline.transform(arrow)))

    process = context.Process(target=child)
    process.start()
    assert queue.get(timeout=30) == 200_000
    process.join(timeout=30)
    assert process.exitcode == 0
