"""The interface of a recipe, and the defaults that recipes in Python share."""

from __future__ import annotations

import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import MarketOptions, RecipeOptions
from atb_fast.errors import ArgumentError, AtbFastError, DataError, lacks_memory
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes.keys import Part
from atb_fast.recipes.networks import Base, CnnLstm, Network, OwnNetwork
from atb_fast.recipes.split import shared_test
from atb_fast.recipes.targets import Close, Predict, Target


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


def prepared_by(
    recipe: BaseRecipe, market: Market, options: RecipeOptions, context: Context
) -> PreparedData:
    """Return what `recipe.prepare` returns.

    Raises:
        ArgumentError: The class of a user failed, or returned something else.
        DataError: The market lacks something that the recipe needs.
    """
    kind = type(recipe)
    name = f"the recipe {kind.__module__}:{kind.__qualname__}"
    try:
        made = recipe.prepare(market, options, context)
    except (Exception, SystemExit) as error:
        own = kind.__module__.partition(".")[0] != __name__.partition(".")[0]
        if not own or isinstance(error, AtbFastError) or lacks_memory(error):
            raise
        why = next(iter(str(error).splitlines()), "")
        raise ArgumentError(
            f"{name} failed in prepare ({type(error).__name__}: {why:.300}{_place(kind, error)}); "
            "fix that error. For the traceback, call atb_fast.prepare in Python",
            options=["recipe"],
        ) from error
    if not isinstance(made, PreparedData):
        raise ArgumentError(
            f"{name} returned {made!r:.80} from prepare, expected an atb_fast.PreparedData",
            options=["recipe"],
        )
    return made


def _place(kind: type, error: BaseException) -> str:
    """Return the line of the module of `kind` that led to `error`, for a message."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    return f", {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


class BaseRecipe(ABC):
    """How candles become features, targets and parts, and which network learns them.

    `Recipe` declares its features as expressions. If that is not enough, subclass this class; only
    `prepare` is required. The other methods assume that features are already scaled and that the
    target is the close. To score a bundle, the frame must have the columns that the expressions of
    its features read.

    Attributes:
        name: The name, which is also the directory in the registry.
        timeframe: Default of the option; None for that of the program.
        sequence_length: As `timeframe`.
        sentiment_lag_days: As `timeframe`.
        fit_scalers_on: The rows that scalers are fitted on, `training` or `all`.
        target: What its models predict.
        network: The network that learns it, unless a class overrides `build`; see
            `trained_network`.
        original: The recipe before options changed it; None if they have not.
        lag: Bars from the last bar of a window to the bar at whose close a label starts; 1 for
            engines that act at the close of the bar after a window.
    """

    name: str
    timeframe: str | None = None
    sequence_length: int | None = None
    sentiment_lag_days: int | None = None
    fit_scalers_on: str = "training"
    target: Target = Close()
    network: Network = CnnLstm()
    lag: int = 0
    original: BaseRecipe | None = None

    @property
    def traits(self) -> frozenset[str]:
        """The capabilities that options depend on; see `Option.needs`.

        By default, all except a candle graph.
        """
        return frozenset({"length", "index", "lag", "horizon", "purge", "extra"})

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults that the recipe has for options, by name."""
        found = {
            "timeframe": self.timeframe,
            "sequence_length": self.sequence_length,
            "sentiment_lag_days": self.sentiment_lag_days,
            "horizon": self.target.horizon,
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def trained_network(self) -> Part:
        """The network that `build` returns: `network`, or an `OwnNetwork` if it is overridden."""
        return self.network if type(self).build is BaseRecipe.build else OwnNetwork()

    @property
    def further_metadata(self) -> Mapping[str, Any]:
        """Further keys of metadata.json."""
        return {}

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
        beyond = options.sequence_length + self.reach(options) - 1
        every = np.arange(max(0, len(prepared.matrix) - beyond), dtype=np.int64)
        return self.target.usable(prepared, every, options, self.lag)

    def reach(self, options: RecipeOptions) -> int:
        """Return the number of rows after the last row of a window that its label depends on."""
        return self.lag + options.horizon

    def parts(self, prepared: PreparedData, options: RecipeOptions) -> Parts:
        """Return the training, validation and test windows.

        Raises:
            DataError: There are too few rows for a window in each part.
        """
        starts, reach = self.starts(prepared, options), self.reach(options)
        return shared_test(starts, prepared, options, reach)

    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        """Return the windows of `parts` with their targets.

        Scalers that are not fitted yet are fitted on the training part.
        """
        labels = self.target.labels(prepared, options, parts, self.lag)
        return WindowedData(prepared, options.sequence_length, parts, labels)

    def build(
        self,
        length: int,
        features: int,
        *,
        dtype_policy: str = "float32",
        base: Base | None = None,
    ) -> Any:
        """Return the uncompiled network; see `Network.build`.

        Override it to train any Keras network; docs/recipes.md explains how.
        """
        return self.network.build(
            length,
            features,
            head=self.target.head,
            base=base,
            dtype_policy=dtype_policy,
            start_at_zero=self.target.relative,
        )

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

    def calibrated(self, data: WindowedData, predict: Predict) -> WindowedData:
        """Return `data` with the output as it is read after the fit; see `Target.calibrated`."""
        output = self.target.calibrated(data, predict)
        return replace(data, labels=replace(data.labels, output=output))
