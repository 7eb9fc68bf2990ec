"""Parts of the windows, with purging and an embargo between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import TrainingConfig
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Parts

#: Of the windows before a test, newest ones, that choose the epoch.
_VALIDATION_SHARE = 0.15


#: Of the rows, between the parts (M. Lopez de Prado, Advances in Financial Machine Learning, 2018,
#: chapter 7).
_EMBARGO_SHARE = 0.01


def before(
    starts: NDArray[np.int64], test: NDArray[np.int64], config: TrainingConfig, embargo_rows: int
) -> Parts:
    """Return `test` with what a model for it may be fitted on and validated with.

    Between the parts, windows are left out that share a row or a target with the next one, and
    `embargo_rows` more. Of what is left of `starts`, the newest 15 % choose the epoch. Parts may be
    empty.
    """
    beyond = config.sequence_length - 1 + config.horizon + embargo_rows

    def purged(part: NDArray[np.int64], later: NDArray[np.int64]) -> NDArray[np.int64]:
        return part[part + beyond < later[0]] if len(later) else part[:0]

    left = purged(starts, test)
    count = max(0, int((len(left) - beyond) * _VALIDATION_SHARE))
    validation = left[len(left) - count :]
    return Parts(purged(left[: len(left) - count], validation), validation, test)


def embargo(prepared: PreparedData, config: TrainingConfig) -> int:
    """Return the rows between two parts that neither has."""
    return int(len(prepared.matrix) * _EMBARGO_SHARE) if config.embargo is None else config.embargo
