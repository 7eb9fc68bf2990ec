"""Hostile bundles: nothing in them is executed, and no text controls the terminal."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executed import Executed
from sealing import reseal

from atb_fast import load_bundle
from atb_fast.runs.repeat import read_run
from atb_fast.serving.verification import collected, verify

Run = Callable[..., Any]

#: Clears the screen, sets the title of the window, and shows the text after it backwards.
CONTROL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e"


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """A registry whose price bundle a test may change."""
    shutil.copytree(models / "BTCUSDT" / "price", tmp_path / "BTCUSDT" / "price", symlinks=True)
    return tmp_path


@pytest.fixture
def bundle(root: Path) -> Path:
    return (root / "BTCUSDT" / "price" / "latest").resolve()


def with_control(value: Any) -> Any:
    """Return JSON data with control characters at the end of all texts but a few."""
    if isinstance(value, dict):
        return {
            key + CONTROL * (key in ("target", "loss")): item
            if key in ("timeframe", "training_date", "created_at", "kind", "method")
            else with_control(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [with_control(item) for item in value]
    return value + CONTROL if isinstance(value, str) else value


def controls(text: str) -> set[str]:
    return {each for each in text if not each.isprintable() and each != "\n"}


COMMANDS = [
    ["models", "ls"],
    ["models", "show", "BTCUSDT:1d:price"],
    ["models", "verify", "BTCUSDT:1d:price"],
    ["models", "promote", "BTCUSDT:1d:price"],
    ["runs", "reindex"],
    ["runs", "ls"],
    ["train", "--from", "BTCUSDT:1d:price"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_texts_do_not_control_the_terminal(
    atb_fast: Run, root: Path, bundle: Path, command: list[str]
) -> None:
    for name in ("metadata.json", "feature_schema.json"):
        document = json.loads((bundle / name).read_text())
        (bundle / name).write_text(json.dumps(with_control(document)))
    reseal(bundle)
    (bundle / CONTROL).touch()
    if command[1] == "ls" and command[0] == "runs":
        atb_fast("runs", "reindex", "--registry", root)
    done = atb_fast(*command, "--registry", root)
    assert controls(done.stdout + done.stderr) == set()
    assert "Traceback" not in done.stderr
    assert done.stdout + done.stderr


@pytest.mark.parametrize("name", ["metadata.json", "feature_schema.json"])
def test_no_message_about_a_text_controls_the_terminal(bundle: Path, name: str) -> None:
    """Changes one text at a time, because the first problem can hide others."""
    sound = json.loads((bundle / name).read_text())
    places = list(texts(sound))
    assert len(places) > 20
    for place in places:
        document = json.loads(json.dumps(sound))
        part = document
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] += CONTROL
        (bundle / name).write_text(json.dumps(document))
        reseal(bundle)
        problems: list[str] = []
        with collected(problems):
            load_bundle(bundle)
        assert controls("".join(problems)) == set()


def texts(value: Any, place: tuple[Any, ...] = ()) -> Any:
    """Yield the places of all texts in JSON data."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from texts(value[key], (*place, key))
    elif isinstance(value, str):
        yield place


def plant(bundle: Path, executed: Path) -> None:
    """Put everything that some program would execute into a bundle."""
    array = np.array([Executed(executed)], dtype=object)
    np.savez(bundle / "samples.npz", timestamps=array, candles=array, ends=array)
    code = f"from pathlib import Path; Path({str(executed)!r}).touch()\n"
    for name in ("__init__", "conftest", "sitecustomize", "onnx", "numpy", "json", "tensorflow"):
        (bundle / f"{name}.py").write_text(code)
    (bundle / "checkpoint.pkl").write_bytes(pickle.dumps(Executed(executed)))
    config = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"layers": [{"module": "builtins", "class_name": "function", "config": code}]},
    }
    with zipfile.ZipFile(bundle / "model.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", pickle.dumps(Executed(executed)))
    reseal(bundle)


def test_nothing_in_a_bundle_is_executed(
    atb_fast: Run, root: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = tmp_path / "executed"
    pickle.loads(pickle.dumps(Executed(executed)))
    executed.unlink()  # so the trap works
    plant(bundle, executed)
    monkeypatch.chdir(bundle)
    load_bundle(bundle)
    assert "Object arrays cannot be loaded" in "; ".join(verify(bundle).problems)
    read_run(bundle)
    for command in COMMANDS[:-1]:
        atb_fast(*command, "--registry", root)
    assert not executed.exists()


def test_a_hostile_model_of_keras_is_not_loaded(
    atb_fast: Run, root: Path, bundle: Path, tmp_path: Path
) -> None:
    """A repeated training run does not need it."""
    executed = tmp_path / "executed"
    samples = (bundle / "samples.npz").read_bytes()
    plant(bundle, executed)
    (bundle / "samples.npz").write_bytes(samples)
    reseal(bundle)
    done = atb_fast("train", "--from", bundle, "--registry", tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert not executed.exists()


def test_a_recorded_registry_and_cache_are_not_used(bundle: Path, tmp_path: Path) -> None:
    """Programs in a cache directory are executed, so a bundle must not choose it."""
    path = bundle / "metadata.json"
    metadata = json.loads(path.read_text())
    chosen = {"cache_dir": str(tmp_path / "cache"), "registry": str(tmp_path / "elsewhere")}
    chosen |= {"tensorboard": str(tmp_path / "logs"), "promote": "always"}
    metadata["config"] |= chosen
    path.write_text(json.dumps(metadata))
    reseal(bundle)
    config = read_run(bundle).config.to_dict()
    assert {name for name in chosen if config[name] == chosen[name]} == set()
