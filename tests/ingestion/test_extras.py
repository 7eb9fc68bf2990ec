"""Extra series: reading their files, joining them as of each candle, and what is recorded."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from atb_fast import Extra
from atb_fast.config import MarketOptions
from atb_fast.errors import ArgumentError, DataError
from atb_fast.ingestion import sample
from atb_fast.ingestion.extras import with_extras
from atb_fast.ingestion.files import read_series
from atb_fast.ingestion.market import Market, load_market

HOUR = 3_600_000


def series(
    rows: int = 3000, *, seed: int = 0, name: str = "funding", start: str = "2019-01-03"
) -> pl.DataFrame:
    """Return values at irregular times, some of them null."""
    rng = np.random.default_rng(seed)
    first = int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp()) * 1000
    # Half of the times are whole hours, so that many are equal to the open of a candle.
    steps = rng.integers(1, 48 * HOUR, rows)
    times = first + np.cumsum(steps)
    times = np.unique(np.where(rng.random(rows) < 0.5, times // HOUR * HOUR, times))
    values = np.where(rng.random(len(times)) < 0.1, np.nan, rng.normal(size=len(times)))
    stamps = pl.Series("timestamp", times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    return pl.DataFrame([stamps, pl.Series(name, values, nan_to_null=True)])


def load(path: Path, name: str = "funding", **options: Any) -> Market:
    given: dict[str, Any] = {"source": "sample", "extra": {name: path}, "force_price_only": True}
    return load_market(MarketOptions(symbol="BTCUSDT", **given | options))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("timeframe", ["1d", "4h"])
@pytest.mark.parametrize("lag", [0, 1, HOUR, 8 * HOUR, 400 * HOUR])
def test_the_join_equals_pandas_and_polars(timeframe: str, lag: int) -> None:
    candles, values = sample.candles("BTCUSDT", timeframe), series()
    made = with_extras(candles, [Extra("funding", values, lag)])
    assert made.columns == [*candles.columns, "funding"]
    assert 0 < made["funding"].null_count() < len(made)
    late = values.with_columns(pl.col("timestamp") + timedelta(milliseconds=lag))
    assert_frame_equal(made, candles.join_asof(late, on="timestamp", strategy="backward"))
    expected = pd.merge_asof(
        pd.DataFrame({"timestamp": candles["timestamp"].to_numpy()}),
        pd.DataFrame({name: late[name].to_numpy() for name in late.columns}),
        on="timestamp",
    )
    np.testing.assert_array_equal(made["funding"].to_numpy(), expected["funding"])


def test_later_rows_change_nothing_earlier(daily: pl.DataFrame) -> None:
    values, lag = series(), 30 * HOUR
    whole = with_extras(daily, [Extra("funding", values, lag)])
    for cut in (3, 40, 700, len(daily) - 1):
        last = daily["timestamp"][cut - 1]
        extra = Extra("funding", values, lag)
        assert_frame_equal(with_extras(daily[:cut], [extra.known_at(last)]), whole[:cut])
        # A value that is not known yet is not read, whatever it is.
        unknown = pl.col("timestamp") + timedelta(milliseconds=lag) > last
        changed = values.with_columns(
            pl.when(unknown).then(1e9).otherwise("funding").alias("funding")
        )
        assert_frame_equal(with_extras(daily, [Extra("funding", changed, lag)])[:cut], whole[:cut])


def test_a_value_is_known_at_the_open_that_it_is_stamped_with() -> None:
    candles = sample.candles("BTCUSDT", "1h")[:4]
    opened = candles["timestamp"]
    values = pl.DataFrame({"timestamp": opened[1:3], "x": [1.0, None]})
    for lag, expected in (
        (0, [None, 1.0, None, None]),
        (1, [None, None, 1.0, None]),
        (HOUR, [None, None, 1.0, None]),
        (2 * HOUR, [None, None, None, 1.0]),
    ):
        assert with_extras(candles, [Extra("x", values, lag)])["x"].to_list() == expected


@pytest.mark.parametrize("suffix", ["csv", "feather", "parquet"])
def test_every_format_gives_the_same_column(tmp_path: Path, suffix: str) -> None:
    values, path = series(), tmp_path / f"f.{suffix}"
    stored = values.rename({"funding": "Value"}).sample(fraction=1, shuffle=True, seed=1)
    writers: dict[str, Callable[[Path], object]] = {
        "csv": stored.write_csv,
        "feather": stored.write_ipc,
        "parquet": stored.write_parquet,
    }
    writers[suffix](path)
    market = load(path, extra_lag={"funding": "8h"})
    (extra,) = market.extras
    assert (extra.name, extra.columns, extra.lag_ms) == ("funding", ["funding"], 8 * HOUR)
    assert_frame_equal(extra.values, values)
    assert_frame_equal(
        market.frame, with_extras(market.candles, [Extra("funding", values, 8 * HOUR)])
    )
    assert "funding" not in market.candles.columns


def test_several_columns_and_series(tmp_path: Path) -> None:
    other = sample.candles("ETHUSDT", "1d")
    other.write_parquet(tmp_path / "ETHUSDT_1d.parquet")
    series().write_parquet(tmp_path / "BTCUSDT.parquet")
    market = load(
        tmp_path / "{symbol}.parquet",
        extra={"f": tmp_path / "{symbol}.parquet", "eth": tmp_path / "ETHUSDT_1d.parquet"},
    )
    added = ["f", *(f"eth_{name}" for name in ("open", "high", "low", "close", "volume"))]
    assert market.frame.columns[6:] == added
    # Bars of the same length close together.
    assert market.frame["eth_close"].equals(other["close"])


def test_integers_booleans_and_empty_cells(tmp_path: Path) -> None:
    rows = "timestamp,value\n2024-01-01,3\n2024-01-02,\n2024-01-03,-1e300\n"
    frame = read_series(write(tmp_path / "x.csv", rows), "BTCUSDT")
    assert frame["value"].to_list() == [3.0, None, -1e300]
    pl.DataFrame({"timestamp": [datetime(2024, 1, 1)], "value": [2**40]}).write_parquet(
        tmp_path / "x.parquet"
    )
    assert read_series(tmp_path / "x.parquet", "BTCUSDT")["value"].to_list() == [2.0**40]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp\n2024-01-01\n", "x.csv has no column besides timestamp; add a column"),
        ("time,value\n2024-01-01,1\n", r"x.csv has no column timestamp \(found: time, value\)"),
        ("timestamp,value\n", "x.csv: the file has no rows"),
        ("", "x.csv: the file is empty; expected column names"),
        ("timestamp,value\nx,1\n", "column timestamp, row 1: found 'x', expected a time"),
        (
            "timestamp,value\n2024-01-01,x\n",
            "value, row 1: found 'x', expected a finite number, or",
        ),
        ("timestamp,value\n2024-01-01,nan\n", "value, row 1: found 'nan', expected a finite"),
        ("timestamp,value\n2024-01-01,-inf\n", "value, row 1: found '-inf', expected a finite"),
        (
            "timestamp,value\n2024-01-01,1\n2024-01-01,2\n",
            "duplicate timestamp 2024-01-01 00:00:00 UTC; keep only one row",
        ),
        ("timestamp,a,A\n2024-01-01,1,2\n", "x.csv: duplicate column names"),
        (
            "timestamp,a,open interest\n2024-01-01,1,2\n",
            "column 'open interest' becomes 'funding_open interest', expected .* rename or remove",
        ),
        ("timestamp,value\n2030-01-01,1\n", "has no row in the range of the candles: its rows are"),
        ("timestamp,value\n2010-01-01,1\n", "has no row in the range of the candles: its rows are"),
        ("timestamp,a,b\n2020-01-01,,1\n", "column funding_a has no value for any candle; remove"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path / "x.csv", text))
    assert "\n" not in str(caught.value)
    assert "x.csv" in str(caught.value)


def test_only_the_rows_of_the_symbol_are_read(tmp_path: Path) -> None:
    day = "2024-01-01"
    rows = f"timestamp,symbol,value\n{day},BTCUSDT,1\n{day},ethusdt,2\n2024-01-02,ETHUSDT,3\n"
    path = write(tmp_path / "x.csv", rows)
    read = read_series(path, "ETHUSDT")
    assert read.columns == ["timestamp", "value"]
    assert read["value"].to_list() == [2.0, 3.0]
    message = r"column symbol has no row of SOLUSDT \(found: BTCUSDT, ETHUSDT, ethusdt\); pass a"
    with pytest.raises(DataError, match=message):
        read_series(path, "SOLUSDT")
    # A number can be a feature.
    write(path, f"timestamp,symbol\n{day},7\n")
    assert read_series(path, "SOLUSDT")["symbol"].to_list() == [7.0]


def test_columns_of_times_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = series(20).with_columns(made_at="timestamp", day=pl.col("timestamp").dt.date())
    for name, write_file in (("x.csv", values.write_csv), ("x.parquet", values.write_parquet)):
        write_file(tmp_path / name)
        with caplog.at_level(logging.INFO):
            assert_frame_equal(
                read_series(tmp_path / name, "BTCUSDT"), values.select("timestamp", "funding")
            )
        assert f"{name}: left out the columns of times: made_at, day" in caplog.text
    only = write(tmp_path / "only.csv", "timestamp,known\n2024-01-01,2024-01-02\n")
    with pytest.raises(DataError, match="has no column besides timestamp; add a column with the"):
        read_series(only, "BTCUSDT")
    # A text that only resembles a time in some rows is an invalid number, as before.
    mixed = write(tmp_path / "mixed.csv", "timestamp,x\n2024-01-01,2024-01-02\n2024-01-02,3\n")
    with pytest.raises(DataError, match="column x, row 1: found '2024-01-02', expected a finite"):
        read_series(mixed, "BTCUSDT")


def test_other_paths_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    (tmp_path / "x").mkdir()
    for path, message in (
        (tmp_path / "gone", "gone: no such file; check the path"),
        (tmp_path / "x.txt", "x.txt: unknown file type; expected one of .csv"),
        (tmp_path / "x", "x: expected a file, found a directory; check the path"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            load(path)
    pl.DataFrame({"timestamp": [1_577_836_800], "value": [True]}).write_parquet(
        tmp_path / "b.parquet"
    )
    with pytest.raises(DataError, match="column value has type Boolean, expected numbers"):
        load(tmp_path / "b.parquet")
    both = write(tmp_path / "true.csv", "timestamp,a,range\n2024-01-01,1,2\n")
    with pytest.raises(DataError, match="'range' becomes 'true_range', which is reserved"):
        load(both, "true")
    two = {
        "x": write(tmp_path / "x.csv", "timestamp,a,b\n2020-01-01,1,2\n"),
        "x_a": write(tmp_path / "x_a.csv", "timestamp,value\n2020-01-01,1\n"),
    }
    with pytest.raises(DataError, match="column x_a of extra x_a already exists; rename one"):
        load(tmp_path, extra=two)


def test_the_lag_counts_for_the_range(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "timestamp,value\n2019-06-01,1\n")
    options = {"start_date": "2019-01-01", "end_date": "2019-06-10"}
    assert load(path, **options, extra_lag={"funding": "9d"}).frame["funding"].count() == 1
    message = r"stamped 2019-06-01 00:00 to 2019-06-01 00:00 UTC and known 10d later, the candles"
    with pytest.raises(DataError, match=message):
        load(path, **options, extra_lag={"funding": "10d"})


def test_what_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "atb_fast")
    options = {"start_date": "2024-01-01", "end_date": "2024-03-31"}
    rows = [f"2024-01-{day:02},{day}" for day in range(3, 31)]
    path = write(tmp_path / "x.csv", "\n".join(["timestamp,value", *rows]))
    load(path, **options)
    first, *_, missing, stale = caplog.messages
    assert first == f"--extra funding: 28 rows of funding from {path}"
    assert missing == f"--extra funding ({path}): 2 of 91 candles have no funding"
    assert stale == (
        f"--extra funding ({path}) ends on 2024-01-30, well before the last candle on 2024-03-31; "
        "its last value is carried forward"
    )
    caplog.clear()
    rows = [f"2024-01-{day:02},{day},{day if day > 9 else ''},{day}" for day in range(3, 31)]
    load(write(path, "\n".join(["timestamp,high,open,low", *rows])), **options)
    (missing,) = (each for each in caplog.messages if "candles have no" in each)
    assert missing == (
        f"--extra funding ({path}): 2 of 91 candles have no funding_high, funding_low; 9 of 91 "
        "candles have no funding_open"
    )
    caplog.clear()
    # A step as long as this is normal for a series that has one.
    write(path, "timestamp,value\n2023-01-01,1\n2024-02-01,2\n")
    load(path, **options)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_closes_of_longer_bars_may_lie_in_the_future(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ETHUSDT_1d.parquet"
    sample.candles("ETHUSDT", "1d").write_parquet(path)
    for timeframe, lag, warned in (("1d", "0", False), ("1h", "0", True), ("1h", "23h", False)):
        caplog.clear()
        load(path, "eth", timeframe=timeframe, extra_lag={"eth": lag})
        assert ("pass --extra-lag eth=23h to prevent look-ahead bias" in caplog.text) is warned


def test_extras_of_the_library(daily: pl.DataFrame) -> None:
    values = series()
    market = Market(daily, None, (Extra("funding", values),))
    assert market.frame.columns == [*daily.columns, "funding"]
    wrong: list[tuple[Any, str]] = [
        (
            lambda: Extra("close", values),
            "an extra has the name 'close', which is reserved",
        ),
        (lambda: Extra("x", values.drop("timestamp")), "expected timestamp"),
        (lambda: Extra("x", values[["timestamp"]]), "at least one column of values"),
        (lambda: Extra("x", values.rename({"funding": "log"})), "has the column 'log', which is"),
        (
            lambda: Extra("x", values.cast({"funding": pl.Float32})),
            "dtype Float32, expected Float64",
        ),
        (lambda: Market(daily, None, (Extra("x", values), Extra("y", values))), "already exists"),
        (
            lambda: with_extras(daily, [Extra("x", values.fill_null(float("nan")))]),
            "column 'funding', row .* NaN",
        ),
        (lambda: with_extras(daily, [Extra("x", values[::-1])]), "timestamp.* ascending"),
    ]
    for make, message in wrong:
        with pytest.raises(DataError, match=message):
            make()
    misfits: list[tuple[Any, str]] = [
        (lambda: Extra(3, values), "name has type int, expected str"),  # type: ignore[arg-type]
        (lambda: Extra("x", None), "values has type NoneType"),  # type: ignore[arg-type]
        (lambda: Extra("x", values, 1.5), "lag_ms has type float"),  # type: ignore[arg-type]
        (lambda: Market(daily, None, [Extra("x", values)]), "extras has type list"),  # type: ignore[arg-type]
        (
            lambda: with_extras(daily, [Extra("x", values, -1)]),
            "lag_ms is -1, expected an integer of at",
        ),
    ]
    for make, message in misfits:
        with pytest.raises(ArgumentError, match=message):
            make()
