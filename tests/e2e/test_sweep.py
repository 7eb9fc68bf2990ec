"""`atb-fast sweep` from outside: real trials, and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SPACE = """
seed = [1, 2]
sequence_length = {low = 20, high = 40}
network.bars = {low = 1, high = 5}
"""
OPTIONS = [
    *("--recipe", "causal", "--target", "binary_direction", "--network", "linear"),
    *("--source", "sample", "--start-date", "2022-01-01", "--sequence-length", "30"),
    *("--folds", "2", "--registry", "models", "--study", "study"),
]
SWEEP = ["sweep", "BTCUSDT", "--space", "space.toml", "--trials", "5", "--round", "2", *OPTIONS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, command_line: CommandLine) -> Path:
    """A folder with a study that was not interrupted, and what the program printed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "space.toml").write_text(SPACE)
    done = command_line.run(*SWEEP, "--jobs", "1", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed.json").write_text(done.stdout)
    return folder


@pytest.fixture
def printed(whole: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((whole / "printed.json").read_text())
    return found


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results of a study by id, without what may differ between two runs."""
    found = {}
    for path in (folder / "study").glob("*.json"):
        document = json.loads(path.read_text())
        for key in ("run", "sha256"):
            document.pop(key, None)
        found[path.stem] = document
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the ledger, without what may differ between two runs."""
    lines = (folder / ".models-work" / "ledger.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for record in found:
        for key in ("created", "seconds", "machine", "sha256"):
            del record[key]
    return found


def processes(folder: Path) -> Iterator[int]:
    """Yield the processes that run in `folder`."""
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if path.readlink() == folder:
                yield int(path.parent.name)


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the study in a process of its own, and wait for its second result."""
    process = subprocess.Popen(
        [sys.executable, "-m", "atb_fast", *SWEEP, "--jobs", "1"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list((folder / "study").glob("*.json"))) < 3:  # with study.json
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    return process


def test_one_document(printed: dict[str, Any]) -> None:
    assert list(printed) == ["study", "trials", "best", "verdict", "importance", "command"]
    trials = printed["trials"]
    assert printed["study"]["complete"] == len(trials) == 5
    assert trials[0]["params"] == {"seed": 42, "sequence_length": 30, "network.bars": 1}
    for trial in trials:
        ratios = [fold["reference_ratio"] for fold in trial["folds"]]
        assert trial["value"] == pytest.approx(sum(ratios) / 2)
        assert trial["state"] == "complete"
    assert printed["best"] in {trial["trial_id"] for trial in trials}
    assert printed["verdict"]["keep"] in ("defaults", "best")
    assert printed["verdict"]["holdout"]["looks"] == 1


def test_what_is_printed(whole: Path, command_line: CommandLine, printed: dict[str, Any]) -> None:
    """The same command again trains nothing, and gives the same result."""
    before = {path: path.stat().st_mtime_ns for path in (whole / "study").glob("*.json")}
    again = command_line.run(*SWEEP, "--json", cwd=whole)
    assert json.loads(again.stdout) == printed
    shown = command_line.run(*SWEEP, cwd=whole)
    assert shown.stdout.splitlines()[0] == printed["verdict"]["sentence"]
    assert printed["command"] in shown.stdout
    assert "report: study/report.html" in shown.stdout
    # `ratio`, as in `runs ls`, is that of all bars together.
    heading = next(each.split() for each in shown.stdout.splitlines() if each.startswith("trial "))
    assert heading[:2] == ["trial", "value"]
    assert {path: path.stat().st_mtime_ns for path in (whole / "study").glob("*.json")} == before
    page = (whole / "study" / "report.html").read_text()
    assert all(trial["trial_id"][:8] in page for trial in printed["trials"])


def test_a_shortened_table_says_so(tmp_path: Path, atb_fast: Run) -> None:
    (tmp_path / "space.toml").write_text("sequence_length = {low = 20, high = 31, step = 1}\n")
    options = [*OPTIONS, "--search", "grid", "--holdout", "0", "--trials", "12"]
    done = atb_fast("sweep", "BTCUSDT", "--space", "space.toml", *options)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^[0-9a-f]{16} ", done.stdout, re.MULTILINE)
    assert len(rows) in (10, 11)  # with the defaults
    title = f"12 of 12 trials complete, {len(rows)} of them below, all in the report; value: "
    assert title in done.stdout.replace("\n", " ")


def test_the_number_of_jobs_does_not_matter(
    whole: Path, printed: dict[str, Any], space: Path, atb_fast: Run
) -> None:
    done = atb_fast(*SWEEP, "--jobs", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == printed
    assert results(space.parent) == results(whole)
    assert records(space.parent) == records(whole)


def test_a_ray_cluster_gives_the_same_results(
    whole: Path, printed: dict[str, Any], space: Path, atb_fast: Run
) -> None:
    pytest.importorskip("ray")
    done = atb_fast(*SWEEP, "--executor", "ray", "--jobs", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == printed
    assert results(space.parent) == results(whole)
    assert records(space.parent) == records(whole)


def test_a_killed_study_goes_on(
    whole: Path, printed: dict[str, Any], space: Path, atb_fast: Run
) -> None:
    with start(space.parent) as process:
        process.kill()
    while list(processes(space.parent)):  # its workers end as soon as it has
        time.sleep(0.05)
    kept = {path: path.stat().st_mtime_ns for path in (space.parent / "study").glob("*.json")}
    done = atb_fast(*SWEEP, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == printed
    assert results(space.parent) == results(whole)
    assert records(space.parent) == records(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_ctrl_c(whole: Path, space: Path) -> None:
    with start(space.parent) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("error: interrupted; ")
    assert said.splitlines()[-1].endswith(" in study; run the same command to resume")
    assert list(processes(space.parent)) == []
    kept = results(space.parent)
    assert len(kept) >= 3
    assert kept.items() <= results(whole).items()


OWN = """
import os, signal
from atb_fast.recipes.networks import Linear
from atb_fast.recipes.recipe import Recipe
class Own(Recipe):
    def __init__(self):
        super().__init__(name=type(self).__name__.lower(), features={"x": "close / open - 1"},
                         network=Linear())
class Hungry(Own):
    def prepare(self, market, options, context):
        raise MemoryError("cannot allocate 80 GiB")
class Killed(Own):
    def prepare(self, market, options, context):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_failing_trials_do_not_stop_the_study(tmp_path: Path, atb_fast: Run) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "space.toml").write_text('recipe = ["own:Hungry", "own:Killed"]\nseed = [1]\n')
    options = [*OPTIONS, "--search", "grid", "--holdout", "0"]
    done = atb_fast("sweep", "BTCUSDT", "--space", "space.toml", *options)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "1 trial failed: not enough memory: cannot allocate 80 GiB;" in done.stdout
    assert "1 trial failed: the process was killed by SIGKILL" in done.stdout
    assert "Left out of the verdict: 2 failed trials" in done.stdout
    again = atb_fast("sweep", "BTCUSDT", "--space", "space.toml", *options, "--json")
    states = [trial["state"] for trial in json.loads(again.stdout)["trials"]]
    assert states == ["complete", "failed", "failed"]


@pytest.mark.usefixtures("space")
def test_too_few_candles_are_the_error_of_an_evaluation(tmp_path: Path, atb_fast: Run) -> None:
    options = [*OPTIONS[:-2], "--folds", "500"]  # without --study
    done = atb_fast("sweep", "BTCUSDT", "--space", "space.toml", "--holdout", "0", *options)
    assert done.returncode == 3
    assert "to test 500 folds with" in done.stderr
    evaluated = atb_fast("evaluate", "BTCUSDT", *options)
    assert done.stderr.splitlines()[-1] == evaluated.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["space.toml"]


def test_a_full_disk(
    whole: Path, printed: dict[str, Any], space: Path, command_line: CommandLine
) -> None:
    done = command_line.run(*SWEEP, cwd=space.parent, file_size=6_000)
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: study/")
    assert ".json cannot be written (File too large); finished trials are saved" in error
    assert [path.name for path in (space.parent / "study").glob(".*.tmp")] == []
    again = command_line.run(*SWEEP, "--json", cwd=space.parent)
    assert json.loads(again.stdout) == printed
    assert results(space.parent) == results(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "no.toml"], "space no.toml cannot be read"),
        (["--space", "space.toml", "--ray-address", "auto"], "--ray-address needs --executor ray"),
        (["--space", "space.toml", "--holdout", "2"], "--holdout is 2.0, expected a share"),
        (["--space", "space.toml", "--search", "grid"], "sequence_length is a range without step"),
    ],
)
@pytest.mark.usefixtures("space")
def test_invalid_options(arguments: list[str], message: str, atb_fast: Run) -> None:
    done = atb_fast("sweep", "BTCUSDT", *arguments, *OPTIONS)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_the_command_of_the_study_trains(
    whole: Path, printed: dict[str, Any], command_line: CommandLine
) -> None:
    _, *words = shlex.split(printed["command"])
    done = command_line.run(*words, "--skip-plots", "--skip-onnx", "--json", cwd=whole)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["symbol"] == "BTCUSDT"


def test_without_optuna(tmp_path: Path, space: Path) -> None:
    blocked = "import sys; sys.modules['optuna'] = None; from atb_fast.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", blocked, *SWEEP],
        cwd=space.parent,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 7
    assert done.stderr.splitlines()[-1] == (
        "error: --search tpe needs optuna; run pip install 'atb-fast[sweep]', or use --search "
        "random"
    )
    assert not (tmp_path / "study").exists()
