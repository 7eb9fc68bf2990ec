"""What can be wrong with candles: holes, bars off the grid, bars that contradict themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.ingestion.spans import Span, epoch_ms

_DAY_MS = TIMEFRAMES["1d"]


@dataclass(frozen=True)
class Quality:
    """What `inspect` found.

    Attributes:
        rows: Candles.
        missing: Bars of the grid between the first and the last candle that have no candle.
        hole_runs: Steps between two candles that are longer than a bar.
        longest_step_ms: The longest step between two candles, milliseconds.
        off_grid: Candles that do not open where most of the others do.
        zero_volume: Bars without a trade. They are real.
        duplicates: Candles with the open time of another one.
        out_of_order: Candles that are older than the one before.
        bad_bars: See `bad_bars`.
    """

    rows: int
    missing: int
    hole_runs: int
    longest_step_ms: int
    off_grid: int
    zero_volume: int
    duplicates: int
    out_of_order: int
    bad_bars: int

    @property
    def sound(self) -> bool:
        """Whether every bar can be used. Holes and bars off the grid are the exchange's own."""
        return not (self.duplicates or self.out_of_order or self.bad_bars)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as something JSON can hold."""
        return asdict(self)


def inspect(candles: pl.DataFrame, bar_ms: int) -> Quality:
    """Return what is wrong with `candles` of bars of `bar_ms` milliseconds."""
    times = epoch_ms(candles)
    steps = times.diff().drop_nulls()
    astray = off_grid(candles, bar_ms)
    on_grid = times.filter(~astray).unique()
    missing = 0
    if len(on_grid):
        ends = on_grid.min(), on_grid.max()
        assert isinstance(ends[0], int)
        assert isinstance(ends[1], int)
        missing = (ends[1] - ends[0]) // bar_ms + 1 - len(on_grid)
    longest = steps.max() if len(steps) else 0
    assert isinstance(longest, int)
    return Quality(
        rows=len(candles),
        missing=missing,
        hole_runs=int((steps > bar_ms).sum()),
        longest_step_ms=longest,
        off_grid=int(astray.sum()),
        zero_volume=int((candles["volume"] == 0).sum()),
        duplicates=len(times) - times.n_unique(),
        out_of_order=int((steps < 0).sum()),
        bad_bars=int(bad_bars(candles).sum()),
    )


def off_grid(candles: pl.DataFrame, bar_ms: int) -> pl.Series:
    """Return which candles do not open on the grid, as booleans.

    Bars of up to a day open at multiples of their length, UTC; longer ones where most of them do.
    """
    phases = epoch_ms(candles) % bar_ms
    long = bar_ms > _DAY_MS and len(phases) > 0
    return phases != (phases.mode().min() if long else 0)


def bar_length(candles: pl.DataFrame) -> int:
    """Return the usual step between two candles, milliseconds; a minute if there is none."""
    usual = epoch_ms(candles).diff().drop_nulls().mode().min()
    return usual if isinstance(usual, int) and usual > 0 else 60_000


def bad_bars(candles: pl.DataFrame) -> pl.Series:
    """Return which bars no market can have made, as booleans.

    A value that is not finite, a price not above 0, a negative volume, or open or close outside of
    low..high.
    """
    possible = (
        pl.all_horizontal(pl.col("open", "high", "low", "close", "volume").is_finite())
        & (pl.col("low") > 0)
        & (pl.col("volume") >= 0)
        & (pl.col("low") <= pl.min_horizontal("open", "close"))
        & (pl.col("high") >= pl.max_horizontal("open", "close"))
    )
    return candles.select(bad=~possible.fill_null(value=False)).to_series()


def holes(times: pl.Series, bar_ms: int, end: int, *, start: int | None = None) -> list[Span]:
    """Return each run of time that a bar is missing from, as (first, behind the last) millisecond.

    What is shorter than a bar is none: bars that left the grid find it again with a shorter step.

    Args:
        times: Open times, ascending.
        bar_ms: Length of a bar, milliseconds.
        end: What is missing up to here counts, too, milliseconds since 1970.
        start: What is missing from here to the first bar counts, too; default: it does not.
    """
    opens = times.dt.epoch("ms")
    covered = opens + bar_ms
    if start is not None:
        covered = pl.concat([pl.Series([start], dtype=pl.Int64), covered])
    else:
        opens = opens[1:]
    behind = pl.concat([opens, pl.Series([end], dtype=pl.Int64)])[: len(covered)]
    gaps = behind - covered >= bar_ms
    return list(zip(covered.filter(gaps), behind.filter(gaps), strict=True))
