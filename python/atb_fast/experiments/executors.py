"""Where tasks run: the interface, and processes on this machine, which end when this one ends."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Any, Protocol

from atb_fast.callbacks import SILENT, Formatter, Listener
from atb_fast.errors import INTERRUPTED, AtbFastError, message_and_code
from atb_fast.runs import interrupts
from atb_fast.training.environment import INTER_OP, INTRA_OP, cores
from atb_fast.training.startup import separate_stderr

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from typing import Self

    from atb_fast.evaluation.walk_forward import Fold, Window
    from atb_fast.recipes.config import TrainingConfig
    from atb_fast.runs.evaluation import Evaluated
    from atb_fast.runs.result import TrainingResult

log = logging.getLogger(__name__)

#: Seconds that processes get to clean up. Compilation cannot be interrupted and takes up to 20 s.
_GRACE = 60.0
#: Minimum seconds between two reports about the windows of an epoch.
_PAUSE = 0.5
#: Tasks after which a process is replaced: TensorFlow keeps 10 to 20 MB for each different network.
_MOST_TASKS = 25
#: The libraries of linear algebra read their number of threads from these variables.
_ALGEBRA = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_Send = Callable[[str, Any], None]


@dataclass(frozen=True)
class Task:
    """Work for another process.

    Attributes:
        name: Its name in messages, for example a symbol.
        work: A function that can be imported. It is called with `arguments`, and with the keyword
            arguments `shared`, the contents by key, and `listener`, which receives its progress.
        arguments: They are pickled for each task, so keep them small.
        shared: Keys of the contents that it needs; see `Executor.share`.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a task failed, and the exit code for this kind of error."""

    name: str
    error: str
    exit_code: int


def _silent(_: Task) -> Listener:
    return SILENT


class Executor(Protocol):
    """Runs tasks in other processes. A context manager: leaving it ends all processes."""

    def share(self, key: str, content: bytes) -> None:
        """Keep `content` for the tasks that name `key`; do nothing if the key is already known."""

    def run(
        self, tasks: Sequence[Task], *, listen: Callable[[Task], Listener] = _silent
    ) -> Generator[tuple[Task, Any], None, None]:
        """Yield each task with its result, as soon as it ends.

        If a task raises an expected error, or its process dies, the result is a `Failure`. If the
        iterator is closed, or this process is interrupted, all processes end.

        Args:
            tasks: They start in this order.
            listen: Returns the listener of a task; called in this process. Its `finished` is called
                when the task ends.
        """

    def __enter__(self) -> Self:
        """Return the executor."""

    def __exit__(self, *_: object) -> None:
        """End all processes."""


@dataclass(eq=False)
class _Worker:
    """A process that runs one task at a time.

    Attributes:
        process: The process.
        pipe: The connection to it, in both directions.
        known: Keys of the contents that it has received.
        task: The current task, or the last one.
        listener: Its listener.
        busy: Whether the task is running.
        started: Number of tasks that it has begun.
    """

    process: SpawnProcess
    pipe: Connection
    known: set[str] = field(default_factory=set)
    task: Task = Task("", print)
    listener: Listener = SILENT
    busy: bool = False
    started: int = 0

    def start(self, task: Task, listener: Listener, contents: Mapping[str, bytes]) -> None:
        """Start a task."""
        self.task, self.listener, self.busy = task, listener, True
        self.started += 1
        new = {key: contents[key] for key in task.shared if key not in self.known}
        # The process sets up its signals before it imports what a task needs.
        with suppress(OSError):  # it has died, which `receive` reports
            self.pipe.send((pickle.dumps((task.work, task.arguments)), task.shared, new))
        self.known |= new.keys()

    def receive(self) -> tuple[str, Any]:
        """Return the next message; `end` if the process has ended."""
        try:
            found: tuple[str, Any] = self.pipe.recv()
        except (EOFError, OSError):  # OSError: the process ended in the middle of a message
            self.process.join()
            return "end", None
        return found


class Local:
    """Runs tasks in processes on this machine.

    Their log records go to the log of this process, with the name of the task as a prefix.
    """

    def __init__(self, jobs: int, *, threads: int | None = None, reuse: bool = False) -> None:
        """Create an executor; processes are started by `run`.

        Args:
            jobs: Number of processes in parallel.
            threads: Threads per operation of TensorFlow and of linear algebra. The exact results
                depend on it, but not on `jobs`. None: the processes share the cores, unless
                TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS are set.
            reuse: Run up to 25 tasks in each process, instead of starting a new one for each task.
                The process then imports TensorFlow and compiles its programs only once.
        """
        self._jobs, self._reuse = jobs, reuse
        self._variables = thread_variables(threads, max(1, cores() // jobs))
        self._contents: dict[str, bytes] = {}
        self._workers: list[_Worker] = []

    def share(self, key: str, content: bytes) -> None:
        """Keep `content` for the tasks that name `key`. Each process receives it once."""
        self._contents.setdefault(key, content)

    def run(
        self, tasks: Sequence[Task], *, listen: Callable[[Task], Listener] = _silent
    ) -> Generator[tuple[Task, Any], None, None]:
        """Yield each task with its result, as soon as it ends; see `Executor.run`."""
        waiting = deque((task, listen(task)) for task in tasks)
        try:
            while True:
                while waiting and (free := self._free()):
                    free.start(*waiting.popleft(), self._contents)
                if not waiting and not any(
                    worker.busy or self._used_up(worker) for worker in self._workers
                ):
                    return
                readable = connection.wait([worker.pipe for worker in self._workers])
                for worker in [each for each in self._workers if each.pipe in readable]:
                    for outcome in self._outcomes(worker):
                        yield worker.task, outcome
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        self._end()

    def _free(self) -> _Worker | None:
        """Return a process that can start a task; None if all are busy."""
        # An idle process may have been killed.
        self._workers = [each for each in self._workers if each.busy or each.process.is_alive()]
        idle = [each for each in self._workers if not each.busy and not self._used_up(each)]
        if idle:
            return idle[0]
        if len(self._workers) >= self._jobs:
            return None
        with _without_interrupts(), _with_variables(self._variables):
            self._workers.append(_started())
        return self._workers[-1]

    def _used_up(self, worker: _Worker) -> bool:
        """Return whether a process runs no further task, and ends by itself after this one."""
        return worker.started >= (_MOST_TASKS if self._reuse else 1)

    def _outcomes(self, worker: _Worker) -> Iterator[Any | Failure]:
        """Handle the next message of a process; yield the result of its task if it has ended."""
        kind, content = worker.receive()
        if kind == "log":
            level, text = content
            log.log(level, "%s: %s", worker.task.name, text)
            return
        if kind == "event":
            method, arguments = content
            getattr(worker.listener, method)(*arguments)
            return
        if kind == "end":
            self._workers.remove(worker)
            if not worker.busy:
                return
            content = _vanished(worker.task.name, worker.process)
        elif self._used_up(worker):
            with suppress(OSError):
                worker.pipe.send(None)
        worker.busy = False
        worker.listener.finished()
        yield Failure(worker.task.name, *content) if kind == "failure" else content

    def _end(self) -> None:
        """Terminate the processes and wait until they have cleaned up."""
        processes = [worker.process for worker in self._workers]
        self._workers.clear()
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _GRACE
        try:
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()


def train_all(
    configs: Sequence[TrainingConfig],
    *,
    jobs: int,
    listen: Callable[[TrainingConfig], Listener] = lambda _: SILENT,
) -> list[TrainingResult | Failure]:
    """Train each of `configs` in its own process, and return the results in the same order.

    Args:
        configs: One per symbol.
        jobs: Number of processes in parallel.
        listen: Returns the listener of a training run; called in this process.

    Raises:
        KeyboardInterrupt: This process was interrupted. All others have ended as well.
    """
    tasks = [Task(config.symbol, _train, (config,)) for config in configs]
    outcomes: dict[str, TrainingResult | Failure] = {}
    with Local(max(1, min(jobs, len(tasks)))) as executor:
        for task, outcome in executor.run(tasks, listen=lambda task: listen(*task.arguments)):
            outcomes[task.name] = outcome
            if isinstance(outcome, Failure):
                log.error("%s: error: %s", task.name, outcome.error)
    return [outcomes[task.name] for task in tasks]


def evaluate_all(
    configs: Sequence[TrainingConfig],
    *,
    jobs: int,
    folds: int,
    window: Window,
    embargo: int | None,
    listen: Callable[[TrainingConfig], Listener] = lambda _: SILENT,
) -> Iterator[tuple[TrainingConfig, Evaluated | Failure]]:
    """Evaluate each of `configs` in its own process; yield each result as soon as it ends.

    Args:
        configs: One per symbol.
        jobs: Number of processes in parallel.
        folds: See `walk_forward`.
        window: See `walk_forward`.
        embargo: See `walk_forward`.
        listen: Returns the listener of an evaluation; called in this process.
    """
    options = {"folds": folds, "window": window, "embargo": embargo}
    tasks = [Task(config.symbol, _evaluate, (config, options)) for config in configs]
    with Local(max(1, min(jobs, len(tasks)))) as executor:
        for task, outcome in executor.run(tasks, listen=lambda task: listen(task.arguments[0])):
            if isinstance(outcome, Failure):
                log.error("%s: error: %s", task.name, outcome.error)
            yield task.arguments[0], outcome


def _evaluate(
    config: TrainingConfig,
    options: Mapping[str, Any],
    *,
    shared: Mapping[str, bytes],  # noqa: ARG001
    listener: Listener,
) -> Evaluated:
    from atb_fast.runs.evaluation import evaluation_run

    return evaluation_run(config, **options, listener=listener)


def _train(
    config: TrainingConfig,
    *,
    shared: Mapping[str, bytes],  # noqa: ARG001
    listener: Listener,
) -> TrainingResult:
    from atb_fast.runs.pipeline import run_training_pipeline

    return run_training_pipeline(config, listener=listener)


def thread_variables(threads: int | None, share: int) -> dict[str, str]:
    """Return the environment variables that set the numbers of threads of a process.

    Args:
        threads: Threads per operation. None: `share`, unless the environment sets another number.
        share: Number of cores that the process may use.
    """
    if threads is None:
        return {name: os.environ.get(name, str(share)) for name in (INTRA_OP, INTER_OP)}
    return {**dict.fromkeys((INTRA_OP, *_ALGEBRA), str(threads)), INTER_OP: str(share)}


@contextmanager
def _with_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes started in this context.

    A new process may import NumPy as part of the main module before it runs any other code.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _started() -> _Worker:
    """Start a process that waits for tasks."""
    spawn = multiprocessing.get_context("spawn")
    pipe, other = spawn.Pipe()
    process = spawn.Process(target=_work, args=[other], daemon=True)
    process.start()
    other.close()  # as long as it is open here, this process cannot see the end of the pipe
    return _Worker(process, pipe)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C and SIGHUP, so that processes started in this context never receive them.

    A terminal sends these signals to all processes, and a second one would interrupt their cleanup.
    Instead, this process terminates them.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # starting it later would unblock signals
    blocked = {signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def _vanished(name: str, process: SpawnProcess) -> Failure:
    code = process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    if code == INTERRUPTED:
        how = "was interrupted"
    hint = "; if it ran out of memory, use --jobs 1" if code == -signal.SIGKILL else ""
    return Failure(name, f"the process {how}{hint}", AtbFastError.exit_code)


def _work(pipe: Connection) -> None:
    """Run the tasks that arrive; send log records, events and the outcome of each."""
    separate_stderr()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with (
            lock,
            suppress(BrokenPipeError),
        ):  # the parent has ended, and this process will end soon
            pipe.send((kind, content))

    handler = _Sending(send)
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)
    contents: dict[str, bytes] = {}
    try:
        interrupts.install()
        while message := _next_task(pipe):
            pickled, keys, new = message
            contents |= new
            shared = {key: contents[key] for key in keys}
            try:
                work, arguments = pickle.loads(pickled)  # noqa: S301 - from the parent process
                send("outcome", work(*arguments, shared=shared, listener=_Forwarding(send)))
            except Exception as error:
                expected = message_and_code(error)
                if expected is None or interrupts.requested(error):
                    raise
                send("failure", expected)
    except BaseException as error:
        if interrupts.requested(error):
            os._exit(INTERRUPTED)
        raise
    # As in the command line, a thread that waits for a server must not keep the process alive.
    os._exit(0)


def _next_task(pipe: Connection) -> tuple[bytes, tuple[str, ...], dict[str, bytes]] | None:
    """Return the next message of the parent; None if there is nothing left to do."""
    try:
        found: tuple[bytes, tuple[str, ...], dict[str, bytes]] | None = pipe.recv()
    except EOFError:  # the parent has ended
        return None
    return found


def _end_with_parent() -> None:
    """Wait for the end of the parent, even if it is killed; then clean up and end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class _Forwarding(Listener):
    """Sends events to the listener in the parent process."""

    def __init__(self, send: _Send) -> None:
        self._send = send
        self._next_windows = -math.inf

    def fetched(self, name: str, done: int, total: int) -> None:
        self._send("event", ("fetched", (name, done, total)))

    def stage(self, name: str) -> None:
        self._send("event", ("stage", (name,)))

    def windows(self, done: int, total: int) -> None:
        # There may be thousands of batches per second.
        if done == total or time.monotonic() >= self._next_windows:
            self._next_windows = time.monotonic() + _PAUSE
            self._send("event", ("windows", (done, total)))

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self._send("event", ("epoch", (number, logs)))

    def fold(self, fold: Fold) -> None:
        self._send("event", ("fold", (fold,)))


class _Sending(logging.Handler):
    """Sends the text of log records to the parent process."""

    def __init__(self, send: _Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send the text of `record`."""
        self._send("log", (record.levelno, self.format(record)))
