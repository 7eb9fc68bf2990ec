"""`atb-fast models` and `atb-fast train price`, and a registry that survives kills."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_contract import VERSION, scan, violations
from sealing import reseal

from atb_fast import load_bundle
from atb_fast.serving.registry import work_folder

log = logging.getLogger(__name__)

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NEWER = "2099-01-01_00h00m00s_v1"
NEWEST = "2099-01-01_00h00m00s_v10"
LOADS = int(os.environ.get("ATB_FAST_LOADS", "1000"))


def copied(bundle: Path, version: str) -> Path:
    """Copy `bundle` to another version next to it."""
    copy = bundle.parent / version
    shutil.copytree(bundle, copy)
    metadata = json.loads((copy / "metadata.json").read_text())
    (copy / "metadata.json").write_text(json.dumps(metadata | {"version_id": version}))
    reseal(copy)
    return copy


def of_market(bundle: Path, *, synthetic: bool) -> None:
    """Change whether the metadata says that `bundle` was trained on the sample market."""
    metadata = json.loads((bundle / "metadata.json").read_text())
    metadata["dataset"]["synthetic"] = synthetic
    (bundle / "metadata.json").write_text(json.dumps(metadata))
    reseal(bundle)


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """A copy of the registry, with newer versions of the price model that are not live.

    As if the price models had been trained on real candles.
    """
    root = tmp_path / "models"
    shutil.copytree(models, root, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    bundle = load_bundle("BTCUSDT:1d:price", registry=root).path
    of_market(bundle, synthetic=False)
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
    assert all(row["bundle"] in table.stdout for row in rows)
    assert "cannot be read" in table.stdout
    basic, price = rows[:2]
    assert (basic["recipe"], price["recipe"], price["epochs"]) == ("basic", "legacy", 1)
    assert price["trained"][:10] == price["bundle"].split(":")[3][:10]
    assert (basic["synthetic"], price["synthetic"]) == (True, False)
    assert price["directional_accuracy_low"] < price["directional_accuracy"]
    assert price["directional_accuracy_high"] > price["directional_accuracy"]
    header, _, *lines = table.stdout.splitlines()[1:]
    assert max(map(len, [header.removesuffix("problem").rstrip(), lines[0]])) <= 100
    assert re.split(r"  +", header)[:7] == [
        *("bundle", "live", "market", "recipe", "epochs", "test RMSE", "persistence")
    ]
    figures = [f"{basic[name]:,.2f}" for name in ("test_rmse", "persistence_rmse")]
    assert lines[0].split() == [basic["bundle"], "yes", "sample", "basic", "1", *figures]

    show = atb_fast("models", "show", "BTCUSDT:1h:basic", "--registry", root)
    assert "120 rows of close_normalized, volume_normalized" in show.stdout
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in show.stdout.splitlines())
    assert facts["market"] == "sample (synthetic prices)"
    assert re.fullmatch(r"[\d,.]+ \(persistence: [\d,.]+\)", facts["test RMSE"])
    assert re.fullmatch(
        r"right in [\d.]+% of \d+ bars \(95% interval [\d.]+% to [\d.]+%\); always up: [\d.]+%",
        facts["direction"],
    )
    assert facts["promotion"].startswith("promoted although the model is significantly worse")
    as_json = atb_fast("models", "show", "BTCUSDT:1h:basic", "--registry", root, "--json")
    document = json.loads(as_json.stdout)
    dataset = document["metadata"]["dataset"]
    assert facts["candles"] == f"{dataset['candles_first']} to {dataset['candles_last']}"
    assert document["synthetic"] is True
    assert document["metadata"]["model_type"] == "basic"
    results = document["metadata"]["evaluation_results"]
    accuracy = "directional_accuracy"
    assert results[f"{accuracy}_low"] < results[accuracy] < results[f"{accuracy}_high"]

    every = atb_fast("models", "verify", "--all", "--registry", root, "--json")
    assert every.returncode == 9
    assert "1 of 5 bundles must not go live" in every.stderr
    assert [bool(report["problems"]) for report in json.loads(every.stdout)] == [
        *(False, False, True, False, False)
    ]
    one = atb_fast("models", "verify", "BTCUSDT:1h:basic", "--registry", root)
    assert one.returncode == 0
    assert "train/serve skew, largest difference of a feature: 0.0e+00" in one.stdout
    assert "trained on the sample market, whose prices are synthetic" in one.stdout
    assert json.loads(every.stdout)[0]["synthetic"] is True
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
    assert f"no version of BTCUSDT:1d:price before {first} may go live" in none.stderr

    # Directories that are not versions stay, and so do the targets of links.
    for name in ("one", "two"):
        (root / "tools" / "tests" / name).mkdir(parents=True)
    (root / "ETHUSDT").symlink_to(root.parent / "elsewhere")
    shutil.copytree(root / "BTCUSDT", root.parent / "elsewhere", symlinks=True)
    dry = atb_fast("models", "prune", "--keep", "1", "--dry-run", "--registry", root)
    assert f"would delete {root / 'BTCUSDT' / 'price' / NEWER}" in dry.stdout
    assert (root / "BTCUSDT" / "price" / NEWER).is_dir()
    pruned = atb_fast("models", "prune", "--keep", "1", "--registry", root, "--json")
    assert json.loads(pruned.stdout)["removed"] == [str(root / "BTCUSDT" / "price" / NEWER)]
    assert (root / "tools" / "tests" / "one").is_dir()
    assert (root.parent / "elsewhere" / "price" / NEWER).is_dir()
    left = sorted(path.name for path in (root / "BTCUSDT" / "price").iterdir())
    assert left == sorted([first, NEWEST, "latest"])  # the live one stays, although the oldest
    assert live(root) == first


def test_rollback_skips_damaged_versions(atb_fast: Run, root: Path) -> None:
    first = live(root)
    oldest = copied(root / "BTCUSDT" / "price" / first, "2001-01-01_00h00m00s_v2")
    bad = copied(root / "BTCUSDT" / "price" / first, "2001-01-01_00h00m00s_v10")
    (bad / "model.onnx").write_bytes(b"nothing")
    (root / "BTCUSDT" / "price" / first / "metadata.json").write_text("{")
    done = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert done.returncode == 0, done.stderr
    assert f"{bad.name} must not go live: " in done.stderr
    assert live(root) == oldest.name
    named = atb_fast("models", "rollback", f"BTCUSDT:1d:price:{first}", "--registry", root)
    assert named.returncode == 2


def test_rollback_does_not_replace_a_real_model_by_one_of_the_sample_market(
    atb_fast: Run, root: Path
) -> None:
    price = root / "BTCUSDT" / "price"
    first = live(root)
    old = copied(price / first, "2001-01-01_00h00m00s_v1")
    made_up = copied(price / first, "2001-01-01_00h00m00s_v2")
    of_market(made_up, synthetic=True)
    done = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--force", "--registry", root)
    assert done.returncode == 0, done.stderr
    assert f"{made_up} must not go live: it was trained on the sample market" in done.stderr
    assert live(root) == old.name
    # If the live model itself is one, it can be rolled back.
    of_market(price / first, synthetic=True)
    (price / "latest").unlink()
    (price / "latest").symlink_to(first)
    done = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert done.returncode == 0, done.stderr
    assert live(root) == made_up.name


def test_bundles_that_fail_verification_are_not_promoted(atb_fast: Run, root: Path) -> None:
    before = live(root)
    bundle = root / "BTCUSDT" / "price" / NEWEST
    key = f"BTCUSDT:1d:price:{NEWEST}"
    (bundle / "samples.npz").rename(root.parent / "samples.npz")
    reseal(bundle)
    done = atb_fast("models", "promote", key, "--registry", root)
    assert done.returncode == 9
    assert "could not be fully checked: train/serve skew" in done.stderr
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[:-100])
    reseal(bundle)
    done = atb_fast("models", "promote", key, "--force", "--registry", root)
    assert done.returncode == 9
    assert "must not go live: " in done.stderr
    assert "Traceback" not in done.stderr
    assert live(root) == before
    kept = work_folder(root) / "unpublished" / bundle.name
    shutil.copytree(bundle, kept)
    done = atb_fast("models", "promote", kept, "--registry", root)
    assert (done.returncode, "was not published" in done.stderr) == (9, True)
    assert f"1 unpublished, without a checked model.onnx: {kept.parent}" in str(
        atb_fast("models", "ls", "--registry", root).stdout
    )
    for registry_option in (root.parent / "other", root / "BTCUSDT" / ".." / ".."):
        elsewhere = atb_fast("models", "promote", bundle, "--registry", registry_option)
        assert elsewhere.returncode == 2
        assert "is not a version in the registry" in elsewhere.stderr


def test_damaged_bundles_do_not_go_live(atb_fast: Run, root: Path) -> None:
    """Files that engines do not read and that still look sound count, too."""
    price = root / "BTCUSDT" / "price"
    first = live(root)
    shutil.rmtree(price / NEWER)
    older = copied(price / first, "2001-01-01_00h00m00s_v1")
    oldest = copied(price / first, "2000-01-01_00h00m00s_v1")
    content = bytearray((price / NEWEST / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1  # a weight
    (price / NEWEST / "model.onnx").write_bytes(content)
    (older / "model.keras").unlink()
    done = atb_fast("models", "verify", "--all", "--registry", root)
    assert done.returncode == 9
    assert f"{price / NEWEST / 'model.onnx'} was damaged or changed: " in done.stdout
    assert f"{older / 'model.keras'} is missing, but listed in SHA256SUMS; " in done.stdout
    assert "restore the bundle from a backup, or retrain the model" in done.stdout
    assert "2 of 6 bundles must not go live" in done.stderr
    for bundle in (price / NEWEST, older):
        done = atb_fast("models", "promote", bundle, "--force", "--registry", root)
        assert done.returncode == 9
        assert done.stderr.startswith(f"error: {bundle} must not go live: ")
        assert live(root) == first
    done = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert done.returncode == 0, done.stderr
    assert f"{older} must not go live: {older / 'model.keras'} is missing" in done.stderr
    assert live(root) == oldest.name


def test_bundles_of_early_versions_go_live_as_before(atb_fast: Run, root: Path) -> None:
    price = root / "BTCUSDT" / "price"
    first = live(root)
    for bundle in (price / first, price / NEWER, price / NEWEST):
        (bundle / "SHA256SUMS").unlink()
        metadata = json.loads((bundle / "metadata.json").read_text())
        del metadata["checksums"]
        (bundle / "metadata.json").write_text(json.dumps(metadata))
    done = atb_fast("models", "verify", f"BTCUSDT:1d:price:{NEWEST}", "--registry", root)
    assert done.returncode == 0, done.stderr
    assert "not checked: whether its files have changed since they were published" in done.stdout
    done = atb_fast("models", "promote", f"BTCUSDT:1d:price:{NEWEST}", "--registry", root)
    assert done.returncode == 0, done.stderr
    done = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert (done.returncode, done.stderr) == (0, "")
    assert live(root) == NEWER


def test_another_timeframe_does_not_replace_the_live_one(atb_fast: Run, root: Path) -> None:
    before = live(root)
    bundle = root / "BTCUSDT" / "price" / NEWEST
    metadata = json.loads((bundle / "metadata.json").read_text())
    (bundle / "metadata.json").write_text(json.dumps(metadata | {"timeframe": "4h"}))
    # As if the model had been trained on such bars.
    with np.load(bundle / "samples.npz") as stored:
        samples = dict(stored)
    samples["timestamps"] = samples["timestamps"] // 6
    np.savez(bundle / "samples.npz", **samples)
    reseal(bundle)
    key = f"BTCUSDT:4h:price:{NEWEST}"
    done = atb_fast("models", "promote", key, "--registry", root)
    assert done.returncode == 9
    assert "has the timeframe 4h, but engines expect 1d" in done.stderr
    assert live(root) == before
    assert atb_fast("models", "promote", key, "--force", "--registry", root).returncode == 0
    assert live(root) == NEWEST

    back = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert back.returncode == 9
    assert "latest has the timeframe 4h, not 1d" in back.stderr


def test_a_broken_latest_keeps_all_versions(atb_fast: Run, root: Path) -> None:
    price = root / "BTCUSDT" / "price"
    first = live(root)
    for target in (str(price / first), "../basic"):
        (price / "latest").unlink()
        (price / "latest").symlink_to(target)
        done = atb_fast("models", "prune", "--keep", "1", "--registry", root, "--json")
        assert done.returncode == 0, done.stderr
        assert (price / first).is_dir()
    assert (price / NEWEST).is_dir()


@pytest.mark.parametrize("target", ["latest", "other", "gone", "..", "/", "../../../.."])
def test_a_latest_that_points_to_no_version(atb_fast: Run, root: Path, target: str) -> None:
    price = root / "BTCUSDT" / "price"
    (price / "other").symlink_to("latest")  # with `latest -> other`, a loop of two

    def broken(*arguments: str) -> subprocess.CompletedProcess[str]:
        (price / "latest").unlink()
        (price / "latest").symlink_to(target)
        return atb_fast("models", *arguments, "--registry", root)

    message = f"{price / 'latest'}: points to {target!r}, expected the name of a version in {price}"
    listed = broken("ls", "--json")
    assert listed.returncode == 0
    assert message in listed.stderr
    rows = {row["bundle"]: row for row in json.loads(listed.stdout)}
    assert not any(row["live"] for name, row in rows.items() if ":price:" in name)
    shown = broken("show", "BTCUSDT:1d:price")
    assert (shown.returncode, shown.stderr.startswith(f"error: {message}")) == (9, True)
    assert "run atb-fast models promote" in shown.stderr
    for arguments in (["--dry-run"], []):  # the link may have pointed to any version
        pruned = broken("prune", "--keep", "1", "--json", *arguments)
        assert json.loads(pruned.stdout)["removed"] == []
    for arguments in (["promote", f"BTCUSDT:1d:price:{NEWEST}"], ["rollback", "BTCUSDT:1d:price"]):
        done = broken(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["before"] is None
        assert live(root) == NEWEST


def test_a_registry_that_is_a_link_to_itself(atb_fast: Run, root: Path) -> None:
    (root.parent / "loop").symlink_to("loop")
    bundle = root / "BTCUSDT" / "price" / NEWEST
    for code, arguments in (
        (6, ["ls"]),
        (9, ["show", "BTCUSDT:1d:price"]),
        (2, ["promote", bundle]),
        (9, ["rollback", "BTCUSDT:1d:price"]),
    ):
        done = atb_fast("models", *arguments, "--registry", "loop")
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("spelled", ["btcusdt", "BtcUSDT"])
def test_the_symbol_is_not_case_sensitive(atb_fast: Run, root: Path, spelled: str) -> None:
    shown = atb_fast("models", "show", f"{spelled}:1d:price:{NEWER}", "--registry", root)
    assert shown.returncode == 0, shown.stderr
    assert str(root / "BTCUSDT" / "price" / NEWER) in shown.stdout
    promoted = atb_fast("models", "promote", f"{spelled}:1d:price:{NEWER}", "--registry", root)
    assert promoted.returncode == 0, promoted.stderr
    back = atb_fast("models", "rollback", f"{spelled}:1d:price", "--registry", root, "--json")
    assert json.loads(back.stdout)["before"] == NEWER
    # A directory that has exactly this name comes first.
    (root / "btcusdt").mkdir()
    exact = atb_fast("models", "show", "btcusdt:1d:price", "--registry", root)
    assert (exact.returncode, "btcusdt/price/latest" in exact.stderr) == (9, True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("typed", "ran"),
    [
        ("models show btc\td:p\t:209\t0", f"models show BTCUSDT:1d:price:{NEWEST}"),
        ("models rollback BTCUSDT:1d:p\t", "models rollback BTCUSDT:1d:price"),
        ("models verify BTCUSDT:1h:\t BTCUSDT:1d:s\t", "models verify BTCUSDT:1h:basic "),
        ("train --from=BTCUSDT:1d:price:209\t0", f"train --from=BTCUSDT:1d:price:{NEWEST}"),
        ("models promote mod\tBTCUSDT/p\t2099\t0", "models promote models/BTCUSDT/price/2099"),
    ],
)
def test_names_complete_in_bash(root: Path, typed: str, ran: str) -> None:
    """Keys are typed into an interactive bash; the settings file names the registry."""
    home = root.parent
    (home / "atb-fast.toml").write_text("[train]\nregistry = 'models'\n")
    program = home / "bin" / "atb-fast"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\n[ "$1" = completion ] || [ -n "$_ATB_FAST_COMPLETE" ] || '
        f'{{ echo "ran: $*"; exit; }}\nexec {sys.executable} -m atb_fast "$@"\n'
    )
    program.chmod(0o755)
    variables = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    ours, theirs = pty.openpty()
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=home,
        env=variables | {"TERM": "dumb", "COLUMNS": "300", "INPUTRC": os.devnull},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with bash:
        try:
            keys = f'eval "$(atb-fast completion bash)"\natb-fast {typed}\nexit\n'
            os.write(ours, keys.encode())
            seen = ""
            with suppress(OSError):  # at the end
                while part := os.read(ours, 4096):
                    seen += part.decode(errors="replace")
        finally:
            bash.kill()
            os.close(ours)
    assert f"ran: {ran}" in seen, seen


def test_real_models_and_reasons_are_shown(atb_fast: Run, root: Path) -> None:
    bundle = root / "BTCUSDT" / "price" / NEWEST
    metadata = json.loads((bundle / "metadata.json").read_text())
    metadata["dataset"]["synthetic"] = False
    metadata["training_params"]["epochs"] = 1234
    metadata["evaluation_results"] |= {"test_rmse": 0.0123456, "directional_bars": 0}
    metadata["promotion"] = {"promoted": False, "reason": "It is worse than the live model."}
    (bundle / "metadata.json").write_text(json.dumps(metadata))
    reseal(bundle)
    shown = atb_fast("models", "show", bundle).stdout
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in shown.splitlines())
    assert facts["market"] == "real"
    assert facts["promotion"] == "It is worse than the live model."
    assert facts["test RMSE"].startswith("0.012346 (persistence: ")
    assert facts["direction"].startswith("undefined: ")
    table = atb_fast("models", "ls", "--registry", root).stdout
    (line,) = (line for line in table.splitlines() if NEWEST in line)
    assert line.split()[1:5] == ["real", "legacy", "1,234", "0.012346"]
    verified = atb_fast("models", "verify", bundle)
    assert (verified.returncode, "synthetic" in verified.stdout) == (0, False)


def test_registries_that_cannot_be_read(atb_fast: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root, problem in (
        ("nowhere", "does not exist; train a model first"),
        ("file", "cannot be"),
    ):
        for command in (["ls"], ["verify", "--all"], ["prune", "--keep", "1"]):
            done = atb_fast("models", *command, "--registry", root)
            assert done.returncode == 6
            assert f"registry {root} {problem}" in done.stderr
    (tmp_path / "empty").mkdir()
    assert atb_fast("models", "verify", "--all", "--registry", "empty").returncode == 0


def test_one_wrong_reference_does_not_hide_the_other_reports(atb_fast: Run, root: Path) -> None:
    done = atb_fast(
        "models", "verify", "BTCUSDT:1h:basic", "BTCUSDT:1h:none", "--json", "--registry", root
    )
    assert done.returncode == 9
    assert [bool(report["problems"]) for report in json.loads(done.stdout)] == [False, True]


def test_broken_bundles_do_not_stop_the_others(atb_fast: Run, root: Path) -> None:
    price = root / "BTCUSDT" / "price"
    shutil.rmtree(price / NEWER)
    (price / "foo_v²").mkdir()
    (price / NEWER).mkdir()
    for name, change in (
        ("timeframe", []),
        ("timeframe", "[/x]"),
        ("feature_names", 5),
        ("price_normalization", {"mean": 10**400, "std": 1}),
    ):
        metadata = json.loads((price / live(root) / "metadata.json").read_text())
        metadata |= {"version_id": NEWEST, name: change}
        (price / NEWEST / "metadata.json").write_text(json.dumps(metadata))
        reseal(price / NEWEST)
        for command in (["ls"], ["verify", "--all"], ["prune", "--keep", "9"]):
            done = atb_fast("models", *command, "--registry", root)
            assert done.returncode == (9 if command[0] == "verify" else 0), done.stderr
            assert "Traceback" not in done.stderr
        shown = atb_fast("models", "show", price / NEWEST)
        assert shown.returncode == 0, shown.stderr


def test_train_price(atb_fast: Run, tmp_path: Path) -> None:
    quick = ["train", "price", "BTCUSDT", "--source", "sample", "--epochs", "1", "--json"]
    quick += ["--start-date", "2024-11-20", "--engine", "keras", "--registry", "models"]
    quick += ["--promote", "always"]
    # A link to itself is replaced.
    (tmp_path / "models" / "BTCUSDT" / "basic").mkdir(parents=True)
    (tmp_path / "models" / "BTCUSDT" / "basic" / "latest").symlink_to("latest")
    done = atb_fast(*quick)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model_type"], result["timeframe"]) == ("basic", "1h")
    root = tmp_path / "models"
    assert violations(root, "BTCUSDT", "basic") == set()
    latest = (root / "BTCUSDT" / "basic" / "latest").readlink()
    other = atb_fast(*quick, "--timeframe", "4h", "--start-date", "2024-11-01")
    assert other.returncode == 0, other.stderr
    assert (
        "basic/latest was not moved: engines expect the timeframe 1h, but this model has 4h"
        in other.stderr
    )
    version = json.loads(other.stdout)["version_id"]
    assert (root / "BTCUSDT" / "basic" / "latest").readlink() == latest
    key = f"BTCUSDT:4h:basic:{version}"
    refused = atb_fast("models", "promote", key, "--registry", root)
    assert refused.returncode == 9
    assert "has the timeframe 4h, but engines expect 1h" in refused.stderr
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
    metadata: dict[str, Any] = load_bundle("BTCUSDT:1d:sentiment", registry=root).metadata
    assert metadata["onnx_input"] == "ohlcv"
    assert metadata["feature_names"] == ["open", "high", "low", "close", "volume"]
    results = metadata["evaluation_results"]
    assert results["test_rmse_from_candles"] != results["test_rmse"]


def test_engines_read_whole_bundles_while_others_write(models: Path, tmp_path: Path) -> None:
    """A reader that loads like an engine never sees a partial version."""
    root = tmp_path / "models"
    price = root / "BTCUSDT" / "price"
    shutil.copytree(models / "BTCUSDT" / "price", price, symlinks=True)
    script = Path(__file__).parents[1] / "support" / "churning.py"
    writers = {
        job: subprocess.Popen(
            [sys.executable, script, job, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for job in ("promote", "prune")
    }
    symbols: set[str] = set()
    lives: set[str] = set()
    names: set[str] = set()
    errors: list[str] = []
    loads = vanished = 0

    def both_work() -> bool:
        """Whether `latest` has moved, and versions were published and pruned again and again."""
        return len(lives) > 2 and len(names) > 12

    try:
        while loads < LOADS or not both_work():
            assert all(writer.poll() is None for writer in writers.values())
            seen = scan(root)
            loads += len(seen.live) + len(seen.loaded)
            vanished += len(seen.vanished)
            symbols |= seen.symbols
            lives |= set(seen.live)
            errors += seen.errors
            names |= {path.name for path in price.iterdir()}
    finally:
        done = {job: int(writer.communicate(timeout=60)[0]) for job, writer in writers.items()}
    log.info("%d loads, %d versions were live, %d vanished, %s", loads, len(lives), vanished, done)
    assert errors == []
    assert symbols == {"BTCUSDT"}
    assert {name for name in names if not VERSION.fullmatch(name)} == {"latest"}


def foreign(bundle: Path, version: str, **changes: Any) -> Path:
    """Create a bundle next to `bundle` that has only what engines need."""
    path = bundle.parent / version
    path.mkdir()
    shutil.copy(bundle / "model.onnx", path)
    schema = json.loads((bundle / "feature_schema.json").read_text())
    schema["features"] = [{"name": f["name"], "required": True} for f in schema["features"]]
    (path / "feature_schema.json").write_text(json.dumps(schema))
    metadata = {
        "symbol": "BTCUSDT",
        "timeframe": "1d",
        "model_type": "price",
        "version_id": version,
        "training_date": "2024-05-06T07:08:09.123456",
        "feature_names": [feature["name"] for feature in schema["features"]],
        "sequence_length": schema["sequence_length"],
        "training_params": {"epochs": 300},
        "evaluation_results": {"test_rmse": 1234.5, "mape": float("nan")},
    }
    (path / "metadata.json").write_text(json.dumps(metadata | changes))
    return path


@pytest.fixture
def shared_registry(root: Path) -> Path:
    """A registry with two bundles of another trainer, older than the live one of atb-fast."""
    bundle = root / "BTCUSDT" / "price" / live(root)
    foreign(bundle, "champion")
    foreign(bundle, "2024-01-02_03h_v1", training_date="2024-01-02T03:00:00Z")
    return root


def test_bundles_of_other_trainers_are_listed(atb_fast: Run, shared_registry: Path) -> None:
    done = atb_fast("models", "ls", "--registry", shared_registry, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["bundle"]: row for row in json.loads(done.stdout)}
    names = [name.split(":")[3] for name in rows if ":price:" in name]
    assert names[:2] == ["2024-01-02_03h_v1", "champion"]  # the oldest two
    row = rows["BTCUSDT:1d:price:champion"]
    assert (row["foreign"], row["problem"], row["test_rmse"]) == (True, None, 1234.5)
    assert "train/serve skew" in row["unverified"][0]
    assert "price_normalization" in row["unverified"][1]
    assert not any(row["foreign"] or row["unverified"] for row in list(rows.values())[3:])
    table = atb_fast("models", "ls", "--registry", shared_registry)
    assert "BTCUSDT:1d:price:champion" in table.stdout
    assert "train/serve skew, because another trainer made it" in table.stdout
    assert max(map(len, table.stdout.splitlines())) < 250
    shown = atb_fast("models", "show", "BTCUSDT:1d:price:champion", "--registry", shared_registry)
    assert shown.returncode == 0, shown.stderr
    facts = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert facts["trainer"] == "other"
    assert facts["training"] == "300 epochs"
    assert facts["created"] == "2024-05-06T07:08:09.123456"
    assert facts["test"] == "RMSE  1,234.50"
    assert facts["symbol"] == "BTCUSDT 1d"
    assert "candles" not in facts
    assert "None" not in shown.stdout
    every = atb_fast("models", "verify", "--all", "--registry", shared_registry)
    assert every.returncode == 0, every.stderr
    assert "not checked: train/serve skew, because another trainer made it" in every.stdout


def test_rollback_to_a_bundle_of_another_trainer(atb_fast: Run, shared_registry: Path) -> None:
    root = shared_registry
    ours = live(root)
    done = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert done.returncode == 0, done.stderr
    assert "champion could not be fully checked: train/serve skew" in done.stderr
    assert live(root) == "champion"
    # Its predecessor is damaged, so there is no version left to roll back to.
    (root / "BTCUSDT" / "price" / "2024-01-02_03h_v1" / "model.onnx").write_bytes(b"nothing")
    done = atb_fast("models", "rollback", "BTCUSDT:1d:price", "--registry", root)
    assert done.returncode == 9
    assert "2024-01-02_03h_v1 must not go live: " in done.stderr
    assert "no version of BTCUSDT:1d:price before champion may go live" in done.stderr

    key = "BTCUSDT:1d:price"
    assert atb_fast("models", "promote", f"{key}:{ours}", "--registry", root).returncode == 0
    refused = atb_fast("models", "promote", f"{key}:champion", "--registry", root)
    assert refused.returncode == 9
    assert "could not be fully checked: train/serve skew, because another trainer" in refused.stderr
    forced = atb_fast("models", "promote", f"{key}:champion", "--force", "--registry", root)
    assert forced.returncode == 0, forced.stderr
    assert live(root) == "champion"
    damaged = atb_fast(
        "models", "promote", f"{key}:2024-01-02_03h_v1", "--force", "--registry", root
    )
    assert damaged.returncode == 9

    pruned = atb_fast("models", "prune", "--keep", "1", "--registry", root, "--json")
    assert {Path(path).name for path in json.loads(pruned.stdout)["removed"]} == {ours, NEWER}
    assert (root / "BTCUSDT" / "price" / "2024-01-02_03h_v1").is_dir()
