"""merge, sma and rsi, called from Python and compared with pandas and Polars."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from core_features import of_column

from atb_fast import _core
from atb_fast.errors import ArgumentError, DataError
from atb_fast.ingestion.files import read_sentiment

HOUR = 3_600_000
#: The extension, for calls that a type checker would refuse.
UNTYPED: Any = _core


def frame(times: list[int], **columns: list[float | None]) -> pl.DataFrame:
    """Return a frame whose times are given in milliseconds."""
    kinds: dict[str, Any] = {"timestamp": pl.Datetime("ms"), **dict.fromkeys(columns, pl.Float64)}
    return pl.DataFrame({"timestamp": times, **columns}, schema=kinds)


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


@pytest.mark.parametrize(
    ("values", "received"),
    [
        (None, "None"),
        ("abc", "'abc'"),
        (["a", 1.0], r"\['a', 1.0\]"),
        (np.ones((2, 3)), r"of type ndarray with dtype float64 and shape \(2, 3\)"),
        (pl.DataFrame({"x": ["a"] * 99}), "of type DataFrame"),
        (pl.Series("x", ["a"] * 99), r"of type Series with dtype String and shape \(99,\)"),
    ],
)
def test_values_that_are_not_an_array_of_numbers(values: Any, received: str) -> None:
    scaler = _core.MinMaxScaler(0.0, 1.0)
    window_of_2 = [lambda given: _core.sma(given, 2), lambda given: _core.rsi(given, 2)]
    for call in (*window_of_2, scaler.transform, scaler.inverse_transform):
        expected = f"^values is {received}, expected a one-dimensional array of numbers"
        with pytest.raises(ArgumentError, match=expected):
            call(values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UNTYPED.rsi([1.0], 2, method=3), "method is 3, expected 'simple' or 'wilder'"),
        (lambda: UNTYPED.merge(None, None, ["x"], how=None), "got NoneType, expected a Polars"),
        (lambda: UNTYPED.Feature(1, "x"), "name is 1, expected a string"),
        (
            lambda: UNTYPED.Feature("x", None),
            r"nodes is None, expected a list of \(operator, arguments, parameters\)",
        ),
        (
            lambda: UNTYPED.Feature("x", [("column", (), ("x",))], null_as="0"),
            "null_as is '0', expected a number or None",
        ),
        (lambda: UNTYPED.MinMaxScaler("0", 1.0), "data_min is '0', expected a number"),
        (
            lambda: UNTYPED.FeaturePipeline("close"),
            "features is 'close', expected a list of Feature",
        ),
        (lambda: UNTYPED.FeaturePipeline(["close"]), r"features is \['close'\], expected a list"),
        (
            lambda: UNTYPED.FeaturePipeline([of_column("x", "x")], scalers=[1]),
            r"scalers is \[1\], expected a list of MinMaxScaler or None",
        ),
        (lambda: UNTYPED.epoch_ms([1.5]), r"times is \[1.5\], expected .* array of integers"),
    ],
)
def test_arguments_of_the_wrong_type(call: Any, message: str) -> None:
    with pytest.raises((ArgumentError, DataError), match=message):
        call()


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
    expected = grid.reindex(pd.to_datetime(left["timestamp"].to_numpy()))
    got = merged["x"].to_numpy()
    assert np.isnan(got).sum() > 20
    np.testing.assert_array_equal(got, expected.to_numpy())


def test_asof_merge_equals_polars_join_asof() -> None:
    left = frame([0, 10, 20, 30, 40])
    right = frame([5, 12, 30], x=[1.0, 2.0, 3.0])
    merged = pl.DataFrame(_core.merge(left, right, ["x"], how="asof", lag_ms=5))
    lagged = right.with_columns(pl.col("timestamp") + timedelta(milliseconds=5))
    expected = left.join_asof(lagged, on="timestamp")
    assert merged["x"].to_list() == expected["x"].to_list() == [None, 1.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize("whole_numbers", [False, True])
@pytest.mark.parametrize("unit", ["ms", "us", "ns", "s"])
def test_merge_takes_every_timestamp_unit(unit: str, whole_numbers: bool) -> None:
    days = [1_577_836_800_000, 1_577_923_200_000]  # from 2020-01-01 on
    times = pa.array(days, pa.timestamp("ms", "UTC")).cast(pa.timestamp(unit, "UTC"))
    if whole_numbers:
        times = times.cast(pa.int64())
        assert _core.epoch_ms(times).tolist() == days
    left = pa.table({"timestamp": times})
    right = frame(days[1:], x=[4.0]).with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    merged = pl.DataFrame(_core.merge(left, right, "x", how="exact"))
    assert merged["x"].to_list() == [None, 4.0]


def test_whole_numbers_have_the_same_unit_in_files_and_in_frames(tmp_path: Path) -> None:
    seconds = np.array([946_684_800, 1_000_000_000, 1_704_067_200, 4_102_444_799])
    for factor in (1, 1000, 10**6, 10**9):
        numbers = pl.DataFrame({"timestamp": seconds * factor, "value": 50.0})
        numbers.write_parquet(tmp_path / "index.parquet")
        days = read_sentiment(tmp_path / "index.parquet")["timestamp"].dt.epoch("ms")
        assert _core.epoch_ms(numbers["timestamp"]).tolist() == (seconds * 1000).tolist()
        assert days.to_list() == (seconds // 86_400 * 86_400_000).tolist()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([3, 2], "row 1: timestamp 2000 ms follows 3000 ms"),
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
    with pytest.raises(ArgumentError, match="lag_ms is -1, expected an integer of at least 0"):
        _core.merge(good, good, ["x"], how="asof", lag_ms=-1)
    with pytest.raises(DataError, match=r"got list, expected a Polars, pyarrow or pandas frame"):
        _core.merge([1], good, ["x"], how="exact")  # type: ignore[arg-type]


def test_empty_frames_merge_to_nulls() -> None:
    empty = frame([], x=[])
    merged = pl.DataFrame(_core.merge(frame([1]), empty, ["x"], how="asof"))
    assert merged["x"].to_list() == [None]
    assert len(pl.DataFrame(_core.merge(empty, frame([1], x=[1.0]), ["x"], how="exact"))) == 0
