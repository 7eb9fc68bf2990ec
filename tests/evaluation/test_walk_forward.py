"""Walk-forward folds, compared with scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from threading import current_thread, main_thread
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import TimeSeriesSplit

from atb_fast import TrainingConfig
from atb_fast.callbacks import Listener
from atb_fast.config import RecipeOptions
from atb_fast.errors import ArgumentError, DataError
from atb_fast.evaluation.walk_forward import (
    Fold,
    evaluate,
    fold_parts,
    known_at,
    walk_forward,
)
from atb_fast.features.outputs import Classes
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Labels, Parts
from atb_fast.ingestion.extras import Extra
from atb_fast.ingestion.market import load_market
from atb_fast.recipes import prepare
from atb_fast.recipes.networks import Linear
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.shrinkage import shrinkage_factor
from atb_fast.recipes.targets import (
    BinaryDirection,
    LogReturn,
    SmoothedReturn,
    Target,
    TripleBarrier,
)


def config(**options: Any) -> TrainingConfig:
    given = {"symbol": "BTCUSDT", "source": "sample", "recipe": "causal", "sequence_length": 10}
    return TrainingConfig(**{**given, "start_date": "2022-01-01", "epochs": 2, **options})


@pytest.mark.parametrize("window", ["expanding", "rolling"])
@pytest.mark.parametrize("folds", [1, 5])
def test_folds(window: Literal["expanding", "rolling"], folds: int) -> None:
    starts = np.arange(3, 1203)
    made = list(fold_parts(starts, folds, window, beyond=10 - 1 + 1 + 4))
    assert len(made) == folds
    # The newer half is tested, each window once.
    np.testing.assert_array_equal(np.concatenate([p.test for p in made]), starts[600:])
    for parts in made:
        # Windows of 10 rows with a target after each, and an embargo of 4 rows.
        assert parts.validation[0] - parts.train[-1] == 10 + 4 + 1
        assert parts.test[0] - parts.validation[-1] == 10 + 4 + 1
        assert len(parts.validation) == pytest.approx(
            0.15 * (parts.test[0] - parts.train[0]), abs=20
        )
    first = [int(parts.train[0]) for parts in made]
    rolled = [int(parts.test[0]) - 600 for parts in made]
    assert first == ([3] * folds if window == "expanding" else rolled)


def test_tested_windows_equal_time_series_split() -> None:
    starts = np.arange(1000)
    theirs = TimeSeriesSplit(n_splits=5, test_size=100).split(starts)
    ours = fold_parts(starts, 5, "expanding", beyond=10)
    for parts, (before, tested) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(parts.test, tested)
        assert parts.train[0] == before[0]


def test_one_class_in_a_fold() -> None:
    options = {"target_take_profit": 10.0, "target_stop_loss": 0.99, "horizon": 1}
    message = (
        r"^fold 1, trained on windows from 20\d\d-\d\d-\d\d to 20\d\d-\d\d-\d\d: all [\d,]+ "
        "training windows have the class 0, expected at least two classes; use a longer range"
    )
    with pytest.raises(DataError, match=message):
        evaluate(config(target="triple_barrier", network="linear", **options), folds=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 0}, "folds is 0, expected an integer of at least 1"),
        ({"folds": 2.5}, "folds is 2.5"),
        ({"window": "growing"}, "window is 'growing', expected expanding or rolling"),
        ({"embargo": -1}, "--embargo is -1, expected at least 0"),
    ],
)
def test_arguments_are_checked_first(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        evaluate(config(source="files", candles="gone.csv", force_price_only=True), **arguments)


@pytest.fixture(scope="module", autouse=True)
def bold() -> Iterator[None]:
    """Keep all outputs: after two epochs, the shrinkage factor of a model would be 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "shrinkage", lambda *_: 1.0)
        yield


@pytest.fixture(scope="module")
def folds() -> list[Fold]:
    return evaluate(config(engine="keras"), folds=2)


def test_errors_equal_scikit_learn(folds: list[Fold]) -> None:
    given = config()
    recipe = config().definition
    prepared = prepare(load_market(given), given)
    embargo = int(0.01 * len(prepared.matrix))
    parts = fold_parts(recipe.starts(prepared, given), 2, "expanding", beyond=10 - 1 + 1 + embargo)
    assert [fold.number for fold in folds] == [1, 2]
    for fold, each in zip(folds, parts, strict=True):
        data = recipe.windows(prepared, given, each)
        assert (fold.train, fold.validation) == (len(each.train), len(each.validation))
        actual, unchanged = data.targets(each.test), data.persistence(each.test)
        assert fold.persistence_rmse == pytest.approx(np.sqrt(np.mean((actual - unchanged) ** 2)))
        x = data.prepared.matrix.values.astype(float)
        linear = LinearRegression().fit(x[each.train + 9], data.labels.values[each.train + 10])
        labels = data.labels.values[each.validation + 10]
        factor = shrinkage_factor(linear.predict(x[each.validation + 9]), labels, 1)
        prices = data.forecasts(each.test, factor * linear.predict(x[each.test + 9]))
        assert fold.linear_rmse == pytest.approx(np.sqrt(np.mean((actual - prices) ** 2)), rel=1e-6)
        assert fold.up_share == np.mean(actual > unchanged)
        found = fold.to_dict()
        assert found["ratio"] == found["rmse"] / found["persistence_rmse"] == fold.ratio
        share, low, high = (found[f"directional_accuracy{end}"] for end in ("", "_low", "_high"))
        assert 0 < low < share < high < 1
        returns = np.sign(np.diff(data.prepared.close))
        opposite = returns[each.test + 9] == -returns[each.test + 8]
        assert fold.contrarian_accuracy == np.mean(opposite)
        assert "accuracy" not in found
        assert fold.first == data.times(each.test)[0].isoformat()
    assert folds[1].last.startswith("2024-12-31")


def test_the_same_options_give_the_same_folds(folds: list[Fold]) -> None:
    seen: list[Fold] = []

    class Folds(Listener):
        def fold(self, fold: Fold) -> None:
            seen.append(fold)

    again = evaluate(config(engine="keras"), folds=2, listener=Folds())
    assert seen == again
    names = [field.name for field in fields(Fold) if field.name != "seconds"]
    for one, other in zip(folds, again, strict=True):
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


def lstm() -> Any:
    from keras import layers

    return layers.LSTM(4)


def gru() -> Any:
    """Return a layer that only the Keras engine supports."""
    from keras import layers

    return layers.GRU(4)


@pytest.mark.parametrize(("layer", "together"), [(lstm, True), (gru, False)])
def test_only_the_compiled_engine_trains_folds_in_parallel(
    layer: Callable[[], Any],
    together: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[Any] = []

    class Small(Recipe):
        def build(self, length: int, features: int, **_: Any) -> Any:
            from keras import Sequential, layers

            threads.append(current_thread())
            shape = layers.Input((length, features))
            return Sequential([shape, layer(), layers.Dropout(0.2), layers.Dense(1)])

    # It trains its own network instead of the linear one.
    features = {"return_1": "log(close / lag(close, 1))"}
    recipe = Small(name="small", features=features, network=Linear())
    results = []
    for cores in (1, 2):
        monkeypatch.setenv("TF_NUM_INTEROP_THREADS", str(cores))
        threads.clear()
        made = evaluate(config(recipe=recipe), folds=2)
        results.append([{**vars(fold), "seconds": None} for fold in made])
        parallel = any(thread is not main_thread() for thread in threads)
        assert parallel is (together and cores == 2)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "target",
    [
        BinaryDirection(horizon=2),
        TripleBarrier(horizon=5, take_profit=0.02, stop_loss=0.02, class_weights="balanced"),
        SmoothedReturn(horizon=5),
        LogReturn(horizon=2),
    ],
)
def test_every_target(target: Target) -> None:
    """With the linear network, which is solved exactly."""
    features = {"return_1": "log(close / lag(close, 1))", "range": "log(high / low)"}
    recipe = Recipe(name="own", features=features, target=target, network=Linear())
    made = walk_forward(config(recipe=recipe), folds=3)
    again = evaluate(config(recipe=recipe), folds=3)
    assert [replace(each, seconds=0) for each in again] == [
        replace(each, seconds=0) for each in made.folds
    ]
    key, pooled = made.scoring.key, made.pooled
    json.dumps([pooled, *(fold.to_dict() for fold in made.folds)], allow_nan=False)
    assert (key == "log_loss") is isinstance(target, BinaryDirection | TripleBarrier)
    bars = [fold.test for fold in made.folds]
    assert pooled["test"] == sum(bars) == len(made.tested.actual)
    assert (pooled["first"], pooled["last"]) == (made.folds[0].first, made.folds[-1].last)
    for name in (key, f"linear_{key}", f"{made.scoring.unchanged}_{key}"):
        errors = [fold.figures[name] for fold in made.folds]
        if key == "rmse":
            expected = np.sqrt(np.average(np.square(errors), weights=bars))
        else:
            expected = np.average(errors, weights=bars)
        assert pooled[name] == pytest.approx(expected, rel=1e-12)
    assert pooled["ratio"] == pooled[key] / pooled[f"{made.scoring.unchanged}_{key}"]
    weighted = " in weighted log loss" if isinstance(target, TripleBarrier) else ""
    assert made.verdict.endswith(f"{made.reference}{weighted}")


@dataclass(frozen=True)
class Down(BinaryDirection):
    """Every label is the same class."""

    kind = "down"

    def labels(
        self, prepared: PreparedData, options: RecipeOptions, parts: Parts, lag: int = 0
    ) -> Labels:
        zeros = np.zeros(len(prepared.close))
        return Labels(zeros, zeros, np.full(len(zeros), np.nan), Classes((-1, 1)))


def linear(**options: Any) -> TrainingConfig:
    """Return options whose ratios are never exactly 1, as they are after shrinkage to nothing."""
    return config(network="linear", target="binary_direction", **options)


def test_a_holdout_follows_everything_that_is_trained_on() -> None:
    since, given = datetime(2024, 6, 1, tzinfo=UTC), linear(horizon=3)
    made = walk_forward(given, folds=1, embargo=7, holdout=since)
    (fold,) = made.folds
    assert fold.first == since.isoformat()
    # The last label depends on the last candle.
    assert fold.last == "2024-12-29T00:00:00+00:00"
    assert fold.test == (made.tested.times[-1] - made.tested.times[0]).days + 1
    prepared = prepare(load_market(given), given)
    starts = given.definition.starts(prepared, given)
    times = prepared.timestamps
    first = next(
        n for n, s in enumerate(starts) if times[int(s) + 9] == datetime(2024, 5, 31, tzinfo=UTC)
    )
    (parts,) = fold_parts(starts, 1, "expanding", beyond=10 - 1 + 3 + 7, tested=len(starts) - first)
    assert (fold.train, fold.validation, fold.test) == tuple(
        map(len, (parts.train, parts.validation, parts.test))
    )
    np.testing.assert_array_equal(parts.test, starts[first:])
    # A window of 10 bars with a label 3 bars later, then 7 bars without either.
    assert parts.test[0] - parts.validation[-1] == 10 + 3 + 7
    assert parts.validation[0] - parts.train[-1] == 10 + 3 + 7
    assert parts.train[0] == starts[0]


def test_a_search_and_its_holdout_share_no_bar() -> None:
    time, given = datetime(2024, 6, 1, tzinfo=UTC), linear()
    searched = walk_forward(given, folds=3, until=time)
    held = walk_forward(given, folds=1, holdout=time)
    # The label of the forecast that is listed at a bar is known at its close.
    assert searched.folds[-1].last == "2024-05-31T00:00:00+00:00"
    assert held.folds[0].first == "2024-06-01T00:00:00+00:00"
    cut = walk_forward(linear(end_date="2024-05-31"), folds=3)
    assert [replace(fold, seconds=0) for fold in searched.folds] == [
        replace(fold, seconds=0) for fold in cut.folds
    ]


def test_what_was_known_of_a_market() -> None:
    """Candles that have closed, the index of days that have begun, and rows that were published."""
    market = load_market(config(timeframe="1h", start_date="2024-12-01"))
    times = market.candles["timestamp"]
    values = pl.DataFrame({"timestamp": times, "funding": [1.0] * len(times)})
    market = replace(market, extras=(Extra("funding", values, 2 * 3_600_000),))
    known = known_at(market, datetime(2024, 12, 5, 6, tzinfo=UTC), 3_600_000)
    assert known.candles["timestamp"][-1] == datetime(2024, 12, 5, 5, tzinfo=UTC)
    assert known.sentiment is not None
    assert known.sentiment["timestamp"][-1] == datetime(2024, 12, 5, tzinfo=UTC)
    assert known.extras[0].values["timestamp"][-1] == datetime(2024, 12, 5, 3, tzinfo=UTC)
    with pytest.raises(DataError, match="no candle has closed by 2024-12-01 00:59; the first one"):
        known_at(market, datetime(2024, 12, 1, 0, 59, tzinfo=UTC), 3_600_000)


def test_holdouts_that_do_not_exist() -> None:
    with pytest.raises(ArgumentError, match="folds is 2, but a holdout is a single test period"):
        walk_forward(linear(), folds=2, holdout=datetime(2024, 6, 1, tzinfo=UTC))
    with pytest.raises(DataError, match="no forecast is made from 2025-01-01 00:00 on, so there"):
        walk_forward(linear(), folds=1, holdout=datetime(2025, 1, 1, tzinfo=UTC))
    with pytest.raises(DataError, match=r"expected at least 1,137 .* to test the holdout"):
        walk_forward(linear(), folds=1, holdout=datetime(2022, 2, 1, tzinfo=UTC))


@pytest.mark.parametrize("recipe", ["causal", "volatility"])
def test_losses_by_bar(recipe: str) -> None:
    made = walk_forward(config(recipe=recipe, network="linear"), folds=3)
    table = made.losses
    assert table["timestamp"].to_list() == made.tested.times.to_list()
    assert made.reference == ("HAR" if recipe == "volatility" else "persistence")
    reference = "har" if recipe == "volatility" else "persistence"
    for fold in made.folds:
        own = table.filter(pl.col("fold") == fold.number)
        assert own["timestamp"][0].isoformat() == fold.first
        assert own["timestamp"][-1].isoformat() == fold.last
        errors = [np.sqrt(np.mean(own[name].to_numpy())) for name in ("model", "reference")]
        assert errors == pytest.approx([fold.rmse, fold.figures[f"{reference}_rmse"]], rel=1e-12)
        assert fold.reference_ratio == pytest.approx(errors[0] / errors[1], rel=1e-12)
    assert made.ratios == [fold.reference_ratio for fold in made.folds]


def test_a_fold_in_which_nothing_can_be_forecast() -> None:
    recipe = Recipe(
        name="own", features={"range": "log(high / low)"}, target=Down(), network=Linear()
    )
    with pytest.raises(DataError, match="fold 1: the error of the class shares is 0, so there is"):
        evaluate(config(recipe=recipe), folds=1)


def test_the_basic_recipe_can_be_evaluated_too() -> None:
    given = TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        recipe="basic",
        timeframe="1h",
        start_date="2024-09-01",  # type: ignore[arg-type]
        epochs=1,
        engine="keras",
    )
    (fold,) = evaluate(given, folds=1, embargo=0)
    assert 0 < fold.ratio < 50
    assert 0 < fold.linear_ratio < 50
