"""Frames of candles and sentiment, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atb_fast.config import CANDLE_COLUMNS, TIMEFRAMES
from atb_fast.errors import DataError

if TYPE_CHECKING:
    import polars as pl


Frame = Any


def check_candles(table: pl.DataFrame, *, timed: bool) -> pl.DataFrame:
    """Return the columns of candles, if they are what they should be; null is a missing value."""
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
            raise DataError(f"column {name!r} has dtype {column.dtype}, expected Float64")
        values = column.to_numpy()
        least = values >= 0.0 if name == "volume" else values > 0.0
        known = column.is_not_null().to_numpy()
        bad = np.flatnonzero(known & ~(least & np.isfinite(values)))
        if len(bad):
            expected = "0 or more" if name == "volume" else "a price above 0"
            raise DataError(
                f"column {name!r}, row {bad[0]}: found {values[bad[0]]}, expected {expected}"
            )
    return pl.DataFrame([table[name] for name in names])


def check_index(index: pl.DataFrame) -> pl.DataFrame:
    """Return timestamp and value of the Fear & Greed index, if they are what they should be."""
    import polars as pl

    missing = [name for name in ("timestamp", "value") if name not in index.columns]
    if missing:
        raise DataError(
            f"sentiment has no column {', '.join(missing)}; it has {', '.join(index.columns)}"
        )
    times, value = index["timestamp"], index["value"]
    if not (times.dtype.is_temporal() or times.dtype.is_integer()):
        raise DataError(f"sentiment has timestamps of type {times.dtype}, expected times or dates")
    if not value.dtype.is_numeric():
        raise DataError(f"sentiment has values of type {value.dtype}, expected numbers (0..100)")
    numbers = value.cast(pl.Float64).to_numpy()
    bad = np.flatnonzero(~((numbers >= 0.0) & (numbers <= 100.0)))  # NaN and null, too
    if len(bad):
        raise DataError(
            f"sentiment, row {bad[0]}: found {value[int(bad[0])]}, expected a value from 0 to 100"
        )
    from atb_fast.features.sentiment import epoch_ms

    # Stamps during a day count for that day, as `read_sentiment` has it.
    days = epoch_ms(times)
    days -= days % TIMEFRAMES["1d"]
    late = np.flatnonzero(np.diff(days) <= 0)
    if len(late):
        raise DataError(
            f"sentiment, row {late[0] + 1}: found {times[int(late[0]) + 1]} behind "
            f"{times[int(late[0])]}, expected one row a day, oldest first"
        )
    return pl.DataFrame([pl.Series("timestamp", days), pl.Series("value", numbers)])


def check_type(frame: Frame) -> None:
    """Raise DataError unless `frame` hands over Arrow columns."""
    if not hasattr(frame, "__arrow_c_stream__"):
        raise DataError(
            f"found {type(frame).__name__}, expected a Polars, pyarrow or pandas (2.2 or newer, "
            "with pyarrow) frame"
        )


def to_polars(frame: Frame) -> pl.DataFrame:
    """Return `frame` as a Polars frame, without a copy where Arrow allows it.

    Raises:
        DataError: `frame` is not an Arrow table with named columns.
    """
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    check_type(frame)
    try:
        # As Arrow hands it over: `pl.DataFrame` would leave out the index of a pandas frame.
        rows = pl.Series(frame)
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the {type(frame).__name__} cannot be read: {error}") from error
    if not isinstance(rows.dtype, pl.Struct):
        raise DataError(f"found a series of {rows.dtype}, expected a frame with named columns")
    return rows.struct.unnest()
