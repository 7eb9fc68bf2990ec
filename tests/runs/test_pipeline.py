"""A training run from start to finish."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from atb_fast import ExportError, Listener, Recipe, TrainingConfig, run_training_pipeline
from atb_fast.bundles import publishing
from atb_fast.serving.registry import age


class Overtakes(Listener):
    """Makes a copy of another bundle live when it is decided whether the new model goes live."""

    def __init__(self, bundle: Path, copy: Path) -> None:
        self.bundle, self.copy = bundle, copy
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)
        if self.stages[-3:] == ["artifacts", "evaluation", "artifacts"]:
            shutil.copytree(self.bundle, self.copy)
            publishing.promote(self.copy)


class Publishes(Listener):
    """Reserves a version of the same symbol and type while the model is trained."""

    def __init__(self, registry: Path) -> None:
        self.registry, self.version = registry, ""

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        with publishing.reserve(self.registry, "BTCUSDT", "price", now) as draft:
            self.version = draft.version
            draft.keep()


def test_of_two_runs_the_one_that_ends_last_is_the_newest(tmp_path: Path) -> None:
    config = TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date=date(2023, 1, 1),
        end_date=date(2023, 6, 30),
        force_price_only=True,
        sequence_length=10,
        epochs=1,
        engine="keras",
        skip_plots=True,
        skip_onnx=True,
        registry=tmp_path / "models",
    )
    other = Publishes(config.registry)
    result = run_training_pipeline(config, listener=other)
    assert other.version
    assert age(Path(other.version)) < age(Path(result.version_id))


def test_a_model_that_another_process_has_overtaken(models: Path, tmp_path: Path) -> None:
    """It was not compared with the model that is live now, so it must not replace that one."""
    home = tmp_path / "models" / "BTCUSDT" / "causal"
    config = TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date=date(2023, 1, 1),
        recipe="causal",  # after one epoch, it predicts no move
        force_price_only=True,
        sequence_length=20,
        epochs=1,
        engine="keras",
        skip_plots=True,
        skip_robustness=True,
        registry=tmp_path / "models",
    )
    other = home / "2099-01-02_03h04m05s_v1"
    listener = Overtakes((models / "BTCUSDT" / "price" / "latest").resolve(), other)
    result = run_training_pipeline(config, listener=listener)
    assert (home / "latest").resolve() == other
    assert result.published
    assert not result.promoted
    assert result.promotion == (
        f"another process made {other.name} live in the meantime, but this model was compared with "
        "no live model"
    )
    assert result.promote_command
    document = json.loads(Path(result.paths["metadata.json"]).read_text())
    assert document["promotion"]["policy"] == "gate"
    assert document["promotion"]["promoted"] is False
    assert document["promotion"]["reason"] == result.promotion


class Gru(Recipe):
    """Its network becomes a loop in ONNX."""

    def build(self, length: int, features: int, **_: Any) -> Any:
        from keras import Input, Sequential, layers

        return Sequential([Input((length, features)), layers.GRU(4), layers.Dense(1)])


class Stages(Listener):
    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str) -> None:
        self.names.append(name)


def test_a_network_that_cannot_be_exported_is_reported_before_it_is_trained(tmp_path: Path) -> None:
    config = TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date=date(2023, 1, 1),
        end_date=date(2023, 6, 30),
        recipe=Gru(name="gru", features={"move": "log(close / open)"}),
        sequence_length=10,
        registry=tmp_path / "models",
    )
    seen = Stages()
    with pytest.raises(ExportError, match=r"contains a Loop.*unroll=True"):
        run_training_pipeline(config, listener=seen)
    assert "training" not in seen.names
    assert not [*(tmp_path / "models").rglob("model.keras")]
