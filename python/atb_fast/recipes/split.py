"""Training, validation and test windows, with purging and an embargo between them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix
from atb_fast.config import MIN_SEQUENCE_LENGTH, RecipeOptions
from atb_fast.errors import DataError, counted
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Parts

#: Share of the windows, newest first, that are the test part.
_TEST_SHARE = 0.2
#: Share of the windows before the test part, newest first, that are the validation part.
_VALIDATION_SHARE = 0.15
#: Default embargo, as a share of the rows (M. Lopez de Prado, Advances in Financial Machine
#: Learning, 2018, chapter 7).
_EMBARGO_SHARE = 0.01
#: The largest number of rows that `divided` tries when it searches for one that is enough.
_MOST_ROWS = 10_000_000

#: Divides windows into parts. The arguments are the starts of the windows, the number of rows after
#: a window that its label depends on, and `beyond` of `before`. The first of several results must
#: have the fewest windows.
Split = Callable[[NDArray[np.int64], int, int], Iterable[Parts]]


class TooFewCandlesError(DataError):
    """There are too few candles for a window in each part.

    Attributes:
        prepared: The features of these candles, if `divided` raises the error.
    """

    prepared: PreparedData


def shared_test(
    starts: NDArray[np.int64],
    prepared: PreparedData,
    options: RecipeOptions,
    reach: int,
) -> Parts:
    """Return the oldest 80% of the windows to train, and the others to validate and to test.

    This is the split of the trainer that atb-fast replaces: its test windows also select the epoch.
    Of the windows to train, those whose label looks further than the last row of the first test
    window are dropped; if the label is that of the next row, none is.

    Raises:
        DataError: There are too few candles for a window in each part.
    """

    def split(starts: NDArray[np.int64], reach: int, _beyond: int) -> list[Parts]:
        train = int(len(starts) * (1 - _TEST_SHARE))
        test = starts[train:]
        return [Parts(starts[:train][starts[:train] + reach <= test[:1]], test, test)]

    return divided(split, starts, prepared, options, reach, embargo=0)[0]


def purged(
    starts: NDArray[np.int64], prepared: PreparedData, options: RecipeOptions, reach: int
) -> Parts:
    """Return the newest 20% of the windows to test, and the parts `before` them.

    Raises:
        DataError: There are too few candles for a window in each part.
    """

    def split(starts: NDArray[np.int64], _reach: int, beyond: int) -> list[Parts]:
        first = len(starts) - int(len(starts) * _TEST_SHARE)
        return [before(starts[:first], starts[first:], beyond)]

    return divided(split, starts, prepared, options, reach, embargo=options.embargo)[0]


def before(starts: NDArray[np.int64], test: NDArray[np.int64], beyond: int) -> Parts:
    """Return the training and validation windows before `test`, together with `test`.

    The newest 15% of `starts` that remain are the validation part. Parts may be empty.

    Args:
        starts: Earlier windows.
        test: The test windows.
        beyond: A window is dropped if the next part begins at most so many rows after its first
            row: its own rows, those of its label, and the embargo.
    """

    def purged(part: NDArray[np.int64], later: NDArray[np.int64]) -> NDArray[np.int64]:
        return part[part + beyond < later[0]] if len(later) else part[:0]

    left = purged(starts, test)
    count = max(0, int((len(left) - beyond) * _VALIDATION_SHARE))
    validation = left[len(left) - count :]
    return Parts(purged(left[: len(left) - count], validation), validation, test)


def embargo_rows(rows: int, embargo: int | None) -> int:
    """Return the number of rows to drop between two parts: `embargo`, by default 1% of `rows`."""
    return int(rows * _EMBARGO_SHARE) if embargo is None else embargo


def divided(
    split: Split,
    starts: NDArray[np.int64],
    prepared: PreparedData,
    options: RecipeOptions,
    reach: int,
    *,
    embargo: int | None,
    purpose: str = "train and test a model",
    what: str = "the range",
    smaller: Mapping[str, Split] | None = None,
) -> list[Parts]:
    """Return the parts into which `split` divides the windows at `starts`.

    Args:
        split: Divides the windows.
        starts: The first row of each window that has a label, ascending.
        prepared: The rows.
        options: Sequence length and horizon.
        reach: Rows after the last row of a window that its label depends on.
        embargo: Rows dropped between two parts; None for 1% of them.
        purpose: What the parts are for, for messages.
        what: The range that the candles are from, for messages.
        smaller: Other splits, which may need fewer windows, by the option that leads to them.

    Raises:
        TooFewCandlesError: There are too few candles; the message says how many are enough.
    """
    rows = embargo_rows(len(prepared.matrix), embargo)
    found = list(split(starts, reach, options.sequence_length - 1 + reach + rows))
    if all(parts.complete for parts in found):
        return found
    needed, ways = _lacking(
        split,
        len(starts),
        prepared,
        options,
        reach=reach,
        embargo=embargo,
        smaller=smaller or {},
    )
    horizon = f" and a horizon of {options.horizon:,} bars" if options.horizon > 1 else ""
    error = TooFewCandlesError(
        f"{what} has {counted(prepared.candles, 'candle')}, expected {needed} to {purpose} with "
        f"windows of {counted(options.sequence_length, 'bar')}{horizon}; use more candles (an "
        f"earlier --start-date or a finer --timeframe){ways}"
    )
    error.prepared = prepared
    raise error


def _lacking(
    split: Split,
    windows: int,
    prepared: PreparedData,
    options: RecipeOptions,
    *,
    reach: int,
    embargo: int | None,
    smaller: Mapping[str, Split],
) -> tuple[str, str]:
    """Return how many candles are enough, and what else would help, as texts; see `divided`."""
    have, own = len(prepared.matrix), options.sequence_length
    warmup = prepared.pipeline.warmup if prepared.pipeline else 0
    lost = max(prepared.candles - have, warmup)
    # More candles lead to more windows, but not to a label for the first ones.
    early = prepared.history - lost - own + 1
    without_label = max(0, early, have - own - reach + 1 - windows)

    def enough(
        rows: int,
        length: int = own,
        reach: int = reach,
        embargo: int | None = embargo,
        split: Split = split,
    ) -> bool:
        count = rows - (length + reach - 1) - without_label
        beyond = length - 1 + reach + embargo_rows(rows, embargo)
        first = next(iter(split(np.arange(max(0, count), dtype=np.int64), reach, beyond)))
        return first.complete

    rows = bisect_left(range(_MOST_ROWS), True, lo=have + 1, key=enough)
    expected = f"{'at least' if enough(rows) else 'more than'} {lost + rows:,}"
    if lost:
        why = "of warm-up" if lost == warmup else "that lack a feature"
        expected += f" (including {lost:,} {why})"
    # The engines fix the length of windows of raw candles.
    shorter = own if isinstance(prepared.matrix, CandleMatrix) else min(own, MIN_SEQUENCE_LENGTH)
    helpful = {
        "a shorter --sequence-length": shorter < own and enough(have, length=shorter),
        "a shorter --horizon": options.horizon > 1
        and enough(have, reach=reach - options.horizon + 1),
        "a smaller --embargo": embargo != 0 and enough(have, embargo=0),
        **{name: enough(have, split=each) for name, each in smaller.items()},
    }
    ways = "".join(f", or {name}" for name, helps in helpful.items() if helps)
    return expected, ways


#: The splits that a recipe can name.
SPLITS = {"purged": purged, "shared_test": shared_test}
