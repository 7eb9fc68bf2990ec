"""Extra series of a market, such as funding rates, and their join onto candles."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from atb_fast._core import merge
from atb_fast.config import MarketOptions, lag_ms, wrong_column_name
from atb_fast.errors import DataError, counted
from atb_fast.ingestion import files
from atb_fast.ingestion.quality import bar_length
from atb_fast.options import check_type

log = logging.getLogger(__name__)

#: A series is reported if it ends before the last candle by more than this, and by more than its
#: longest step.
_REPORTED_MS = 7 * 86_400_000


@dataclass(frozen=True)
class Extra:
    """An extra series of a market.

    Attributes:
        name: Name of the series.
        values: timestamp (Datetime, strictly ascending) and at least one float64 column, under the
            names that features use. Null is a missing value.
        lag_ms: How much later than its timestamp a row is known, milliseconds, at least 0.

    Raises:
        ArgumentError: An argument has the wrong type.
        DataError: A column is missing, has another type, or has a name that recipes cannot use.
    """

    name: str
    values: pl.DataFrame
    lag_ms: int = 0

    def __post_init__(self) -> None:
        """Check the types and the names."""
        check_type("name", self.name, str)
        check_type("values", self.values, pl.DataFrame)
        check_type("lag_ms", self.lag_ms, int)
        times = self.values.get_column("timestamp", default=None)
        if times is None or not isinstance(times.dtype, pl.Datetime) or not self.columns:
            raise DataError(
                f"extra {self.name} has the columns {dict(self.values.schema)}, expected timestamp "
                "(Datetime) and at least one column of values"
            )
        if wrong := wrong_column_name(self.name):
            raise DataError(f"an extra has the name {self.name!r:.80}, {wrong}")
        for name in self.columns:
            if wrong := wrong_column_name(name):
                raise DataError(f"extra {self.name} has the column {name!r:.80}, {wrong}")
            if self.values[name].dtype != pl.Float64:
                raise DataError(
                    f"column {name} of extra {self.name} has dtype {self.values[name].dtype}, "
                    "expected Float64; cast it first"
                )

    @property
    def columns(self) -> list[str]:
        """The names of the values."""
        return [name for name in self.values.columns if name != "timestamp"]

    def known_at(self, time: datetime) -> Extra:
        """Return the series with only the rows that are known at `time`."""
        last = time - timedelta(milliseconds=self.lag_ms)
        return replace(self, values=self.values.filter(pl.col("timestamp") <= last))


def with_extras(candles: pl.DataFrame, extras: Iterable[Extra]) -> pl.DataFrame:
    """Return `candles` with the columns of `extras` as they were known when each candle opened.

    A candle takes the newest row that is at least `lag_ms` old at its open, and null before the
    first. If the value of that row is null, so is that of the candle.

    Args:
        candles: Ascending, with `timestamp`.
        extras: Their columns must not be in `candles`.

    Raises:
        ArgumentError: A lag is negative.
        DataError: Times are not strictly ascending, or a value is NaN or infinite.
    """
    for extra in extras:
        joined = merge(candles, extra.values, extra.columns, how="asof", lag_ms=extra.lag_ms)
        candles = candles.hstack(pl.DataFrame(joined))
    return candles


def read_extras(options: MarketOptions) -> tuple[Extra, ...]:
    """Return the series that `options` names.

    Raises:
        DataError: A file cannot be read, or has a column that a recipe cannot use.
    """
    lags = options.extra_lag or {}
    return tuple(
        _read(name, path, lag_ms(lags.get(name, "0")), options)
        for name, path in (options.extra or {}).items()
    )


def check_coverage(extras: Iterable[Extra], candles: pl.DataFrame, options: MarketOptions) -> None:
    """Raise DataError if a series has no value for any of `candles`.

    Log how many candles lack a value.
    """
    first, last = candles["timestamp"][0], candles["timestamp"][-1]
    for extra in extras:
        where = f"--extra {extra.name} ({(options.extra or {})[extra.name]})"
        times = extra.values["timestamp"]
        lag = timedelta(milliseconds=extra.lag_ms)
        if times[0] + lag > last or times[-1] + lag < first:
            late = f" and known {_text(extra.lag_ms)} later" if lag else ""
            raise DataError(
                f"{where} has no row in the range of the candles: its rows are stamped "
                f"{times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC{late}, the candles "
                f"open {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC; pass a file of their "
                "range"
            )
        joined = with_extras(candles.select("timestamp"), [extra])
        lacking: dict[int, list[str]] = {}  # the columns by the number of candles without a value
        for name in extra.columns:
            missing = joined[name].null_count()
            if missing == len(joined):
                raise DataError(
                    f"{where}: column {name} has no value for any candle; remove the column, or "
                    "pass a file of their range"
                )
            if missing:
                lacking.setdefault(missing, []).append(name)
        if lacking:
            total = counted(len(joined), "candle")
            parts = [f"{n:,} of {total} have no {', '.join(of)}" for n, of in lacking.items()]
            log.info("%s: %s", where, "; ".join(parts))
        longest = np.diff(times.to_physical().to_numpy()).max(initial=_REPORTED_MS)
        if last - times[-1] - lag > timedelta(milliseconds=int(longest)):
            log.warning(
                "%s ends on %s, well before the last candle on %s; its last value is carried "
                "forward",
                where,
                times[-1].date(),
                last.date(),
            )


def _read(name: str, path: Path, lag: int, options: MarketOptions) -> Extra:
    values = files.read_series(path, options.symbol)
    columns = [column for column in values.columns if column != "timestamp"]
    names = {column: name if len(columns) == 1 else f"{name}_{column}" for column in columns}
    for column, made in names.items():
        if wrong := wrong_column_name(made):
            raise DataError(
                f"{path}: column {column!r:.80} becomes {made!r:.80}, {wrong}; rename or remove "
                "the column"
            )
    _warn_of_open_bars(name, path, values, lag, options.bar_ms)
    extra = Extra(name, values.rename(names), lag)
    log.info(
        "--extra %s: %s of %s from %s",
        name,
        counted(len(values), "row"),
        ", ".join(extra.columns),
        path,
    )
    return extra


def _warn_of_open_bars(name: str, path: Path, values: pl.DataFrame, lag: int, bar_ms: int) -> None:
    """Warn about the close of bars longer than a candle: it may be known after the candle ends."""
    if len(values) > 1 and "close" in values.columns:
        step = bar_length(values)
        if step - lag > bar_ms:
            log.warning(
                "%s has %s bars, whose close is known only when they end; if their timestamps are "
                "open times, pass --extra-lag %s=%s to prevent look-ahead bias",
                path,
                _text(step),
                name,
                _text(step - bar_ms),
            )


def _text(milliseconds: int) -> str:
    """Return a lag as the options have it, for example 8h."""
    units = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))
    for unit, size in units:
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds} ms"
