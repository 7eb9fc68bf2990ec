"""Reads candles, sentiment and extra series from CSV, Feather (Arrow IPC) or Parquet files."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from atb_fast.config import CANDLE_COLUMNS, LARGEST_VALUE, check_exists
from atb_fast.errors import DataError

log = logging.getLogger(__name__)

# Polars assumes that paths are UTF-8, whatever the locale is, so Python reads the files.
_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    # All columns are read as text, so that an error can name the row of an invalid value.
    ".csv": lambda path: _read_csv(path.read_bytes()),
    ".feather": lambda path: pl.read_ipc(path.read_bytes()),
    ".parquet": lambda path: pl.read_parquet(path.read_bytes()),
}

#: What a file must contain, for messages.
_EXPECTED = "column names and at least one row"
#: Most characters of a file that a message quotes.
_MOST_QUOTED = 200
#: The beginning of an ISO 8601 date.
_ISO = r"^\d{4}-\d{2}-\d{2}"


def read_candles(path: Path) -> pl.DataFrame:
    """Return timestamp (ms, UTC) and open, high, low, close, volume (float64), ascending.

    Other columns are dropped. Rows are sorted if necessary.

    Raises:
        DataError: The file cannot be read, a column is missing, a value is not a finite number
            (the message names file, row and column), or two candles share a timestamp.
    """
    return _tidy(path, _read(path), CANDLE_COLUMNS, _in_range)


def read_sentiment(path: Path) -> pl.DataFrame:
    """Return timestamp (ms, UTC midnight) and value (0..100, float64), ascending.

    Timestamps within a day count for that day, because the publisher does not always use midnight.

    Raises:
        DataError: See `read_candles`; or all values are fractions from 0 to 1.
    """
    frame = _read(path)
    frame = frame.with_columns(_timestamps(path, frame).dt.truncate("1d"))
    index = _tidy(path, frame, ("value",), _in_range)
    values = index["value"].to_numpy()
    if values.max() <= 1.0 and (values % 1.0 > 0.0).any():
        raise DataError(
            f"{path}: column value has only values from 0 to 1, expected an index from 0 to 100; "
            "multiply it by 100"
        )
    return index


def read_series(path: Path, symbol: str) -> pl.DataFrame:
    """Return timestamp (ms, UTC) and every other column (float64, null where empty), ascending.

    Columns of times, which have no values that a feature could use, are left out. Rows are sorted
    if necessary. If there is a text column `symbol`, only the rows of `symbol` are returned,
    without that column.

    Raises:
        DataError: See `read_candles`; or there is no column of values, or no row of `symbol`.
    """
    frame = _of_symbol(path, _read(path), symbol)
    others = [column for column in frame if column.name != "timestamp"]
    times = [column.name for column in others if _is_time(column)]
    if times:
        log.info("%s: left out the columns of times: %s", path, ", ".join(times))
    columns = tuple(column.name for column in others if column.name not in times)
    if not columns:
        raise DataError(f"{path} has no column besides timestamp; add a column with the values")
    return _tidy(path, frame, columns, _finite)


def _of_symbol(path: Path, frame: pl.DataFrame, symbol: str) -> pl.DataFrame:
    names = frame.get_column("symbol", default=None)
    if names is None or names.dtype != pl.String or len(_numbers(path, names).drop_nulls()):
        return frame
    found = frame.filter(names.str.to_uppercase() == symbol).drop("symbol")
    if found.is_empty():
        raise DataError(
            f"{path}: column symbol has no row of {symbol} (found: "
            f"{_quoted(', '.join(names.unique().drop_nulls().sort()))}); pass a file of this market"
        )
    return found


def _read_csv(content: bytes) -> pl.DataFrame:
    head = content[: 1 << 16]
    # Some programs end a line with a carriage return alone.
    end = "\r" if b"\r" in head and b"\n" not in head else "\n"
    return pl.read_csv(content, infer_schema=False, eol_char=end)


def is_sentiment(path: Path) -> bool:
    """Return whether a file has a column of sentiment and none of candles.

    Raises:
        DataError: The file cannot be read.
    """
    columns = set(_read(path).columns)
    return "value" in columns and columns.isdisjoint(CANDLE_COLUMNS)


def _read(path: Path) -> pl.DataFrame:
    check_exists(path)
    if path.is_dir():
        raise DataError(f"{path}: expected a file, found a directory; check the path")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: unknown file type; expected one of {', '.join(_READERS)}; convert the file"
        )
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; expected {_EXPECTED}")
    try:
        frame = reader(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(_unreadable(path, error)) from error
    if "\0" in "".join(frame.columns):
        raise DataError(f"{path}: the file is not UTF-8; save it as UTF-8")
    # Polars adds this suffix to the second column of the same name.
    twice = [name for name in frame.columns if re.search(r"_duplicated_\d+$", name)]
    names = [name.strip().lower() for name in frame.columns]
    if twice or len(set(names)) < len(names):
        raise DataError(f"{path}: duplicate column names: {_names(frame)}; rename them")
    frame.columns = names
    if path.suffix.lower() == ".csv":
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    if frame.is_empty():
        raise DataError(f"{path}: the file has no rows; expected {_EXPECTED}")
    return frame


def _tidy(
    path: Path,
    frame: pl.DataFrame,
    columns: tuple[str, ...],
    numbers: Callable[[Path, pl.Series], pl.Series],
) -> pl.DataFrame:
    missing = [name for name in ("timestamp", *columns) if name not in frame.columns]
    if missing:
        raise DataError(_no_column(path, frame, ", ".join(missing)))
    tidy = pl.DataFrame(
        [_timestamps(path, frame), *(numbers(path, frame[name]) for name in columns)]
    )
    if not tidy["timestamp"].is_sorted():
        log.info("%s: rows were not sorted by time; sorted them", path)
        tidy = tidy.sort("timestamp")
    duplicate = tidy["timestamp"].is_duplicated().arg_true()
    if len(duplicate):
        raise DataError(
            f"{path}: duplicate timestamp {tidy['timestamp'][duplicate[0]]:%Y-%m-%d %H:%M:%S} UTC; "
            "keep only one row for each timestamp"
        )
    return tidy


def _unreadable(path: Path, error: BaseException) -> str:
    with path.open("rb") as file:
        if file.read(4) == b"FEA1":
            return (
                f"{path}: Feather version 1 is not supported; save the file as Feather version 2, "
                "for example with pandas' to_feather, or as Parquet"
            )
    reason = _quoted(next(iter(str(error).splitlines()), type(error).__name__))
    return (
        f"{path}: cannot be read as {path.suffix[1:]} ({reason}); it may be damaged, or of another "
        "type"
    )


def _quoted(text: str) -> str:
    """Return `text` from a file, shortened if necessary."""
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."


def _shown(column: pl.Series, row: int) -> str:
    """Return a value as text; times outside of the years 1 to 9998 become numbers."""
    value = column.slice(row, 1)
    dated = isinstance(value.dtype, pl.Datetime) or value.dtype == pl.Date
    if dated and not _in_years(value, 1, 9998).fill_null(value=False).all():
        value = value.to_physical()
    return _quoted(repr(value[0]))


def _in_years(times: pl.Series, first: int, last: int) -> pl.Series:
    """Return which times are in these years.

    Polars before 2.0 panics in `dt.year` if a time is too far away for a date.
    """
    start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first, last + 1))
    return times.dt.epoch("s").is_between(start, end, closed="left")


def _names(frame: pl.DataFrame) -> str:
    return _quoted(", ".join(frame.columns))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _no_column(path: Path, frame: pl.DataFrame, missing: str) -> str:
    text = f"{path} has no column {missing} (found: {_names(frame)}); "
    if path.suffix.lower() == ".csv" and frame.width == 1:
        return text + "separate columns by commas"
    if any(_is_number(name) for name in frame.columns):
        return text + "add a header line with the column names"
    return text + "add it, or rename the matching column"


def _finite(path: Path, column: pl.Series) -> pl.Series:
    numbers = _numbers(path, column)
    bad = column.is_not_null() & ~numbers.is_finite().fill_null(value=False)
    _check(path, column, bad, "a finite number, or nothing if it is missing")
    return numbers


def _is_time(column: pl.Series) -> bool:
    if column.dtype != pl.String:
        return column.dtype.is_temporal()
    known = column.drop_nulls()
    return len(known) > 0 and known.str.contains(_ISO).all()


def _in_range(path: Path, column: pl.Series) -> pl.Series:
    numbers = _numbers(path, column)
    if column.name not in CANDLE_COLUMNS:
        expected, good = "a value from 0 to 100", numbers.is_between(0, 100)
    elif column.name == "volume":  # bars without trades have 0
        expected = f"a number from 0 to {LARGEST_VALUE:.0e}"
        good = numbers.is_between(0, LARGEST_VALUE)
    else:  # later stages divide by prices
        expected = f"a price above 0, up to {LARGEST_VALUE:.0e}"
        good = (numbers > 0) & (numbers <= LARGEST_VALUE)
    good &= numbers.is_finite()
    _check(path, column, (~good).fill_null(value=True), expected)
    return numbers


def _numbers(path: Path, column: pl.Series) -> pl.Series:
    """Return a column as float64, with null where a text is not a number."""
    numeric = column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)
    if not numeric:
        raise DataError(f"{path}: column {column.name} has type {column.dtype}, expected numbers")
    return column.cast(pl.Float64, strict=False)


def _check(path: Path, column: pl.Series, bad: pl.Series, expected: str) -> None:
    """Raise DataError with the first row that is `bad`."""
    rows = bad.arg_true()
    if len(rows):
        found = "nothing" if column[rows[0]] is None else _shown(column, rows[0])
        raise DataError(
            f"{path}: column {column.name}, row {rows[0] + 1}: found {found}, expected {expected}"
        )


def _timestamps(path: Path, frame: pl.DataFrame) -> pl.Series:
    """Return the timestamp column as UTC milliseconds.

    Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, depending on their
    magnitude; they may have a fraction. Times without a time zone are UTC.
    """
    if "timestamp" not in frame.columns:
        raise DataError(_no_column(path, frame, "timestamp"))
    raw = frame["timestamp"]
    times = _to_datetime(raw)
    # A number in the wrong unit would be far outside the years in which exchanges existed.
    bad = (~_in_years(times, 2000, 2100)).fill_null(value=True).arg_true()
    if len(bad):
        raise DataError(
            f"{path}: column timestamp, row {bad[0] + 1}: found {_shown(raw, bad[0])}, "
            "expected a time from 2000 on, such as 2024-01-31 00:00:00 or seconds, milliseconds, "
            "microseconds or nanoseconds since 1970"
        )
    return times


def _to_datetime(raw: pl.Series) -> pl.Series:
    """Return UTC milliseconds, with null where a value is not a time."""
    if raw.dtype == pl.String:
        raw = _parse(raw)
    if raw.dtype.is_numeric():
        whole = raw.dtype.is_integer()
        numbers = raw.cast(pl.Int64 if whole else pl.Float64, strict=False)
        # Seconds reach 1e11 in the year 5138; each finer unit is 1000 times larger.
        micros = (
            pl.when(numbers.abs() < 10**11)
            .then(numbers * 1_000_000)
            .when(numbers.abs() < 10**14)
            .then(numbers * 1_000)
            .when(numbers.abs() < 10**17)
            .then(numbers)
            .otherwise(numbers // 1_000 if whole else numbers / 1_000)
        )
        # Most fractions have no exact binary value; rounding to microseconds removes the error.
        micros = micros if whole else micros.round().cast(pl.Int64, strict=False)
        raw = pl.select(micros.alias("timestamp")).to_series().cast(pl.Datetime("us", "UTC"))
    if raw.dtype == pl.Date:
        raw = raw.cast(pl.Datetime("ms"))
    if not isinstance(raw.dtype, pl.Datetime):
        return pl.Series("timestamp", [None] * len(raw), pl.Datetime("ms", "UTC"))
    if raw.dtype.time_zone is None:
        raw = raw.dt.replace_time_zone("UTC")
    return raw.dt.convert_time_zone("UTC").dt.cast_time_unit("ms").rename("timestamp")


def _parse(text: pl.Series) -> pl.Series:
    """Return numbers or times, with null where a value is neither."""
    numbers = text.cast(pl.Int64, strict=False)
    if numbers.null_count() == 0:
        return numbers
    # Only ISO 8601: 01/02/2024 is January in some countries and February in others.
    iso = text.str.contains(_ISO).fill_null(value=False)
    fractions = text.cast(pl.Float64, strict=False)
    if fractions.count() > iso.sum():
        return fractions
    dates = text.set(~iso, None)
    if dates.null_count() == len(dates):
        return dates.cast(pl.Datetime("us", "UTC"))
    try:
        return dates.str.to_datetime(time_zone="UTC", strict=False)
    except pl.exceptions.ComputeError:  # no known format fits the first value
        return pl.Series(text.name, [None] * len(text), pl.Datetime("us", "UTC"))
