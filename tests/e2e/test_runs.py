"""`atb-fast runs` from outside: what trainings leave in the ledger, and what the commands print."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine

Run = Callable[..., "subprocess.CompletedProcess[str]"]

QUICK: tuple[str, ...] = ("--source", "sample", "--start-date", "2022-01-01", "--force-price-only")
QUICK += ("--network", "linear", "--skip-plots", "--registry", "models")
#: Nothing answers here.
DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, command_line: CommandLine) -> Path:
    """A directory with three trainings in its registry, of which two differ only in the seed."""
    path = tmp_path_factory.mktemp("home")
    for options in (("--seed", "1"), ("--seed", "2"), ("--recipe", "causal")):
        done = command_line.run("train", "model", "BTCUSDT", *QUICK, *options, cwd=path)
        assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """A copy of `home`, to change."""
    shutil.copytree(home, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def records(home: Path, command_line: CommandLine) -> list[dict[str, Any]]:
    """What `runs ls --json` prints, newest first."""
    done = command_line.run("runs", "ls", "--json", "--registry", "models", cwd=home)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_trainings_are_listed(records: list[dict[str, Any]], home: Path) -> None:
    assert [each["recipe"] for each in records] == ["causal", "legacy", "legacy"]
    assert [each["state"] for each in records] == ["live", "live", "published"]
    assert [each["options"].get("seed") for each in records] == [None, 2, 1]
    for each in records:
        metadata = json.loads((home / "models" / each["bundle"] / "metadata.json").read_text())
        figures = metadata["evaluation_results"]
        assert each["error"] == figures["test_rmse"]
        assert each["ratio"] == pytest.approx(figures["test_rmse"] / figures["persistence_rmse"])
        assert each["kind"] == "train"
        assert each["seconds"] > 0
        assert str(home) not in json.dumps(each)


def test_the_table(home: Path, command_line: CommandLine, records: list[dict[str, Any]]) -> None:
    done = command_line.run("runs", "ls", "--registry", "models", cwd=home)
    assert done.returncode == 0
    head, _, *lines = done.stdout.splitlines()
    names = ["id", "when", "symbol", "run", "what", "error", "/ pers.", "s"]
    assert re.split("  +", head) == names
    assert [line.split()[0] for line in lines] == [each["id"][:6] for each in records]
    assert "causal, linear" in lines[0]
    assert "seed 1" in lines[2]
    assert "sample" not in done.stdout  # all share it


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--recipe", "legacy"), 2),
        (("--symbol", "btcusdt"), 3),
        (("--symbol", "ETHUSDT"), 0),
        (("--kind", "evaluate"), 0),
        (("--last", "1"), 1),
    ],
)
def test_filters(
    options: tuple[str, ...], expected: int, home: Path, command_line: CommandLine
) -> None:
    command = ["runs", "ls", *options, "--registry", "models", "--json"]
    done = command_line.run(*command, cwd=home)
    assert len(json.loads(done.stdout)) == expected


@pytest.mark.parametrize(("name", "best"), [("test_rmse", min), ("directional_accuracy", max)])
def test_the_best_run_is_first(
    name: str, best: Any, home: Path, command_line: CommandLine, records: list[dict[str, Any]]
) -> None:
    command = ["runs", "ls", "--sort", name, "--registry", "models", "--json"]
    found = json.loads(command_line.run(*command, cwd=home).stdout)
    known = [each["metrics"][name] for each in records if name in each["metrics"]]
    assert found[0]["metrics"][name] == best(known)


def test_one_run(home: Path, command_line: CommandLine, records: list[dict[str, Any]]) -> None:
    wanted = records[0]
    done = command_line.run("runs", "show", wanted["id"][:6], "--registry", "models", cwd=home)
    lines = done.stdout.partition("figure ")[0].splitlines()
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    assert facts["id"] == wanted["id"]
    assert facts["state"] == "live"
    assert facts["network"] == "linear"
    assert facts["test RMSE"].endswith(")")
    assert "directional_bars" in done.stdout
    done = command_line.run(
        "runs", "show", wanted["id"], "--json", "--registry", "models", cwd=home
    )
    assert json.loads(done.stdout) == wanted


def test_a_comparison(home: Path, command_line: CommandLine, records: list[dict[str, Any]]) -> None:
    identities = [each["id"][:8] for each in records]
    done = command_line.run(
        "runs", "compare", *identities, "--json", "--registry", "models", cwd=home
    )
    found = json.loads(done.stdout)
    assert [run["seeds"] for run in found["runs"]] == [1, 2]
    assert found["options"]["target"] == ["log_return", "close"]
    (panel,) = found["predictions"]  # both forecast the next close
    assert panel["unit"] == "quote currency"
    names = ["timestamp", "actual", *(run["id"] for run in found["runs"])]
    assert list(panel["frame"]) == names
    assert len({len(values) for values in panel["frame"].values()}) == 1
    done = command_line.run("runs", "compare", *identities, "--registry", "models", cwd=home)
    assert ", 2 seeds" in done.stdout
    assert "ratio to persistence" in done.stdout
    assert "95% confidence interval" in done.stdout
    assert ", n = " in done.stdout
    assert "\nn: test bars. If horizons overlap, only bars" in done.stdout


def test_a_table_for_spreadsheets(
    copied: Path, command_line: CommandLine, records: list[dict[str, Any]]
) -> None:
    command = ["runs", "export", "--csv", "runs.csv", "--registry", "models"]
    done = command_line.run(*command, cwd=copied)
    assert done.stdout == "3 runs written to runs.csv\n"
    with (copied / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, each in zip(rows, reversed(records), strict=True):
        assert row["id"] == each["id"]
        assert float(row["metrics.test_rmse"]) == each["metrics"]["test_rmse"]
        assert row["options.seed"] == str(each["options"].get("seed", ""))
        assert row["network.kind"] == "linear"


def test_a_removed_bundle_is_marked(
    copied: Path, command_line: CommandLine, records: list[dict[str, Any]]
) -> None:
    done = command_line.run("models", "prune", "--keep", "1", "--registry", "models", cwd=copied)
    assert done.returncode == 0
    done = command_line.run("runs", "ls", "--json", "--registry", "models", cwd=copied)
    assert [each["state"] for each in json.loads(done.stdout)] == ["live", "live", "removed"]
    done = command_line.run("runs", "ls", "--registry", "models", cwd=copied)
    assert "removed" in done.stdout.splitlines()[-1]
    command = ["runs", "reindex", "--registry", "models"]
    assert command_line.run(*command, cwd=copied).stdout == "0 added, 3 kept, 0 lines dropped\n"


def test_a_lost_ledger_is_rebuilt(
    copied: Path, command_line: CommandLine, records: list[dict[str, Any]]
) -> None:
    (copied / ".models-work" / "ledger.jsonl").unlink()
    done = command_line.run("runs", "reindex", "--json", "--registry", "models", cwd=copied)
    assert json.loads(done.stdout) == {"added": 3, "kept": 0, "dropped": []}
    done = command_line.run("runs", "ls", "--json", "--registry", "models", cwd=copied)
    # Bundles do not say how long their training took.
    expected = [each | {"seconds": None} for each in records]
    assert json.loads(done.stdout) == expected


def test_damaged_lines_are_named(copied: Path, command_line: CommandLine) -> None:
    with (copied / ".models-work" / "ledger.jsonl").open("a") as file:
        file.write("x\n" * 5 + '{"id": "')
    done = command_line.run("runs", "ls", "--json", "--registry", "models", cwd=copied)
    assert len(json.loads(done.stdout)) == 3
    assert "line 4: is not a record" in done.stderr
    assert "ignored these lines and 3 more" in done.stderr
    done = command_line.run("train", "model", "BTCUSDT", *QUICK, "--skip-onnx", cwd=copied)
    assert done.returncode == 0
    done = command_line.run("runs", "reindex", "--registry", "models", cwd=copied)
    assert done.stdout.endswith("0 added, 4 kept, 6 lines dropped\n")
    done = command_line.run("runs", "ls", "--json", "--registry", "models", cwd=copied)
    assert json.loads(done.stdout)[0]["state"] == "unpublished"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "zz"), "no run has the id 'zz'"),
        (("compare", "zz", "yy"), "no run has the id 'zz'"),
        (("ls", "--sort", "test_rms"), "did you mean test_rmse?"),
        (("compare", "zz", "yy", "--out", "x.txt"), "expected a name that ends with .html"),
        (("export",), "pass --csv FILE, --mlflow URI, or both"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], message: str, home: Path, command_line: CommandLine
) -> None:
    done = command_line.run("runs", *arguments, "--registry", "models", cwd=home)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_empty_registry(atb_fast: Run) -> None:
    listed = atb_fast("runs", "ls", "--registry", "none").stdout
    assert listed.startswith("no runs in the ledger")
    assert "atb-fast runs reindex" in listed
    assert json.loads(atb_fast("runs", "ls", "--json", "--registry", "none").stdout) == []
    assert atb_fast("runs", "show", "a", "--registry", "none").returncode == 2


def test_a_full_disk_costs_no_training(tmp_path: Path, command_line: CommandLine) -> None:
    """The ledger is already larger than files may become; no file of a bundle is that large."""
    work = tmp_path / ".models-work"
    work.mkdir()
    (work / "ledger.jsonl").write_text("x" * (1 << 23) + "\n")
    command = ["train", "model", "BTCUSDT", *QUICK, "--json"]
    done = command_line.run(*command, cwd=tmp_path, file_size=1 << 23)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["promoted"]
    assert "the run is complete, but" in done.stderr
    assert "run atb-fast runs reindex to add it later" in done.stderr


def test_completion_of_ids(home: Path, atb_fast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = (home / ".models-work" / "ledger.jsonl").read_text().splitlines()
    identity = json.loads(ledger[0])["id"]
    monkeypatch.setenv("_ATB_FAST_COMPLETE", "zsh_complete")
    monkeypatch.setenv("MODEL_REGISTRY_PATH", str(home / "models"))
    monkeypatch.setenv("COMP_WORDS", f"atb-fast runs show {identity[:3]}")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert identity in atb_fast().stdout.splitlines()


class TestMlflow:
    def test_runs_are_logged_once(
        self, copied: Path, command_line: CommandLine, records: list[dict[str, Any]]
    ) -> None:
        export = ["runs", "export", "--mlflow", "sqlite:///mlflow.db", "--registry", "models"]
        done = command_line.run(*export, cwd=copied)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "3 runs logged to sqlite:///mlflow.db, 0 already there\n"
        done = command_line.run(*export, cwd=copied)
        assert done.stdout == "0 runs logged to sqlite:///mlflow.db, 3 already there\n"
        with closing(sqlite3.connect(copied / "mlflow.db")) as database:
            runs = database.execute("select run_uuid, status from runs").fetchall()
            tags = dict(
                database.execute("select value, run_uuid from tags where key = 'atb_fast.id'")
            )
            assert [status for _, status in runs] == ["FINISHED"] * 3
            for each in records:
                run = (tags[each["id"]],)
                found = database.execute(
                    "select value from metrics where key = 'test_rmse' and run_uuid = ?", run
                )
                assert found.fetchall() == [(each["metrics"]["test_rmse"],)]
                found = database.execute("select key, value from params where run_uuid = ?", run)
                assert {"network": "linear", "source": "sample"}.items() <= dict(found).items()
        assert not (copied / "mlruns").exists()

    def test_a_dead_server_costs_no_training(self, atb_fast: Run, tmp_path: Path) -> None:
        done = atb_fast("train", "model", "BTCUSDT", *QUICK, "--mlflow", DEAD, "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)["promoted"]
        last = done.stderr.splitlines()[-1]
        assert last == (
            f"MLflow at {DEAD} cannot be used: Connection refused; the models are not affected. To "
            f"log them later, run atb-fast runs export --mlflow {DEAD} --registry models"
        )

    def test_a_dead_server_is_an_error_of_export(
        self, home: Path, command_line: CommandLine
    ) -> None:
        export = ["runs", "export", "--mlflow", DEAD, "--registry", "models"]
        done = command_line.run(*export, cwd=home)
        assert done.returncode == 6
        assert done.stderr == f"error: MLflow at {DEAD} cannot be used: Connection refused\n"

    def test_without_mlflow(
        self, new_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import importlib.util as util\n"
            "find = util.find_spec\n"
            "util.find_spec = lambda name, *a: None if name == 'mlflow' else find(name, *a)\n"
        )
        paths = (str(tmp_path), os.environ.get("PYTHONPATH", ""))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        done = new_process("train", "model", "BTCUSDT", *QUICK, "--mlflow", DEAD)
        assert done.returncode == 7
        assert done.stderr.splitlines()[1:] == [
            "error: mlflow is not installed; install it with pip install mlflow-skinny, or omit "
            "--mlflow"
        ]
