"""Recipes: how candles become features, targets and parts, and which network learns them.

Each recipe is one module. To add one, subclass `Recipe` and register it here and in
`config.RECIPES`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from atb_fast.config import RecipeOptions, TrainingConfig
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.options import check_type
from atb_fast.recipes.base import Context, Recipe
from atb_fast.recipes.basic import BasicRecipe
from atb_fast.recipes.causal import CausalRecipe
from atb_fast.recipes.legacy import LegacyRecipe

_RECIPES = {"legacy": LegacyRecipe(), "basic": BasicRecipe(), "causal": CausalRecipe()}


def get(name: str) -> Recipe:
    """Return the recipe called `name`, one of `config.RECIPES`."""
    return _RECIPES[name]


def prepare(
    market: Market,
    config: TrainingConfig,
    *,
    now: datetime | None = None,
    cache: Path | None = None,
) -> PreparedData:
    """Return the features and closes of `market`, as the recipe of `config` prepares them.

    Args:
        market: Candles of the range, and the whole sentiment history.
        config: The options of the market and of the recipe.
        now: The time at which the age of the sentiment is measured. Default: the current time.
        cache: Directory to cache the features in. Default: no cache.

    Raises:
        ArgumentError: An argument has the wrong type.
        DataError: The market lacks something that the recipe needs.
    """
    check_type("market", market, Market)
    check_type("config", config, TrainingConfig)
    return get(config.recipe).prepare(market, config, Context(config, now=now, cache=cache))


def split(prepared: PreparedData, options: RecipeOptions) -> WindowedData:
    """Return the windows of `prepared`, split into parts by the recipe.

    Raises:
        DataError: There are too few rows for a window in each part.
    """
    recipe = get(options.recipe)
    return recipe.windows(prepared, options, recipe.parts(prepared, options))
