"""Tasks in separate processes, and the progress that they report."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import MISSING, fields
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tasks
from living import check_that_all_end

from atb_fast import TrainingConfig
from atb_fast.callbacks import Listener
from atb_fast.evaluation.walk_forward import Fold
from atb_fast.experiments.executors import Failure, Local, Task, train_all
from atb_fast.runs.timing import STAGES


class Seen(Listener):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.epochs: list[int] = []
        self.done: list[tuple[int, int]] = []
        self.folds: list[Fold] = []
        self.ends = 0

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def windows(self, done: int, total: int) -> None:
        self.done.append((done, total))

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        assert logs["val_loss"] > 0
        assert logs["val_persistence_rmse"] > 0
        self.epochs.append(number)

    def fold(self, fold: Fold) -> None:
        self.folds.append(fold)

    def finished(self) -> None:
        self.ends += 1


def test_events_of_each_process_reach_its_listener(tmp_path: Path) -> None:
    good = TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date=date(2024, 6, 1),
        sequence_length=10,
        epochs=2,
        engine="keras",
        skip_onnx=True,
        skip_plots=True,
        skip_robustness=True,
        registry=tmp_path,
    )
    bad = TrainingConfig(
        symbol="ETHUSDT", candles=tmp_path / "gone.csv", force_price_only=True, registry=tmp_path
    )
    seen = {"BTCUSDT": Seen(), "ETHUSDT": Seen()}
    trained, failed = train_all([good, bad], jobs=2, listen=lambda config: seen[config.symbol])
    assert not isinstance(trained, Failure)
    assert isinstance(failed, Failure)
    assert (failed.name, failed.exit_code) == ("ETHUSDT", 3)
    assert seen["BTCUSDT"].epochs == [1, 2]
    assert set(seen["BTCUSDT"].stages) == {*STAGES, "importing TensorFlow", "compiling"}
    windows = seen["BTCUSDT"].done
    # The end of every epoch is reported, even if most batches are not.
    assert [done for done, total in windows if done == total] == [windows[0][1]] * 2
    assert seen["ETHUSDT"].stages == ["ingestion"]
    assert [listener.ends for listener in seen.values()] == [1, 1]


def test_a_process_is_reused_and_receives_contents_once() -> None:
    needed: list[str] = [each.name for each in fields(Fold) if each.default is MISSING]
    values: dict[str, Any] = dict.fromkeys(needed, 1) | {"figures": {"rmse": 2.0}}
    fold = Fold(**values)
    big, seen = os.urandom(1 << 20), Seen()  # more than a pipe holds
    given = [
        Task("one", tasks.found, (1,), ("big",)),
        Task("two", tasks.found, (2, "x"), ("big", "small")),
        Task("three", tasks.folded, (fold,)),
    ]
    with Local(1, reuse=True) as executor:
        executor.share("big", big)
        executor.share("small", b"small")
        executor.share("small", b"ignored, because a key names one content")
        results = {task.name: r for task, r in executor.run(given, listen=lambda _: seen)}
        again = list(executor.run([Task("four", tasks.found)]))
    assert list(results) == ["one", "two", "three"]
    arguments, shared, process = results["one"]
    assert (arguments, shared) == ((1,), {"big": big})
    assert results["two"] == ((2, "x"), {"big": big, "small": b"small"}, process)
    assert again == [(Task("four", tasks.found), ((), {}, process))]
    assert (seen.folds, seen.stages, seen.ends) == ([fold], ["found"] * 2, 3)
    assert multiprocessing.active_children() == []


def test_a_process_is_replaced_after_25_tasks() -> None:
    names = list(map(str, range(51)))
    with Local(1, reuse=True) as executor:
        found = {task.name: r[2] for task, r in executor.run([Task(n, tasks.found) for n in names])}
    assert list(found) == names
    processes = list(dict.fromkeys(found.values()))
    assert [list(found.values()).count(each) for each in processes] == [25, 25, 1]
    assert multiprocessing.active_children() == []


def test_without_reuse_each_task_has_a_process() -> None:
    with Local(2) as executor:
        results = [found for _, found in executor.run([Task(n, tasks.found) for n in "abc"])]
    assert len({process for _, _, process in results}) == 3


@pytest.mark.parametrize("reuse", [True, False])
def test_failures_concern_one_task(reuse: bool) -> None:
    given = [
        Task("refused", tasks.refused),
        Task("exhausted", tasks.exhausted),
        Task("killed", tasks.killed),
        Task("fine", tasks.found),
    ]
    seen = Seen()
    with Local(1, reuse=reuse) as executor:
        results = {task.name: r for task, r in executor.run(given, listen=lambda _: seen)}
    assert results["refused"] == Failure("refused", "the candles are wrong", 3)
    assert results["exhausted"].error.startswith("not enough memory: of 1 TB")
    killed = "the process was killed by SIGKILL; if it ran out of memory, use --jobs 1"
    assert results["killed"] == Failure("killed", killed, 1)
    assert results["fine"][:2] == ((), {})
    assert seen.ends == 4


def test_a_process_that_dies_while_idle_is_replaced() -> None:
    with Local(1, reuse=True) as executor:
        ((_, (_, _, process)),) = executor.run([Task("one", tasks.found)])
        os.kill(process, signal.SIGKILL)
        for child in multiprocessing.active_children():
            child.join()
        ((_, (_, _, other)),) = executor.run([Task("two", tasks.found)])
    assert other != process


def test_closing_the_iterator_ends_the_processes(tmp_path: Path) -> None:
    with Local(2, reuse=True) as executor:
        given = [Task("quick", tasks.found), Task("endless", tasks.endless, (tmp_path,))]
        running = executor.run(given)
        task, _ = next(running)
        assert task.name == "quick"
        running.close()
        assert multiprocessing.active_children() == []
        ((_, (arguments, _, _)),) = executor.run([Task("more", tasks.found, ("more",))])
        assert arguments == ("more",)


def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**options: Any) -> dict[str, str]:
        with Local(1, **options) as executor:
            ((_, variables),) = executor.run([Task("variables", tasks.variables)])
        assert isinstance(variables, dict)
        return variables

    cores = str(len(os.sched_getaffinity(0)))
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
    before = dict(os.environ)
    shared = found()
    # What the user has set counts, unless results must not depend on it.
    assert (shared["TF_NUM_INTRAOP_THREADS"], shared["OMP_NUM_THREADS"]) == ("7", "5")
    assert shared["TF_NUM_INTEROP_THREADS"] == cores
    fixed = found(threads=3)
    assert (fixed["TF_NUM_INTRAOP_THREADS"], fixed["OMP_NUM_THREADS"]) == ("3", "3")
    assert fixed["TF_NUM_INTEROP_THREADS"] == cores
    assert dict(os.environ) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_processes_end_with_the_program(tmp_path: Path, number: signal.Signals) -> None:
    check_that_all_end("local", tmp_path, number)
