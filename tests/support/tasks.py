"""Tasks for executors, which run in other processes, and programs that tests interrupt."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

from atb_fast.callbacks import Listener
from atb_fast.errors import DataError
from atb_fast.evaluation.walk_forward import Fold
from atb_fast.experiments.executors import Executor, Local, Task
from atb_fast.experiments.ray import Ray
from atb_fast.runs import interrupts


def found(
    *arguments: Any, shared: Mapping[str, bytes], listener: Listener
) -> tuple[tuple[Any, ...], dict[str, bytes], int]:
    """Return the arguments and the contents of the task, and the ID of its process."""
    listener.stage("found")
    return arguments, dict(shared), os.getpid()


def variables(*, shared: Mapping[str, bytes], listener: Listener) -> dict[str, str]:
    """Return the variables that set numbers of threads."""
    return {name: value for name, value in os.environ.items() if name.endswith("_THREADS")}


def folded(fold: Fold, *, shared: Mapping[str, bytes], listener: Listener) -> None:
    """Report a fold."""
    listener.fold(fold)


def refused(*, shared: Mapping[str, bytes], listener: Listener) -> None:
    """Fail with an expected error."""
    raise DataError("the candles are wrong")


def exhausted(*, shared: Mapping[str, bytes], listener: Listener) -> None:
    """Fail because memory is exhausted."""
    raise MemoryError("of 1 TB")


def killed(*, shared: Mapping[str, bytes], listener: Listener) -> None:
    """End as if the kernel had killed the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(path: Path, *, shared: Mapping[str, bytes], listener: Listener) -> str:
    """End like that, but not if it is run again."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "again"


def endless(folder: Path, *, shared: Mapping[str, bytes], listener: Listener) -> str:
    """Create a file named after the process, and run until there is a file called go."""
    (folder / str(os.getpid())).touch()
    while not (folder / "go").exists():
        Event().wait(0.05)
    return "ended"


def main() -> None:
    """Run two endless tasks, in local processes or on Ray."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    executor: Executor = Local(2, reuse=True) if kind == "local" else Ray(jobs=2)
    interrupts.install()
    tasks = [Task("quick", found), *(Task(name, endless, (folder,)) for name in "ab")]
    try:
        with executor:
            for task, _ in executor.run(tasks):
                print(task.name, flush=True)
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
