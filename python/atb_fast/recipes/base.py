"""What a recipe is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import TrainingConfig
from atb_fast.errors import DataError
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market

#: Share of the windows, oldest first, that a model is fitted on.
TRAIN_SHARE = 0.8


#: Returns the outputs of a fitted model for windows, by their starts.
Predict = Callable[[NDArray[np.int64]], NDArray[np.float64]]


class Recipe(ABC):
    """How candles become features, targets and parts, and which network learns them.

    Only `prepare` must be written; what is here is right for features that are scaled already, and
    for a target that is the close itself. A recipe has a name in `recipes.get` and in the choices
    of `TrainingConfig.recipe`; its bundles can be scored if their feature_schema.json says how
    features are made in words that `predictor` knows.
    """

    @abstractmethod
    def prepare(
        self,
        market: Market,
        config: TrainingConfig,
        *,
        now: datetime | None = None,
        cache: Path | None = None,
    ) -> PreparedData:
        """Return the features and closes of `market`.

        Args:
            market: Candles of the range, and the whole sentiment history.
            config: Timeframe, range, and whether sentiment is wanted.
            now: The time that the age of the sentiment is judged against, if the recipe judges it
                by the clock; default the clock.
            cache: Directory to keep the features in, and to take them from if they were prepared
                before and `config.force_refresh` is off.

        Raises:
            DataError: The market does not have what the recipe needs.
        """

    def starts(self, prepared: PreparedData, config: TrainingConfig) -> NDArray[np.int64]:
        """Return the start of each window that is complete and has a target, int64, ascending."""
        beyond = config.sequence_length + config.horizon - 1
        return np.arange(max(0, len(prepared.matrix) - beyond), dtype=np.int64)

    def parts(self, prepared: PreparedData, config: TrainingConfig) -> Parts:
        """Return which windows are fitted, which choose the epoch, and which are only predicted.

        Raises:
            DataError: Too few rows for a window in each part.
        """
        starts = self.starts(prepared, config)
        train = int(len(starts) * TRAIN_SHARE)
        if train < 1 or len(starts) - train < 1:
            raise DataError(
                f"sequence length {config.sequence_length} needs at least "
                f"{config.sequence_length + 2} complete rows, got {len(prepared.matrix)} from "
                f"{prepared.candles} candles; use a longer range or a shorter --sequence-length"
            )
        test = starts[train:]
        return Parts(starts[:train], test, test)

    def windows(self, prepared: PreparedData, config: TrainingConfig, parts: Parts) -> WindowedData:
        """Return the windows of `parts` with their targets; whatever is fitted, is on `train`."""
        labels = np.full(len(prepared.close), np.nan)
        labels[: len(labels) - config.horizon + 1] = prepared.close[config.horizon - 1 :]
        scale = PriceScale.linear(horizon=config.horizon)
        return WindowedData(prepared, config.sequence_length, parts, labels, scale)

    def build(self, length: int, features: int, *, dtype_policy: str = "float32") -> Any:
        """Return the uncompiled network; see `models.build_model`."""
        from atb_fast.recipes.networks import build_model

        return build_model(length, features, dtype_policy=dtype_policy)

    def shrinkage(self, data: WindowedData, predict: Predict) -> float:
        """Return the factor, 0 to 1, that the outputs of a fitted model are multiplied by.

        Args:
            data: What the model was fitted on.
            predict: Returns the model's output for the windows that start there, in the unit of
                the labels; shape (windows,). Call it only if the recipe needs predictions.

        Returns:
            Here always 1: the model stays as it was fitted.
        """
        return 1.0
