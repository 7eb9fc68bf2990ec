"""The interface of a recipe, and the defaults that most recipes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import MarketOptions, RecipeOptions
from atb_fast.errors import DataError, counted
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market

#: Share of the windows, oldest first, that are the training part.
TRAIN_SHARE = 0.8

#: Returns the outputs of a fitted model for the windows at these starts.
Predict = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Context:
    """What a recipe may use in addition to the market and its own options.

    Attributes:
        asked: Timeframe and range of the market, and whether sentiment was requested.
        now: The time at which the age of the sentiment is measured; None for the current time.
        cache: Directory to cache the features in; None for no cache. With `force_refresh`, cached
            features are not read.
    """

    asked: MarketOptions
    now: datetime | None = None
    cache: Path | None = None


def check_moves(market: Market) -> None:
    """Raise DataError if the close never changes, because then there is nothing to learn."""
    close = market.candles["close"].drop_nulls()
    if len(close) > 1 and close.min() == close.max():
        raise DataError(
            f"the close is {close[0]:g} in all {len(close):,} candles; use candles of a market "
            "whose price moves"
        )


class Recipe(ABC):
    """How candles become features, targets and parts, and which network learns them.

    A subclass must define `prepare`. The other methods are for features that are already scaled,
    with the close as target. Bundles of a recipe can be scored if `serving.schema` supports the
    transforms in their feature_schema.json.
    """

    @abstractmethod
    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        """Return the features and closes of `market`.

        Args:
            market: Candles of the range, and the whole sentiment history.
            options: The options of the recipe.
            context: The options of the market, the time and the cache.

        Raises:
            DataError: The market lacks something that the recipe needs.
        """

    def starts(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.int64]:
        """Return the first row of each complete window that has a target, int64, ascending."""
        beyond = options.sequence_length + options.horizon - 1
        return np.arange(max(0, len(prepared.matrix) - beyond), dtype=np.int64)

    def parts(self, prepared: PreparedData, options: RecipeOptions) -> Parts:
        """Return the training, validation and test windows.

        Raises:
            DataError: There are too few rows for a window in each part.
        """
        starts = self.starts(prepared, options)
        train = int(len(starts) * TRAIN_SHARE)
        if train < 1 or len(starts) - train < 1:
            raise DataError(
                f"--sequence-length {options.sequence_length} requires at least "
                f"{options.sequence_length + 2} complete rows, got {len(prepared.matrix)} from "
                f"{counted(prepared.candles, 'candle')}; use a longer range or a shorter "
                "--sequence-length"
            )
        test = starts[train:]
        return Parts(starts[:train], test, test)

    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        """Return the windows of `parts` with their targets.

        Scalers that are not fitted yet are fitted on the training part.
        """
        labels = np.full(len(prepared.close), np.nan)
        labels[: len(labels) - options.horizon + 1] = prepared.close[options.horizon - 1 :]
        scale = PriceScale.linear(horizon=options.horizon)
        return WindowedData(prepared, options.sequence_length, parts, labels, scale)

    def build(self, length: int, features: int, *, dtype_policy: str = "float32") -> Any:
        """Return the uncompiled network; see `networks.build_model`."""
        from atb_fast.recipes.networks import build_model

        return build_model(length, features, dtype_policy=dtype_policy)

    def shrinkage(self, data: WindowedData, predict: Predict) -> float:
        """Return the factor, 0 to 1, by which the outputs of a fitted model are multiplied.

        Args:
            data: The windows that the model was fitted to.
            predict: Returns the model's outputs for the windows at the given starts, in the unit of
                the labels, shape (windows,). It takes time, so call it only if needed.

        Returns:
            By default 1, which leaves the model as fitted.
        """
        return 1.0
