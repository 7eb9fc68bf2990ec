"""merge, sma and rsi, called from Python and compared with pandas and Polars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from atb_fast import _core
from atb_fast.errors import ArgumentError, DataError

HOUR = 3_600_000


def frame(times: list[int], **columns: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {"timestamp": times, **columns}, schema_overrides=dict.fromkeys(columns, pl.Float64)
    )


def utc(name: str = "timestamp") -> pl.Expr:
    return pl.from_epoch(name, "ms").dt.replace_time_zone("UTC")


@pytest.fixture
def prices() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rng = np.random.default_rng(7)
    return 30_000 * np.exp(np.cumsum(rng.standard_normal(5000) * 0.01))


@pytest.mark.parametrize("window", [1, 7, 14, 30])
def test_sma_equals_pandas(prices: Any, window: int) -> None:
    expected = pd.Series(prices).rolling(window).mean()
    np.testing.assert_allclose(_core.sma(prices, window), expected, rtol=1e-12)


def test_simple_rsi_equals_pandas(prices: Any) -> None:
    delta = pd.Series(prices).diff()
    gain = delta.where(delta > 0, 0.0).rolling(14).mean()
    loss = (-delta.where(delta < 0, 0.0)).rolling(14).mean()
    expected = 100 - 100 / (1 + gain / loss)
    np.testing.assert_allclose(_core.rsi(prices), expected, rtol=1e-9)


def test_wilder_rsi_equals_pandas_ewm(prices: Any) -> None:
    # Wilder's mean is an exponential mean with alpha 1/n that starts from a simple mean.
    delta = pd.Series(prices).diff().to_numpy()[1:]
    sides = []
    for part in (np.maximum(delta, 0), np.maximum(-delta, 0)):
        seeded = pd.Series(np.concatenate([[part[:14].mean()], part[14:]]))
        sides.append(seeded.ewm(alpha=1 / 14, adjust=False).mean())
    expected = 100 - 100 / (1 + sides[0] / sides[1])
    got = _core.rsi(prices, 14, method="wilder")
    assert np.isnan(got[:14]).all()
    np.testing.assert_allclose(got[14:], expected, rtol=1e-9)


def test_series_take_integers_and_slices() -> None:
    np.testing.assert_array_equal(_core.sma(np.arange(10)[::2], 2)[1:], [1.0, 3.0, 5.0, 7.0])
    assert _core.sma([1, 2, 3], 3)[2] == 2.0


def test_series_arguments() -> None:
    with pytest.raises(ArgumentError, match="window is 0"):
        _core.sma([1.0], 0)
    with pytest.raises(ArgumentError, match="'exponential', expected 'simple' or 'wilder'"):
        _core.rsi([1.0], 14, method="exponential")  # type: ignore[arg-type]


def test_exact_merge_equals_a_polars_join() -> None:
    left = frame([0, 1, 2, 5])
    right = frame([1, 2, 3], x=[10.0, None, 30.0])
    merged = pl.DataFrame(_core.merge(left, right, ["x"], how="exact"))
    expected = left.join(right, on="timestamp", how="left", maintain_order="left")
    assert merged["x"].to_list() == expected["x"].to_list() == [None, 10.0, None, None]


def test_resampled_merge_equals_pandas_resample() -> None:
    rng = np.random.default_rng(1)
    days = np.arange(40)[rng.random(40) > 0.2] * 24 * HOUR
    right = frame(days.tolist(), x=rng.random(len(days)).tolist())
    left = frame(sorted({*range(-HOUR, 42 * 24 * HOUR, HOUR), 28 * 60_000}))
    merged = pl.DataFrame(_core.merge(left, right, ["x"], how="resampled", step_ms=HOUR))

    series = pd.Series(right["x"].to_numpy(), index=pd.to_datetime(days, unit="ms"))
    grid = series.resample("1h").ffill()
    expected = grid.reindex(pd.to_datetime(left["timestamp"].to_numpy(), unit="ms"))
    got = merged["x"].to_numpy()
    assert np.isnan(got).sum() > 20
    np.testing.assert_array_equal(got, expected.to_numpy())


def test_asof_merge_equals_polars_join_asof() -> None:
    left = frame([0, 10, 20, 30, 40])
    right = frame([5, 12, 30], x=[1.0, 2.0, 3.0])
    merged = pl.DataFrame(_core.merge(left, right, ["x"], how="asof", lag_ms=5))
    lagged = right.with_columns(pl.col("timestamp") + 5)
    expected = left.join_asof(lagged, on="timestamp")
    assert merged["x"].to_list() == expected["x"].to_list() == [None, 1.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize("unit", ["ms", "us", "ns", "s", "int"])
def test_merge_takes_every_timestamp_unit(unit: str) -> None:
    times = pa.array([0, 86_400_000], pa.int64())
    if unit != "int":
        times = times.cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp(unit, "UTC"))
    left = pa.table({"timestamp": times})
    right = frame([86_400_000], x=[4.0]).with_columns(utc())
    merged = pl.DataFrame(_core.merge(left, right, ["x"], how="exact"))
    assert merged["x"].to_list() == [None, 4.0]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([3, 2], "row 1: timestamp 2 ms follows 3 ms"),
        ([2, 2], "strictly ascending"),
        ([1, None], "row 1: the timestamp is null"),
        (["a", "b"], "has dtype .*, expected a timestamp"),
    ],
)
def test_merge_rejects_bad_times(times: list[Any], message: str) -> None:
    good, bad = frame([1, 2], x=[0.0, 0.0]), pl.DataFrame({"timestamp": times, "x": [0.0, 0.0]})
    with pytest.raises(DataError, match=message):
        _core.merge(bad, good, ["x"], how="exact")
    with pytest.raises(DataError, match=message):
        _core.merge(good, bad, ["x"], how="exact")


def test_merge_arguments() -> None:
    good = frame([1, 2], x=[0.0, 0.0])
    with pytest.raises(DataError, match="'y' is missing; the frame has: timestamp, x"):
        _core.merge(good, good, ["y"], how="exact")
    for how, extra in [("resampled", {}), ("exact", {"lag_ms": 3}), ("nearest", {})]:
        with pytest.raises(ArgumentError, match="expected 'exact', 'resampled' with step_ms"):
            _core.merge(good, good, ["x"], how=how, **extra)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="columns is empty"):
        _core.merge(good, good, [], how="exact")
    with pytest.raises(ArgumentError, match="would look into the future"):
        _core.merge(good, good, ["x"], how="asof", lag_ms=-1)
    with pytest.raises(TypeError, match=r"Arrow PyCapsule interface .* got list"):
        _core.merge([1], good, ["x"], how="exact")  # type: ignore[arg-type]


def test_empty_frames_merge_to_nulls() -> None:
    empty = frame([], x=[]).cast({"timestamp": pl.Int64})
    merged = pl.DataFrame(_core.merge(frame([1]), empty, ["x"], how="asof"))
    assert merged["x"].to_list() == [None]
    assert len(pl.DataFrame(_core.merge(empty, frame([1], x=[1.0]), ["x"], how="exact"))) == 0
