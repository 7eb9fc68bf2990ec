"""One model from one command: in another process, after a kill, and from its metadata."""

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

import pytest

from atb_fast.ingestion import sample

OPTIONS = ["--source", "sample", "--start-date", "2023-01-01", "--sequence-length", "20"]
OPTIONS += ["--epochs", "8", "--seed", "5", "--skip-plots", "--skip-robustness"]

#: The same training, killed when its seventh epoch ends.
KILLED = """
import os, signal
from atb_fast import TrainingConfig, run_training_pipeline
from atb_fast.callbacks import Listener

class Killing(Listener):
    def epoch(self, number, logs):
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)

config = TrainingConfig(
    symbol="BTCUSDT", source="sample", start_date="2023-01-01", sequence_length=20, epochs=8,
    seed=5, skip_plots=True, skip_robustness=True, registry="resumed", cache_dir="resumed",
)
run_training_pipeline(config, listener=Killing())
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repeat")


@pytest.fixture(scope="module")
def start(home: Path) -> Start:
    def start(
        *arguments: str | Path, code: str = "from atb_fast.cli import main; main()"
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, "train", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def finished(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Return what the process wrote on stdout and stderr."""
    written = process.communicate(timeout=300)
    assert process.returncode == code, written[1]
    return written


def result(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Return the result and the log of a training with --json."""
    document, log = finished(process)
    return json.loads(document), log


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(start: Start, home: Path) -> dict[str, Path]:
    """A bundle of each engine, trained at the same time."""
    command = ["model", "BTCUSDT", *OPTIONS, "--json"]
    running = {
        engine: start(*command, "--engine", engine, "--registry", engine)
        for engine in ("compiled", "keras")
    }
    documents = {engine: result(process)[0] for engine, process in running.items()}
    return {engine: home / found["paths"]["bundle"] for engine, found in documents.items()}


def metadata(bundle: Path) -> Any:
    return json.loads((bundle / "metadata.json").read_text())


def test_a_killed_run_that_is_resumed(start: Start, home: Path, trained: dict[str, Path]) -> None:
    command = ["model", "BTCUSDT", *OPTIONS, "--json", "--registry", "resumed"]
    finished(start(code=KILLED), -signal.SIGKILL)
    shutil.copytree(home / "resumed", home / "ignored")
    resuming = start(*command, "--cache-dir", "resumed", "--resume")
    ignoring = start(*command, "--cache-dir", "ignored")
    resumed, log = result(resuming)
    ignored, other_log = result(ignoring)
    # Every epoch before the seventh may have written the checkpoint; the first one has.
    found = re.search("resuming after epoch ([1-6])$", log, re.MULTILINE)
    assert found
    assert f"with --resume it would continue after epoch {found[1]}" in other_log
    for done in (resumed, ignored):
        assert done["epochs"] == 8
        bundle = home / done["paths"]["bundle"]
        assert sha256(bundle / "model.onnx") == sha256(trained["compiled"] / "model.onnx")
        expected = metadata(trained["compiled"])["evaluation_results"]
        assert metadata(bundle)["evaluation_results"] == expected
    assert not [*(home / "resumed" / "checkpoints").iterdir()]
    assert not [*(home / "ignored" / "checkpoints").iterdir()]


def test_from_metadata(start: Start, home: Path, trained: dict[str, Path]) -> None:
    given = {"compiled": trained["compiled"], "keras": trained["keras"] / "metadata.json"}
    running = {
        engine: start("--from", path, "--registry", f"again {engine}", "--json")
        for engine, path in given.items()
    }
    for engine, process in running.items():
        document, log = result(process)
        assert document["same_onnx"] is True
        assert f"model.onnx is identical to the one beside {trained[engine]}" in log
        assert "may differ" not in log
        again = home / document["paths"]["bundle"]
        assert again.parents[2] == home / f"again {engine}"
        assert sha256(again / "model.onnx") == sha256(trained[engine] / "model.onnx")
        new, old = metadata(again), metadata(trained[engine])
        assert new["evaluation_results"] == old["evaluation_results"]
        assert new["dataset"] == old["dataset"]
        assert new["training_params"] == old["training_params"]
        assert new["environment"] == old["environment"]


def test_files_that_have_grown(start: Start, tmp_path: Path) -> None:
    """The range of a run without an end is that of its data; the bundle says what differed."""
    candles = sample.candles("BTCUSDT", "1d")
    path = tmp_path / "candles.parquet"
    candles.tail(300).head(250).write_parquet(path)
    quick = ["--force-price-only", "--skip-plots", "--sequence-length", "12", "--epochs", "1"]
    quick += ["--engine", "keras", "--registry", str(tmp_path / "models")]
    result(start("model", "BTCUSDT", "--candles", path, *quick, "--json"))
    bundle = next((tmp_path / "models" / "BTCUSDT" / "price").glob("2*"))
    path.unlink()
    candles.tail(300).write_parquet(tmp_path / "moved.parquet")
    document = metadata(bundle)
    document["versions"]["keras"] = "1.0"
    document["environment"]["cpu"] = "6502"
    document["environment"]["intra_op_threads"] = 1
    (bundle / "metadata.json").write_text(json.dumps(document))
    shutil.copy(bundle / "feature_schema.json", bundle / "model.onnx")
    again = ["--from", bundle, "--registry", tmp_path / "models"]
    again += ["--candles", tmp_path / "moved.parquet"]
    repeated, log = result(start(*again, "--json"))
    assert "recorded {'keras': '1.0'}, now {'keras': " in log
    assert "recorded {'cpu': '6502'}, now {'cpu': " in log
    assert "model.onnx differs from the one beside" in log
    assert repeated["same_onnx"] is False
    new = metadata(Path(repeated["paths"]["bundle"]))
    assert new["dataset"] == document["dataset"]
    assert new["environment"]["intra_op_threads"] == 1

    candles.tail(299).write_parquet(tmp_path / "moved.parquet")
    _, error = finished(start(*again), 3)
    assert error.splitlines()[-1].startswith(f"error: the candles differ from those of {bundle}")
    assert "received 249 candles from" in error
    assert "expected 250 from" in error
    assert "Pass the files of that run as --candles" in error


def test_errors_are_one_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text("{")
    cases: dict[int, list[str | Path]] = {
        9: ["--from", tmp_path],
        2: ["--from", tmp_path, "model", "BTCUSDT"],
    }
    running = [(code, start(*arguments)) for code, arguments in cases.items()]
    running += [(2, start("--offline")), (9, start("--from", "nowhere", "--resume"))]
    for code, process in running:
        _, error = finished(process, code)
        assert "Traceback" not in error
        assert error.splitlines()[-1].lower().startswith("error: ")
