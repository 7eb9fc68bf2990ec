"""Trains several models in parallel.

The compiled program of one model leaves a fifth of two cores idle, because the loops of an LSTM
wait for each other at every step. Two models in parallel use both cores, and each gets the same
weights as alone: how an operation is split depends on the number of threads, not on their load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, TypeVar

from atb_fast.callbacks import Listener

#: Seconds between checks for an interrupt while the main thread waits.
_HEARTBEAT = 0.2

T = TypeVar("T")


class _StoppedError(BaseException):
    """Stops a thread whose result is no longer needed."""


class _Relay(Listener):
    """Queues the progress of a thread until the calling thread forwards it."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._events: SimpleQueue[tuple[str, tuple[Any, ...]] | None] = SimpleQueue()

    def stage(self, name: str) -> None:
        self._put("stage", name)

    def windows(self, done: int, total: int) -> None:
        self._put("windows", done, total)

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self._put("epoch", number, logs)

    def run(self, work: Callable[[Listener], T]) -> T:
        """Return the result of `work`."""
        try:
            return work(self)
        finally:
            self._events.put(None)

    def pass_on(self, listener: Listener) -> None:
        """Forward progress to `listener` until the work ends."""
        while True:
            try:
                event = self._events.get(timeout=_HEARTBEAT)
            except Empty:
                continue
            if event is None:
                return
            name, arguments = event
            getattr(listener, name)(*arguments)

    def _put(self, name: str, *arguments: Any) -> None:
        if self._stop.is_set():
            raise _StoppedError
        self._events.put((name, arguments))


def side_by_side(
    works: Sequence[Callable[[Listener], T]],
    threads: int,
    listener: Listener,
    done: Callable[[T], None],
) -> list[T]:
    """Return the results of `works`, in order.

    Progress and results are reported in the same order, in the calling thread. If one of `works` or
    a report fails, the others stop the next time they report progress.

    Args:
        works: Each takes the listener for its progress. Several may run at the same time.
        threads: How many run at the same time; with 1, all run in the calling thread.
        listener: Receives the progress of `works`, one after the other.
        done: Called with each result.
    """
    results: list[T] = []

    def finish(result: T) -> None:
        results.append(result)
        done(result)

    if threads == 1:
        for work in works:
            finish(work(listener))
        return results
    stop = Event()
    executor = ThreadPoolExecutor(threads)
    try:
        relays = [_Relay(stop) for _ in works]
        running = [executor.submit(r.run, w) for r, w in zip(relays, works, strict=True)]
        for relay, future in zip(relays, running, strict=True):
            relay.pass_on(listener)
            finish(future.result())
    finally:
        stop.set()
        executor.shutdown(wait=False, cancel_futures=True)
    return results
