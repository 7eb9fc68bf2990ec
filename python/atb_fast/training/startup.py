"""Keeps the messages that TensorFlow prints while it loads off the terminal.

C++ code writes them to file descriptor 2 before TF_CPP_MIN_LOG_LEVEL takes effect: a banner of
absl, the state of oneDNN, the GPU libraries found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: A program that copies stdin to stderr, without messages of C++ code below errors.
_FILTER = r"""
import re, sys
noise = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called"
    rb"|[IW]\d{4} \d\d:\d\d:[\d.]+ +\d+ [\w./-]+\.(cc|cu|h):\d+\]"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: [IW] [\w./-]+\.(cc|cu|h):\d+\]"
    rb"|To enable the following instructions: "
)
for line in sys.stdin.buffer:
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
#: Seconds to wait for the last lines of the filter.
_GRACE = 5.0


def separate_stderr() -> None:
    """Give `sys.stderr` a file descriptor of its own, so that only C++ code writes to 2.

    Log lines and progress bars then reach the terminal unchanged during `quiet_startup`. Call this
    only in a program that owns its process, and before anything stores `sys.stderr`.
    """
    stderr = sys.__stderr__
    if stderr is None or sys.stderr is not stderr:
        return
    sys.stderr = os.fdopen(
        os.dup(stderr.fileno()),
        "w",
        buffering=1,
        encoding=stderr.encoding,
        errors=stderr.errors,
    )
    sys.__stderr__ = sys.stderr  # type: ignore[misc]  # for code that restores sys.stderr


@contextmanager
def quiet_startup() -> Iterator[None]:
    """Drop messages of C++ code below errors that are written to file descriptor 2.

    Everything else still reaches the terminal, including the messages of a crash. This does nothing
    if TensorFlow is already imported, if Python itself writes to descriptor 2 (see
    `separate_stderr`), or if TF_CPP_MIN_LOG_LEVEL asks for the messages.
    """
    wanted = os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1")
    shared = sys.__stderr__ is None or sys.__stderr__.fileno() == 2
    if "tensorflow" in sys.modules or wanted or shared:
        yield
        return
    try:
        terminal = os.dup(2)
        # A process rather than a thread, so that the last messages are written after a crash.
        reader = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FILTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C does not end it
        )
    except OSError:  # out of processes or descriptors; then the messages are shown
        yield
        return
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        # The filter does not end while a child process still has its pipe as stderr.
        with suppress(subprocess.TimeoutExpired):
            reader.wait(_GRACE)
