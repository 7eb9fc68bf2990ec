"""Functions that run in parallel and are reported one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from atb_fast.callbacks import Listener
from atb_fast.training.side_by_side import side_by_side

#: Seconds until a test fails that waits for another thread.
LIMIT = 60


class Told(Listener):
    """Remembers what it is told, and by which thread."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: set[int] = set()

    def _add(self, *event: Any) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    def stage(self, name: str) -> None:
        self._add("stage", name)

    def windows(self, done: int, total: int) -> None:
        self._add("windows", done, total)

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self._add("epoch", number, logs)


def work(number: int, meet: Callable[[], object], listener: Listener) -> int:
    listener.stage(f"work {number}")
    meet()
    listener.windows(number, 9)
    listener.epoch(number, {"loss": 0.5})
    return number


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_works_run_together_and_are_reported_in_order(threads: int) -> None:
    # Each one waits until as many run at the same time as there are threads.
    barrier = threading.Barrier(threads, timeout=LIMIT)
    told = Told()
    works = [partial(work, number, barrier.wait) for number in range(6)]
    results = side_by_side(works, threads, told, lambda n: told.events.append(("done", n)))
    assert results == list(range(6))
    assert told.events == [
        event
        for n in range(6)
        for event in (
            ("stage", f"work {n}"),
            ("windows", n, 9),
            ("epoch", n, {"loss": 0.5}),
            ("done", n),
        )
    ]
    assert told.threads == {threading.get_ident()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_ends_all_works(error: type[BaseException]) -> None:
    begun, ended = threading.Event(), threading.Event()

    def fails(listener: Listener) -> None:
        assert begun.wait(LIMIT)
        if error is ValueError:
            raise ValueError
        listener.epoch(1, {})

    def endless(listener: Listener) -> None:
        begun.set()
        try:
            while True:
                listener.windows(1, 2)
        finally:
            ended.set()

    class Interrupted(Listener):
        def epoch(self, number: int, logs: dict[str, float]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(error):
        side_by_side([fails, endless], 2, Interrupted(), print)
    assert ended.wait(LIMIT)
