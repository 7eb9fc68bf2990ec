"""The wheel and the source distribution, and scoring with a wheel without TensorFlow."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from atb_fast import load_bundle
from atb_fast.ingestion import sample

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[1]


def maturin(command: str, out: Path, *options: str) -> Path:
    """Build and return the file."""
    subprocess.run(
        [sys.executable, "-m", "maturin", command, "--out", out, *options], cwd=ROOT, check=True
    )
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    return maturin("build", out, "--release", "--interpreter", sys.executable)


def test_the_wheel_contains_files_that_are_not_python(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("reports/templates/page.html", "py.typed", "_core.pyi"):
        assert f"atb_fast/{name}" in names
    assert [name for name in names if re.fullmatch(r"atb_fast/_core\..*(so|pyd)", name)]
    assert not [name for name in names if name.startswith(("tests/", "benches/"))]


def test_the_source_distribution_can_be_built_from(tmp_path: Path) -> None:
    with tarfile.open(maturin("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Cargo.toml", "Cargo.lock", "pyproject.toml", "rust/src/lib.rs"):
        assert name in names
    for name in ("reports/templates/page.html", "py.typed", "_core.pyi"):
        assert f"python/atb_fast/{name}" in names


@pytest.mark.parametrize("versions", ["newest", "lowest"])
def test_scoring_with_an_installed_wheel(
    wheel: Path, models: Path, tmp_path: Path, versions: str
) -> None:
    """With the newest and with the oldest allowed versions of all dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["predict"]]
    lowest = [re.sub(r"^([\w-]+)>=([\d.]+).*", r"\1==\2", each) for each in needed]
    (tmp_path / "constraints").write_text("\n".join(lowest if versions == "lowest" else []))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    python = str(tmp_path / "venv" / scripts / "python")
    install = [python, "-m", "pip", "install", "--quiet", f"{wheel}[predict]"]
    subprocess.run([*install, "--constraint", str(tmp_path / "constraints")], check=True)
    candles = tmp_path / "candles.parquet"
    sample.candles("BTCUSDT", "1d").tail(300).write_parquet(candles)
    code = (
        "import sys, polars, atb_fast\n"
        "bundle = atb_fast.load_bundle('BTCUSDT:1d:price', registry=sys.argv[1])\n"
        "print(bundle.predict_last(polars.read_parquet(sys.argv[2])))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    arguments = [str(models), str(candles)]
    environment: dict[str, str] = {}  # nothing that points to this checkout
    done = subprocess.run(
        [python, "-I", "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    bundle = load_bundle("BTCUSDT:1d:price", registry=models)
    expected = bundle.predict_last(sample.candles("BTCUSDT", "1d").tail(300))
    assert float(done.stdout) == pytest.approx(expected, rel=1e-5)
    command = [python, "-m", "atb_fast", "--version"]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
