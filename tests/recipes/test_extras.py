"""Recipes that read extra series: what is recorded, the leak check, and scoring."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atb_fast import TrainingConfig, recipes
from atb_fast.config import RecipeOptions
from atb_fast.errors import ArgumentError, BundleError, DataError
from atb_fast.evaluation.leak import find_leaks
from atb_fast.features.prepared import PreparedData
from atb_fast.ingestion import sample
from atb_fast.ingestion.extras import Extra
from atb_fast.ingestion.market import Market
from atb_fast.recipes.base import BaseRecipe, Context
from atb_fast.recipes.extras import with_record
from atb_fast.recipes.recipe import Recipe
from atb_fast.serving.predictor import load_bundle

DAY = 86_400_000


def market() -> Market:
    candles = sample.candles("BTCUSDT", "1d")[:400]
    rng = np.random.default_rng(3)
    times = candles["timestamp"] + timedelta(hours=8)
    values = {name: pl.Series(rng.normal(size=len(times))) for name in ("funding", "other")}
    return Market(candles, None, (Extra("funding", pl.DataFrame({"timestamp": times, **values})),))


def with_lag(given: Market, lag_ms: int) -> Market:
    return replace(given, extras=tuple(replace(extra, lag_ms=lag_ms) for extra in given.extras))


def declared(*names: str, **options: Any) -> Recipe:
    """Return a recipe whose features are columns of the market's frame."""
    features = {name: name for name in names}
    extra = tuple(name for name in names if name in ("funding", "other"))
    return Recipe(name="mine", features=features, extra=extra, **options)


READING = declared("close", "funding")
ONLY_CANDLES = declared("close", "volume")


class Computing(BaseRecipe):
    """A column that no expression describes, from one that may come from an extra."""

    name = "mine"

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        smooth = market.frame["funding"].rolling_mean(3).alias("smooth")
        candles = market.candles.with_columns(smooth)
        recipe = Recipe(name="mine", features={"smooth": "smooth"}, extra=("smooth",))
        return recipe.prepare(Market(candles, None), options, context)


class NextValue(Recipe):
    """Takes the next value of a series, which is not known yet."""

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        (extra,) = market.extras
        candles = market.candles.join_asof(extra.values, on="timestamp", strategy="forward")
        return super().prepare(Market(candles, None), options, context)


CONFIG = TrainingConfig(
    symbol="BTCUSDT",
    source="sample",
    recipe="mine",
    definition=READING,
    force_price_only=True,
    sequence_length=10,
)


def prepared(recipe: BaseRecipe, given: Market) -> PreparedData:
    return with_record(recipe.prepare(given, CONFIG, Context(CONFIG)), given)


def test_hashes_and_lags_are_recorded() -> None:
    given = market()
    made = prepared(READING, given)
    assert made.lags == {"funding": 0}
    assert sorted(made.sha256) == ["candles", "funding"]
    (extra,) = given.extras

    def hash_with(values: pl.DataFrame) -> str:
        changed = replace(given, extras=(replace(extra, values=values),))
        return prepared(READING, changed).sha256["funding"]

    def changed(row: int, column: str) -> str:
        index = pl.int_range(pl.len())
        value = pl.when(index == row).then(9.0).otherwise(column).alias(column)
        return hash_with(extra.values.with_columns(value))

    same = made.sha256["funding"]
    assert changed(200, "funding") != same
    # Neither what no feature reads nor what comes after the last candle matters.
    assert changed(200, "other") == changed(399, "funding") == same
    assert hash_with(extra.values[:-1]) == same
    late = prepared(READING, with_lag(given, 2 * DAY))
    assert late.sha256["funding"] != same
    assert late.lags == {"funding": 2 * DAY}
    assert prepared(Computing(), given).lags == {"funding": 0, "other": 0}
    assert prepared(ONLY_CANDLES, replace(given, extras=())).lags == {}


def test_an_extra_that_no_feature_reads() -> None:
    message = "--extra funding has no effect: no feature of the recipe reads funding or other"
    with pytest.raises(ArgumentError, match=message) as caught:
        prepared(ONLY_CANDLES, market())
    assert caught.value.options == ("extra",)
    assert "use a recipe file that lists the column under `extra`" in str(caught.value)
    config = replace(CONFIG, definition=ONLY_CANDLES)
    with pytest.raises(ArgumentError, match=message):
        recipes.prepare(market(), config)
    with pytest.raises(ArgumentError, match=message):
        find_leaks(market(), config)


def test_an_extra_that_is_missing() -> None:
    message = "the mine recipe reads the column funding, which the market lacks; pass --extra"
    with pytest.raises(DataError, match=message):
        recipes.prepare(replace(market(), extras=()), CONFIG)


def test_cached_features_depend_on_the_values(tmp_path: Path) -> None:
    recipe = declared("close", "funding", fit_scalers_on="all")
    context = Context(CONFIG, cache=tmp_path)

    def values(given: Market) -> Any:
        return recipe.prepare(given, CONFIG, context).matrix.values

    given = market()
    first = values(given).copy()
    np.testing.assert_array_equal(values(given), first)
    assert len([*tmp_path.iterdir()]) == 1
    (extra,) = given.extras
    doubled = replace(extra, values=extra.values.with_columns(pl.col("funding") ** 3))
    assert not np.array_equal(values(replace(given, extras=(doubled,))), first)


@pytest.mark.parametrize("lag", [0, 1, DAY, 40 * DAY])
def test_the_leak_check_passes(lag: int) -> None:
    assert find_leaks(with_lag(market(), lag), CONFIG, cuts=5).leaks == ()


def test_the_leak_check_finds_a_value_of_the_future() -> None:
    recipe = NextValue(name="mine", features={"funding": "funding"}, extra=("funding",))
    assert {leak.what for leak in find_leaks(market(), CONFIG, recipe=recipe).leaks}


def test_a_frame_to_score_needs_the_column(models: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree((models / "BTCUSDT" / "price" / "latest").resolve(), bundle)
    (bundle / "SHA256SUMS").unlink()
    metadata = json.loads((bundle / "metadata.json").read_text())
    assert metadata["requirements"] == {"columns": {}}
    del metadata["checksums"]

    def load(requirements: Any) -> Any:
        document = metadata | {"requirements": requirements}
        (bundle / "metadata.json").write_text(json.dumps(document))
        return load_bundle(bundle)

    loaded = load({"columns": {"funding": {"lag_ms": DAY}}})
    assert loaded.extra_columns == {"funding": DAY}
    given = market()
    for score in (loaded.features, loaded.predict, loaded.predict_last):
        with pytest.raises(DataError, match=r"lacks funding, which the model reads .*=86400000"):
            score(given.candles)
    loaded.predict_last(with_lag(given, DAY).frame)
    invalid: list[Any] = [{"x": 3}, {"x": {"lag_ms": -1}}, {"x": {"lag_ms": "8h"}}, []]
    for wrong in ([], *({"columns": columns} for columns in invalid)):
        with pytest.raises(
            BundleError, match=r"metadata.json has requirements .*each with an integer lag_ms"
        ):
            load(wrong)
    del metadata["requirements"]
    (bundle / "metadata.json").write_text(json.dumps(metadata))
    assert load_bundle(bundle).extra_columns == {}
