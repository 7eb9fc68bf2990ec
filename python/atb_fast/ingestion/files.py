"""Candles and sentiment from local files: CSV, Feather (Arrow IPC) or Parquet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl

from atb_fast.errors import DataError

log = logging.getLogger(__name__)

CANDLE_COLUMNS = ("open", "high", "low", "close", "volume")

_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    # Text columns become numbers below, where the row of a bad value can be named.
    ".csv": lambda path: pl.read_csv(path, infer_schema=False),
    ".feather": pl.read_ipc,
    ".parquet": pl.read_parquet,
}


def read_candles(path: Path) -> pl.DataFrame:
    """Return timestamp (ms, UTC) and open, high, low, close, volume (float64), ascending.

    Other columns are dropped; rows in another order are sorted.

    Raises:
        DataError: A file that cannot be read, a missing column, a value that is not a finite
            number (file, row and column are named), or two candles with one timestamp.
    """
    return _tidy(path, _read(path), CANDLE_COLUMNS)


def read_sentiment(path: Path) -> pl.DataFrame:
    """Return timestamp (ms, UTC midnight) and value (0..100, float64), ascending.

    Stamps during a day count for that day: the publisher does not always stamp midnight.

    Raises:
        DataError: As `read_candles`.
    """
    frame = _read(path)
    frame = frame.with_columns(_timestamps(path, frame).dt.truncate("1d"))
    return _tidy(path, frame, ("value",))


def _read(path: Path) -> pl.DataFrame:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected a file ending in {', '.join(_READERS)}")
    try:
        frame = reader(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {reason}") from error
    if frame.is_empty():
        raise DataError(f"{path}: the file has no rows")
    return frame


def _tidy(path: Path, frame: pl.DataFrame, columns: tuple[str, ...]) -> pl.DataFrame:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; the file has {', '.join(frame.columns)}"
        )
    tidy = pl.DataFrame(
        [_timestamps(path, frame), *(_numbers(path, frame[name]) for name in columns)]
    )
    if not tidy["timestamp"].is_sorted():
        log.info("%s: rows are not in order of time, sorted them", path)
        tidy = tidy.sort("timestamp")
    duplicate = tidy["timestamp"].is_duplicated().arg_true()
    if len(duplicate):
        raise DataError(
            f"{path}: {tidy['timestamp'][duplicate[0]]:%Y-%m-%d %H:%M:%S} UTC stands there "
            "more than once; remove the duplicates"
        )
    return tidy


def _numbers(path: Path, column: pl.Series) -> pl.Series:
    numbers = column.cast(pl.Float64, strict=False)
    bad = (~numbers.is_finite()).fill_null(value=True).arg_true()
    if len(bad):
        value = column[bad[0]]
        found = "nothing" if value is None else repr(value)
        raise DataError(
            f"{path}: column {column.name}, row {bad[0] + 1}: found {found}, expected a number"
        )
    return numbers


def _timestamps(path: Path, frame: pl.DataFrame) -> pl.Series:
    """Return the timestamp column as UTC milliseconds.

    Numbers count as seconds, milliseconds or microseconds by their size; times without a zone
    are UTC.
    """
    if "timestamp" not in frame.columns:
        raise DataError(f"{path}: no column timestamp; the file has {', '.join(frame.columns)}")
    raw = frame["timestamp"]
    times = _to_datetime(raw)
    bad = times.is_null().arg_true() if times is not None else pl.Series([0])
    if times is None or len(bad):
        raise DataError(
            f"{path}: column timestamp, row {bad[0] + 1}: found {raw[bad[0]]!r}, expected a time "
            "such as 2024-01-31 00:00:00 or milliseconds since 1970"
        )
    return times


def _to_datetime(raw: pl.Series) -> pl.Series | None:
    """Return UTC milliseconds, null where a value is not a time; None if none can be."""
    if raw.dtype == pl.String:
        numbers = raw.cast(pl.Int64, strict=False)
        if numbers.null_count() == 0:
            raw = numbers
        else:
            raw = raw.str.to_datetime(time_zone="UTC", strict=False)
    if raw.dtype.is_integer():
        numbers = raw.cast(pl.Int64)
        largest = int(numbers.abs().max() or 0)  # type: ignore[arg-type]
        # Seconds pass 1e11 in the year 5138 and milliseconds 1e14 then: sizes are unambiguous.
        unit = 1_000_000 if largest < 10**11 else 1_000 if largest < 10**14 else 1
        raw = (numbers * unit).cast(pl.Datetime("us", "UTC"))
    if raw.dtype == pl.Date:
        raw = raw.cast(pl.Datetime("ms"))
    if not isinstance(raw.dtype, pl.Datetime):
        return None
    if raw.dtype.time_zone is None:
        raw = raw.dt.replace_time_zone("UTC")
    return raw.dt.convert_time_zone("UTC").dt.cast_time_unit("ms")
