"""Training, validation and test windows, with purging and an embargo between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import RecipeOptions
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Parts

#: Share of the windows before the test part, newest first, that are the validation part.
_VALIDATION_SHARE = 0.15
#: Default embargo, as a share of the rows (M. Lopez de Prado, Advances in Financial Machine
#: Learning, 2018, chapter 7).
_EMBARGO_SHARE = 0.01


def before(
    starts: NDArray[np.int64], test: NDArray[np.int64], options: RecipeOptions, embargo: int
) -> Parts:
    """Return the training and validation windows before `test`, together with `test`.

    Windows that share a row or a target with the next part are purged, and `embargo` more are
    dropped. The newest 15% of the remaining `starts` are the validation part. Parts may be empty.
    """
    beyond = options.sequence_length - 1 + options.horizon + embargo

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
