"""The recipe of the model that live strategies load.

Candles are kept raw. Each window is scaled by its own values, as the engines do, and the target is
the position of the next close within the range of the window's closes.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix
from atb_fast.config import RecipeOptions
from atb_fast.errors import DataError
from atb_fast.features.hashing import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Context, Recipe, check_moves

log = logging.getLogger(__name__)

#: Input columns, in channel order.
_COLUMNS = ("close", "volume", "high", "low", "open")

#: Minimum range of the closes in a window, relative to the price. Prices that do not move for 120
#: bars are an outage, and any move after it would have a label in the thousands.
_LEAST_RANGE = 1e-4


class BasicRecipe(Recipe):
    """Windows of raw candles, each scaled by its own values."""

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        """Return the raw candles."""
        frame = market.candles
        check_moves(market)
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
            gaps=len(gaps(frame["timestamp"], context.asked.bar_ms)),
            sha256={"candles": content_hash(frame)},
        )

    def starts(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.int64]:
        """Return the windows that engines accept and in which the close moves."""
        every = super().starts(prepared, options)
        if not len(every):
            return every
        matrix = _raw(prepared)
        usable = matrix.usable(options.sequence_length)
        starts = np.intersect1d(every, usable, assume_unique=True)
        low, high = matrix.ranges("close", starts, options.sequence_length)
        moving = starts[high - low > _LEAST_RANGE * high]
        if len(moving) < len(every):
            log.info(
                "%d of %d windows left out: %d have a value that is missing, 0 or negative, which "
                "engines reject; in %d the close does not move",
                len(every) - len(moving),
                len(every),
                len(every) - len(starts),
                len(starts) - len(moving),
            )
        if len(every) >= 2 and len(moving) < 2:
            raise DataError(
                f"only {len(moving)} of {len(every)} windows of {options.sequence_length} bars are "
                "usable: in the others, a value is missing, 0 or negative, or the close does not "
                "move; use candles of a market that trades"
            )
        return moving

    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        """Label each window with the next close, scaled by the range of the window's closes."""
        length = options.sequence_length
        starts = parts.every
        low, high = _raw(prepared).ranges("close", starts, length)
        labels = np.full(len(prepared.matrix), np.nan)
        labels[starts + length] = (prepared.close[starts + length] - low) / (high - low)
        return WindowedData(prepared, length, parts, labels, PriceScale.rolling_minmax(length))

    def build(self, length: int, features: int, *, dtype_policy: str = "float32") -> Any:
        """Return the network of `networks.build_basic_model`."""
        from atb_fast.recipes.networks import build_basic_model

        return build_basic_model(length, features, dtype_policy=dtype_policy)


def _raw(prepared: PreparedData) -> CandleMatrix:
    assert isinstance(prepared.matrix, CandleMatrix)  # made by prepare
    return prepared.matrix
