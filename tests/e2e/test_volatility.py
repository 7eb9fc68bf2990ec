"""The volatility recipe: trained, checked for look-ahead bias, evaluated, and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import CommandLine

from atb_fast import TrainingConfig, load_bundle, load_market
from atb_fast.features.outputs import LogSigma
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.targets.volatility import returns_after

OPTIONS = ["--source", "sample", "--recipe", "volatility", "--timeframe", "1d"]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volatility")


@pytest.fixture(scope="module")
def result(home: Path, command_line: CommandLine) -> Any:
    options = ["--registry", "models", "--promote", "always", "--json"]
    done = command_line.run("train", "model", "BTCUSDT", *OPTIONS, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def bundle(home: Path, result: Any) -> Path:
    return home / str(result["paths"]["bundle"])


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return TrainingConfig(symbol="BTCUSDT", source="sample", recipe="volatility", timeframe="1d")


@pytest.fixture(scope="module")
def market(config: TrainingConfig) -> Market:
    return load_market(config)


def test_the_bundle_says_how_it_is_read(bundle: Path) -> None:
    document = json.loads((bundle / "metadata.json").read_text())
    assert bundle.parts[-3:-1] == ("BTCUSDT", "volatility")
    output = document["output"]
    assert (output["kind"], output["horizon"], output["lag"]) == ("log_sigma", 1, 0)
    assert list(map(float, output["quantiles"])) == list(LEVELS)
    assert output["variance_factor"] > 1
    assert "price_normalization" not in document
    trained = document["training_params"]
    assert 0 <= trained["shrinkage"] <= 1
    assert (trained["engine"], trained["l2"]) == (
        "exact",
        document["recipe_document"]["network"]["l2"],
    )
    assert not {"optimizer", "batch_size", "patience", "max_epochs"} & set(trained)


def test_forecasts_are_har_plus_the_shrunk_correction(
    bundle: Path, config: TrainingConfig, market: Market
) -> None:
    """The whole model again, with NumPy: HAR, ridge, shrinkage, the factor and the quantiles."""
    data = split(prepare(market, config), config)
    rows = data.prepared.matrix.values.astype(np.float64)
    starts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    x = {name: rows[part + data.length - 1] for name, part in starts.items()}
    y = {name: data.targets(part) for name, part in starts.items()}
    har = [name.startswith("har_") for name in data.prepared.matrix.names]
    ones = {name: np.column_stack([part[:, har], np.ones(len(part))]) for name, part in x.items()}
    weights, *_ = np.linalg.lstsq(ones["train"], y["train"], rcond=None)
    base = {name: part @ weights for name, part in ones.items()}
    centered = x["train"] - x["train"].mean(axis=0)
    rest = y["train"] - base["train"]
    ridge = np.linalg.solve(
        centered.T @ centered + np.eye(centered.shape[1]), centered.T @ (rest - rest.mean())
    )
    own = {name: (part - x["train"].mean(axis=0)) @ ridge + rest.mean() for name, part in x.items()}
    found, error = own["validation"], y["validation"] - base["validation"]
    slope = found @ error / (found @ found)
    spread = np.sum((error - slope * found) ** 2) / (len(error) - 1) / (found @ found)
    factor = np.clip(slope - 2 * np.sqrt(spread), 0, 1)
    logs = {name: base[name] + factor * own[name] for name in own}
    variance = np.mean(np.exp(2 * (y["validation"] - logs["validation"])))

    loaded = load_bundle(bundle)
    assert isinstance(loaded.output, LogSigma)
    assert loaded.output.variance_factor == pytest.approx(variance, rel=1e-4)
    seen = np.concatenate([starts["train"], starts["validation"]])
    sigma = np.exp(np.concatenate([logs["train"], logs["validation"]])) * np.sqrt(variance)
    quantiles = np.quantile(returns_after(data, seen) / sigma, LEVELS)
    np.testing.assert_allclose(list(loaded.output.quantiles.values()), quantiles, rtol=1e-3)

    predicted = loaded.predict(market.candles)
    bars = data.prepared.matrix.rows[starts["test"] + data.length - 1] + 1
    expected = np.exp(logs["test"]) * np.sqrt(variance)
    np.testing.assert_allclose(predicted["sigma"].to_numpy()[bars], expected, rtol=1e-4)
    close = market.candles["close"].to_numpy()[bars - 1]
    np.testing.assert_allclose(
        predicted["price_q05"].to_numpy()[bars], close * np.exp(quantiles[0] * expected), rtol=1e-4
    )


def test_the_next_bar_is_the_row_after_the_last_one(bundle: Path, market: Market) -> None:
    """A bar that has not opened yet has the same forecast as later, when it has."""
    loaded = load_bundle(bundle)
    known = market.candles.head(-1)
    last = loaded.predict(market.candles).tail(1)
    found = loaded.predict_last(known)
    for name in ("sigma", "price_q05", "price_q95"):
        assert found[name] == pytest.approx(last[name][0], rel=1e-6)


def test_the_leak_check_passes(home: Path, command_line: CommandLine) -> None:
    done = command_line.run("check", "leak", "BTCUSDT", *OPTIONS, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "no look-ahead bias" in done.stdout


def test_a_walk_forward_evaluation(home: Path, command_line: CommandLine, market: Market) -> None:
    options = ["--folds", "2", "--predictions", "sigma.parquet", "--json"]
    done = command_line.run("evaluate", "BTCUSDT", *OPTIONS, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    folds = json.loads(done.stdout)["folds"]
    assert len(folds) == 2
    assert all(fold["engine"] == "exact" for fold in folds if "engine" in fold)
    # The volatility of a bar as Parkinson estimates it, from its range alone.
    found = pl.read_parquet(home / "sigma.parquet").join(market.candles, on="timestamp")
    expected = np.log(found["high"].to_numpy() / found["low"].to_numpy()) / np.sqrt(4 * np.log(2))
    np.testing.assert_allclose(found["actual"].to_numpy(), expected, rtol=1e-9)
    # The forecasts have the same unit.
    assert 0.5 < found["sigma"].mean() / found["actual"].mean() < 2  # type: ignore[operator]


def test_other_timeframes_are_one_clear_error(home: Path, command_line: CommandLine) -> None:
    done = command_line.run("evaluate", "BTCUSDT", *OPTIONS[:-1], "4h", cwd=home)
    assert done.returncode == 2
    assert "the volatility recipe has features for" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_market_that_hardly_trades(home: Path, command_line: CommandLine, market: Market) -> None:
    """Half of the bars have no range: they are left out, and the others are forecast."""
    flat = pl.int_range(pl.len()) % 2 == 0
    prices = [
        pl.when(flat).then(pl.col("open")).otherwise(pl.col(name)).alias(name)
        for name in ("high", "low", "close")
    ]
    market.candles.with_columns(*prices).write_parquet(home / "flat.parquet")
    options = ["--recipe", "volatility", "--timeframe", "1d", "--folds", "1"]
    options += ["--target-quantiles", "none"]
    done = command_line.run("evaluate", "BTCUSDT", *options, "--candles", "flat.parquet", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "with a volatility of 0 or a missing price" in done.stderr
    assert "QLIKE: divided by that of HAR." in done.stdout
    assert "band" not in done.stdout
