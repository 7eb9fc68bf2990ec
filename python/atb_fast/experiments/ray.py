"""Runs tasks on the machines of a Ray cluster, or on this machine."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atb_fast.callbacks import SILENT, Listener
from atb_fast.errors import (
    ArgumentError,
    AtbFastError,
    MissingExtraError,
    counted,
    message_and_code,
)
from atb_fast.experiments.executors import Failure, Task, thread_variables
from atb_fast.training import environment
from atb_fast.training.environment import cores
from atb_fast.training.startup import separate_stderr

if TYPE_CHECKING:
    from typing import Self

#: Settings of Ray, which it reads when it is imported or started.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send nothing to the makers of Ray
    "RAY_task_oom_retries": "1",
    # Ray prints messages about lost processes to stdout, which may be a JSON document.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
}
#: Most tasks that are submitted at a time; it limits the memory that a long study needs.
_MOST = 256
#: Seconds after which Ctrl-C is noticed.
_HEARTBEAT = 1.0
#: Seconds within which a cluster must accept a connection.
_CONNECT = 10.0
#: Seconds within which a machine must start a process and answer.
_PROBE = 120.0
#: Packages that must be the same on all machines.
_COMPARED = ("python", "ray", "atb-fast", "tensorflow", "tensorflow-cpu")


class Ray:
    """Runs each task in a process on a machine of a Ray cluster.

    If the process or its machine is lost, the task is retried once. Listeners receive the end of a
    task, but not its progress. All machines need the same packages, but no shared file system.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        jobs: int | None = None,
        threads: int | None = None,
        cpus: int = 1,
        gpus: float = 0,
        memory: int | None = None,
        reuse: bool = False,
    ) -> None:
        """Create an executor; it connects when the context is entered.

        Args:
            address: Address of a cluster, or `auto` for the cluster that this machine is part of.
                None: start a cluster on this machine, which ends with the executor.
            jobs: Maximum number of tasks in parallel. Default: as many as fit on the cluster.
            threads: As for `executors.Local`.
            cpus: Number of cores that a task uses.
            gpus: Number of GPUs that a task uses, which may be a fraction.
            memory: Bytes of memory to reserve for each task. None: reserve none.
            reuse: As for `executors.Local`.
        """
        self._address, self._jobs, self._reuse = address, jobs, reuse
        self._variables = thread_variables(threads, cpus)
        self._needs: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
        if memory is not None:
            self._needs["memory"] = memory
        self._contents: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Connect to the cluster, and compare its packages with those of this machine.

        Raises:
            ArgumentError: There is no cluster at the address, or no machine of it is large enough.
            AtbFastError: Ray cannot be started on this machine.
            MissingExtraError: Ray is not installed, or packages differ.
        """
        os.environ.update(_SETTINGS)
        self._ray = _import_ray()
        given: dict[str, Any] = {"address": self._address}
        variables = self._variables
        if self._address is None:
            room = cores() if self._jobs is None else self._jobs * self._needs["num_cpus"]
            room = max(room, self._needs["num_cpus"])
            given = {"address": "local", "num_cpus": room, "include_dashboard": False}
            # Import the same modules as this process, even if it has changed sys.path.
            variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
        else:
            _check_address(self._address)
        with _signals_kept():
            try:
                self._ray.init(
                    **given,
                    log_to_driver=False,
                    logging_level="error",
                    runtime_env={"env_vars": variables},
                )
            except Exception as error:  # Ray has no class for most of its errors
                if self._address is not None:
                    raise _unreachable(self._address, _line(error)) from error
                self._ray.shutdown()
                raise AtbFastError(
                    f"Ray cannot be started on this machine: {_line(error)}; try again when the "
                    "machine is less busy, or use the executor local"
                ) from error
        try:
            self._probe()
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self._contents.clear()
        self._ray.shutdown()

    def share(self, key: str, content: bytes) -> None:
        """Keep `content` for the tasks that name `key`. Each machine receives it once."""
        if key not in self._contents:
            self._contents[key] = self._ray.put(content)

    def run(
        self, tasks: Sequence[Task], *, listen: Callable[[Task], Listener] = lambda _: SILENT
    ) -> Generator[tuple[Task, Any], None, None]:
        """Yield each task with its result, as soon as it ends; see `executors.Executor.run`."""
        ray = self._ray
        calls = 0 if self._reuse else 1  # 0: no limit
        remote = ray.remote(max_calls=calls, max_retries=1, **self._needs)(_work)
        waiting = deque((task, listen(task)) for task in tasks)
        running: dict[Any, tuple[Task, Listener]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < (self._jobs or _MOST):
                    task, listener = waiting.popleft()
                    contents = [self._contents[key] for key in task.shared]
                    made = remote.remote(task.work, task.arguments, task.shared, *contents)
                    running[made] = task, listener
                done, _ = ray.wait(list(running), timeout=_HEARTBEAT)
                for reference in done:
                    task, listener = running.pop(reference)
                    outcome = self._outcome(task, reference)
                    del reference  # frees the result
                    listener.finished()
                    yield task, outcome
        except BaseException:
            for reference in running:
                ray.cancel(reference, force=True)
            raise

    def _outcome(self, task: Task, reference: Any) -> Any | Failure:
        """Return the result of a task that has ended."""
        errors = self._ray.exceptions
        try:
            failed, content = self._ray.get(reference)
        except errors.OutOfMemoryError:
            content = "its machine ran out of memory; use fewer --jobs"
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError):
            content = "its process or its machine was lost twice"
        except errors.RayError as error:
            content = _line(error)
        else:
            return Failure(task.name, *content) if failed else content
        return Failure(task.name, content, AtbFastError.exit_code)

    def _probe(self) -> None:
        """Check that the machines can run tasks, and have the same packages as this one."""
        ray, cpus = self._ray, self._needs["num_cpus"]
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        nodes = [each for each in ray.nodes() if each["Alive"]]
        large = [each for each in nodes if each["Resources"].get("CPU", 0) >= cpus]
        if not large:
            raise ArgumentError(
                f"the Ray cluster has {counted(len(nodes), 'machine')}, but none has the "
                f"{counted(cpus, 'core')} that a task needs; add a larger machine"
            )
        remote = ray.remote(num_cpus=0, max_calls=1)(_found)
        asked = {
            remote.options(scheduling_strategy=On(each["NodeID"], soft=False)).remote(): each
            for each in large
        }
        expected, problems = _found(), []
        for reference, node in asked.items():
            where = node["NodeManagerAddress"]
            try:
                found = ray.get(reference, timeout=_PROBE)
            except ray.exceptions.RayError as error:
                problems.append(f"{where} cannot run tasks ({_line(error)})")
                continue
            problems += [
                f"{where} has {name} {found.get(name)}, expected {expected.get(name)}"
                for name in _COMPARED
                if found.get(name) != expected.get(name)
            ]
        if problems:
            raise MissingExtraError(
                f"the machines of the Ray cluster differ: {'; '.join(problems)}. Install the same "
                "versions on all machines"
            )


def _work(
    work: Callable[..., Any], arguments: tuple[Any, ...], keys: Sequence[str], *contents: bytes
) -> tuple[bool, Any]:
    """Run a task in a process of Ray; return whether it failed, and its result or its error."""
    separate_stderr()
    shared: Mapping[str, bytes] = dict(zip(keys, contents, strict=True))
    try:
        return False, work(*arguments, shared=shared, listener=SILENT)
    except Exception as error:
        unexpected = (f"{type(error).__name__}: {error}", AtbFastError.exit_code)
        return True, message_and_code(error) or unexpected


def _found() -> dict[str, str]:
    """Return the versions of the packages of this machine."""
    import ray

    return environment.versions() | {"ray": ray.__version__}


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            f"the executor ray needs Ray, which cannot be imported ({error}); install it with "
            "pip install 'atb-fast[ray]'"
        ) from error
    return ray


def _check_address(address: str) -> None:
    """Raise ArgumentError if nothing answers; Ray itself would retry for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or "/" in host or not port.isdecimal():
        raise ArgumentError(
            f"--ray-address is {address!r:.80}, expected HOST:PORT, or auto", ["ray_address"]
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error


def _unreachable(address: str, why: str) -> ArgumentError:
    return ArgumentError(
        f"no connection to a Ray cluster at {address}: {why}; check the address, or omit it to "
        "start a cluster on this machine",
        options=["ray_address"],
    )


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM; Ray replaces it with one that exits without cleanup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _line(error: BaseException) -> str:
    """Return the first line of an error message of Ray, which has many lines."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
