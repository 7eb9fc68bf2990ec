"""Training with stored programs ends with the same model as without, whatever happened to them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine

#: A window of this market has 20 bars, so every program compiles quickly.
MARKET = ["--source", "sample", "--start-date", "2024-01-01", "--sequence-length", "20"]
MARKET += ["--epochs", "2", "--seed", "5"]
OUTPUT = ["--skip-plots", "--skip-robustness", "--promote", "never", "--json"]
TRAIN = ["train", "model", "BTCUSDT", *MARKET, *OUTPUT]
EVALUATE = ["evaluate", "BTCUSDT", *MARKET, "--folds", "1", "--json"]
#: The program, which the kernel kills in the middle of the write of a file of more than 1 MB.
KILLED = """
import resource, signal
from atb_fast.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
main()
"""
#: Makes XLA say on stderr what it loads and what it has compiled.
VERBOSE = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "device_executable_persistor=1"}


def start(home: Path, *arguments: str, code: str = "", **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *(["-c", code] if code else ["-m", "atb_fast"]), *arguments],
        cwd=home,
        env={**os.environ, "ATB_FAST_CACHE_DIR": "a cache", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[Any, str]:
    """Return the document that the program prints, and its log."""
    stdout, stderr = process.communicate()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    return (json.loads(stdout) if code == 0 else stdout), stderr


def programs_of(log: str) -> dict[str, list[str]]:
    """Return the programs of epochs that XLA has loaded and compiled."""
    events = {
        "loaded": "Verifying loaded cache entry",
        "compiled": "Serializing and saving cache entry",
    }
    return {
        event: sorted(re.findall(f"{text}: atb_(train|evaluate)_steps", log))
        for event, text in events.items()
    }


def model(home: Path, document: Any) -> str:
    """Return the SHA-256 of model.onnx."""
    return hashlib.sha256((home / document["paths"]["model.onnx"]).read_bytes()).hexdigest()


def stored(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "a cache").glob("compiled/*.pb")}


def test_the_model_is_the_same_whatever_happens_to_the_cache(
    tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATB_FAST_CACHE")
    folder = tmp_path / "a cache" / "compiled"

    # Killed while it writes a program.
    finish(start(tmp_path, *TRAIN, code=KILLED), -signal.SIGXFSZ)
    (half,) = folder.glob(".*.tmp")
    assert half.stat().st_size == 1_000_000

    # Two at once, which find no program, and one without the cache.
    both = [start(tmp_path, *TRAIN, "--registry", name) for name in ("one", "other")]
    with monkeypatch.context() as context:
        context.setenv("ATB_FAST_CACHE_DIR", "another")
        plain = command_line.run(*TRAIN, "--no-compile-cache", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    expected = model(tmp_path, json.loads(plain.stdout))
    assert not (tmp_path / "another" / "compiled").exists()
    for process in both:
        document, log = finish(process)
        assert model(tmp_path, document) == expected
        assert "compiled" not in log
    files = stored(tmp_path)
    programs = sorted((name for name in files if "xla" in name), key=lambda name: len(files[name]))
    traces = {name for name in files if "xla" not in name}
    assert len(programs) == 2
    assert len(traces) == 3

    def damage(name: str) -> None:
        damaged = bytearray(files[name])
        damaged[len(damaged) // 2] ^= 1
        (folder / name).write_bytes(damaged)

    # One of two programs is damaged: it is compiled again, and the other one is loaded.
    smaller, larger = programs
    damage(smaller)
    document, log = finish(start(tmp_path, *TRAIN, **VERBOSE))
    assert model(tmp_path, document) == expected
    assert f"{smaller} is damaged; compiling the program again" in log
    assert programs_of(log) == {"loaded": ["train"], "compiled": ["evaluate"]}
    assert stored(tmp_path).keys() == files.keys()
    assert stored(tmp_path)[larger] == files[larger]

    # What TensorFlow has traced is damaged: it is traced again, and XLA still finds its programs.
    for name in traces:
        damage(name)
    document, log = finish(start(tmp_path, *TRAIN, **VERBOSE))
    assert model(tmp_path, document) == expected
    assert all(f"{name} is damaged" in log for name in traces)
    assert programs_of(log) == {"loaded": ["evaluate", "train"], "compiled": []}

    # The programs of `train` are also those of `evaluate`.
    document, log = finish(start(tmp_path, *EVALUATE, **VERBOSE))
    assert programs_of(log) == {"loaded": ["evaluate", "train"], "compiled": []}
    assert stored(tmp_path).keys() == files.keys()
    plain = command_line.run(*EVALUATE, "--no-compile-cache", cwd=tmp_path)
    folds = [json.loads(plain.stdout)["folds"], document["folds"]]
    assert len({json.dumps([fold | {"seconds": 0} for fold in each]) for each in folds}) == 1
