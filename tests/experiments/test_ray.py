"""Tasks on Ray, which give the same results as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tasks
from living import check_that_all_end, marked, wait_for_end

from atb_fast import TrainingConfig
from atb_fast.callbacks import Listener
from atb_fast.errors import ArgumentError, MissingExtraError
from atb_fast.experiments import trial
from atb_fast.experiments.executors import Executor, Failure, Local, Task
from atb_fast.experiments.ray import Ray
from atb_fast.ingestion.market import load_market
from atb_fast.training import environment

pytestmark = [
    # From the code of Ray.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


class Ended(Listener):
    def __init__(self) -> None:
        self.count = 0

    def finished(self) -> None:
        self.count += 1


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Restore what connecting to Ray sets in the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("unconfigured")
def test_tasks_and_their_failures(tmp_path: Path) -> None:
    given = [
        Task("one", tasks.found, (1,), ("big",)),
        Task("threads", tasks.variables),
        Task("refused", tasks.refused),
        Task("exhausted", tasks.exhausted),
        Task("again", tasks.killed_once, (tmp_path / "file",)),
        Task("killed", tasks.killed),
    ]
    big, seen = os.urandom(1 << 20), Ended()
    handler = signal.getsignal(signal.SIGTERM)
    with Ray(jobs=2, threads=3) as executor:
        executor.share("big", big)
        results = {task.name: r for task, r in executor.run(given, listen=lambda _: seen)}
        assert signal.getsignal(signal.SIGTERM) is handler
    arguments, shared, process = results["one"]
    assert (arguments, shared) == ((1,), {"big": big})
    assert process != os.getpid()
    assert results["threads"]["TF_NUM_INTRAOP_THREADS"] == "3"
    assert results["threads"]["OMP_NUM_THREADS"] == "3"
    assert results["threads"]["TF_NUM_INTEROP_THREADS"] == "1"
    assert results["refused"] == Failure("refused", "the candles are wrong", 3)
    assert results["exhausted"].error.startswith("not enough memory: of 1 TB")
    assert results["again"] == "again"
    lost = "its process or its machine was lost twice"
    assert results["killed"] == Failure("killed", lost, 1)
    assert seen.count == len(given)


def test_nothing_is_printed_about_lost_processes() -> None:
    """Stdout may be a JSON document. Ray reads this setting when a program imports it."""
    program = """
import tasks
from atb_fast.experiments.executors import Task
from atb_fast.experiments.ray import Ray
with Ray(jobs=1) as executor:
    ((_, result),) = executor.run([Task("killed", tasks.killed)])
print(result.error)
"""
    path = os.pathsep.join([str(Path(tasks.__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "its process or its machine was lost twice\n", done.stderr


@pytest.mark.usefixtures("unconfigured")
def test_processes_are_reused() -> None:
    given = [Task(str(number), tasks.found) for number in range(3)]
    with Ray(jobs=1, reuse=True) as executor:
        processes = {result[2] for _, result in executor.run(given)}
    assert len(processes) == 1
    assert os.getpid() not in processes


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'atb-fast\[ray\]'$"):
        Ray().__enter__()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no connection to a Ray cluster at 127.0.0.1:1: Connection refused; check"),
        ("nowhere", "--ray-address is 'nowhere', expected HOST:PORT, or auto"),
        ("ray://127.0.0.1:1", "expected HOST:PORT, or auto"),
    ],
)
@pytest.mark.usefixtures("unconfigured")
def test_no_cluster(address: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Ray(address).__enter__()


@pytest.mark.usefixtures("unconfigured")
def test_machines_are_compared_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, the packages of the driver are not what the processes of the cluster have."""
    expected = environment.versions() | {"atb-fast": "0.0.1"}
    monkeypatch.setattr(environment, "versions", lambda: expected)
    with pytest.raises(MissingExtraError, match=r"has atb-fast .*, expected 0\.0\.1\. Install the"):
        Ray(jobs=1).__enter__()
    monkeypatch.undo()
    with Ray(jobs=1) as executor:  # nothing is left of the first one
        ((_, (arguments, _, _)),) = executor.run([Task("one", tasks.found, (1,))])
    assert arguments == (1,)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_processes_end_with_the_program(tmp_path: Path, number: signal.Signals) -> None:
    """After a kill, which nothing can prepare for, Ray takes a minute."""
    check_that_all_end("ray", tmp_path, number)


def config(**options: Any) -> TrainingConfig:
    given: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "recipe": "causal"}
    given |= {"network": "mlp", "sequence_length": 10, "start_date": "2022-01-01", "epochs": 2}
    return TrainingConfig(**{**given, "target": "binary_direction", **options})


def results(executor: Executor, seeds: range) -> dict[str, bytes]:
    """Return what must not vary of the results of trials that differ by their seed."""
    described, contents = trial.pack(load_market(config()))
    for key, content in contents.items():
        executor.share(key, content)
    folds = {"number": 2, "window": "expanding", "embargo": None, "until": None}
    documents = [trial.document([config(seed=n)], [described], folds=folds) for n in seeds]
    found = {}
    for task, result in executor.run([trial.task(document) for document in documents]):
        assert isinstance(result, dict), result
        assert result["state"] == "complete", result["error"]
        found[task.name] = trial.canonical({n: v for n, v in result.items() if n != "run"})
    return found


@pytest.mark.long
@pytest.mark.usefixtures("unconfigured")
def test_a_lost_machine_changes_no_result(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    with Local(1, threads=1, reuse=True) as executor:
        expected = results(executor, range(4))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        with Ray(cluster.address, threads=1) as executor:
            assert results(executor, range(2)).items() <= expected.items()
            given = [Task(name, tasks.endless, (tmp_path,)) for name in "ab"]
            with ThreadPoolExecutor() as threads:  # a cluster changes only in the main thread
                running = threads.submit(lambda: {t.name: r for t, r in executor.run(given)})
                _lose(cluster, nodes[0], tmp_path)
                assert running.result() == {"a": "ended", "b": "ended"}
            assert len(list(tmp_path.glob("[0-9]*"))) == 3
            assert results(executor, range(2, 4)).items() <= expected.items()
    finally:
        cluster.shutdown()


def _lose(cluster: Any, node: Any, folder: Path) -> None:
    """Remove a machine while a task runs on it, and add another one for that task."""
    _wait_for_processes(folder, 2)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    _wait_for_processes(folder, 3)
    (folder / "go").touch()


def _wait_for_processes(folder: Path, count: int) -> None:
    while len(list(folder.iterdir())) < count:
        Event().wait(0.05)


@pytest.mark.long
def test_nothing_leaves_the_machine(tmp_path: Path) -> None:
    """In a network namespace that has nothing but loopback."""
    isolated = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"']
    probe = subprocess.run([*isolated, "sh", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"network namespaces are not permitted here: {probe.stderr.strip()}")
    mark, variables = marked()
    (tmp_path / "go").touch()
    done = subprocess.run(
        [*isolated, "sh", sys.executable, tasks.__file__, "ray", tmp_path],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # Ray says there that it finds no other address
    assert sorted(done.stdout.split()) == ["a", "b", "quick"]
    wait_for_end(mark)
