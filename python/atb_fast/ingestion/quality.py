"""Checks of candles: gaps, bars off the grid, impossible bars, duplicates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from atb_fast.config import CANDLE_COLUMNS
from atb_fast.ingestion.spans import DAY_MS, Span, timestamps_ms

#: Prices of a bar and the previous close are suspicious if they differ by more than this factor. On
#: the exchange, the largest factor in a day is about 3.
_JUMP = 10.0


@dataclass(frozen=True)
class Quality:
    """The findings of `inspect`.

    Attributes:
        rows: Number of candles.
        missing: Number of candles missing on the grid, between the first and the last one.
        hole_runs: Number of gaps: steps between two candles that are longer than one bar.
        longest_step_ms: The longest step between two candles, in milliseconds.
        off_grid: Number of candles that do not open on the grid.
        zero_volume: Number of bars without a trade, which are valid.
        duplicates: Number of candles that repeat the open time of another one.
        out_of_order: Number of candles that are older than the one before.
        bad_bars: Number of impossible bars; see `bad_bars`.
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
        """Whether every bar is usable. Gaps and bars off the grid are normal on the exchange."""
        return not (self.duplicates or self.out_of_order or self.bad_bars)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as a dictionary for JSON."""
        return asdict(self)


def step_text(milliseconds: int) -> str:
    """Return the length of a step between two candles, for example 5 min, 34 h or 11 days."""
    hours = milliseconds / 3_600_000
    if hours > 48:
        return f"{hours / 24:.4g} days"
    return f"{hours:.4g} h" if hours >= 1 else f"{hours * 60:.4g} min"


def inspect(candles: pl.DataFrame, bar_ms: int) -> Quality:
    """Return the quality of `candles` whose bars last `bar_ms` milliseconds."""
    times = timestamps_ms(candles)
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
    """Return a boolean mask of the candles that do not open on the grid.

    Bars of up to a day open at multiples of their length, in UTC. For longer bars, the grid is
    where most of them open.
    """
    phases = timestamps_ms(candles) % bar_ms
    long = bar_ms > DAY_MS and len(phases) > 0
    return phases != (phases.mode().min() if long else 0)


def bar_length(candles: pl.DataFrame) -> int:
    """Return the most common step between two candles in milliseconds; one minute without any."""
    usual = timestamps_ms(candles).diff().drop_nulls().mode().min()
    return usual if isinstance(usual, int) and usual > 0 else 60_000


def bad_bars(candles: pl.DataFrame) -> pl.Series:
    """Return a boolean mask of the impossible bars.

    A bar is impossible if a value is not finite, a price is not above 0, the volume is negative, or
    open or close lies outside low..high.
    """
    possible = (
        pl.all_horizontal(pl.col("open", "high", "low", "close", "volume").is_finite())
        & (pl.col("low") > 0)
        & (pl.col("volume") >= 0)
        & (pl.col("low") <= pl.min_horizontal("open", "close"))
        & (pl.col("high") >= pl.max_horizontal("open", "close"))
    )
    return candles.select(bad=~possible.fill_null(value=False)).to_series()


def impossible(candles: pl.DataFrame) -> str | None:
    """Return how many bars are impossible and which is the first one; None if all are possible."""
    bad = bad_bars(candles)
    if not bad.any():
        return None
    count, first = int(bad.sum()), candles.row(bad.arg_max() or 0, named=True)
    values = ", ".join(f"{name} {first[name]:.10g}" for name in CANDLE_COLUMNS)
    return (
        f"{count:,} of {len(candles):,} bars {'is' if count == 1 else 'are'} impossible, the first "
        f"at {first['timestamp']:%Y-%m-%d %H:%M} UTC ({values}); expected open and close between "
        "low and high"
    )


def suspicious(candles: pl.DataFrame) -> str | None:
    """Return how many bars have an unlikely price and which is the first one; None if none has.

    Such bars are possible, and a currency may be redenominated, so they are only reported.
    """
    prices = [*map(pl.col, ("open", "high", "low", "close")), pl.col("close").shift()]
    jump = pl.max_horizontal(prices) / pl.min_horizontal(prices)
    odd = candles.select(jump > _JUMP).to_series()
    if not odd.any():
        return None
    count = int(odd.sum())
    return (
        f"{count:,} of {len(candles):,} bars {'has' if count == 1 else 'have'} prices that differ "
        f"by a factor of more than {_JUMP:g} from each other or from the previous close, the first "
        f"at {candles['timestamp'][odd.arg_max() or 0]:%Y-%m-%d %H:%M} UTC; check that they are "
        "right"
    )


def holes(times: pl.Series, bar_ms: int, end: int, *, start: int | None = None) -> list[Span]:
    """Return the gaps as half-open [first, end) spans, in milliseconds since 1970.

    A step of less than two bars is not a gap, because candles off the grid return to it that way.

    Args:
        times: Open times, ascending.
        bar_ms: Length of a bar in milliseconds.
        end: Time up to which missing bars count, in milliseconds since 1970.
        start: Time from which missing bars count. Default: the first candle.
    """
    opens = times.dt.epoch("ms")
    covered = opens + bar_ms
    if start is not None:
        covered = pl.concat([pl.Series([start], dtype=pl.Int64), covered])
    else:
        opens = opens[1:]
    following = pl.concat([opens, pl.Series([end], dtype=pl.Int64)])[: len(covered)]
    gaps = following - covered >= bar_ms
    return list(zip(covered.filter(gaps), following.filter(gaps), strict=True))
