"""Makes this process fail at one of its file operations.

Operations are counted, so the moment of a failure does not depend on the speed of the machine.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Audit events of file operations: the position of the path and that of its directory's
#: descriptor among the arguments. https://docs.python.org/3/library/audit_events.html
_CHANGES: dict[str, tuple[int, int | None]] = {
    "os.chmod": (0, 2),
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rename": (1, 3),
    "os.rmdir": (0, 1),
    "os.symlink": (1, 2),
    "os.truncate": (0, None),
    "os.utime": (0, 3),
    "fcntl.flock": (0, None),
}
_READS: dict[str, tuple[int, int | None]] = {"os.listdir": (0, None), "os.scandir": (0, None)}
#: What fails on a full disk, besides files that are opened for writing.
_NEEDS_SPACE = ("os.mkdir", "os.symlink", "os.fsync")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def arm(
    *,
    act: str | None = None,
    at: int = 0,
    root: str = "",
    match: str = "",
    report: str | None = None,
    unprivileged: bool = False,
    killed_at_size: int | None = None,
    in_workers: bool = False,
) -> None:
    """Let this process fail at an operation. Call this last before the work.

    Args:
        act: A signal to send to itself, such as SIGKILL; EIO, which fails this operation; ENOSPC,
            which fails this one and all further ones that need space. None: only count.
        at: Number of the operation, from 1. Those that change files count; for EIO, all do.
        root: Only operations on files in this directory count.
        match: Only operations on files whose path contains this text count.
        report: File for the number of operations and whether the fault was injected. If it exists,
            another process has been armed with the same fault, and this one is not.
        unprivileged: Obey permissions of files like any user, even as root.
        killed_at_size: Die in the middle of the write that makes a file larger than this.
        in_workers: Not this process fails, but one that it starts; see `commands`.
    """
    if in_workers:
        fault = {"act": act, "at": at, "root": root, "match": match, "report": report}
        os.environ["WORKER_FAULT"] = json.dumps(fault)
        return
    if unprivileged:
        _drop_capabilities()
    if killed_at_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (killed_at_size, killed_at_size))
    if report is None:
        return
    try:
        written = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    numbers = itertools.count(1)
    lock = threading.Lock()
    fired = False

    def operation(event: str, path: str) -> None:
        nonlocal fired
        if not path.startswith(f"{root}/") or match not in path:
            return
        with lock:
            number = next(numbers)
            fire = number >= at > 0 and act == "ENOSPC" and _needs_space(event)
            fire |= number == at and act is not None and act != "ENOSPC"
            fired |= fire
            os.pwrite(written, f"{number} {int(fired)}\n".encode(), 0)
        if not fire or act is None:
            return
        if act.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, act))
            return
        code = getattr(errno, act)
        raise OSError(code, os.strerror(code), path)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & _WRITING
            if writes or act == "EIO":
                operation("writing" if writes else "reading", _absolute(path))
        elif place := (_CHANGES | (_READS if act == "EIO" else {})).get(event):
            path, directory = (None if n is None else arguments[n] for n in place)
            operation(event, _absolute(path, directory))

    sys.addaudithook(heard)
    setattr(os, "fsync", _counted_fsync(os.fsync, operation))  # noqa: B010 - mypy


def counts(report: Path) -> tuple[int, bool]:
    """Return the number of operations in a report, and whether the fault was injected."""
    with suppress(OSError, ValueError):
        number, fired = map(int, report.read_text().split())
        return number, bool(fired)
    return 0, False


def _needs_space(event: str) -> bool:
    return event == "writing" or event in _NEEDS_SPACE


def _counted_fsync(
    fsync: Callable[[Any], None], operation: Callable[[str, str], None]
) -> Callable[[Any], None]:
    """Return os.fsync, which has no audit event, as an operation."""

    def counted(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        operation("os.fsync", _absolute(number))
        fsync(descriptor)

    return counted


def _absolute(path: Any, directory: int | None = None) -> str:
    """Return the path in the arguments of an event, which may be a descriptor."""
    if isinstance(path, int):
        with suppress(OSError):
            return str(Path(f"/proc/self/fd/{path}").readlink())
        return ""
    if path is None:
        return ""
    within = isinstance(directory, int) and directory >= 0
    base = Path(_absolute(directory)) if within else Path.cwd()
    return os.path.normpath(base / os.fsdecode(path))


def _drop_capabilities() -> None:
    """Give up the privileges of root, among them the one to ignore permissions."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    header = Header(0x20080522, 0)  # version 3, with two structures of three numbers
    if ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(header), (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset failed")
