"""Recipes: how candles become features, targets and parts, and which network learns them.

`legacy.toml`, `basic.toml` and `causal.toml` are the built-in recipes; docs/recipes.md explains
how to write others.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market, check_bar_length
from atb_fast.options import check_type
from atb_fast.recipes.base import Context, prepared_by
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.extras import with_record


def prepare(
    market: Market,
    config: TrainingConfig,
    *,
    now: datetime | None = None,
    cache: Path | None = None,
) -> PreparedData:
    """Return the features and closes of `market`, as the recipe of `config` prepares them.

    Args:
        market: Candles of the range, the whole sentiment history, and extra series.
        config: The options of the market and of the recipe.
        now: The time at which the age of the sentiment is measured. Default: the current time.
        cache: Directory to cache the features in. Default: no cache.

    Raises:
        ArgumentError: An argument has the wrong type, an extra is not used, or `prepare` of a
            user's class failed.
        DataError: The market has another timeframe, or lacks something that the recipe needs.
    """
    check_type("market", market, Market)
    check_type("config", config, TrainingConfig)
    check_bar_length(market.candles, config)
    context = Context(config, now=now, cache=cache)
    prepared = prepared_by(config.definition, market, config, context)
    return with_record(prepared, market)


def split(prepared: PreparedData, config: TrainingConfig) -> WindowedData:
    """Return the windows of `prepared`, split into parts by the recipe.

    Raises:
        DataError: There are too few rows for a window in each part.
    """
    recipe = config.definition
    return recipe.windows(prepared, config, recipe.parts(prepared, config))
