"""SHA256SUMS: any change of a bundle is found before it goes live, and before it is scored."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_contract import violations
from sealing import reseal

from atb_fast import BundleError, load_bundle
from atb_fast.bundles import releases

#: The files that `load_bundle` reads.
READ = ("model.onnx", "metadata.json", "feature_schema.json")
FLIPS = 40


@pytest.fixture
def bundle(models: Path, tmp_path: Path) -> Path:
    """The live price bundle of a registry of its own, with a report."""
    shutil.copytree(models / "BTCUSDT" / "price", tmp_path / "BTCUSDT" / "price", symlinks=True)
    path = (tmp_path / "BTCUSDT" / "price" / "latest").resolve()
    (path / "report.html").write_text("<p>A report</p>\n" * 100)
    reseal(path)
    return path


def make_old(bundle: Path) -> None:
    """Make `bundle` one of an early version."""
    (bundle / "SHA256SUMS").unlink()
    metadata = json.loads((bundle / "metadata.json").read_text())
    del metadata["checksums"]
    (bundle / "metadata.json").write_text(json.dumps(metadata))


def problems(bundle: Path) -> str:
    return "; ".join(releases.check(bundle).problems)


def test_a_bundle_lists_all_of_its_files(models: Path) -> None:
    for kind in ("basic", "price", "sentiment"):
        bundle = models / "BTCUSDT" / kind / "latest"
        names = {path.name for path in bundle.iterdir()}
        assert {"SHA256SUMS", "curves.json", "model.keras", "samples.npz", *READ} == names
        lines = (bundle / "SHA256SUMS").read_text().splitlines()
        assert [line[66:] for line in lines] == sorted(names - {"SHA256SUMS"})
        assert violations(models, "BTCUSDT", kind) == set()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
def test_sha256sum_checks_a_bundle(models: Path) -> None:
    check = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    bundle = models / "BTCUSDT" / "basic" / "latest"
    done = subprocess.run(check, cwd=bundle, capture_output=True, text=True, check=True)
    assert "model.onnx: OK" in done.stdout


@pytest.mark.parametrize("name", [*READ, "model.keras", "samples.npz", "report.html", "SHA256SUMS"])
def test_every_flipped_bit_is_found(bundle: Path, name: str) -> None:
    rng = random.Random(f"seed 1, {name}")
    path = bundle / name
    sound = path.read_bytes()
    for _ in range(FLIPS):
        content = bytearray(sound)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        found = problems(bundle)
        assert f"{path} was damaged or changed: " in found or name == "SHA256SUMS"
        assert "restore the bundle from a backup, or retrain the model" in found
        if name in READ:
            with pytest.raises(BundleError, match=f"{name} was damaged or changed: .* restore"):
                load_bundle(bundle)
    path.write_bytes(sound)
    assert problems(bundle) == ""
    load_bundle(bundle)


@pytest.mark.parametrize("name", [*READ, "model.keras", "samples.npz", "report.html"])
def test_a_missing_file_is_found(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert f"{bundle / name} is missing, but listed in SHA256SUMS" in problems(bundle)
    if name in READ:
        with pytest.raises(BundleError, match=f"{name}"):
            load_bundle(bundle)
    else:
        load_bundle(bundle)


def test_an_additional_file_is_found(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    assert f"{bundle / 'notes.txt'} is not listed in SHA256SUMS; move it out" in problems(bundle)
    load_bundle(bundle)


def test_a_bundle_that_has_lost_its_list(bundle: Path) -> None:
    (bundle / "SHA256SUMS").unlink()
    message = "SHA256SUMS is missing, but metadata.json names it; restore the bundle"
    assert message in problems(bundle)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + text,
        lambda text: text.upper(),
        lambda text: text.replace("  ", " *"),
        lambda text: text.replace("  model.onnx", "  ../model.onnx"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\xff\n",
        lambda text: text.replace("  model.onnx", "  model.none"),
        lambda text: "\n".join(line for line in text.split("\n") if "model.onnx" not in line),
    ],
)
def test_a_list_that_cannot_be_used(bundle: Path, change: Callable[[str], str]) -> None:
    path = bundle / "SHA256SUMS"
    path.write_bytes(change(path.read_text()).encode("latin-1"))
    assert "SHA256SUMS" in problems(bundle)
    with pytest.raises(BundleError, match=r"SHA256SUMS.*restore the bundle"):
        load_bundle(bundle)


def test_a_list_that_is_a_link(bundle: Path) -> None:
    (bundle / "SHA256SUMS").rename(bundle.parent / "list")
    (bundle / "SHA256SUMS").symlink_to("../list")
    assert "found a link, expected a regular file" in problems(bundle)
    with pytest.raises(BundleError, match="found a link, expected a regular file"):
        load_bundle(bundle)


def test_a_bundle_of_an_early_version(bundle: Path) -> None:
    make_old(bundle)
    load_bundle(bundle)
    report = releases.check(bundle)
    assert report.problems == ()
    (unchecked,) = report.unchecked
    assert "because there is no SHA256SUMS" in unchecked
    root = bundle.parents[2]
    (bundle.parent / "latest").unlink()
    assert releases.promote(bundle, root, force=False) == (bundle, None)


def test_a_bundle_of_another_trainer_is_checked_if_it_has_a_list(bundle: Path) -> None:
    metadata = json.loads((bundle / "metadata.json").read_text())
    del metadata["config"]
    (bundle / "metadata.json").write_text(json.dumps(metadata))
    reseal(bundle)
    assert problems(bundle) == ""
    (bundle / "model.keras").write_bytes(b"nothing")
    assert "model.keras was damaged or changed" in problems(bundle)
    make_old(bundle)
    report = releases.check(bundle)
    assert report.problems == ()
    assert not any("SHA256SUMS" in what for what in report.unchecked)
