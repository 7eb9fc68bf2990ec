"""Recipe files: what they become, and what is wrong with malformed ones."""

from __future__ import annotations

import json
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atb_fast import Recipe, TrainingConfig
from atb_fast.config import RECIPES
from atb_fast.errors import ArgumentError, DataError
from atb_fast.features.functions import col, mean
from atb_fast.features.specs import SCALERS, FeatureSpec
from atb_fast.ingestion.market import Market
from atb_fast.recipes import library, prepare, split
from atb_fast.recipes.documents import from_document, read_file, schema, to_document, to_toml
from atb_fast.recipes.networks import NETWORKS, Lstm
from atb_fast.recipes.targets import TARGETS, LogReturn

MOMENTUM = """\
name = "momentum"
timeframe = "1h"
extra = ["funding"]

[features]
return_1 = "log(close / lag(close, 1))"
trend = "close / mean(close, 24) - 1"
funding = { expression = "funding", scaler = "robust" }
fear = "fear_greed / 100"

[target]
kind = "log_return"
horizon = 4
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_file_is_the_recipe_that_python_builds(write: Any) -> None:
    close = col("close")
    made = Recipe(
        name="momentum",
        timeframe="1h",
        extra=("funding",),
        features={
            "return_1": "log(close / lag(close, 1))",
            "trend": close / mean(close, 24) - 1,
            "funding": FeatureSpec(col("funding"), "robust"),
            "fear": {"expression": "fear_greed / 100"},
        },
        target=LogReturn(4),
    )
    assert read_file(write(MOMENTUM)) == made
    assert made.traits >= {"index", "lag", "horizon", "purge", "extra", "length"}
    assert "candle graph" not in made.traits


@pytest.mark.parametrize("name", RECIPES)
def test_documents_give_the_recipe_again(name: str, write: Any) -> None:
    recipe = library.get(name)
    document = json.loads(json.dumps(to_document(recipe)))
    assert from_document(document) == recipe
    text = to_toml(document)
    assert read_file(write(text)) == recipe
    assert to_toml(to_document(read_file(write(text)))) == text


def test_the_schema_describes_what_is_accepted() -> None:
    made = schema()
    assert set(made["properties"]) == set(Recipe.__dataclass_fields__)
    for name in RECIPES:
        document = to_document(library.get(name))
        assert set(document) <= set(made["properties"])
        assert set(made["required"]) <= set(document)
    for key, known in (("target", TARGETS), ("network", NETWORKS)):
        kinds = {each["properties"]["kind"]["const"] for each in made["properties"][key]["oneOf"]}
        assert kinds == set(known)
    assert made["properties"]["scaler"]["enum"] == list(SCALERS)
    extra = made["properties"]["extra"]["items"]["pattern"]  # JSON Schema finds it anywhere
    assert re.search(extra, "funding_rate")
    assert not re.search(extra, "funding rate")


def changed(old: str, new: str) -> str:
    assert old in MOMENTUM
    return MOMENTUM.replace(old, new)


TREND = 'trend = "close / mean(close, 24) - 1"'
MALFORMED = [
    ("", "name is missing; expected at least name, features and target"),
    ("name = ", "is not valid TOML: Invalid value"),
    (b"\xff", "is not valid TOML: .*utf-8"),
    ("x = " + "[" * 100_000, "is not valid TOML: "),
    ("#" * 1_100_000, "has 1,100,000 bytes, expected at most 1,048,576"),
    (changed("name =", "nmae ="), "recipe: unknown key 'nmae'; did you mean name?"),
    (changed('"momentum"', '"Momentum"'), "name: found 'Momentum', expected at most 64 lowercase"),
    (changed('"momentum"', '"../up"'), "name: found '../up', expected"),
    (changed('"momentum"', '"momentum\\n"'), r"name: found 'momentum\\n', expected"),
    (changed('"momentum"', "7"), "name: found 7, expected"),
    (changed('"1h"', '"1y"'), "timeframe: found '1y'; expected one of 1m"),
    (changed('"1h"', "1"), "timeframe: found 1, expected one of 1m"),
    ("sequence_length = 9\n" + MOMENTUM, "sequence_length: found 9, expected an integer of at lea"),
    ("sequence_length = true\n" + MOMENTUM, "sequence_length: found True, expected an integer"),
    ("sentiment_lag_days = -1\n" + MOMENTUM, "sentiment_lag_days: found -1, expected an integer"),
    ('scaler = "standart"\n' + MOMENTUM, "scaler: found 'standart'; did you mean standard?"),
    (
        'scaler = "window"\n' + MOMENTUM,
        "features.return_1: found 'log.*', expected a column of",
    ),
    ('split = "half"\n' + MOMENTUM, "split: found 'half'; expected one of purged, shared_test"),
    ('fit_scalers_on = "al"\n' + MOMENTUM, "fit_scalers_on: found 'al'; did you mean all?"),
    ('sentiment_join = "asof"\n' + MOMENTUM, "sentiment_join: found 'asof'; did you mean as_of?"),
    ("description = 3\n" + MOMENTUM, "description: found 3, expected a text"),
    (
        changed('["funding"]', '"funding"'),
        "extra: found 'funding', expected a list of column",
    ),
    (changed('["funding"]', '["close"]'), "extra: found 'close', which is reserved in recipes"),
    (changed('["funding"]', '["funding", "funding"]'), "extra: funding is given twice"),
    (
        changed('["funding"]', '["funding", "eth"]'),
        "extra: no feature reads eth; remove it, or",
    ),
    (changed('["funding"]', '["a b"]'), "extra: found 'a b', expected at most 64 letters"),
    (changed("[features]", "[featurs]"), "unknown key 'featurs'; did you mean features?"),
    (
        'name = "x"\nfeatures = 3\ntarget = 4\n',
        "target: found 4, expected a table .target. with the key kind",
    ),
    (changed(TREND, "trend = 3"), "features.trend: found 3, expected an expression"),
    (changed(TREND, "trend = {}"), "features.trend.expression: found None, expected the exp"),
    (changed(TREND, f"{TREND}\n{TREND}"), "is not valid TOML: Cannot overwrite a value"),
    (changed("trend =", '"a b" ='), "features.a b: expected a name of at most 64 letters"),
    (changed("24", "24, 3"), r"features.trend: .* expected 2 arguments, got 3: mean\(x, n\)"),
    (changed("24", "0"), "features.trend: .*whole number of bars from 1 to 1,048,576, got 0"),
    (changed("mean(close", "maen(close"), "features.trend: .*did you mean `mean`?"),
    (changed("mean(close", "mean(clsoe"), "features.trend: .*did you mean `close`?"),
    (changed(" - 1", " -"), "features.trend: "),
    (changed(" - 1", " - (1"), "features.trend: .*never closed"),
    (changed("mean(close, 24)", "lead(close, 24)"), "features.trend: .*looks into the future"),
    (changed("mean(close, 24)", "lag(close, -1)"), "features.trend: .*negative"),
    (changed("mean(close, 24)", "open.__class__"), "features.trend: "),
    (changed("mean(close, 24)", "(" * 10_000), "features.trend: .*more than 150 nested"),
    (changed("mean(close, 24)", "funding_rate"), "no such column; did you mean `funding`"),
    (changed('"funding", scaler', '"fundin", scaler'), "features.funding.expression: .*`fundin`"),
    (changed('"robust"', '"rbust"'), "features.funding.scaler: found 'rbust'; did you mean robust"),
    (changed('"robust"', "3"), "features.funding.scaler: found 3, expected one of none, minmax"),
    (changed("scaler =", "scalar ="), "features.funding: unknown key 'scalar'; did you mea"),
    (changed('"robust"', '"robust", null_as = "0"'), "features.funding.null_as: found '0', expec"),
    (changed('"robust"', '"robust", null_as = inf'), "features.funding.null_as: found inf, expec"),
    (
        changed('"log_return"', '"log_returns"'),
        "target.kind: found 'log_returns'; did you mean log",
    ),
    (changed('kind = "log_return"', ""), "target.kind is missing; expected one of close"),
    (
        changed("horizon = 4", "horizon = 0"),
        "log_return.horizon: found 0, expected an integer from 1 to 1,048,576",
    ),
    (changed("horizon = 4", "horizon = 1.5"), "log_return.horizon: found 1.5, expected an integer"),
    (changed("horizon = 4", "horizont = 4"), "target log_return: unknown key 'horizont'"),
    (
        changed('"log_return"\nhorizon = 4', '"window_close"'),
        "target: window_close needs the scaler 'window', but the features have another one",
    ),
    (
        'name = "x"\nscaler = "window"\n[features]\nx = "close"\n[target]\nkind = "close"\n',
        "target: close is a price, which windows scaled by their own values do not determine",
    ),
    ("lag = 2\n" + MOMENTUM, "lag: found 2, expected 0 or 1"),
    ("lag = true\n" + MOMENTUM, "lag: found True, expected 0 or 1"),
    (
        MOMENTUM.replace("log_return", "meta_label"),
        "the target meta_label needs the signals of the basic model",
    ),
    ("lag = 1\n" + MOMENTUM, "lag: found 1 with the target log_return, expected 0, because a pri"),
    (
        changed('"robust"', '"robust", timeframes = "1h"'),
        "features.funding.timeframes: found '1h', expected a list of timeframes",
    ),
    (
        changed('"robust"', '"robust", timeframes = ["1y"]'),
        "features.funding.timeframes: found '1y'; expected one of 1m",
    ),
    (
        changed('"robust"', '"robust", timeframes = [1]'),
        "features.funding.timeframes: found 1, expected one of 1m",
    ),
    (
        changed('"robust"', '"robust", timeframes = ["1h", "1h"]'),
        "features.funding.timeframes: 1h is given twice; remove one",
    ),
    (changed('"log_return"\nhorizon = 4', '"close"\nhorizon = 4'), "target close: unknown key"),
    (changed("[target]", "[other]"), "unknown key 'other'"),
    (MOMENTUM + '[network]\nkind = "gpt"\n', "network.kind: found 'gpt'; expected one of"),
    (MOMENTUM + "[network]\n", "network.kind is missing"),
    (
        MOMENTUM + '[network]\nkind = "lstm"\nunit = 3\n',
        "network lstm: unknown key 'unit'",
    ),
    ("network = 3\n" + MOMENTUM, "network: found 3, expected a table"),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED)
def test_malformed_files(text: str | bytes, message: str, write: Any) -> None:
    path = write(text)
    with pytest.raises(ArgumentError, match=message) as caught:
        read_file(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1500


def test_a_missing_file() -> None:
    with pytest.raises(
        ArgumentError, match=r"recipe x\.toml cannot be read: No such file"
    ) as caught:
        TrainingConfig(symbol="BTCUSDT", source="sample", recipe="x.toml")
    assert caught.value.options == ("recipe",)


def test_names_of_the_package_are_taken(write: Any) -> None:
    for name in ("causal", "basic", "price", "volatility", "latest"):
        path = write(changed('"momentum"', f'"{name}"'))
        message = f"{path}: name: {name} is reserved by atb-fast"
        with pytest.raises(ArgumentError, match=re.escape(message)):
            library.find(str(path))


def test_the_ending_of_a_file_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "X.TOML"
    path.write_text(MOMENTUM)
    assert library.find(str(path)) == read_file(path)


def test_a_file_has_defaults_that_options_override(write: Any) -> None:
    path = str(write("sequence_length = 30\nsentiment_lag_days = 2\n" + MOMENTUM))
    given: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "recipe": path}
    made = TrainingConfig(**given)
    assert (made.recipe, made.timeframe, made.horizon) == ("momentum", "1h", 4)
    assert (made.sequence_length, made.sentiment_lag_days) == (30, 2)
    own = TrainingConfig(**given, timeframe="1d", horizon=1, sequence_length=12)
    assert (own.timeframe, own.horizon, own.sequence_length) == ("1d", 1, 12)
    # The file is not read again.
    Path(path).unlink()
    assert replace(made, epochs=3).definition == made.definition
    assert made.to_dict()["recipe"] == "momentum"
    with pytest.raises(ArgumentError, match="--onnx-input ohlcv does not apply to the momentum"):
        replace(made, onnx_input="ohlcv")
    with pytest.raises(ArgumentError, match="values per window, expected at most 131,072"):
        replace(made, sequence_length=60_000)


def test_an_object_is_a_recipe_too() -> None:
    own = Recipe(name="own", features={"x": "log(close / open)"}, sequence_length=30)
    made = TrainingConfig(symbol="BTCUSDT", source="sample", recipe=own)
    assert (made.recipe, made.definition, made.sequence_length) == ("own", own, 30)
    assert replace(made, recipe="causal").definition == library.get("causal")
    assert pickle.loads(pickle.dumps(made)) == made  # for a process that trains it
    assert hash(made) == hash(replace(made))
    with pytest.raises(ArgumentError, match="name: causal is reserved"):
        TrainingConfig(symbol="BTCUSDT", source="sample", recipe=library.get("causal"))
    with pytest.raises(ArgumentError, match=r"--recipe: no recipe is named '7'"):
        TrainingConfig(symbol="BTCUSDT", source="sample", recipe=7)


def test_recipes_without_sentiment_need_no_index(write: Any) -> None:
    path = str(write(changed('fear = "fear_greed / 100"\n', "")))
    made = TrainingConfig(symbol="BTCUSDT", candles="x.csv", recipe=path)  # type: ignore[arg-type]
    assert made.force_price_only
    with pytest.raises(
        ArgumentError, match="--sentiment-lag-days 3 does not apply to the momentum"
    ):
        replace(made, sentiment_lag_days=3)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_recipes.py").write_text(
        "from atb_fast import Recipe\n"
        'MADE = Recipe(name="made", features={"x": "log(close / open)"})\n'
        "class Own(Recipe):\n"
        "    def __init__(self):\n"
        '        super().__init__(name="own", features={"x": "log(close / open)"})\n'
        "class Needy(Recipe):\n"
        "    pass\n"
        "NUMBER = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_recipes", raising=False)
    return "own_recipes"


def test_recipes_in_python(module: str) -> None:
    assert library.find(f"{module}:MADE").name == "made"
    own = library.find(f"{module}:Own")
    assert own.name == "own"
    assert to_document(own) == {"python": "own_recipes:Own"}
    for given, message in (
        (f"{module}:Needy", "cannot be created: .*constructor needs no arguments"),
        (f"{module}:NUMBER", "found 3, expected an instance or a subclass"),
        (f"{module}:Missing", "cannot be imported .AttributeError"),
        ("no_such_module:X", "cannot be imported .ModuleNotFoundError"),
        ("casual", "--recipe: no recipe is named 'casual'; did you mean causal\\? Expected one of"),
    ):
        with pytest.raises(ArgumentError, match=message) as caught:
            library.find(given)
        assert caught.value.options == ("recipe",)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "features: found {}, expected at least one feature"),
        ({"x": col("clsoe")}, "features.x: found 'clsoe'; did you mean close"),
        ({"x": 3}, "features.x: found 3, expected an expression"),
        ({3: "close"}, "features.3: expected a name"),
        ({f"x{i}": "close" for i in range(1001)}, "features: found 1001, expected at most 1000"),
    ],
)
def test_features_in_python(features: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Recipe(name="x", features=features)


def test_a_look_ahead_in_python() -> None:
    from atb_fast.features.functions import lead

    with pytest.raises(ArgumentError, match=r"features\.x: `lead` looks into the future"):
        Recipe(name="x", features={"x": lead(col("close"), 1)}, network=Lstm())


@pytest.mark.parametrize("price_only", [False, True])
def test_every_recipe_of_a_user_has_its_own_type(market: Market, price_only: bool) -> None:
    legacy = to_document(library.get("legacy"))
    for changes in ({}, {"scaler": "robust"}, {"split": "purged", "fit_scalers_on": "training"}):
        recipe = from_document(legacy | {"name": "old-style"} | changes)
        given: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "recipe": recipe}
        config = TrainingConfig(
            **given, force_price_only=price_only, force_sentiment=not price_only
        )
        data = split(prepare(market, config), config)
        assert data.prepared.model_type == "old-style"
        assert data.prepared.matrix.shape[1] == (9 if price_only else 10)
        assert np.isfinite(data.windows(data.test)).all()


def test_scalers(market: Market) -> None:
    """Compared with NumPy, on the rows of the training windows."""
    features = {name: {"expression": "close / open", "scaler": name} for name in SCALERS[:-1]}
    recipe = Recipe(name="scaled", features=features)
    config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe=recipe, sequence_length=20)
    data = split(prepare(market, config), config)
    values = (market.candles["close"] / market.candles["open"]).to_numpy()
    seen = values[data.train[0] : data.train[-1] + 20]
    first, middle, third = np.quantile(seen, [0.25, 0.5, 0.75])
    expected = {
        "none": values,
        "minmax": (values - seen.min()) / np.ptp(seen),
        "standard": (values - seen.mean()) / seen.std(),
        "robust": (values - middle) / (third - first),
    }
    for name, column in zip(data.prepared.matrix.names, data.prepared.matrix.values.T, strict=True):
        np.testing.assert_allclose(column, expected[name], rtol=1e-5, atol=1e-5)


def test_a_feature_that_cannot_be_scaled(market: Market) -> None:
    for expression, message in (
        (
            "exp(close / 1000) ** 40",
            "values of feature x are too large to scale|no candle has a value for every",
        ),
        ("log(-close)", "no candle has a value for every feature: .*: undefined: x in 2,557"),
    ):
        recipe = Recipe(name="odd", features={"x": expression})
        config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe=recipe)
        with pytest.raises(DataError, match=message) as caught:
            split(prepare(market, config), config)
        assert "--force-price-only" not in str(caught.value)  # no feature reads the index
