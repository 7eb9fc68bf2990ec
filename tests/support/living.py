"""Finds the processes that a program started, wherever they went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import tasks

_VARIABLE = "STARTED_BY_A_TEST"


def marked() -> tuple[str, dict[str, str]]:
    """Return a mark, and an environment that a process and all that it starts will have."""
    mark = uuid.uuid4().hex
    return mark, {**os.environ, _VARIABLE: mark}


def wait_for_end(mark: str) -> None:
    """Wait until no process with this mark is left; the timeout of the test is the limit."""
    wanted = f"{_VARIABLE}={mark}".encode()
    while any(wanted in environment for environment in _environments()):
        time.sleep(0.05)


def check_that_all_end(executor: str, folder: Path, number: signal.Signals) -> None:
    """Send a signal to a program with running tasks, and check that none of its processes is left.

    Args:
        executor: `local` or `ray`; see the program `tasks`.
        folder: For the files of the program.
        number: The signal.
    """
    mark, environment = marked()
    with subprocess.Popen(
        [sys.executable, tasks.__file__, executor, folder],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "quick\n"
        process.send_signal(number)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    wait_for_end(mark)


def _environments() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # the process has ended, or belongs to somebody else
            found.append(path.read_bytes())
    return found
