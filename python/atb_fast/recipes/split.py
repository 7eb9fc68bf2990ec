"""Training, validation and test windows, with purging and an embargo between them."""

from __future__ import annotations

import math

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
        DataError: There are too few rows for a window in each part.
    """
    train = int(len(starts) * (1 - _TEST_SHARE))
    test = starts[train:]
    kept = starts[:train][starts[:train] + reach <= test[:1]]
    if not len(kept):
        least = options.sequence_length + reach - 1 + math.ceil(reach / (1 - _TEST_SHARE))
        raise DataError(
            f"--sequence-length {options.sequence_length} requires at least "
            f"{least:,} complete rows, got {len(prepared.matrix):,} from "
            f"{counted(prepared.candles, 'candle')}; {remedies(options, length=_free(prepared))}"
        )
    return Parts(kept, test, test)


def purged(
    starts: NDArray[np.int64], prepared: PreparedData, options: RecipeOptions, reach: int
) -> Parts:
    """Return the newest 20% of the windows to test, and the parts `before` them.

    Raises:
        DataError: There are too few rows for a window in each part.
    """
    first, rows = len(starts) - int(len(starts) * _TEST_SHARE), embargo_rows(prepared, options)
    beyond = options.sequence_length - 1 + reach + rows
    parts = before(starts[:first], starts[first:], beyond)
    if not parts.complete:
        raise DataError(
            f"{len(prepared.matrix):,} complete rows give {len(parts.train):,} windows of "
            f"{options.sequence_length:,} bars to train, {len(parts.validation)} to validate and "
            f"{len(parts.test)} to test: a window, the horizon of "
            f"{counted(options.horizon, 'bar')} and an embargo of {counted(rows, 'bar')} are "
            "dropped between the parts; "
            f"{remedies(options, length=_free(prepared), embargo=rows)}"
        )
    return parts


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


def embargo_rows(prepared: PreparedData, options: RecipeOptions) -> int:
    """Return the embargo: the number of rows to drop between two parts."""
    share = int(len(prepared.matrix) * _EMBARGO_SHARE)
    return share if options.embargo is None else options.embargo


def remedies(
    options: RecipeOptions,
    *others: str,
    length: bool = True,
    horizon: bool = True,
    embargo: int = 0,
) -> str:
    """Return what to do if there are too few windows, for messages.

    Args:
        options: Sequence length and horizon, which are not named if they cannot be smaller.
        others: Further remedies.
        length: Whether shorter windows are possible and help.
        horizon: Whether a shorter horizon helps.
        embargo: The embargo, in rows.
    """
    found = ["a longer range", *others]
    if length and options.sequence_length > MIN_SEQUENCE_LENGTH:
        found.append("a shorter --sequence-length")
    if horizon and options.horizon > 1:
        found.append("a shorter --horizon")
    if embargo:
        found.append("a smaller --embargo")
    *most, last = found
    if not most:
        return f"use {last}"
    return f"use {', '.join(most)}{',' * (len(most) > 1)} or {last}"


def _free(prepared: PreparedData) -> bool:
    """Return whether windows can have another length: the engines fix that of raw candles."""
    return not isinstance(prepared.matrix, CandleMatrix)


#: The splits that a recipe can name.
SPLITS = {"purged": purged, "shared_test": shared_test}
