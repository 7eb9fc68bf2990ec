"""Keeps the messages of TensorFlow's C++ code from cluttering the terminal.

C++ code writes to file descriptor 2. While TensorFlow loads, TF_CPP_MIN_LOG_LEVEL has no effect
yet, so it prints a banner of absl, the state of oneDNN, and the GPU libraries found. When XLA loads
a stored program, it reports as errors that the file is not text, and that the program was compiled
with settings that are not features of a processor.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from threading import Thread

#: A program that copies stdin to stderr, without messages of C++ code below errors.
_FILTER = r"""
import re, sys
noise = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called"
    rb"|[IW]\d{4} \d\d:\d\d:[\d.]+ +\d+ [\w./-]+\.(cc|cu|h):\d+\]"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: [IW] [\w./-]+\.(cc|cu|h):\d+\]"
    rb"|To enable the following instructions: "
    rb"|E\d{4} \d\d:\d\d:[\d.]+ +\d+ text_format\.cc:\d+\] Error parsing .*XlaSerializedCacheEntry"
    rb"|E\d{4} \d\d:\d\d:[\d.]+ +\d+ cpu_aot_loader\.cc:\d+\] .*Target machine feature \+prefer-no-"
)
for line in sys.stdin.buffer:
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
#: Packages that Keras imports if they are installed.
_UNUSED = ("sklearn", "matplotlib", "pandas", "scipy")
#: A program that copies a pipe to stdout, and keeps every line until stdin has a byte for it. If
#: stdin is closed before that, the reader has crashed; then the rest is copied to stderr.
_RELAY = r"""
import os, select, sys
pipe = int(sys.argv[1])
kept, sources = b"", [0, pipe]
while True:
    ready = select.select(sources, [], [])[0]
    if pipe in ready:
        data = os.read(pipe, 65536)
        kept += data
        try:
            os.write(1, data) if data else os.close(1)
        except BrokenPipeError:
            pass
        if not data:
            sources.remove(pipe)
    if 0 in ready:
        shown = os.read(0, 65536)
        if not shown:
            break
        kept = kept.split(b"\n", len(shown))[len(shown):]
        kept = kept[0] if kept else b""
os.write(2, kept)
while pipe in sources and (data := os.read(pipe, 65536)):
    os.write(2, data)
"""
#: Seconds to wait for the last lines of the filter, and of C++ code.
_GRACE = 5.0


def separate_stderr() -> None:
    """Give `sys.stderr` a file descriptor of its own, so that only C++ code writes to 2.

    Log lines and progress bars then reach the terminal unchanged during `quiet`. Call this
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


def owns_stderr() -> bool:
    """Return whether only C++ code writes to file descriptor 2; see `separate_stderr`."""
    return sys.__stderr__ is not None and sys.__stderr__.fileno() != 2


def ahead(work: Callable[[], object]) -> None:
    """Start `work` in the background, ignoring errors: whoever needs the result calls it again."""

    def run() -> None:
        with suppress(Exception):
            work()

    Thread(target=run, daemon=True).start()


@contextmanager
def quick_startup() -> Iterator[None]:
    """Import TensorFlow and Keras quietly, without packages that only other programs need.

    If they are installed, Keras imports scikit-learn for its wrappers, pyplot for galleries and
    pandas for datasets; that takes a third of the whole import. Garbage collection takes a fifth of
    the rest, and finds nothing: these packages stay until the process ends.

    In another program, which may need those packages, the import is only quiet. In the meantime,
    what that program writes to stderr arrives line by line.
    """
    if not owns_stderr():
        with _without_messages():
            yield
        return
    unused = [name for name in _UNUSED if name not in sys.modules]
    gc.disable()
    try:
        sys.modules.update(dict.fromkeys(unused))  # type: ignore[arg-type]  # None stops an import
        with quiet():
            yield
    finally:
        for name in unused:
            del sys.modules[name]
        gc.freeze()  # later collections skip what was imported
        gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Drop messages of C++ code that are not errors from file descriptor 2.

    Everything else still reaches the terminal, including the messages of a crash. This does nothing
    if Python itself writes to descriptor 2, or if TF_CPP_MIN_LOG_LEVEL asks for the messages. Only
    one thread at a time may use it.
    """
    with _without_messages() if owns_stderr() else nullcontext():
        yield


@contextmanager
def _without_messages() -> Iterator[None]:
    """Do the same as `quiet`, even if Python itself writes to descriptor 2."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1"):
        yield
        return
    try:
        terminal = os.dup(2)
        # A process rather than a thread, so that the last messages are written after a crash.
        reader = subprocess.Popen(  # noqa: S603 - this Python, and code from this file
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


@contextmanager
def native_lines(write: Callable[[str], object]) -> Iterator[None]:
    """Pass each line that C++ code writes to file descriptor 2 to `write`, in another thread.

    This does nothing if Python itself writes to descriptor 2; see `separate_stderr`.
    """
    if not owns_stderr():
        yield
        return
    terminal = os.dup(2)
    reader, writer = os.pipe()
    try:
        # A process rather than a thread alone, so that the last messages are written after a crash.
        relay = subprocess.Popen(  # noqa: S603 - this Python, and code from this file
            [sys.executable, "-I", "-S", "-c", _RELAY, str(reader)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[reader],
            start_new_session=True,  # so that Ctrl-C does not end it
        )
    except OSError:  # out of processes or descriptors; then the messages are written directly
        os.close(writer)
        os.close(terminal)
        yield
        return
    finally:
        os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    thread = Thread(target=_copy, args=(relay, write), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        # This does not end while a child process still has the pipe as stderr.
        thread.join(_GRACE)


def _copy(relay: subprocess.Popen[bytes], write: Callable[[str], object]) -> None:
    """Pass the lines of `_RELAY` to `write`, and confirm each."""
    with relay:
        assert relay.stdin is not None
        assert relay.stdout is not None
        for line in relay.stdout:
            write(line.decode(errors="replace"))
            relay.stdin.write(b".")
            relay.stdin.flush()
