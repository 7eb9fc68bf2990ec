"""Several training runs in parallel, each in its own process, which ends with this one."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Any

from atb_fast.callbacks import SILENT, Listener
from atb_fast.errors import INTERRUPTED, message_and_code
from atb_fast.runs import interrupts
from atb_fast.training.environment import cores
from atb_fast.training.startup import separate_stderr

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from atb_fast.recipes.config import TrainingConfig
    from atb_fast.runs.result import TrainingResult

log = logging.getLogger(__name__)

#: Seconds that children have to clean up. Compilation cannot be interrupted and takes up to 20 s.
_GRACE = 60.0
#: Minimum seconds between two reports about the windows of an epoch.
_PAUSE = 0.5
#: TensorFlow reads its numbers of threads from these variables before its first operation.
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

_Send = Callable[[str, Any], None]


@dataclass(frozen=True)
class Failure:
    """Why the training of a symbol failed, and the exit code for that kind of error."""

    symbol: str
    error: str
    exit_code: int


def default_jobs() -> int:
    """Return the default number of training runs in parallel: one per two cores."""
    return max(1, cores() // 2)


def train_all(
    configs: Sequence[TrainingConfig],
    *,
    jobs: int,
    listen: Callable[[TrainingConfig], Listener] = lambda _: SILENT,
) -> list[TrainingResult | Failure]:
    """Train each of `configs`, and return the results in the same order.

    Log records of the processes go to the log of this one, with the symbol as a prefix. The
    processes share the cores, unless `TF_NUM_INTRAOP_THREADS` and `TF_NUM_INTEROP_THREADS` are set.

    Args:
        configs: One per symbol.
        jobs: Number of processes in parallel.
        listen: Returns the listener of a training run; called in this process.

    Raises:
        KeyboardInterrupt: This process was interrupted. All others have ended as well.
    """
    listeners = {config.symbol: listen(config) for config in configs}
    outcomes: dict[str, TrainingResult | Failure] = {}
    waiting = list(reversed(configs))
    running: dict[Connection, tuple[str, SpawnProcess]] = {}
    threads = max(1, cores() // min(jobs, len(configs)))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                config = waiting.pop()
                with _without_interrupts():
                    receiver, process = _start(config, threads)
                    running[receiver] = config.symbol, process
            readable = connection.wait(list(running))
            for receiver in [each for each in running if each in readable]:
                symbol, process = running[receiver]
                try:
                    kind, content = receiver.recv()
                except (EOFError, OSError):  # OSError: the process ended in the middle of a message
                    process.join()
                    del running[receiver]
                    if symbol not in outcomes:
                        kind, content = "outcome", _vanished(symbol, process)
                    else:
                        continue
                if kind == "log":
                    level, text = content
                    log.log(level, "%s: %s", symbol, text)
                elif kind == "event":
                    method, arguments = content
                    getattr(listeners[symbol], method)(*arguments)
                else:
                    outcomes[symbol] = content
                    listeners[symbol].finished()
                    if isinstance(content, Failure):
                        log.error("%s: error: %s", symbol, content.error)
    finally:
        _end([process for _, process in running.values()])
    return [outcomes[config.symbol] for config in configs]


def _start(config: TrainingConfig, threads: int) -> tuple[Connection, SpawnProcess]:
    """Start a process that trains; return the pipe it writes to, and the process."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    # The child must set up its threads and signals before it imports what a config needs.
    arguments = config.symbol, pickle.dumps(config), threads, sender
    process = spawn.Process(target=_child, args=arguments, daemon=True)
    process.start()
    sender.close()  # as long as it is open here, the receiver sees no end of the pipe
    return receiver, process


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C and SIGHUP, so that processes started in this context never receive them.

    A terminal sends them to all processes, and a second one would interrupt their cleanup. This
    process terminates them instead.
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


def _vanished(symbol: str, process: SpawnProcess) -> Failure:
    code = process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    if code == INTERRUPTED:
        how = "was interrupted"
    hint = "; if it ran out of memory, use --jobs 1" if code == -signal.SIGKILL else ""
    return Failure(symbol, f"the process {how}{hint}", 1)


def _end(processes: Sequence[SpawnProcess]) -> None:
    """Terminate the processes and wait until they have cleaned up."""
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


def _child(symbol: str, pickled: bytes, threads: int, sender: Connection) -> None:
    """Train, and send log records, events and the outcome to the parent."""
    separate_stderr()
    for name in _THREADS:
        os.environ.setdefault(name, str(threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock, suppress(BrokenPipeError):  # the parent has ended; this process will soon
            sender.send((kind, content))

    logging.basicConfig(handlers=[_Sending(send)], format="%(message)s", level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)

    try:
        interrupts.install()
        from atb_fast.runs.pipeline import run_training_pipeline

        config: TrainingConfig = pickle.loads(pickled)
        send("outcome", run_training_pipeline(config, listener=_Forwarding(send)))
    except BaseException as error:
        if interrupts.requested(error):
            os._exit(INTERRUPTED)
        expected = message_and_code(error)
        if expected is None:
            raise
        send("outcome", Failure(symbol, *expected))
    # As in the command line, a thread that waits for a server must not keep the process alive.
    os._exit(0)


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


class _Sending(logging.Handler):
    """Sends the text of log records to the parent process."""

    def __init__(self, send: _Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send the text of `record`."""
        self._send("log", (record.levelno, self.format(record)))
