"""Windows of raw candles, scaled by their own values, compared with NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from atb_fast._core import CandleMatrix
from atb_fast.errors import ArgumentError, DataError

COLUMNS = ["close", "volume", "open"]
LENGTH = 120


@pytest.fixture(scope="module")
def candles(truth: Callable[[str, str], pl.DataFrame]) -> pl.DataFrame:
    return truth("BTCUSDT", "1h").head(5000)


def reference(values: Any, start: int, length: int) -> Any:
    window = values[start : start + length]
    low, high = np.minimum.accumulate(window), np.maximum.accumulate(window)
    with np.errstate(invalid="ignore"):
        return np.where(high == low, 0.5, (window - low) / (high - low)).astype(np.float32)


def test_windows_equal_numpy(candles: pl.DataFrame) -> None:
    matrix = CandleMatrix(candles, COLUMNS)
    values = candles.select(COLUMNS).to_numpy()
    np.testing.assert_array_equal(matrix.values, values)
    assert matrix.shape == values.shape
    assert len(matrix) == len(matrix.rows) == len(values)
    starts = matrix.usable(LENGTH)
    good = np.asarray((values > 0).all(axis=1))
    expected = [s for s in range(len(good) - LENGTH + 1) if good[s : s + LENGTH].all()]
    assert starts.tolist() == expected
    got = matrix.gather(starts, LENGTH)
    assert (got[:, 0] == 0.5).all()
    for start, window in zip(starts, got, strict=True):
        np.testing.assert_array_equal(window, reference(values, start, LENGTH))
    low, high = matrix.ranges("open", starts, LENGTH)
    windows = np.lib.stride_tricks.sliding_window_view(values[:, 2], LENGTH)[starts]
    np.testing.assert_array_equal(low, windows.min(axis=1))
    np.testing.assert_array_equal(high, windows.max(axis=1))
    out = np.full((3, LENGTH, 3), 7.0, np.float32)
    again = matrix.gather(starts[[5, 1, 5]], LENGTH, out=out)
    assert again is out
    np.testing.assert_array_equal(out, got[[5, 1, 5]])


def test_chunks_and_other_frames(candles: pl.DataFrame) -> None:
    whole = CandleMatrix(candles, COLUMNS)
    chunked = pl.concat([candles[:777], candles[777:]], rechunk=False)
    for frame in (chunked, candles.to_arrow(), candles.to_pandas()):
        np.testing.assert_array_equal(CandleMatrix(frame, COLUMNS).values, whole.values)


def test_invalid_input_is_rejected(candles: pl.DataFrame) -> None:
    matrix = CandleMatrix(candles.head(200).with_columns(volume=pl.lit(None, pl.Float64)), COLUMNS)
    assert matrix.usable(1).tolist() == []
    with pytest.raises(DataError, match="window start 3: row 3 has a value that is missing"):
        matrix.gather(np.array([3]), 10)
    matrix = CandleMatrix(candles.head(200), COLUMNS)
    with pytest.raises(ArgumentError, match="window start 191"):
        matrix.gather(np.array([191]), 10)
    with pytest.raises(ArgumentError, match="out has shape"):
        matrix.gather(np.array([1]), 10, out=np.empty((1, 10, 2), np.float32))
    with pytest.raises(ArgumentError, match="column is 'x', expected one of close, volume, open"):
        matrix.ranges("x", np.array([1]), 10)
    with pytest.raises(ArgumentError, match="length is 0"):
        matrix.usable(0)
    with pytest.raises(ArgumentError, match="columns is empty"):
        CandleMatrix(candles, [])
    with pytest.raises(DataError, match="column 'x' is missing"):
        CandleMatrix(candles, ["x"])
    with pytest.raises(ValueError, match="read-only"):
        matrix.values[0, 0] = 1.0
