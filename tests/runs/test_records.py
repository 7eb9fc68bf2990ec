"""The records of the ledger: what they say about a run, and what they leave out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atb_fast import TrainingConfig
from atb_fast.config import OPTIONS
from atb_fast.runs.records import of_bundle, of_config


def test_what_a_record_says() -> None:
    config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe="causal", epochs=7)
    made = of_config(
        "evaluate",
        config,
        data={"candles": "ab" * 32},
        metrics={"rmse": 2.0, "persistence_rmse": 4.0, "mcnemar": {"better": 1}},
        seconds=1.234,
        machine={"cpu": "x", "hostname": "secret"},
        folds=5,
    )
    assert made["options"] == {"source": "sample", "epochs": 7, "folds": 5}
    assert made["metrics"] == {"test_rmse": 2.0, "persistence_rmse": 4.0}
    assert made["machine"] == {"cpu": "x"}
    assert made["target"] == {"kind": "log_return", "horizon": 1}
    assert made["network"]["kind"] == "cnn_lstm"
    assert (made["symbols"], made["timeframe"], made["recipe"]) == (["BTCUSDT"], "1d", "causal")
    assert (made["seconds"], made["bundle"], made["study"]) == (1.23, None, None)


def of(config: TrainingConfig) -> dict[str, Any]:
    return of_config(
        "evaluate", config, data={}, metrics={}, seconds=None, machine={}, identity="0" * 16
    )


@pytest.mark.parametrize(
    "recipe", ["legacy", "causal", "basic", "engine", "meta_label", "volatility"]
)
def test_defaults_are_no_options(recipe: str) -> None:
    config = TrainingConfig(symbol="BTCUSDT", recipe=recipe)
    assert of(config)["options"] == {}


def test_options_of_the_machine_are_left_out(tmp_path: Path) -> None:
    config = TrainingConfig(symbol="BTCUSDT", offline=True, resume=True, registry=tmp_path)
    assert of(config)["options"] == {}
    assert {"offline", "resume", "registry", "cache_dir"} <= {
        name for name, item in OPTIONS.items() if item.machine
    }


def test_paths_reveal_nothing_about_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainingConfig(
        symbol="BTCUSDT",
        candles=tmp_path / "data" / "x.csv",
        sentiment=tmp_path.parent / "other" / "y.csv",
    )
    assert str(tmp_path.parent) not in json.dumps(of(config))
    assert of(config)["options"]["candles"] == "data/x.csv"
    assert of(config)["options"]["sentiment"] == "y.csv"


def test_a_target_and_a_network_are_not_repeated_as_options() -> None:
    config = TrainingConfig(
        symbol="BTCUSDT", recipe="causal", network="mlp", network_units=16, horizon=3
    )
    made = of(config)
    assert made["options"] == {}
    assert made["network"]["units"] == 16
    assert made["target"]["horizon"] == 3
    # The rest of the recipe is the same.
    plain = of(TrainingConfig(symbol="BTCUSDT", recipe="causal"))
    assert made["recipe_sha256"] == plain["recipe_sha256"]
    assert plain["recipe_sha256"] != of(TrainingConfig(symbol="BTCUSDT"))["recipe_sha256"]


def test_a_run_of_a_python_recipe_keeps_its_options() -> None:
    """Its document names only the class, so nothing else of the record has them."""
    metadata = {
        "symbol": "BTCUSDT",
        "recipe": "own",
        "recipe_document": {"python": "own:Recipe"},
        "config": replace(TrainingConfig(symbol="BTCUSDT"), horizon=1).to_dict()
        | {"recipe": "own", "network_units": 8, "force_price_only": True},
    }
    made = of_bundle(metadata, name="BTCUSDT/own/v1", published=True)
    assert made["options"] == {"network_units": 8, "force_price_only": True}
