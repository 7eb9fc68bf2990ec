"""`atb-fast models` and `atb-fast train price`, and a registry that survives kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_contract import violations

from atb_fast import load_bundle, registry

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NEWER = "2099-01-01_00h00m00s_v1"
NEWEST = "2099-01-01_00h00m00s_v10"
KILLS = int(os.environ.get("ATB_FAST_KILLS", "30"))


def copied(bundle: Path, version: str) -> Path:
    """Put a copy of `bundle` beside it, as another version."""
    copy = bundle.parent / version
    shutil.copytree(bundle, copy)
    metadata = json.loads((copy / "metadata.json").read_text())
    (copy / "metadata.json").write_text(json.dumps(metadata | {"version_id": version}))
    return copy


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """A copy of the registry, with newer versions of the price model that are not live."""
    root = tmp_path / "models"
    shutil.copytree(models, root, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    bundle = load_bundle("BTCUSDT:1d:price", root=root).path
    for version in (NEWER, NEWEST):
        copied(bundle, version)
    return root


def live(root: Path) -> str:
    return str((root / "BTCUSDT" / "price" / "latest").readlink())


def test_ls_show_verify(atb_fast: Run, root: Path) -> None:
    (root / "BTCUSDT" / "price" / NEWER / "metadata.json").write_text("{")
    done = atb_fast("models", "ls", "--registry", root, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["bundle"].split(":")[2] for row in rows] == ["basic", *["price"] * 3, "sentiment"]
    assert [row["live"] for row in rows] == [True, True, False, False, True]
    assert [bool(row["problem"]) for row in rows] == [False, False, True, False, False]
    table = atb_fast("models", "ls", "--registry", root)
    assert "BTCUSDT:1h:basic:" in table.stdout
    assert "cannot be read" in table.stdout

    show = atb_fast("models", "show", "BTCUSDT:1h:basic", "--registry", root)
    assert "120 rows of close_normalized, volume_normalized" in show.stdout
    assert "persistence" in show.stdout
    as_json = atb_fast("models", "show", "BTCUSDT:1h:basic", "--registry", root, "--json")
    assert json.loads(as_json.stdout)["model_type"] == "basic"

    every = atb_fast("models", "verify", "--all", "--registry", root, "--json")
    assert every.returncode == 9
    assert "1 of 5 bundles must not be live" in every.stderr
    assert [bool(report["problems"]) for report in json.loads(every.stdout)] == [
        *(False, False, True, False, False)
    ]
    one = atb_fast("models", "verify", "BTCUSDT:1h:basic", "--registry", root)
    assert one.returncode == 0
    assert "train/serve difference of a feature: 0.0e+00" in one.stdout
    assert atb_fast("models", "verify", "--registry", root).returncode == 2


def test_promote_rollback_prune(atb_fast: Run, root: Path) -> None:
    first = live(root)
    key = f"BTCUSDT:1d:price:{NEWEST}"
    done = atb_fast("models", "promote", key, "--registry", root)
    assert done.returncode == 0, done.stderr
    assert f"-> {NEWEST} (before: {first})" in done.stdout
    assert live(root) == NEWEST
    assert violations(root, "BTCUSDT", "price") == set()
    back = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root, "--json")
    assert json.loads(back.stdout)["before"] == NEWEST
    assert live(root) == NEWER
    atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert live(root) == first
    none = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert none.returncode == 9
    assert "is the oldest version" in none.stderr

    dry = atb_fast("models", "prune", "--keep", "1", "--dry-run", "--registry", root)
    assert f"would remove {root / 'BTCUSDT' / 'price' / NEWER}" in dry.stdout
    assert (root / "BTCUSDT" / "price" / NEWER).is_dir()
    pruned = atb_fast("models", "prune", "--keep", "1", "--registry", root, "--json")
    assert [Path(path).name for path in json.loads(pruned.stdout)["removed"]] == [NEWER]
    left = sorted(path.name for path in (root / "BTCUSDT" / "price").iterdir())
    assert left == sorted([first, NEWEST, "latest"])  # the live one stays, however old
    assert live(root) == first


def test_what_does_not_verify_is_not_promoted(atb_fast: Run, root: Path) -> None:
    before = live(root)
    bundle = root / "BTCUSDT" / "price" / NEWEST
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[:-100])
    done = atb_fast("models", "promote", f"BTCUSDT:1d:price:{NEWEST}", "--registry", root)
    assert done.returncode == 9
    assert "must not be live: " in done.stderr
    assert "Traceback" not in done.stderr
    assert live(root) == before
    elsewhere = atb_fast("models", "promote", bundle, "--registry", root.parent / "other")
    assert elsewhere.returncode == 2
    assert "is not in the registry" in elsewhere.stderr


def test_skew_is_caught(atb_fast: Run, root: Path) -> None:
    """A scaler that differs by a millionth part: features differ by more than 1e-6."""
    bundle = root / "BTCUSDT" / "price" / NEWEST
    schema = json.loads((bundle / "feature_schema.json").read_text())
    schema["features"][3]["scaler"]["data_max"] *= 1 + 1e-5
    (bundle / "feature_schema.json").write_text(json.dumps(schema))
    done = atb_fast("models", "verify", bundle)
    assert done.returncode == 9
    assert "train/serve skew: a feature differs by" in done.stdout


def test_train_price(atb_fast: Run, tmp_path: Path) -> None:
    quick = ["train", "price", "BTCUSDT", "--source", "sample", "--epochs", "1", "--json"]
    quick += ["--start-date", "2024-11-20", "--engine", "keras", "--registry", "models"]
    done = atb_fast(*quick)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model_type"], result["timeframe"]) == ("basic", "1h")
    root = tmp_path / "models"
    assert violations(root, "BTCUSDT", "basic") == set()
    latest = (root / "BTCUSDT" / "basic" / "latest").readlink()
    other = atb_fast(*quick, "--timeframe", "4h", "--start-date", "2023-01-01")
    assert other.returncode == 0, other.stderr
    assert "basic/latest is not moved: strategies expect 1h" in other.stderr
    version = json.loads(other.stdout)["version_id"]
    assert (root / "BTCUSDT" / "basic" / "latest").readlink() == latest
    key = f"BTCUSDT:4h:basic:{version}"
    refused = atb_fast("models", "promote", key, "--registry", root)
    assert refused.returncode == 9
    assert "would stop strategies" in refused.stderr
    forced = atb_fast("models", "promote", key, "--force", "--registry", root)
    assert forced.returncode == 0, forced.stderr


def test_candles_as_input(atb_fast: Run, tmp_path: Path) -> None:
    done = atb_fast(
        *("train", "model", "BTCUSDT", "--source", "sample", "--start-date", "2023-01-01"),
        *("--epochs", "1", "--engine", "keras", "--onnx-input", "ohlcv", "--skip-plots"),
        *("--registry", "models", "--json"),
    )
    assert done.returncode == 0, done.stderr
    root = tmp_path / "models"
    assert violations(root, "BTCUSDT", "sentiment") == set()
    metadata: dict[str, Any] = load_bundle("BTCUSDT:1d:sentiment", root=root).metadata
    assert metadata["onnx_input"] == "ohlcv"
    assert metadata["feature_names"] == ["open", "high", "low", "close", "volume"]
    results = metadata["evaluation_results"]
    assert results["test_rmse_from_candles"] != results["test_rmse"]


def test_kills_leave_no_half_bundle(models: Path, tmp_path: Path) -> None:
    """Trainings and promotions, killed at random moments: all that engines see is whole."""
    root = tmp_path / "models"
    shutil.copytree(models, root, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    bundle = load_bundle("BTCUSDT:1d:price", root=root).path
    copied(bundle, NEWER)
    script = Path(__file__).parents[1] / "servers" / "publishing.py"
    rng = random.Random(7)
    struck = 0
    with subprocess.Popen(
        [sys.executable, script, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forks:
        assert forks.stdin
        assert forks.stdout
        for i in range(KILLS):
            job = ("train", "promote")[i % 2]
            forks.stdin.write(f"{job}\n")
            forks.stdin.flush()
            child = int(forks.stdout.readline())
            # Half of the time of either: some are through, most are struck.
            time.sleep(rng.uniform(0.0, 3.0 if job == "train" else 0.3))
            os.kill(child, signal.SIGKILL)
            struck += int(forks.stdout.readline()) == -signal.SIGKILL
            assert violations(root, "BTCUSDT", "price") == set()
            for path in registry.versions(root):
                assert (path / "metadata.json").is_file()
        forks.stdin.close()
    assert struck > KILLS // 3
