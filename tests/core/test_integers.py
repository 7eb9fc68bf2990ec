"""Invalid integers: the error names the argument, what was received and what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from core_features import of_column

from atb_fast import _core
from atb_fast.errors import ArgumentError

FRAME = pl.DataFrame({"timestamp": [0, 1, 2], "x": [1.0, 2.0, 3.0]})
MATRIX = _core.FeatureMatrix(np.ones((3, 1), np.float32), ["x"])
CANDLES = _core.CandleMatrix(FRAME, ["x"])
PIPELINE = _core.FeaturePipeline([of_column("x", "x")])
STARTS, TARGETS = np.array([0]), np.zeros(3, np.float32)
LARGEST, LARGEST_TIME, LARGEST_SEED = 2**64 - 1, 2**63 - 1, 2**64 - 1


def merge(**options: Any) -> Any:
    return _core.merge(FRAME, FRAME, ["x"], **options)


def archive(**options: Any) -> Any:
    return _core.read_archive([], **{"max_rows": 1, "day_ms": 1} | options)


#: For each argument: a call that takes its value, its name, and its range.
CALLS: list[tuple[Callable[[Any], Any], str, int, int]] = [
    (lambda n: _core.sma([1.0], n), "window", 1, LARGEST),
    (lambda n: _core.rsi([1.0], n), "window", 1, LARGEST),
    (lambda n: _core.rsi([1.0], n, method="wilder"), "window", 1, LARGEST),
    (lambda n: PIPELINE.fit(FRAME, rows=(n, 3)), r"rows\[0\]", 0, LARGEST),
    (lambda n: PIPELINE.fit(FRAME, rows=(0, n)), r"rows\[1\]", 0, LARGEST),
    (MATRIX.windows, "length", 1, LARGEST),
    (lambda n: MATRIX.gather(STARTS, n), "length", 1, LARGEST),
    (lambda n: MATRIX.batches(TARGETS, n, 1), "length", 1, LARGEST),
    (lambda n: MATRIX.batches(TARGETS, 1, n), "batch_size", 1, LARGEST),
    (lambda n: MATRIX.batches(TARGETS, 1, 1, seed=n), "seed", 0, LARGEST_SEED),
    (lambda n: MATRIX.batches(TARGETS, 1, 1, seed=1, epoch=n), "epoch", 0, LARGEST_SEED),
    (CANDLES.usable, "length", 1, LARGEST),
    (lambda n: CANDLES.ranges("x", STARTS, n), "length", 1, LARGEST),
    (lambda n: CANDLES.gather(STARTS, n), "length", 1, LARGEST),
    (lambda n: merge(how="resampled", step_ms=n), "step_ms", 1, LARGEST_TIME),
    (lambda n: merge(how="asof", lag_ms=n), "lag_ms", 0, LARGEST_TIME),
    (lambda n: archive(max_rows=n), "max_rows", 1, LARGEST),
    (lambda n: archive(day_ms=n), "day_ms", 1, LARGEST_TIME),
    (lambda n: archive(threads=n), "threads", 1, 1024),
]


@pytest.mark.parametrize(("call", "name", "low", "high"), CALLS)
def test_out_of_range(call: Callable[[Any], Any], name: str, low: int, high: int) -> None:
    call(low if name != r"rows\[1\]" else 3)
    for bad in (low - 1, -(2**62)):
        with pytest.raises(ArgumentError, match=rf"^{name} is {bad}, expected .*at least {low}\b"):
            call(bad)
    for bad in (high + 1, 10**40):
        expected = rf"^{name} is {bad}, expected an integer of at most {high}\b"
        with pytest.raises(ArgumentError, match=expected):
            call(bad)
    with pytest.raises(ArgumentError, match=f"^{name} is a huge integer, expected"):
        call(10**5000)


@pytest.mark.parametrize(("call", "name", "low", "high"), CALLS)
def test_values_that_are_not_integers(
    call: Callable[[Any], Any], name: str, low: int, high: int
) -> None:
    for bad in (120.0, np.float64(120), "1", [1], True, np.True_):
        received = rf"{name} is {re.escape(repr(bad))}"
        with pytest.raises(ArgumentError, match=f"^{received}, expected an integer of at least"):
            call(bad)


@pytest.mark.parametrize(("call", "name", "low", "high"), CALLS)
def test_integers_of_numpy(call: Callable[[Any], Any], name: str, low: int, high: int) -> None:
    for kind in (np.int8, np.uint64, np.int64):
        call(kind(low if name != r"rows\[1\]" else 3))
    with pytest.raises(ArgumentError, match=f"^{name} is -1, expected an integer of at least"):
        call(np.int32(-1))


def test_a_day_of_a_file() -> None:
    with pytest.raises(ArgumentError, match=f"the day of a file is {2**63}, expected .* at most"):
        _core.read_archive([(2**63, b"")], max_rows=1, day_ms=1)
    with pytest.raises(ArgumentError, match=r"the day of a file is 0.5, expected an integer"):
        _core.read_archive([(0.5, b"")], max_rows=1, day_ms=1)  # type: ignore[list-item]


@pytest.mark.parametrize("rows", [3, (1, 2, 3), (1,)])
def test_rows_that_are_not_a_pair(rows: Any) -> None:
    with pytest.raises(ArgumentError, match=r"expected a pair of integers \(start, end\)"):
        PIPELINE.fit(FRAME, rows=rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (MATRIX.windows, "a window needs at least"),
        (lambda n: MATRIX.gather(STARTS, n), "a window needs at least"),
        (lambda n: MATRIX.batches(TARGETS, n, 1), "a window needs at least"),
        (lambda n: CANDLES.gather(STARTS, n), "a window needs at least"),
        (lambda n: CANDLES.ranges("x", STARTS, n), "a window needs at least"),
        (lambda n: PIPELINE.fit(FRAME, rows=(0, n)), "a range within the 3 rows of the frame"),
    ],
)
def test_in_range_but_larger_than_the_data(call: Callable[[int], Any], message: str) -> None:
    for large in (4, 2**62, LARGEST):
        with pytest.raises(ValueError, match=message):
            call(large)


def test_largest_accepted_values() -> None:
    assert np.isnan(_core.sma([1.0], LARGEST)).all()
    assert np.isnan(_core.rsi([1.0], LARGEST)).all()
    assert np.isnan(_core.rsi([1.0], LARGEST, method="wilder")).all()
    assert CANDLES.usable(LARGEST).tolist() == []
    assert (
        len(list(MATRIX.batches(TARGETS, 1, LARGEST, seed=LARGEST_SEED, epoch=LARGEST_SEED))) == 1
    )
    assert archive(max_rows=LARGEST, day_ms=LARGEST_TIME)[1] == []
