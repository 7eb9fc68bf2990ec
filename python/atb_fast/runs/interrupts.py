"""Ctrl-C, SIGTERM and SIGHUP: each raises one KeyboardInterrupt, which cannot get lost.

Python raises it wherever the main thread is. In a finalizer or a callback from C, it would be
printed and ignored; native code may turn it into another exception.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

from atb_fast.errors import chain

if TYPE_CHECKING:
    from types import FrameType

#: What asks a process to end. Windows has no SIGHUP, which is sent when a terminal is closed.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
#: One request may arrive several times: from the shell and the kernel, or from systemd and the
#: parent process. For this many seconds, only another Ctrl-C interrupts the cleanup.
_SAME_REQUEST = 1.0
#: Seconds until an interrupt that Python ignored is raised again.
_AGAIN = 0.05

_requested_at: float | None = None


def install() -> None:
    """Handle the signals; call this only in a program that owns its process.

    A signal that is ignored stays ignored: nohup and shells that start a background job rely on it.
    """
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, _raise)
        sys.unraisablehook = _raise_later


def restore() -> None:
    """Let the signals end the process at once, without a message: its work is done."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == _interrupt:
            signal.signal(number, signal.SIG_DFL)


def requested(error: BaseException) -> bool:
    """Return whether `error` ends the process because a signal asked for it.

    After such a signal, native code may raise any exception instead of a KeyboardInterrupt.
    """
    return _requested_at is not None or isinstance(error, KeyboardInterrupt)


def notes(error: BaseException) -> list[str]:
    """Return the notes of the interrupts that led to `error`: how to continue."""
    return [note for each in chain(error) for note in getattr(each, "__notes__", ())]


def _interrupt(number: int, _frame: FrameType | None) -> None:
    global _requested_at  # noqa: PLW0603
    now, before = time.monotonic(), _requested_at
    _requested_at = now
    if number == signal.SIGINT or before is None or now > before + _SAME_REQUEST:
        raise KeyboardInterrupt


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _raise_later(unraisable: sys.UnraisableHookArgs) -> None:
    """Handle an exception that nothing can catch: raise an interrupt again a moment later.

    A signal that is sent here would be handled here, where its exception would be ignored too.
    """
    error = unraisable.exc_value
    if error is not None and any(isinstance(each, KeyboardInterrupt) for each in chain(error)):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
    else:
        sys.__unraisablehook__(unraisable)
