"""What `make dist` built, and what it does in environments without a checkout."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from packaging.metadata import Metadata
from polars.testing import assert_frame_equal

from atb_fast import load_bundle
from atb_fast.ingestion import sample

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "atb_fast"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RECIPE = """
name = "momentum"
[features]
trend = "close / mean(close, 24) - 1"
[target]
kind = "log_return"
"""
#: Scores candles in a file with a `Bundle`, without anything that only the checkout has.
SCORE = """
import sys, polars, atb_fast
bundle = atb_fast.load_bundle("BTCUSDT:1d:price", registry=sys.argv[1])
bundle.predict(polars.read_parquet(sys.argv[2])).write_parquet(sys.argv[3])
assert not {"tensorflow", "keras"} & set(sys.modules)
"""


def built(pattern: str) -> Path:
    found = list((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        names = [path.name for path in found]
        pytest.fail(f"found {names} for dist/{pattern}, expected one file; run make dist")
    return found[0]


@pytest.fixture(scope="module")
def wheel() -> Path:
    return built("*.whl")


@pytest.fixture(scope="module")
def content(wheel: Path) -> dict[str, bytes]:
    """The files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sources() -> dict[str, bytes]:
    """The files of the source distribution, by their paths in the checkout."""
    with tarfile.open(built("*.tar.gz")) as archive:
        files = [(each.name, archive.extractfile(each)) for each in archive]
        return {name.partition("/")[2]: file.read() for name, file in files if file}


def named(files: dict[str, bytes], name: str) -> bytes:
    (found,) = (file for path, file in files.items() if path.endswith(f".dist-info/{name}"))
    return found


def test_the_wheel_has_the_package_of_this_checkout_and_nothing_else(
    wheel: Path, content: dict[str, bytes]
) -> None:
    assert "-cp311-abi3-" in wheel.name
    package = {name: file for name, file in content.items() if ".dist-info/" not in name}
    (extension,) = (name for name in package if re.fullmatch(r"atb_fast/_core\..*(so|pyd)", name))
    del package[extension]
    ignored = {".so", ".pyd", ".pyc"}
    expected = {
        path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in ignored
    }
    assert {*package} == {*expected}
    assert [name for name in package if package[name] != expected[name]] == []
    assert named(content, "licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_lists_the_crates_that_it_was_built_from(content: dict[str, bytes]) -> None:
    document = json.loads(named(content, "sboms/atb-fast.cyclonedx.json"))
    assert document["bomFormat"] == "CycloneDX"
    listed = {(each["name"], each["version"]) for each in document["components"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text("utf-8"))
    locked = {(each["name"], each["version"]) for each in lock["package"]}
    assert listed <= locked
    needed = tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["dependencies"]
    assert {*needed} <= {name for name, _ in listed}
    assert [each["name"] for each in document["components"] if not each.get("licenses")] == []


def test_the_source_distribution_has_all_that_the_repository_has_and_no_data(
    sources: dict[str, bytes],
) -> None:
    for name in ("LICENSE", "Cargo.lock", "Makefile", "rust/src/lib.rs"):
        assert sources[name] == (ROOT / name).read_bytes()
    for folder in ("benches", "docs", "examples", "python", "rust", "tests"):
        assert [name for name in sources if name.startswith(f"{folder}/")]
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        assert {*sources} <= {*listed.stdout.splitlines(), "PKG-INFO"}


def test_the_metadata_is_valid_and_shows_the_readme(
    content: dict[str, bytes], sources: dict[str, bytes]
) -> None:
    text = named(content, "METADATA")
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.description_content_type
    assert metadata.description_content_type.startswith("text/markdown")
    assert metadata.description
    assert metadata.description.strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert metadata.license_expression == PROJECT["license"]
    assert metadata.classifiers == PROJECT["classifiers"]
    assert str(metadata.requires_python) == PROJECT["requires-python"]
    assert {*(metadata.provides_extra or [])} == {*PROJECT["optional-dependencies"]}
    # PyPI shows either.
    assert email.message_from_bytes(sources["PKG-INFO"]).items() == (
        email.message_from_bytes(text).items()
    )


@dataclass(frozen=True)
class Installed:
    """The wheel in its own environment, and an empty directory to run it in."""

    scripts: Path
    home: Path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a script of the environment; nothing points to the checkout, Rust or a user."""
        script, *arguments = map(str, command)
        return subprocess.run(
            [str(self.scripts / script), *arguments],
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": str(self.scripts), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )


def install(folder: Path, wheel: Path, extra: str, constraints: Iterable[str]) -> Installed:
    """Install without building anything: every dependency must have a wheel too."""
    venv.create(folder / "venv", with_pip=True)
    installed = Installed(folder / "venv" / ("Scripts" if os.name == "nt" else "bin"), folder)
    (folder / "constraints").write_text("\n".join(constraints))
    options = ["--quiet", "--only-binary", ":all:", "--constraint", str(folder / "constraints")]
    command = [str(installed.scripts / "python"), "-I", "-m", "pip", "install", *options]
    environment = os.environ | {"PATH": str(installed.scripts)}
    subprocess.run([*command, f"{wheel}{extra}"], env=environment, check=True)
    return installed


def lowest(requirement: str) -> str:
    return re.sub(r"^([\w-]+)>=([\d.]+).*", r"\1==\2", requirement)


#: NumPy 1.26 has no wheels for newer versions.
NEEDS_312 = pytest.mark.skipif(sys.version_info >= (3, 13), reason="tested on Python 3.11 and 3.12")
VERSIONS = ["newest", pytest.param("lowest", marks=NEEDS_312)]


@pytest.fixture(scope="module", params=VERSIONS)
def bare(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """The wheel with the newest, or the oldest allowed, dependencies, and without extras."""
    constraints = map(lowest, PROJECT["dependencies"]) if request.param == "lowest" else ()
    return install(tmp_path_factory.mktemp("bare"), wheel, "", constraints)


def test_import(bare: Installed) -> None:
    done = bare.run("python", "-I", "-c", "from atb_fast import _core; print(_core.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(bare.home), done.stderr


def test_version_and_help(bare: Installed) -> None:
    done = bare.run("atb-fast", "--version")
    version = tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["package"]["version"]
    assert (done.returncode, done.stdout) == (0, f"atb-fast {version}\n"), done.stderr
    done = bare.run("atb-fast", "--help")
    assert done.returncode == 0
    for command in ("train", "evaluate", "recipes", "models", "doctor"):
        assert f"\n  {command} " in done.stdout


def test_doctor_names_what_training_needs(bare: Installed) -> None:
    done = bare.run("atb-fast", "doctor", "--json")
    assert done.returncode == 7
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)}
    missing = ["tensorflow", "onnx", "onnxruntime", "tf2onnx", "matplotlib", "jinja2"]
    assert [name for name, state in states.items() if state != "ok"] == missing
    assert "atb-fast" in states
    done = bare.run("atb-fast", "doctor")
    assert "pip install 'atb-fast[train]'" in done.stdout
    names = ", ".join(missing)
    assert done.stderr == (
        f"error: training does not work: {names}; apply the fixes listed above\n"
    )


def test_recipes_of_a_file_and_of_the_package(bare: Installed) -> None:
    (bare.home / "momentum.toml").write_text(RECIPE)
    done = bare.run("atb-fast", "recipes", "check", "momentum.toml")
    assert done.returncode == 0, done.stderr
    assert bare.run("atb-fast", "recipes", "show", "volatility").returncode == 0


def test_data_is_prepared(bare: Installed) -> None:
    """Reads the sample market, computes every feature many times, and compares."""
    command = ["check", "leak", "BTCUSDT", "--source", "sample", "--recipe", "causal"]
    done = bare.run("atb-fast", *command, "--cuts", "2")
    assert done.returncode == 0, done.stderr
    assert "no look-ahead bias" in done.stdout


@pytest.mark.parametrize("command", ["train model", "train price", "evaluate"])
def test_training_without_tensorflow_is_one_clear_error(bare: Installed, command: str) -> None:
    done = bare.run("atb-fast", *command.split(), "BTCUSDT", "--registry", "models")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr == (
        "error: training needs TensorFlow, which is not installed; install it with pip install "
        "'atb-fast[train]', or 'atb-fast[train-gpu]' for NVIDIA GPUs\n"
    )


@pytest.mark.parametrize("versions", VERSIONS)
def test_scoring_equals_that_of_this_checkout(
    wheel: Path, models: Path, tmp_path: Path, versions: str
) -> None:
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["predict"]]
    constraints = map(lowest, needed) if versions == "lowest" else ()
    installed = install(tmp_path, wheel, "[predict]", constraints)
    candles, scored = tmp_path / "candles.parquet", tmp_path / "scored.parquet"
    sample.candles("BTCUSDT", "1d").tail(300).write_parquet(candles)
    done = installed.run("python", "-I", "-c", SCORE, models, candles, scored)
    assert done.returncode == 0, done.stderr
    expected = load_bundle("BTCUSDT:1d:price", registry=models).predict(pl.read_parquet(candles))
    found = pl.read_parquet(scored)
    assert found.height == expected.height > 100
    assert_frame_equal(found, expected, rel_tol=1e-5)
