"""Several trainings at a time, each in a process of its own that ends with this one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Any

from atb_fast.callbacks import Update
from atb_fast.config import TrainingConfig
from atb_fast.errors import AtbFastError, message_and_code
from atb_fast.runs.progress import training_callbacks
from atb_fast.training.environment import cores
from atb_fast.training.startup import separate_stderr

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from atb_fast.runs.pipeline import TrainingResult

log = logging.getLogger(__name__)

#: Seconds that children have to clean up; compiling, which nothing interrupts, takes up to 20.
_GRACE = 60.0
#: What TensorFlow reads before its first operation: threads within an operation, and between them.
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

_Send = Callable[[str, Any], None]


@dataclass(frozen=True)
class Failure:
    """Why a symbol has no model, with the exit code of that kind of error."""

    symbol: str
    error: str
    exit_code: int


def default_jobs() -> int:
    """Return how many trainings to run at a time unless a user says: one for two cores."""
    return max(1, cores() // 2)


def train_all(
    configs: Sequence[TrainingConfig], *, jobs: int, on_progress: Update
) -> list[TrainingResult | Failure]:
    """Train each of `configs`, `jobs` at a time, and return what came of them, in their order.

    What the processes log goes to the log of this one, behind the symbol.
    They divide the cores, unless `TF_NUM_INTRAOP_THREADS` and `TF_NUM_INTEROP_THREADS` are set.

    Raises:
        KeyboardInterrupt: This process was interrupted. The others have ended, too.
    """
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
                except (EOFError, OSError):  # the latter in the middle of a message
                    process.join()
                    del running[receiver]
                    if symbol not in outcomes:
                        kind, content = "outcome", _vanished(symbol, process)
                    else:
                        continue
                if kind == "log":
                    level, text = content
                    log.log(level, "%s: %s", symbol, text)
                elif kind == "progress":
                    on_progress(*content)
                else:
                    outcomes[symbol] = content
                    for name in (symbol, f"{symbol} epoch", f"{symbol} finishing"):
                        on_progress(name, 1, 1, "", "")  # it may have ended early
                    if isinstance(content, Failure):
                        log.error("%s: error: %s", symbol, content.error)
    finally:
        _end([process for _, process in running.values()])
    return [outcomes[config.symbol] for config in configs]


def _start(config: TrainingConfig, threads: int) -> tuple[Connection, SpawnProcess]:
    """Return the end of a pipe and a new process that trains and writes to its other end."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_child, args=(config, threads, sender), daemon=True)
    process.start()
    sender.close()  # or its end would never be seen here
    return receiver, process


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; processes that are started inside never see it.

    A terminal sends it to all of them, and a second one would stop them from cleaning up.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it lets signals through when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _vanished(symbol: str, process: SpawnProcess) -> Failure:
    code = process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    hint = "; if memory was short, give --jobs 1" if code == -signal.SIGKILL else ""
    return Failure(symbol, f"its process {how}{hint}", 1)


def _end(processes: Sequence[SpawnProcess]) -> None:
    """Interrupt the processes and wait until they have cleaned up."""
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


def _child(config: TrainingConfig, threads: int, sender: Connection) -> None:
    """Train, and send what is logged, progress and the outcome."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    separate_stderr()
    for name in _THREADS:
        os.environ.setdefault(name, str(threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock, suppress(BrokenPipeError):  # the parent is gone, and this ends soon, too
            sender.send((kind, content))

    logging.basicConfig(handlers=[_Sending(send)], format="%(message)s", level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)

    def on_progress(name: str, done: int, total: int, unit: str, note: str) -> None:
        # Short, for a narrow terminal; what is fetched has the symbol in its name.
        label = name if config.symbol in name else f"{config.symbol} {name}"
        label = label.removesuffix(" training")
        send("progress", (label, done, total, unit, note))

    try:
        from atb_fast.runs.pipeline import run_training_pipeline

        send("outcome", run_training_pipeline(config, **training_callbacks(config, on_progress)))
    except (AtbFastError, OSError) as error:
        send("outcome", Failure(config.symbol, *message_and_code(error)))
    except KeyboardInterrupt:
        os._exit(130)
    # As in the command line: a thread that waits for a server must not keep the process.
    os._exit(0)


def _end_with_parent() -> None:
    """Clean up and end when the parent is gone, killed or not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class _Sending(logging.Handler):
    """Sends the text of log records."""

    def __init__(self, send: _Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        self._send("log", (record.levelno, self.format(record)))
