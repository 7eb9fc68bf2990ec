from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from atb_fast import TrainingConfig
from atb_fast.errors import ArgumentError, DataError
from atb_fast.ingestion.files import read_candles, read_sentiment
from atb_fast.ingestion.maintenance import verify_file
from atb_fast.ingestion.market import load_market

HEADER = "timestamp,open,high,low,close,volume\n"


def csv(tmp_path: Path, rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "candles.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "feather", "parquet"])
def test_all_formats_give_the_same_candles(
    daily: pl.DataFrame, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"candles.{suffix}"
    getattr(daily, {"csv": "write_csv", "feather": "write_ipc"}.get(suffix, "write_parquet"))(path)
    assert_frame_equal(read_candles(path), daily, check_exact=True)


@pytest.mark.parametrize(
    "stamp",
    [
        "2024-01-31",
        "2024-01-31 00:00:00",
        "2024-01-31T00:00:00Z",
        "2024-01-31 00:00:00+00:00",
        "2024-01-31 01:00:00+01:00",
        "1706659200",
        "1706659200.0",
        "1706659200000",
        "1706659200000000",
        "1706659200000000000",
    ],
)
def test_timestamps_of_all_kinds(tmp_path: Path, stamp: str) -> None:
    frame = read_candles(csv(tmp_path, f"{stamp},1,2,0.5,1.5,10\n"))
    assert frame["timestamp"].to_list() == [datetime(2024, 1, 31, tzinfo=UTC)]
    assert frame.schema["timestamp"] == pl.Datetime("ms", "UTC")


@pytest.mark.parametrize("suffix", ["csv", "feather", "parquet"])
@pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
def test_numbers_with_fractions_in_every_format(tmp_path: Path, suffix: str, unit: float) -> None:
    seconds = np.array([1706659200.0, 1706659200.25, 1706659260.123, 1706659319.999])
    path = tmp_path / f"candles.{suffix}"
    prices = dict.fromkeys(["open", "high", "low", "close", "volume"], 1.0)
    frame = pl.DataFrame({"timestamp": seconds * unit}).with_columns(
        pl.lit(value).alias(name) for name, value in prices.items()
    )
    getattr(frame, {"csv": "write_csv", "feather": "write_ipc"}.get(suffix, "write_parquet"))(path)
    got = read_candles(path)["timestamp"]
    assert (got.dt.epoch("ms") - 1706659200000).to_list() == [0, 250, 60123, 119999]


def test_rows_are_sorted_and_other_columns_dropped(tmp_path: Path) -> None:
    path = csv(
        tmp_path, "x,2024-01-02,1,1,1,2,1\ny,2024-01-01,1,1,1,1,1\n", header="name," + HEADER
    )
    frame = read_candles(path)
    assert frame["close"].to_list() == [1.0, 2.0]
    assert frame.columns == ["timestamp", "open", "high", "low", "close", "volume"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("2024-01-01,1,1,1,abc,1\n", "column close, row 1: found 'abc', expected a price above 0"),
        ("2024-01-01,1,1,1,1,1\n2024-01-02,1,1,1,,1\n", "column close, row 2: found nothing"),
        ("2024-01-01,1,1,1,nan,1\n", "column close, row 1: found 'nan', expected a price above 0"),
        ("2024-01-01,1,inf,1,1,1\n", "column high, row 1: found 'inf'"),
        ("2024-01-01,1,1,0,1,1\n", "column low, row 1: found '0', expected a price above 0"),
        ("2024-01-01,1,1,1,1,-2\n", "volume, row 1: found '-2', expected a number from 0 to"),
        ("01/02/2024,1,1,1,1,1\n", "found '01/02/2024', expected a time from 2000 on"),
        ("20240131,1,1,1,1,1\n", "found '20240131', expected a time from 2000 on"),
        ("1706659200000,1,1,1,1,1\n99,1,1,1,1,1\n", "timestamp, row 2: found '99', expected"),
        ("nan,1,1,1,1,1\n", "column timestamp, row 1: found 'nan', expected a time from 2000 on"),
        ("1706659200000,1,1,1,1,1\n9-9,1,1,1,1,1\n", "timestamp, row 2: found '9-9', expected"),
        ("yesterday,1,1,1,1,1\n", "column timestamp, row 1: found 'yesterday', expected a time"),
        (",1,1,1,1,1\n", "column timestamp, row 1: found None, expected a time"),
        ("2024-01-01,1,1,1,1,1\n" * 2, "duplicate timestamp 2024-01-01 00:00:00 UTC"),
        ("", "the file has no rows"),
        ("2024-01-01,1,1,1,1,1,9,9\n", "cannot be read as csv"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_candles(csv(tmp_path, rows))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv: no such file"):
        read_candles(tmp_path / "nowhere.csv")
    (tmp_path / "candles.xlsx").touch()
    with pytest.raises(
        DataError, match=r"unknown file type; expected one of .csv, .feather, .parquet; convert the"
    ):
        read_candles(tmp_path / "candles.xlsx")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_candles(broken)
    with pytest.raises(DataError, match=r"has no column volume \(found: timestamp, open"):
        read_candles(csv(tmp_path, "2024-01-01,1,1,1,1\n", HEADER.replace(",volume", "")))
    with pytest.raises(DataError, match="no column timestamp"):
        read_candles(csv(tmp_path, "1,1,1,1,1\n", "open,high,low,close,volume\n"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="expected a file, found a directory"):
        read_candles(tmp_path / "folder.csv")


def test_lines_that_end_with_a_carriage_return(daily: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    for end in ("\r", "\r\n"):
        path.write_bytes(daily.write_csv().replace("\n", end).encode())
        assert_frame_equal(read_candles(path), daily, check_exact=True)


@pytest.mark.parametrize(
    "content",
    [
        "{0}",
        "{0}\n1",
        "{0},{0}\n1,1",
        HEADER + "{0}",
        HEADER + "{0},1,1,1,1,1\n",
        HEADER + "2024-01-01,1,1,1,{0},1\n",
    ],
)
def test_a_message_does_not_quote_a_whole_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "candles.csv"
    path.write_text(content.format("x" * 100_000))
    with pytest.raises(DataError) as caught:
        read_candles(path)
    assert len(str(caught.value)) < 600


def test_the_first_version_of_feather(daily: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "candles.feather"
    path.write_bytes(b"FEA1" + bytes(100) + b"FEA1")
    with pytest.raises(DataError, match="Feather version 1 is not supported; save the file as"):
        read_candles(path)


@pytest.mark.parametrize("column", ["high", "volume"])
def test_columns_with_another_dtype(daily: pl.DataFrame, tmp_path: Path, column: str) -> None:
    path = tmp_path / "candles.parquet"
    for value in (pl.lit([1.0]), pl.col("timestamp").dt.date(), pl.lit(value=True)):
        daily.with_columns(value.alias(column)).write_parquet(path)
        with pytest.raises(DataError, match=f"column {column} has type .*, expected numbers"):
            read_candles(path)


@pytest.mark.parametrize("suffix", ["feather", "parquet"])
def test_damaged_files_are_data_errors(daily: pl.DataFrame, tmp_path: Path, suffix: str) -> None:
    """Polars panics on some of them."""
    path, rng = tmp_path / f"candles.{suffix}", random.Random(f"seed 1, {suffix}")
    frame = daily.head(200)
    frame.write_ipc(path, compression="zstd") if suffix == "feather" else frame.write_parquet(path)
    sound = path.read_bytes()
    refused = 0
    for _ in range(400):
        damaged = bytearray(sound)
        for _ in range(5):
            damaged[-rng.randrange(1, 1500)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_candles(path)
        except DataError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("time", [2**63 - 1, 1 - 2**63])
def test_times_far_away(daily: pl.DataFrame, tmp_path: Path, unit: Any, time: int) -> None:
    path = tmp_path / "candles.feather"
    times = pl.Series("timestamp", [time]).cast(pl.Datetime(unit))
    daily.head(1).with_columns(times).write_ipc(path)
    with pytest.raises(DataError, match=r"column timestamp, row 1: found .* expected a time from"):
        read_candles(path)


def test_seconds_and_milliseconds_in_one_file(tmp_path: Path) -> None:
    path = csv(tmp_path, "1706659200,1,1,1,1,0\n1706745600000,1,1,1,1,0\n")
    assert read_candles(path)["timestamp"].dt.day().to_list() == [31, 1]


def test_a_path_is_not_a_pattern(daily: pl.DataFrame, tmp_path: Path) -> None:
    daily.write_csv(tmp_path / "data [2024].csv")
    daily.write_parquet(tmp_path / "a.parquet")
    assert len(read_candles(tmp_path / "data [2024].csv")) == len(daily)
    for pattern in ("*.csv", "*.parquet"):
        with pytest.raises(DataError, match="no such file"):
            read_candles(tmp_path / pattern)


def test_headers_of_other_programs(tmp_path: Path) -> None:
    path = csv(tmp_path, "2024-01-01,1,1,1,1,0\n\n", " Timestamp, Open, HIGH,low,close,volume\n")
    assert len(read_candles(path)) == 1
    with pytest.raises(DataError, match="separate columns by commas"):
        read_candles(csv(tmp_path, "2024-01-01;1\n", "timestamp;open\n"))
    with pytest.raises(DataError, match="duplicate column names"):
        read_candles(csv(tmp_path, "2024-01-01,1,1,1,1,0,2\n", HEADER[:-1] + ",close\n"))


def test_numbers_that_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"column close, row 1: found '1e39', expected a price above 0, up to 1e\+15",
    ):
        read_candles(csv(tmp_path, "2024-01-01,1,1,1,1e39,1\n"))
    frame = pl.DataFrame(
        {"timestamp": [2**63 + 1], "value": [1]}, schema_overrides={"timestamp": pl.UInt64}
    )
    frame.write_parquet(tmp_path / "sentiment.parquet")
    with pytest.raises(DataError, match="column timestamp, row 1: found 9223372036854775809"):
        read_sentiment(tmp_path / "sentiment.parquet")


@pytest.mark.parametrize("value", ["300", "-5", "nan"])
def test_an_index_is_from_0_to_100(tmp_path: Path, value: str) -> None:
    path = csv(tmp_path, f"2024-01-01,40\n2024-01-02,{value}\n", "timestamp,value\n")
    message = f"column value, row 2: found '{value}', expected a value from 0 to 100"
    with pytest.raises(DataError, match=message):
        read_sentiment(path)


def test_an_index_from_0_to_1(tmp_path: Path) -> None:
    rows = "2024-01-01,0.4\n2024-01-02,1\n"
    with pytest.raises(DataError, match="only values from 0 to 1, expected an index from 0 to 100"):
        read_sentiment(csv(tmp_path, rows, "timestamp,value\n"))
    rows = "2024-01-01,0.4\n2024-01-02,2\n"
    assert read_sentiment(csv(tmp_path, rows, "timestamp,value\n"))["value"].to_list() == [0.4, 2]


def test_text_of_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    path.write_text(HEADER + "2024-01-01,1,1,1,1,1\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"candles\.csv: .*UTF-8") as error:
        read_candles(path)
    assert "\0" not in str(error.value)


def test_sentiment_stamps_count_for_their_day(tmp_path: Path) -> None:
    path = csv(tmp_path, "1551157200,40\n1551243600,42\n", "timestamp,value\n")
    frame = read_sentiment(path)
    assert frame["timestamp"].to_list() == [
        datetime(2019, 2, 26, tzinfo=UTC),
        datetime(2019, 2, 27, tzinfo=UTC),
    ]
    assert frame["value"].to_list() == [40.0, 42.0]


def load(path: Path, **options: Any) -> pl.DataFrame:
    config = TrainingConfig(symbol="BTCUSDT", candles=path, force_price_only=True, **options)
    return load_market(config).candles


def test_price_only_does_not_read_sentiment(
    daily: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "candles.parquet"
    daily.write_parquet(path)
    with caplog.at_level("INFO"):
        load(path, sentiment=tmp_path / "gone.csv")
    assert "--force-price-only: ignoring" in caplog.text


def test_gaps_are_logged(
    daily: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "candles.parquet"
    pl.concat([daily[:50], daily[51:90], daily[100:]]).write_parquet(path)
    with caplog.at_level("INFO"):
        load(path)
    assert "2 gaps in the candles, the longest 11 days" in caplog.text


def test_impossible_bars_are_refused_unless_they_are_allowed(
    daily: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "candles.parquet"
    close = pl.when(pl.int_range(pl.len()).is_in([7, 9])).then(1e9).otherwise(pl.col("close"))
    daily.with_columns(close=close).write_parquet(path)
    problem = verify_file(path).problems[0]
    assert f"2 of {len(daily):,} bars are impossible, the first at 2018-01-08 00:00 UTC" in problem
    assert "close 1000000000, volume" in problem
    with pytest.raises(DataError, match=r"pass --allow-bad-candles to use it as it is") as refused:
        load(path)
    assert str(refused.value).startswith(problem)
    assert load(path, allow_bad_candles=True)["close"][7] == 1e9
    assert problem in caplog.text
    # Bars outside the range are not used.
    assert (load(path, start_date="2018-01-11")["close"] < 1e6).all()


def test_an_unlikely_price_is_reported(
    daily: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "candles.parquet"
    high = pl.when(pl.int_range(pl.len()) == 7).then(1e9).otherwise(pl.col("high"))
    daily.with_columns(high=high).write_parquet(path)
    for check in (load, verify_file):
        caplog.clear()
        check(path)
        assert "1 of 2,557 bars has prices that differ by a factor of more than 10" in caplog.text
        assert "the first at 2018-01-08 00:00 UTC; check that they are right" in caplog.text


def test_real_candles_pass(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted((shared / "data").glob("*USDT_*.parquet")):
        assert verify_file(path).problems == ()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("ETHUSDT_1d", "ETHUSDT"),
        ("ethusdt-2024", "ethusdt"),
        ("ETH-USDT", "ETH-USDT"),
        ("BTCUSDT_1d_2018-01-01", ""),
        ("btc_usdt", ""),
        ("candles_2024", ""),
        ("my_USDT_prices", ""),
    ],
)
def test_a_file_named_after_another_symbol(
    daily: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, warned: str
) -> None:
    path = tmp_path / f"{name}.parquet"
    daily.write_parquet(path)
    load(path)
    message = f"{path} is named after {warned}, but the symbol is BTCUSDT; check that it is"
    assert (message in caplog.text) if warned else caplog.text == ""


def test_a_file_that_covers_only_a_part_of_the_range(
    daily: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "candles.parquet"
    daily.filter(pl.col("timestamp").dt.year() == 2023).write_parquet(path)
    load(path, start_date="2022-12-28", end_date="2024-01-03")
    assert caplog.text == ""
    load(path, start_date="2022-10-01", end_date="2024-04-30")
    assert "begin on 2023-01-01, 92 days after --start-date 2022-10-01" in caplog.text
    assert "end on 2023-12-31, 120 days before --end-date 2024-04-30" in caplog.text


def test_a_cache_directory_that_is_a_file(daily: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "candles.parquet"
    daily.write_parquet(path)
    with pytest.raises(ArgumentError, match=r"--cache-dir is .*, which is a file; expected"):
        load(path, cache_dir=path)


def test_range_and_bar_length(daily: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "candles.parquet"
    daily.write_parquet(path)
    day = datetime(2020, 3, 1, tzinfo=UTC)
    cut = load(path, start_date=day.date(), end_date=day.date())
    assert cut["timestamp"].to_list() == [day]
    with pytest.raises(
        DataError, match=r"no candles between 2030-01-01 and the end; the source covers"
    ):
        load(path, start_date=datetime(2030, 1, 1, tzinfo=UTC).date())
    with pytest.raises(
        DataError,
        match=r"candles\.parquet has 1d bars, but the timeframe is 1h; "
        r"pass a file with 1h bars, or --timeframe 1d$",
    ):
        load(path, timeframe="1h")
    daily.with_columns(
        pl.from_epoch(pl.int_range(pl.len()) * 420 + 1_577_836_800).alias("timestamp")
    ).write_parquet(path)
    with pytest.raises(DataError, match=r" has 7-minute bars, .*; pass a file with 1h bars$"):
        load(path, timeframe="1h")
