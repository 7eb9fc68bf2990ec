"""A recipe file: trained, checked for look-ahead bias, scored from its bundle, and repeated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from commands import CommandLine

from atb_fast import TrainingConfig, load_bundle, load_market
from atb_fast.config import RECIPES
from atb_fast.errors import ArgumentError, LeakError
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.serving.predictor import Bundle

LENGTH, HORIZON = 20, 2
RECIPE = f"""\
name = "families"
timeframe = "1d"
sequence_length = {LENGTH}

[features]
return_1 = "log(close / lag(close, 1))"
trend = "close / mean(close, 24) - 1"
rsi_9 = "rsi(close, 9, wilder) / 100"
range = {{ expression = "true_range(high, low, close) / close", scaler = "robust" }}
strength = "rank(close, 20)"
fit = "slope(log(close), 10)"
flow = {{ expression = "fill(corr(close, volume, 20), 0)", scaler = "none" }}
up_days = {{ expression = "count(close > lag(close, 1), 10) / 10", scaler = "minmax" }}
season = {{ expression = "weekday(1, sin)", scaler = "none" }}
fear = "ema(fear_greed, 3) / 100"

[target]
kind = "log_return"
horizon = {HORIZON}

[network]
kind = "lstm"
"""
OPTIONS = ["--source", "sample", "--start-date", "2021-06-01", "--recipe", "families.toml"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("recipes")
    (home / "families.toml").write_text(RECIPE)
    return home


@pytest.fixture(scope="module")
def result(home: Path, command_line: CommandLine) -> Any:
    options = ["--epochs", "1", "--engine", "keras", "--registry", "models", "--promote", "always"]
    done = command_line.run("train", "model", "BTCUSDT", *OPTIONS, *options, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def bundle(home: Path, result: Any) -> Path:
    return home / str(result["paths"]["bundle"])


@pytest.fixture(scope="module")
def config(home: Path) -> TrainingConfig:
    path = str(home / "families.toml")
    return TrainingConfig(symbol="BTCUSDT", source="sample", recipe=path, start_date="2021-06-01")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def market(config: TrainingConfig) -> Market:
    return load_market(config)


def test_the_name_of_the_recipe_is_the_type_of_the_model(result: Any, bundle: Path) -> None:
    assert (result["model_type"], result["recipe"], result["horizon"]) == ("families",) * 2 + (2,)
    assert bundle.parts[-3:-1] == ("BTCUSDT", "families")
    document = json.loads((bundle / "metadata.json").read_text())
    assert document["verification"]["feature_skew"] == 0.0
    assert document["config"]["recipe"] == "families"
    assert document["requirements"] == {"columns": {}}
    schema = json.loads((bundle / "feature_schema.json").read_text())
    assert schema["sentiment"] == {"method": "as_of", "lag_days": 1}
    expressions = {each["name"]: each["expression"] for each in schema["features"]}
    assert expressions["trend"] == "close / mean(close, 24) - 1"
    assert [each["scaler"]["method"] for each in schema["features"]][2:5] == [
        *("standard", "robust", "standard"),
    ]


def test_the_leak_check_passes(home: Path, command_line: CommandLine) -> None:
    done = command_line.run("check", "leak", "BTCUSDT", *OPTIONS, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "no look-ahead bias" in done.stdout
    same_day = ["--sentiment-lag-days", "0"]
    done = command_line.run("check", "leak", "BTCUSDT", *OPTIONS, *same_day, cwd=home)
    assert done.returncode == LeakError.exit_code
    assert "look-ahead bias in fear" in done.stderr


def test_a_walk_forward_evaluation(home: Path, command_line: CommandLine) -> None:
    options = ["--folds", "1", "--epochs", "1", "--engine", "keras", "--json"]
    done = command_line.run("evaluate", "BTCUSDT", *OPTIONS, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["config"]["recipe"], document["config"]["horizon"]) == ("families", HORIZON)
    assert len(document["folds"]) == 1


def test_predictions_equal_the_training_path(
    bundle: Path, config: TrainingConfig, market: Market
) -> None:
    data = split(prepare(market, config), config)
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    feed = {session.get_inputs()[0].name: data.windows(data.test)}
    outputs = session.run(None, feed)[0].reshape(-1).astype(np.float64)
    expected = data.forecasts(data.test, outputs)
    loaded = load_bundle(bundle)
    predictions = loaded.predict(market.candles, market.sentiment)
    times = data.times(data.test)
    scored = predictions.filter(pl.col("timestamp").is_in(times.implode()))["prediction"].to_numpy()
    np.testing.assert_allclose(scored, expected, rtol=1e-6)
    before = market.candles.head(len(market.candles) - HORIZON)
    last = loaded.predict_last(before, market.sentiment)
    assert last == pytest.approx(expected[-1], rel=1e-9)


def test_only_the_lookback_is_read(bundle: Path, market: Market) -> None:
    loaded = load_bundle(bundle)
    last = loaded.predict_last(market.candles, market.sentiment)
    needed = loaded.lookback + LENGTH
    close = market.candles["close"].to_numpy().copy()
    close[:-needed] = -1.0
    spoilt = market.candles.with_columns(close=pl.Series(close))
    assert loaded.predict_last(spoilt, market.sentiment) == last
    assert loaded.predict_last(market.candles.tail(needed), market.sentiment) == last


def test_scoring_needs_neither_tensorflow_nor_the_recipe_file(
    home: Path, bundle: Path, market: Market, tmp_path: Path
) -> None:
    market.candles.write_parquet(tmp_path / "candles.parquet")
    code = (
        "import sys, polars as pl, atb_fast\n"
        f"bundle = atb_fast.load_bundle({str(bundle)!r})\n"
        "last = bundle.predict_last(pl.read_parquet('candles.parquet'), 'neutral')\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'tensorflow', 'keras', 'onnx'}, loaded\n"
        "assert 'atb_fast.recipes' not in sys.modules\n"
        "print(last)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = load_bundle(bundle).predict_last(market.candles, "neutral")
    assert float(done.stdout) == pytest.approx(expected, rel=1e-9)


def test_the_bundle_alone_repeats_the_run(
    home: Path, bundle: Path, command_line: CommandLine, tmp_path: Path
) -> None:
    alone = tmp_path / "bundle"
    shutil.copytree(bundle, alone)
    done = command_line.run(
        *("train", "--from", alone, "--registry", "again", "--json"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    repeated = json.loads(done.stdout)
    assert repeated["same_onnx"] is True
    again = json.loads((tmp_path / repeated["paths"]["bundle"] / "metadata.json").read_text())
    document = json.loads((bundle / "metadata.json").read_text())
    assert again["recipe_document"] == document["recipe_document"]


def test_recipes_are_shown_and_checked(home: Path, command_line: CommandLine) -> None:
    def recipes(*arguments: str) -> Any:
        done = command_line.run("recipes", *arguments, cwd=home)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(recipes("ls", "--json"))
    assert [row["name"] for row in listed] == list(RECIPES)
    document = json.loads(recipes("show", "families.toml", "--json"))
    features = {each["name"]: each for each in document["features"]}
    assert features["trend"]["lookback"] == features["trend"]["warmup"] == 23
    assert document["purge"] == LENGTH - 1 + HORIZON
    assert document["lookback"] == max(each["lookback"] for each in features.values())
    assert "close / mean(close, 24) - 1" in recipes("show", "families.toml")
    (home / "copy.toml").write_text(recipes("show", "families.toml", "--toml"))
    assert json.loads(recipes("show", "copy.toml", "--json")) == document
    assert json.loads(recipes("schema"))["required"] == ["name", "features", "target"]
    market = ["BTCUSDT", "--source", "sample", "--start-date", "2021-06-01"]
    checked = json.loads(recipes("check", "families.toml", *market, "--plot", "x.png", "--json"))
    assert checked["nulls"]["trend"] == {"warmup": 23, "input": 0, "undefined": 0}
    assert checked["complete"] == checked["candles"] - document["warmup"]
    assert (home / "x.png").read_bytes().startswith(b"\x89PNG")
    assert "have a value for every feature" in recipes("check", "families.toml", *market)
    for arguments in ([], market):
        text = recipes("check", "families.toml", *arguments, "--force-price-only")
        assert "fear" not in text.lower()
        assert "inputs: candles\n" in text
    done = command_line.run("recipes", "check", "families.toml", "--plot", "x.png", cwd=home)
    assert done.returncode == ArgumentError.exit_code
    (home / "wrong.toml").write_text(RECIPE.replace("fear_greed", "fear_gred"))
    done = command_line.run("recipes", "check", "wrong.toml", cwd=home)
    assert done.returncode == ArgumentError.exit_code
    lines = done.stderr.splitlines()
    assert lines[0] == (
        "error: wrong.toml: features.fear: `fear_gred` (character 5): no such column; did you mean "
        "`fear_greed`?"
    )
    assert lines[1:] == ["  ema(fear_gred, 3) / 100", "      ^"]


PYTHON = '''
import polars as pl
from atb_fast import Recipe

class Smooth(Recipe):
    """Reads a column that no expression describes."""

    def __init__(self):
        super().__init__(
            name="smooth",
            extra=("centre",),
            sequence_length=12,
            features={"centre": "log(close / centre)", "move": "log(close / open)"},
        )

    def prepare(self, market, options, context):
        from dataclasses import replace

        centre = market.candles["close"].ewm_mean(half_life=5).alias("centre")
        return super().prepare(replace(market, candles=market.candles.with_columns(centre)),
                               options, context)
'''


def test_a_recipe_in_python_says_what_scoring_needs(
    home: Path, command_line: CommandLine, market: Market
) -> None:
    (home / "smooth_recipe.py").write_text(PYTHON)
    options = ["--source", "sample", "--start-date", "2023-01-01", "--epochs", "1"]
    done = command_line.run(
        *("train", "model", "BTCUSDT", *options, "--recipe", "smooth_recipe:Smooth"),
        *("--engine", "keras", "--registry", "python", "--skip-plots", "--json"),
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    trained = home / json.loads(done.stdout)["paths"]["bundle"]
    bundle: Bundle = load_bundle(trained)
    assert bundle.metadata["requirements"] == {
        "columns": {"centre": {"lag_ms": 0}},
        "python": "smooth_recipe:Smooth",
    }
    assert bundle.metadata["verification"]["feature_skew"] == 0.0
    shown = command_line.run("recipes", "show", "smooth_recipe:Smooth", "--toml", cwd=home)
    assert shown.returncode == ArgumentError.exit_code
    assert shown.stderr == (
        "error: --toml: smooth_recipe:Smooth is a Python class, which cannot be written as a "
        "recipe file\n"
    )
    smooth = market.candles["close"].ewm_mean(half_life=5).alias("centre")
    assert np.isfinite(bundle.predict_last(market.candles.with_columns(smooth)))
    # The module is imported again only if the command line names it.
    repeat = ["train", "--from", str(trained), "--registry", "python again", "--json"]
    done = command_line.run(*repeat, cwd=home)
    assert done.returncode == ArgumentError.exit_code
    assert done.stderr.splitlines()[-1].endswith("pass --recipe smooth_recipe:Smooth")
    done = command_line.run(*repeat, "--recipe", "smooth_recipe:Smooth", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["same_onnx"] is True


def test_a_run_with_another_target_and_network_is_repeated(
    command_line: CommandLine, tmp_path: Path
) -> None:
    options = ["--source", "sample", "--start-date", "2022-01-01", "--recipe", "causal"]
    options += ["--sequence-length", "12", "--horizon", "2", "--network", "mlp"]
    options += ["--network-units", "6", "--network-dropout", "0", "--engine", "keras"]
    options += ["--epochs", "1", "--registry", "models", "--skip-plots", "--json"]
    done = command_line.run("train", "model", "BTCUSDT", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / json.loads(done.stdout)["paths"]["bundle"]
    document = json.loads((bundle / "metadata.json").read_text())
    recipe = document["recipe_document"]
    assert recipe["network"] == {"kind": "mlp", "units": 6, "layers": 2, "dropout": 0.0}
    assert recipe["target"] == {"kind": "log_return", "horizon": 2}
    assert document["config"]["network_units"] == 6
    done = command_line.run("train", "--from", bundle, "--registry", "b", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["same_onnx"] is True
    repeated = json.loads((tmp_path / again["paths"]["bundle"] / "metadata.json").read_text())
    assert repeated["recipe_document"] == recipe
