"""Describes a recipe for display: expressions, lookback, purging, and its values on a market."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.features.prepared import PreparedData
from atb_fast.features.specs import FeatureSpec, Specs, unscaled
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare
from atb_fast.recipes.base import BaseRecipe
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.documents import to_document
from atb_fast.recipes.recipe import Recipe

#: Defaults of the program, for recipes without their own.
_TIMEFRAME, _LENGTH = "1d", 120


def describe(recipe: BaseRecipe, options: TrainingConfig | None = None) -> dict[str, Any]:
    """Return what is known about a recipe without a market, as JSON values.

    Timeframe, sequence length, horizon and use of the index are those of `options`, by default
    those of the recipe; without options, features of other timeframes are included, but do not
    count.
    `warmup` and `lookback` are in bars: those at the start of a frame that have no features, and
    those before a window that its features depend on. `purge` is the number of windows that are
    dropped before the validation and test parts because they overlap them.
    """
    if not isinstance(recipe, Recipe):
        return {"name": recipe.name, **to_document(recipe)}
    timeframe, length = recipe.timeframe or _TIMEFRAME, recipe.sequence_length or _LENGTH
    horizon, index = recipe.target.horizon, "index" in recipe.traits
    if options is not None:
        timeframe, length, horizon = options.timeframe, options.sequence_length, options.horizon
        index = index and not options.force_price_only
    features = _features(recipe.used(index=index), timeframe)
    present = [each for each in features if timeframe in (each["timeframes"] or TIMEFRAMES)]
    return {
        "name": recipe.name,
        "description": recipe.description,
        "timeframe": timeframe,
        "sequence_length": length,
        "features": features,
        "lag": recipe.lag,
        "target": {"kind": recipe.target.kind, **recipe.target.values},
        "network": {"kind": recipe.trained_network.kind, **recipe.trained_network.values},
        "split": recipe.split,
        "fit_scalers_on": recipe.fit_scalers_on,
        "extra": list(recipe.extra),
        "index": index,
        "warmup": max((feature["warmup"] for feature in present), default=0),
        "lookback": max((feature["lookback"] for feature in present), default=0),
        "purge": length - 1 + recipe.lag + horizon if recipe.split == "purged" else 0,
    }


def _features(specs: Specs, timeframe: str) -> list[dict[str, Any]]:
    return [_feature(name, spec, timeframe) for name, spec in specs.items()]


def _feature(name: str, spec: FeatureSpec, timeframe: str) -> dict[str, Any]:
    if spec.timeframes and timeframe not in spec.timeframes:
        timeframe = spec.timeframes[0]
    made = spec.compiled(name, TIMEFRAMES[timeframe])
    return {
        "name": name,
        "expression": str(spec.expression),
        "scaler": spec.scaler,
        "timeframes": list(spec.timeframes),
        "warmup": made.warmup,
        "lookback": made.lookback,
    }


@dataclass(frozen=True)
class Preview:
    """The features of a market before they are scaled.

    Attributes:
        timestamps: Open time of each candle.
        values: The features by name, null where one has no value.
        nulls: For each feature, the number of candles without a value: during the `warmup`, where
            an `input` is null, and where the result is `undefined`.
        rows: Number of candles that have every feature.
    """

    timestamps: pl.Series
    values: pl.DataFrame
    nulls: dict[str, dict[str, int]]
    rows: int


def preview(market: Market, config: TrainingConfig) -> Preview:
    """Return the features of `market` as the recipe of `config` computes them.

    Raises:
        DataError: The market lacks something that the recipe needs.
    """
    prepared = prepare(market, config)
    return Preview(prepared.frame["timestamp"], *_values(prepared), rows=len(prepared.matrix))


def _values(prepared: PreparedData) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    names = list(prepared.specs)
    if prepared.pipeline is None:  # raw candles, each window scaled by its own values
        columns = [str(spec.expression) for spec in prepared.specs.values()]
        values = prepared.frame.select(columns)
        nulls = {
            name: {"warmup": 0, "input": values[column].null_count(), "undefined": 0}
            for name, column in zip(names, columns, strict=True)
        }
        return values.rename(dict(zip(columns, names, strict=True))), nulls
    pipeline = unscaled(prepared.pipeline.features)
    values = pl.DataFrame(pipeline.evaluate(prepared.frame), schema=names)
    found = pipeline.nulls(prepared.frame)
    nulls = {name: dict[str, Any](each) for name, each in zip(names, found, strict=True)}
    return values.fill_nan(None), nulls
