"""Recipes: how candles become features, targets and parts, and which network learns them.

One file each. A further one is a subclass of `Recipe` and a name in `get`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from atb_fast.config import TrainingConfig
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes.base import Recipe
from atb_fast.recipes.basic import BasicRecipe
from atb_fast.recipes.causal import CausalRecipe
from atb_fast.recipes.legacy import LegacyRecipe

_RECIPES = {"legacy": LegacyRecipe(), "basic": BasicRecipe(), "causal": CausalRecipe()}


def get(name: str) -> Recipe:
    """Return the recipe called `name`; `TrainingConfig` checks that there is one."""
    return _RECIPES[name]


def prepare(
    market: Market,
    config: TrainingConfig,
    *,
    now: datetime | None = None,
    cache: Path | None = None,
) -> PreparedData:
    """Return the features and closes of `market` by the recipe of `config`; see `Recipe`."""
    return get(config.recipe).prepare(market, config, now=now, cache=cache)


def split(prepared: PreparedData, config: TrainingConfig) -> WindowedData:
    """Return the windows of `prepared` in the parts that the recipe of `config` makes of them.

    Raises:
        DataError: Too few rows for a window in each part.
    """
    recipe = get(config.recipe)
    return recipe.windows(prepared, config, recipe.parts(prepared, config))
