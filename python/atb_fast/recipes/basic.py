"""The recipe of the model that live strategies load.

Candles stay as they are: each window is scaled by its own values, as the engines do it, and the
target is where the next close lies in the range of the window's closes.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix
from atb_fast.config import TrainingConfig
from atb_fast.errors import DataError
from atb_fast.features.hashing import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Recipe

log = logging.getLogger(__name__)

#: What the model sees, in channel order.
_COLUMNS = ("close", "volume", "high", "low", "open")

#: Of the price: a window whose closes have less cannot be scaled by it. Prices that stand still for
#: 120 bars are an outage, and any move after it would be a label of thousands.
_LEAST_RANGE = 1e-4


class BasicRecipe(Recipe):
    """Windows of raw candles, each scaled by its own values."""

    def prepare(
        self,
        market: Market,
        config: TrainingConfig,
        *,
        now: datetime | None = None,
        cache: Path | None = None,
    ) -> PreparedData:
        """Return the candles as they are."""
        frame = market.candles
        return PreparedData(
            model_type="basic",
            matrix=CandleMatrix(frame, _COLUMNS),
            close=frame["close"].to_numpy(),
            timestamps=frame["timestamp"],
            frame=frame,
            index=None,
            pipeline=None,
            sources={
                f"{column}_normalized": {"column": column, "transform": "expanding_minmax"}
                for column in _COLUMNS
            },
            lookback=0,
            assessment=None,
            candles=len(frame),
            gaps=len(gaps(frame["timestamp"], config.bar_ms)),
            sha256={"candles": content_hash(frame)},
        )

    def starts(self, prepared: PreparedData, config: TrainingConfig) -> NDArray[np.int64]:
        """Leave out windows that an engine would refuse, and those whose close stands still."""
        every = super().starts(prepared, config)
        if not len(every):
            return every
        matrix = _raw(prepared)
        usable = matrix.usable(config.sequence_length)
        starts = np.intersect1d(every, usable, assume_unique=True)
        low, high = matrix.ranges("close", starts, config.sequence_length)
        moving = starts[high - low > _LEAST_RANGE * high]
        if len(moving) < len(every):
            log.info(
                "%d of %d windows left out: %d have a value that is not above 0, as engines would "
                "refuse, in %d the close stands still",
                len(every) - len(moving),
                len(every),
                len(every) - len(starts),
                len(starts) - len(moving),
            )
        if len(every) >= 2 and len(moving) < 2:
            raise DataError(
                f"{len(moving)} of {len(every)} windows of {config.sequence_length} bars can be "
                "used: in the others a value is not above 0, or the close stands still; give "
                "candles of a market that trades"
            )
        return moving

    def windows(self, prepared: PreparedData, config: TrainingConfig, parts: Parts) -> WindowedData:
        """Give each row a label in the range of the window before it."""
        length = config.sequence_length
        starts = parts.every
        low, high = _raw(prepared).ranges("close", starts, length)
        labels = np.full(len(prepared.matrix), np.nan)
        labels[starts + length] = (prepared.close[starts + length] - low) / (high - low)
        return WindowedData(prepared, length, parts, labels, PriceScale.rolling_minmax(length))

    def build(self, length: int, features: int, *, dtype_policy: str = "float32") -> Any:
        """Return the network of `models.build_basic_model`."""
        from atb_fast.recipes.networks import build_basic_model

        return build_basic_model(length, features, dtype_policy=dtype_policy)


def _raw(prepared: PreparedData) -> CandleMatrix:
    assert isinstance(prepared.matrix, CandleMatrix)  # prepare saw to it
    return prepared.matrix
