"""Options that replace the target and the network of a recipe, and features of some timeframes."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atb_fast import Recipe, TrainingConfig, find_leaks, prepare
from atb_fast.config import RECIPES, TARGETS_OF_THE_BOT
from atb_fast.errors import ArgumentError
from atb_fast.features.specs import FeatureSpec
from atb_fast.ingestion.market import Market
from atb_fast.recipes import library, split
from atb_fast.recipes.description import describe
from atb_fast.recipes.documents import from_document, to_document
from atb_fast.recipes.networks import CnnLstm, Lstm
from atb_fast.recipes.targets import TARGETS, LogReturn

Config = Callable[..., TrainingConfig]


def config(**options: Any) -> TrainingConfig:
    return TrainingConfig(**{"symbol": "BTCUSDT", "source": "sample", **options})


TIMED = Recipe(
    name="timed",
    timeframe="1h",
    extra=("funding",),
    features={
        "move": "log(close / open)",
        "hourly": {"expression": "mean(close, 720) / close", "timeframes": ["1h", "30m"]},
        "funding": FeatureSpec(
            library.get("basic").specs["close_normalized"].expression, timeframes=("1h",)
        ),
        "paid": {"expression": "funding", "timeframes": ["1h"]},
        "daily": {"expression": "mean(close, 30) / close", "timeframes": ["1d"]},
    },
)


def test_without_options_the_recipe_is_untouched() -> None:
    made = config(recipe="causal")
    assert made.definition is library.get("causal")
    assert made.definition.original is None
    assert (made.target, made.network, made.network_filters) == (None, None, None)


def test_another_target_and_network() -> None:
    made = config(recipe="causal", target="binary_direction", horizon=3, network="lstm")
    assert made.definition.target.kind == "binary_direction"
    assert made.definition.network == Lstm()
    assert made.definition.original is library.get("causal")
    assert made.horizon == 3
    assert made.definition.traits == library.get("causal").traits
    document = to_document(made.definition)
    assert document["target"] == {
        "kind": "binary_direction",
        "horizon": 3,
        "class_weights": "none",
    }
    assert document["features"] == to_document(library.get("causal"))["features"]
    assert config(recipe="causal", horizon=4).definition.target == LogReturn(4)
    assert pickle.loads(pickle.dumps(made)) == made
    # The recipe of the package is shared, so it must not change.
    assert library.get("causal").target == LogReturn(1)


def test_sizes_of_a_network() -> None:
    made = config(network="tcn", network_filters=8, network_dropout=0)
    values = {"filters": 8, "kernel": 3, "blocks": 5, "dropout": 0.0}
    assert (made.definition.network.kind, made.definition.network.values) == ("tcn", values)
    assert replace(made, network_filters=16).definition.network.values["filters"] == 16
    assert replace(made, network_filters=None).definition.network.values["filters"] == 32
    own = replace(made, network=None, network_filters=None, network_dropout=None)
    assert own.definition is library.get("legacy")
    # Without --network, sizes are those of the recipe's own network.
    assert config(network_dropout=0.5).definition.network == CnnLstm(dropout=0.5)
    recipe = Recipe(name="x", features={"x": "close"}, network=CnnLstm(filters=8, units=6))
    assert config(recipe=recipe, network_units=4).definition.network == CnnLstm(filters=8, units=4)
    assert config(recipe=recipe, network="cnn_lstm").definition is recipe
    assert config(recipe=recipe, network="lstm").definition.network == Lstm()


def test_another_target_has_its_own_horizon() -> None:
    made = config(recipe="engine", target="triple_barrier")
    assert replace(made, target="binary_direction").horizon == 1
    assert replace(made, target="smoothed_return").definition.target.horizon == 24
    assert replace(made, target=None).horizon == 1
    assert replace(config(recipe="causal", target="close"), target="triple_barrier").horizon == 336
    # A repeated run has a recipe whose target is that of the options.
    recipe = from_document(to_document(made.definition))
    again = TrainingConfig(**made.to_dict() | {"definition": recipe})
    assert replace(again, target="binary_direction").horizon == 1
    # What a user or a recipe file asked for is not a default of another target.
    given = config(recipe="engine", target="triple_barrier", horizon=10)
    recipe = from_document(to_document(given.definition))
    again = TrainingConfig(**given.to_dict() | {"definition": recipe})
    for each in (given, again):
        assert replace(each, target="binary_direction").horizon == 10
    own = replace(TIMED, target=LogReturn(4))
    assert replace(config(recipe=own), target="binary_direction").horizon == 1
    assert replace(config(recipe=own, horizon=3), target="binary_direction").horizon == 3
    assert replace(config(recipe=own), epochs=3).horizon == 4


def test_keys_of_a_target() -> None:
    options = {"recipe": "engine", "target": "triple_barrier", "target_take_profit": 0.03}
    made = config(**options)
    assert to_document(made.definition)["target"] == {
        "kind": "triple_barrier",
        "horizon": 336,
        "class_weights": "none",
        "take_profit": 0.03,
        "stop_loss": 0.05,
    }
    assert made.horizon == 336
    assert config(**options, target_class_weights="balanced").definition.target.values[
        "class_weights"
    ] == ("balanced")
    assert config(recipe="volatility", target_quantiles="none").target_quantiles == ()
    made = config(recipe="volatility", target_quantiles="0.1, 0.9", network="lstm")
    assert made.target_quantiles == (0.1, 0.9)
    assert to_document(made.definition)["target"]["quantiles"] == [0.1, 0.9]
    assert json.loads(json.dumps(made.to_dict()))["target_quantiles"] == [0.1, 0.9]


@pytest.mark.parametrize(
    ("options", "message", "named"),
    [
        (
            {"network_layers": 3},
            "--network-layers does not apply to the network cnn_lstm, which has --network-filters, "
            "--network-units, --network-dropout; remove it, or pass --network mlp",
            {"network_layers", "network"},
        ),
        (
            {"target_stop_loss": 0.1},
            "--target-stop-loss does not apply to the target close, which has no options; remove "
            "it, or pass --target triple_barrier",
            {"target_stop_loss", "target"},
        ),
        (
            {"recipe": "causal", "target": "close", "horizon": 2},
            "--horizon 2 does not apply to the target close; remove it, or use another --target",
            {"horizon", "target"},
        ),
        (
            {"horizon": 2},
            "--horizon 2 does not apply to the legacy recipe; remove it, or use --recipe causal",
            {"horizon", "recipe"},
        ),
        ({"network": "gru"}, "--network is 'gru', expected one of linear, dlinear", {"network"}),
        ({"target": 3}, "--target is 3, expected one of close, window_close", {"target"}),
        (
            {"target": "meta_label"},
            "--target is 'meta_label', expected one of close, window_close",
            {"target"},
        ),
        (
            {"recipe": "basic", "target": "log_return"},
            "--target log_return does not apply to the basic recipe, because the trading bot loads "
            "its bundles; use --target window_close, or another recipe, such as --recipe causal",
            {"target", "recipe"},
        ),
        (
            {"recipe": "engine", "target": "volatility"},
            "--target volatility does not apply to the engine recipe, because the trading bot "
            "loads its bundles; use --target binary_direction or smoothed_return or triple_barrier",
            {"target", "recipe"},
        ),
        (
            {"recipe": "causal", "target": "window_close"},
            "target: window_close needs the scaler 'window', but the features have another one",
            {"target"},
        ),
        (
            {"recipe": "causal", "target": "volatility"},
            "features: found return_1, open_to_close",
            {"target"},
        ),
        (
            {"target": "binary_direction"},
            "--target binary_direction does not apply to the legacy recipe, because the trading "
            "bot loads its bundles; use --target close, or another recipe, such as --recipe causal",
            {"target", "recipe"},
        ),
        (
            {"network": "linear", "network_bars": 121},
            "--network-bars is 121, but a window has --sequence-length 120 bars",
            {"network_bars", "sequence_length"},
        ),
        (
            {"network": "linear", "network_l2": 0.1, "engine": "keras"},
            "--network-l2 has no effect with --engine keras, which stops early instead; remove it",
            {"network_l2", "engine"},
        ),
        (
            {"engine": "exact"},
            "--engine exact does not fit the network cnn_lstm; use --network linear, or another",
            {"engine", "network"},
        ),
        (
            {"recipe": "engine", "sequence_length": 60},
            "--sequence-length 60 does not apply to the engine recipe",
            {"sequence_length", "recipe"},
        ),
        (
            {"recipe": "volatility", "target_quantiles": [0.9, 0.1]},
            "^--target-quantiles: found .0.9, 0.1., expected ascending",
            {"target_quantiles"},
        ),
        (
            {"recipe": "volatility", "target_quantiles": "0.1;0.9"},
            "--target-quantiles is '0.1;0.9', expected numbers such as 0.05,0.95, or none",
            {"target_quantiles"},
        ),
        (
            {"recipe": "volatility", "target_quantiles": ""},
            "--target-quantiles is '', expected numbers such as 0.05,0.95, or none",
            {"target_quantiles"},
        ),
        (
            {"recipe": "volatility", "target_quantiles": "0.1,"},
            "--target-quantiles is '0.1,', expected numbers",
            {"target_quantiles"},
        ),
        (
            {"recipe": "causal", "target_take_profit": 0.1},
            "horizon; remove it, or pass --target triple_barrier$",
            {"target_take_profit", "target"},
        ),
        (
            {"recipe": "causal", "target_cost": 0.1},
            "horizon; remove it, or use --recipe meta_label$",
            {"target_cost", "target"},
        ),
        (
            {"recipe": "meta_label", "target": "close"},
            "remove it, or use another recipe, such as --recipe causal",
            {"target", "recipe"},
        ),
        (
            {"recipe": "volatility", "timeframe": "4h"},
            "--timeframe is 4h, expected one of 1h, 1d, because the volatility recipe has features "
            "for no others; use one of these, or a recipe file with features for 4h",
            {"timeframe", "recipe"},
        ),
    ],
)
def test_options_that_do_not_apply(options: dict[str, Any], message: str, named: set[str]) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        config(**options)
    assert set(caught.value.options) == named
    assert "\n" not in str(caught.value)


def test_the_bot_only_gets_targets_that_exist() -> None:
    assert set(TARGETS_OF_THE_BOT) < set(RECIPES)
    for name, kinds in TARGETS_OF_THE_BOT.items():
        assert library.get(name).target.kind in kinds
        assert set(kinds) <= set(TARGETS)


def test_a_recorded_run_is_the_same_recipe() -> None:
    for options in (
        {"network": "tcn", "network_filters": 8, "network_dropout": 0},
        {"recipe": "engine", "target": "smoothed_return", "horizon": 12, "network": "linear"},
        {"recipe": "causal", "network_units": 6, "horizon": 2},
    ):
        made = config(**options)
        recorded = json.loads(json.dumps(made.to_dict()))
        recipe = from_document(json.loads(json.dumps(to_document(made.definition))))
        again = TrainingConfig(**recorded, definition=recipe)
        assert again == made


def test_features_of_some_timeframes() -> None:
    hourly, daily = config(recipe=TIMED), config(recipe=TIMED, timeframe="1d")
    assert list(hourly.definition.specs) == ["move", "hourly", "funding", "paid"]  # type: ignore[attr-defined]
    assert list(daily.definition.specs) == ["move", "daily"]  # type: ignore[attr-defined]
    # Otherwise, the document of the daily recipe would be invalid: no feature reads the column.
    assert daily.definition.extra == ()  # type: ignore[attr-defined]
    assert from_document(to_document(daily.definition)) == daily.definition
    again = replace(daily, timeframe="30m")
    assert list(again.definition.specs) == ["move", "hourly"]  # type: ignore[attr-defined]
    assert again.definition.original is TIMED
    message = (
        "--timeframe is 1w, expected one of 30m, 1h, 1d, because the timed recipe has features"
    )
    with pytest.raises(ArgumentError, match=message):
        config(recipe=TIMED, timeframe="1w")


def test_a_recipe_is_shown_with_the_features_of_every_timeframe() -> None:
    shown = describe(TIMED)
    assert [each["name"] for each in shown["features"]] == list(TIMED.specs)
    assert shown["features"][1]["timeframes"] == ["1h", "30m"]
    assert (shown["timeframe"], shown["lookback"]) == ("1h", 719)
    daily = config(recipe=TIMED, timeframe="1d")
    assert describe(daily.definition, daily)["lookback"] == 29
    engine = describe(library.get("engine"))
    assert (engine["lag"], engine["purge"]) == (1, 119 + 2)


OWN = """
from dataclasses import dataclass
from atb_fast import BaseRecipe, Recipe
from atb_fast.recipes.networks import Lstm
from atb_fast.recipes.targets import LogReturn

class Declared(Recipe):
    def __init__(self):
        super().__init__(name="declared", features={"x": "log(close / open)"})

class Networked(Declared):
    def build(self, length, features, **_):
        raise NotImplementedError

class Own(BaseRecipe):
    name = "own"
    target = LogReturn()

    def __init__(self):
        self.market = None

    def prepare(self, market, options, context):
        return Declared().prepare(market, options, context)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "applied_recipes.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "applied_recipes", raising=False)
    return "applied_recipes"


@pytest.mark.parametrize("name", ["Declared", "Own"])
def test_recipes_in_python(name: str, module: str, market: Market) -> None:
    found = f"{module}:{name}"
    plain = config(recipe=found)
    made = config(recipe=found, network="lstm", network_units=8, horizon=3, sequence_length=20)
    assert made.definition.network == Lstm(units=8)
    assert made.definition.target == LogReturn(3)
    assert type(made.definition) is type(plain.definition)
    assert plain.definition.network == CnnLstm()
    assert to_document(made.definition) == {"python": found}
    # A repeated run finds the class again, and the recorded options apply to it.
    recorded = made.to_dict() | {"definition": library.find(found)}
    again = TrainingConfig(**recorded)
    assert again.definition.network == Lstm(units=8)
    assert again.to_dict() == made.to_dict()
    data = split(prepare(market, made), made)
    assert data.horizon == 3
    found_leaks = find_leaks(market, made, cuts=2).leaks
    # The default split of a class of one's own is that of the old trainer.
    assert {leak.what for leak in found_leaks} == ({"split"} if name == "Own" else set())


def test_a_class_with_its_own_network_refuses_options_of_networks(module: str) -> None:
    found = f"{module}:Networked"
    made = config(recipe=found)
    assert describe(made.definition, made)["network"] == {"kind": "own"}
    assert to_document(made.definition) == {"python": found, "network": {"kind": "own"}}
    assert config(recipe=found, horizon=3).definition.target == LogReturn(3)
    for name, value in {"network": "mlp", "network_units": 8}.items():
        flag = f"--{name.replace('_', '-')}"
        with pytest.raises(
            ArgumentError, match=f"{flag} does not apply to the declared recipe, whose class builds"
        ) as caught:
            config(recipe=found, **{name: value})
        assert caught.value.options == (name, "recipe")
    with pytest.raises(ArgumentError, match="--engine exact does not fit the network own"):
        config(recipe=found, engine="exact")


def test_engine_recipe_for_strategies(market: Market) -> None:
    made = config(recipe="engine", timeframe="1d")
    basic = config(recipe="basic")
    prepared = prepare(market, made)
    assert prepared.model_type == "price"
    assert prepared.matrix.names == prepare(market, basic).matrix.names
    data = split(prepared, made)
    close = market.candles["close"].to_numpy()
    # The window ends before the bar whose close the strategy acts at.
    anchors = data.test + data.length
    assert data.targets(data.test).tolist() == (close[anchors + 1] > close[anchors]).tolist()
