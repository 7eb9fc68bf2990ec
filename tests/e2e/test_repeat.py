"""Getting the same model again: in another process, after a kill, and from its metadata."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import CommandLine

from atb_fast.ingestion import sample

OPTIONS = ["--source", "sample", "--start-date", "2024-01-01", "--sequence-length", "20"]
OPTIONS += ["--epochs", "4", "--seed", "5", "--skip-plots", "--skip-robustness"]

#: A program for the same training that kills itself at the end of its third epoch.
KILLED = """
import os, signal
from atb_fast import TrainingConfig, run_training_pipeline
from atb_fast.callbacks import Listener

class Killing(Listener):
    def epoch(self, number, logs):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)

config = TrainingConfig(
    symbol="BTCUSDT", source="sample", start_date="2024-01-01", sequence_length=20, epochs=4,
    seed=5, skip_plots=True, skip_robustness=True, registry="resumed", cache_dir="resumed",
)
run_training_pipeline(config, listener=Killing())
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Train = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repeat")


@pytest.fixture(scope="module")
def train(home: Path, command_line: CommandLine) -> Train:
    """Train and return the result and the log."""

    def train(*arguments: str | Path) -> tuple[dict[str, Any], str]:
        done = command_line.run("train", *arguments, "--json", cwd=home)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return train


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(train: Train, home: Path) -> dict[str, Path]:
    """A bundle of each engine."""
    return {
        engine: home
        / train("model", "BTCUSDT", *OPTIONS, "--engine", engine, "--registry", engine)[0]["paths"][
            "bundle"
        ]
        for engine in ("compiled", "keras")
    }


def metadata(bundle: Path) -> Any:
    return json.loads((bundle / "metadata.json").read_text())


def test_a_killed_run_is_resumed(train: Train, home: Path, trained: dict[str, Path]) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=home, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shutil.copytree(home / "resumed", home / "ignored")
    command = ["model", "BTCUSDT", *OPTIONS, "--registry", "resumed", "--cache-dir"]
    resumed, log = train(*command, "resumed", "--resume")
    ignored, other_log = train(*command, "ignored")
    # The first epoch has written a checkpoint, and the second may have.
    found = re.search("resuming after epoch ([12])$", log, re.MULTILINE)
    assert found
    assert f"--resume would continue after epoch {found[1]}" in other_log
    for done in (resumed, ignored):
        assert done["epochs"] == 4
        bundle = home / done["paths"]["bundle"]
        assert sha256(bundle / "model.onnx") == sha256(trained["compiled"] / "model.onnx")
        expected = metadata(trained["compiled"])["evaluation_results"]
        assert metadata(bundle)["evaluation_results"] == expected
    assert not [*(home / "resumed" / "checkpoints").iterdir()]
    assert not [*(home / "ignored" / "checkpoints").iterdir()]


def test_from_metadata(train: Train, home: Path, trained: dict[str, Path]) -> None:
    given = {"compiled": trained["compiled"], "keras": trained["keras"] / "metadata.json"}
    settings = home / "promote.toml"
    settings.write_text("[train]\npromote = 'always'\n")  # not given with --from
    for engine, path in given.items():
        registry = f"again {engine}"
        document, log = train("--from", path, "--registry", registry, "--config", settings)
        assert document["same_onnx"] is True
        assert f"model.onnx is identical to the one next to {trained[engine]}" in log
        assert "may differ" not in log
        again = home / document["paths"]["bundle"]
        assert again.parents[2] == home / f"again {engine}"
        assert not (again.parent / "latest").is_symlink()
        assert document["promoted"] is False
        reason = "the model of a repeated run goes live only if --promote is given"
        assert document["promotion"] == reason
        assert "atb-fast models promote BTCUSDT:1d:sentiment:" in log
        assert sha256(again / "model.onnx") == sha256(trained[engine] / "model.onnx")
        new, old = metadata(again), metadata(trained[engine])
        assert new["evaluation_results"] == old["evaluation_results"]
        assert new["dataset"] == old["dataset"]
        assert new["training_params"] == old["training_params"]
        assert new["environment"] == old["environment"]


def test_files_that_have_grown(train: Train, atb_fast: Run, tmp_path: Path) -> None:
    """A run without dates is repeated on the range of its data."""
    candles = sample.candles("BTCUSDT", "1d")
    path = tmp_path / "candles.parquet"
    candles.tail(300).head(250).write_parquet(path)
    quick = ["--force-price-only", "--skip-plots", "--sequence-length", "12", "--epochs", "1"]
    quick += ["--engine", "keras", "--registry", str(tmp_path / "models")]
    train("model", "BTCUSDT", "--candles", path, *quick)
    bundle = next((tmp_path / "models" / "BTCUSDT" / "price").glob("2*"))
    path.unlink()
    candles.tail(300).write_parquet(tmp_path / "moved.parquet")
    document = metadata(bundle)
    document["versions"]["keras"] = "1.0"
    document["environment"]["cpu"] = "6502"
    document["environment"]["intra_op_threads"] = 1
    (bundle / "metadata.json").write_text(json.dumps(document))
    shutil.copy(bundle / "feature_schema.json", bundle / "model.onnx")
    again: list[str | Path] = ["--from", bundle, "--registry", tmp_path / "models"]
    again += ["--candles", tmp_path / "moved.parquet"]
    repeated, log = train(*again, "--promote", "always")
    assert repeated["promoted"] is True
    assert (bundle.parent / "latest").resolve() == Path(repeated["paths"]["bundle"])
    assert "recorded {'keras': '1.0'}, now {'keras': " in log
    assert "recorded {'cpu': '6502'}, now {'cpu': " in log
    assert "model.onnx differs from the one next to" in log
    assert repeated["same_onnx"] is False
    new = metadata(Path(repeated["paths"]["bundle"]))
    assert new["dataset"] == document["dataset"]
    assert new["environment"]["intra_op_threads"] == 1

    candles.tail(299).write_parquet(tmp_path / "moved.parquet")
    refused = atb_fast("train", *again)
    assert refused.returncode == 3
    error = refused.stderr
    said = error.splitlines()[-1]
    assert said.startswith(f"error: the input differs from that of {bundle}")
    assert " in candles: received " in said
    assert "received 249 candles from" in error
    assert "expected 250 from" in error
    assert "Pass the files of that run as --candles" in error


def test_allowed_impossible_bars_are_allowed_again(
    train: Train, atb_fast: Run, tmp_path: Path
) -> None:
    candles = sample.candles("BTCUSDT", "1d").tail(250)
    close = pl.when(pl.int_range(pl.len()) == 9).then(1e9).otherwise(pl.col("close"))
    candles.with_columns(close=close).write_parquet(tmp_path / "candles.parquet")
    quick = ["--candles", str(tmp_path / "candles.parquet"), "--force-price-only", "--skip-plots"]
    quick += ["--sequence-length", "12", "--epochs", "1", "--engine", "keras"]
    quick += ["--registry", str(tmp_path / "models")]
    refused = atb_fast("train", "model", "BTCUSDT", *quick)
    assert refused.returncode == 3
    assert "1 of 250 bars is impossible" in refused.stderr
    assert not (tmp_path / "models").exists()
    first, log = train("model", "BTCUSDT", *quick, "--allow-bad-candles")
    assert "1 of 250 bars is impossible" in log
    bundle = Path(first["paths"]["bundle"])
    assert metadata(bundle)["config"]["allow_bad_candles"] is True
    again, _ = train("--from", bundle, "--registry", tmp_path / "models", *quick[:2])
    assert again["same_onnx"] is True


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (9, ["--from", "."]),
        (2, ["--from", ".", "model", "BTCUSDT"]),
        (2, ["--offline"]),
        (9, ["--from", "nowhere", "--resume"]),
    ],
)
def test_errors_are_one_line(
    atb_fast: Run, tmp_path: Path, code: int, arguments: list[str]
) -> None:
    (tmp_path / "metadata.json").write_text("{")
    done = atb_fast("train", *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].lower().startswith("error: ")
