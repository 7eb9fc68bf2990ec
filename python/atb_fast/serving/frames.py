"""Converts frames of candles and sentiment to Polars, and checks their values."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import CANDLE_COLUMNS, LARGEST_VALUE, TIMEFRAMES
from atb_fast.errors import DataError
from atb_fast.features.frames import epoch_ms

if TYPE_CHECKING:
    import polars as pl

    from atb_fast.features.frames import ArrowFrame


def check_candles(table: pl.DataFrame, *, timed: bool) -> pl.DataFrame:
    """Return only the columns of candles, checked. Null is a missing value.

    Args:
        table: Candles.
        timed: Whether to include `timestamp`.

    Raises:
        DataError: A column is missing, is not float64, or has an invalid value.
    """
    import polars as pl

    names = (*(("timestamp",) if timed else ()), *CANDLE_COLUMNS)
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(
            f"column {missing[0]!r} is missing; the frame has: {', '.join(table.columns)}"
        )
    for name in CANDLE_COLUMNS:
        column = table[name]
        if column.dtype != pl.Float64:
            raise DataError(
                f"column {name!r} has dtype {column.dtype}, expected Float64; cast it first"
            )
        _check_values(column)
    return pl.DataFrame([table[name] for name in names])


def check_prices(table: pl.DataFrame) -> None:
    """Raise DataError if a price is not above 0, a volume is negative, or either is absurdly large.

    Null is a missing value. Columns that are missing or not float64 are left to the pipeline,
    because this is on the path of every prediction.
    """
    import polars as pl

    for column in table:
        if column.name in CANDLE_COLUMNS and column.dtype == pl.Float64:
            # For a few rows, Polars is three times as fast as NumPy. It skips null, and NaN except
            # in a sum. The least value is None if all are null.
            least: Any = column.min()
            most: Any = column.max()
            above = least is not None and (least > 0 or (least == 0 and column.name == "volume"))
            if not above or most > LARGEST_VALUE or math.isnan(column.sum()):
                _check_values(column)


def _check_values(column: pl.Series) -> None:
    values = column.to_numpy()
    least = values >= 0.0 if column.name == "volume" else values > 0.0
    known = column.is_not_null().to_numpy()
    bad = np.flatnonzero(known & ~(least & (values <= LARGEST_VALUE)))
    if len(bad):
        expected = "a number from 0" if column.name == "volume" else "a price above 0,"
        raise DataError(
            f"column {column.name!r}, row {bad[0]}: found {values[bad[0]]}, expected {expected} "
            f"up to {LARGEST_VALUE:.0e}"
        )


def check_index(index: pl.DataFrame) -> pl.DataFrame:
    """Return timestamp (milliseconds, midnight) and value of the Fear & Greed index, checked.

    Raises:
        DataError: A column is missing or of the wrong type, a timestamp is null, a value is not in
            0..100, or days are not ascending.
    """
    import polars as pl

    missing = [name for name in ("timestamp", "value") if name not in index.columns]
    if missing:
        raise DataError(
            f"the sentiment has no column {', '.join(missing)} (found: "
            f"{', '.join(index.columns)}); pass timestamp and value"
        )
    times, value = index["timestamp"], index["value"]
    if not (times.dtype.is_temporal() or times.dtype.is_integer()):
        raise DataError(
            f"column timestamp of the sentiment has dtype {times.dtype}, expected times or dates"
        )
    if times.null_count():
        row = times.is_null().arg_true()[0]
        raise DataError(f"sentiment, row {row}: the timestamp is null, expected a day")
    if not value.dtype.is_numeric():
        raise DataError(
            f"column value of the sentiment has dtype {value.dtype}, expected numbers, 0 to 100"
        )
    numbers = value.cast(pl.Float64).to_numpy()
    bad = np.flatnonzero(~((numbers >= 0.0) & (numbers <= 100.0)))  # also NaN and null
    if len(bad):
        raise DataError(
            f"sentiment, row {bad[0]}: found {value[int(bad[0])]}, expected a value from 0 to 100"
        )
    if len(numbers) and numbers.max() <= 1.0 and (numbers % 1.0 > 0.0).any():
        raise DataError(
            "the sentiment has only values from 0 to 1, expected an index from 0 to 100; multiply "
            "it by 100"
        )
    # A time within a day counts for that day, as in `read_sentiment`.
    days = epoch_ms(times)
    days -= days % TIMEFRAMES["1d"]
    late = np.flatnonzero(np.diff(days) <= 0)
    if len(late):
        raise DataError(
            f"sentiment, row {late[0] + 1}: found {times[int(late[0]) + 1]} after "
            f"{times[int(late[0])]}, expected one row per day, oldest first"
        )
    return pl.DataFrame([pl.Series("timestamp", days), pl.Series("value", numbers)])


def to_polars(frame: ArrowFrame) -> pl.DataFrame:
    """Return `frame` as a Polars frame, without a copy where Arrow allows it.

    The index of a pandas frame becomes a column; one of times without a name is `timestamp`.

    Raises:
        DataError: `frame` is not a table with named columns.
    """
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    found = type(frame).__name__
    if not hasattr(frame, "__arrow_c_stream__"):
        raise DataError(
            f"got {found}, expected a Polars, pyarrow or pandas frame (pandas 2.2 or newer, with "
            "pyarrow installed)"
        )
    try:
        # `pl.DataFrame(frame)` would drop the index of a pandas frame.
        rows = pl.Series(frame)
    except Exception as error:  # pyarrow has many kinds; the message names the column
        reason = ". ".join(map(str, error.args))
        raise DataError(
            f"the {found} cannot be read as a frame with named columns: {reason}"
        ) from error
    if not isinstance(rows.dtype, pl.Struct):
        raise DataError(f"got a series of {rows.dtype}, expected a frame with named columns")
    table = rows.struct.unnest()
    index = table.get_column("__index_level_0__", default=None)  # pyarrow's name if it has none
    if index is not None and index.dtype.is_temporal() and "timestamp" not in table.columns:
        table = table.rename({index.name: "timestamp"})
    return table


def newest_rows(frame: ArrowFrame, rows: int) -> pl.DataFrame:
    """Return the last `rows` rows of `frame`, or all of them if there are fewer.

    The time does not depend on the number of rows, except for a pandas frame with columns of
    objects.

    Raises:
        DataError: See `to_polars`.
    """
    import polars as pl

    if not isinstance(frame, pl.DataFrame):
        pandas = sys.modules.get("pandas")
        # The type of a column of objects depends on all of its values.
        if pandas and isinstance(frame, pandas.DataFrame) and object not in frame.dtypes.tolist():
            frame = frame.tail(rows)  # because converting a pandas frame copies it
        frame = to_polars(frame)
    return frame.tail(rows) if frame.height > rows else frame


def with_predictions(
    frame: ArrowFrame,
    timestamps: pl.Series,
    bars: NDArray[np.int64],
    columns: Mapping[str, NDArray[np.float64]],
) -> Any:
    """Return a frame of `timestamp` and `columns`, with null or NaN in the other bars.

    It is a pandas frame with the index of `frame` if that is one, otherwise a Polars frame.

    Args:
        frame: The frame that was scored.
        timestamps: Its timestamps.
        bars: The rows that were predicted.
        columns: Their values by name, shape (bars,) each.
    """
    import polars as pl

    filled = {name: np.full(len(timestamps), np.nan) for name in columns}
    for name, values in columns.items():
        filled[name][bars] = values
    pandas = sys.modules.get("pandas")
    if pandas and isinstance(frame, pandas.DataFrame):
        times = {"timestamp": frame["timestamp"]} if "timestamp" in frame.columns else {}
        return pandas.DataFrame({**times, **filled}, index=frame.index)
    # `select` would need Polars' thread pool, which does not work in a forked process.
    made = (pl.Series(name, values, nan_to_null=True) for name, values in filled.items())
    return pl.DataFrame([timestamps, *made])
