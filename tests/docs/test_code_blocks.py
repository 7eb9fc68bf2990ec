"""Every code block of the README and of docs/ is executed.

The blocks of a page run from top to bottom, in a separate directory:

- `python` blocks of a page share one namespace, and pass `mypy --strict`.
- `bash` blocks: `atb-fast ...` runs in this process, against a local exchange that serves the
  sample market, and with the short options of `QUICK`. `make ...` must have its targets,
  `pip install ...` its extras or packages, and `python SCRIPT ...` must accept its options. A line
  with shell syntax runs in bash. The tag `exit=N` is the exit code of the last command.
- `toml` blocks are loaded as settings files, or as recipe files if they have features, or as spaces
  if they begin with `# space.toml`; recipes and spaces stay, under their names. `json` blocks are
  parsed.
- `text` blocks show output or a layout of files and are not executed.
- The tag `no-run: REASON` is for blocks that no test can run; `MOST_NOT_RUN` limits them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from exchange import Exchange
from pages import PAGES, ROOT, Block, blocks, name

from atb_fast import TrainingConfig, run_training_pipeline
from atb_fast.cli import settings
from atb_fast.cli.main import cli
from atb_fast.cli.options import TABLES
from atb_fast.errors import AtbFastError
from atb_fast.experiments.space import read as read_space
from atb_fast.ingestion import sample
from atb_fast.recipes.documents import read_file

MOST_NOT_RUN = 3
#: Options in the environment that keep the documented commands short.
QUICK = {
    **{"EPOCHS": "1", "ENGINE": "keras", "SEQUENCE_LENGTH": "20", "FOLDS": "1", "CUTS": "2"},
    **{"SKIP_PLOTS": "1", "SKIP_ROBUSTNESS": "1"},
}
#: The first candle of each series of the exchange: just enough for every recipe.
SERIES = {
    ("BTCUSDT", "1d"): datetime(2022, 6, 1, tzinfo=UTC),
    ("ETHUSDT", "1d"): datetime(2022, 6, 1, tzinfo=UTC),
    ("BTCUSDT", "1h"): datetime(2024, 12, 1, tzinfo=UTC),
}


@pytest.fixture(scope="module")
def exchange_url() -> Iterator[dict[str, str]]:
    """The environment that points to a local exchange with some months of the sample market."""
    candles = {
        key: (frame := sample.candles(*key)).filter(frame["timestamp"] >= first)
        for key, first in SERIES.items()
    }
    now = int(datetime(2024, 12, 31, 12, tzinfo=UTC).timestamp()) * 1000
    with Exchange(candles, sample.sentiment(), now) as server:
        yield server.environment


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the live bundles that the pages load, trained once."""
    root = tmp_path_factory.mktemp("registry")
    quick: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "epochs": 1, "registry": root}
    quick |= {"engine": "keras", "skip_plots": True, "skip_robustness": True, "promote": "always"}
    daily: dict[str, Any] = {"start_date": "2024-01-01", "sequence_length": 20}
    run_training_pipeline(TrainingConfig(**quick, **daily))
    hourly: dict[str, Any] = {"start_date": "2024-12-20", "timeframe": "1h", "recipe": "basic"}
    run_training_pipeline(TrainingConfig(**quick, **hourly))
    return root


@pytest.fixture
def page(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    registry: Path,
    exchange_url: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A page, with the directory and the environment that its blocks run in."""
    found: Path = request.param
    shutil.copytree(registry, tmp_path / "models", symlinks=True)
    data = tmp_path / "data"
    data.mkdir()
    for (symbol, timeframe), first in SERIES.items():
        frame = sample.candles(symbol, timeframe)
        frame.filter(frame["timestamp"] >= first).write_csv(data / f"{symbol}_{timeframe}.csv")
    sample.sentiment().write_csv(data / "fear_greed.csv")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "atb-fast").write_text(f'#!/bin/sh\nexec {sys.executable} -m atb_fast "$@"\n')
    (binaries / "atb-fast").chmod(0o755)
    variables = {f"ATB_FAST_{option}": value for option, value in QUICK.items()}
    variables |= exchange_url | {
        "ATB_FAST_CACHE": str(tmp_path / "cache"),
        "MODEL_REGISTRY_PATH": "models",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
    }
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name, indirect=True)
def test_blocks_of(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if not block.tag.startswith("no-run"):
            RUNNERS[block.language](block, namespace)


def test_python_blocks_pass_mypy(tmp_path: Path) -> None:
    files: list[Path] = []
    for page in PAGES:
        if code := [block.code for block in blocks(page) if block.language == "python"]:
            files.append(tmp_path / f"{page.stem.replace('-', '_')}.py")
            files[-1].write_text("\n".join(code))
    # With the settings and the cache of `make lint`.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_blocks_are_tagged_and_few_are_not_run() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    tag = re.compile(r"|exit=\d+|no-run: .{10,}")
    assert [block.where for block in every if block.language not in RUNNERS] == []
    assert [block.where for block in every if not tag.fullmatch(block.tag)] == []
    assert sum(block.tag.startswith("no-run") for block in every) <= MOST_NOT_RUN
    # Otherwise, the pattern has missed a fence.
    fences = sum(len(re.findall("^ *```", page.read_text("utf-8"), re.M)) for page in PAGES)
    assert fences == 2 * len(every)


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    # Without the future statement of this file.
    exec(compile(block.code, block.where, "exec", dont_inherit=True), namespace)


def run_toml(block: Block, _: dict[str, Any]) -> None:
    document = tomllib.loads(block.code)
    if block.code.startswith("# space.toml"):
        Path("space.toml").write_text(block.code)
        base = TrainingConfig(symbol="BTCUSDT", recipe="causal")
        assert read_space(Path("space.toml"), base).dimensions, block.where
        return
    if "features" in document:
        path = Path(f"{document['name']}.toml")
        path.write_text(block.code)
        assert read_file(path).name == document["name"], block.where
        return
    Path("block.toml").write_text(block.code)
    assert settings.load(Path("block.toml"), TABLES), block.where


def run_bash(block: Block, _: dict[str, Any]) -> None:
    lines = block.code.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if shlex.split(line, comments=True)]
    expected = int(block.tag.removeprefix("exit=") or 0)
    for number, line in enumerate(commands, 1):
        code = run_line(line)
        wanted = expected if number == len(commands) else 0
        assert code == wanted, f"{block.where}: {line}: exit code {code}, expected {wanted}"


def run_line(line: str) -> int:
    words = shlex.split(line, comments=True)
    if re.search(r"[$|<>;&]|^\w+=", line.partition(" #")[0]):
        return subprocess.run(["bash", "-c", line], check=False, timeout=120).returncode
    return PROGRAMS[words[0]](words[1:])


def run_atb_fast(arguments: list[str]) -> int:
    try:
        return cli.main(arguments, prog_name="atb-fast", standalone_mode=False) or 0
    except (AtbFastError, click.ClickException) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run_make(arguments: list[str]) -> int:
    return subprocess.run(["make", "--dry-run", "-C", ROOT, *arguments], check=False).returncode


def run_pip(arguments: list[str]) -> int:
    command, *packages = arguments
    assert command == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    known = {re.split(r"[\[<>=!~ ]", package)[0] for every in extras.values() for package in every}
    known |= {".", *(f".[{extra}]" for extra in extras)}
    return 0 if set(packages) <= known else 1


def run_script(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, *arguments, "--help"], check=False, cwd=ROOT).returncode


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "atb-fast": run_atb_fast,
    "make": run_make,
    "pip": run_pip,
    "python": run_script,
}
RUNNERS: dict[str, Callable[[Block, dict[str, Any]], object]] = {
    "python": run_python,
    "bash": run_bash,
    "toml": run_toml,
    "json": lambda block, _: json.loads(block.code),
    "text": lambda *_: None,
}
