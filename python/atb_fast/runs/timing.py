"""Times the stages of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from atb_fast.callbacks import SILENT, Listener

STAGES = (
    "ingestion",
    "features",
    "dataset",
    "training",
    "evaluation",
    "diagnostics",
    "artifacts",
    "onnx",
)


class StageTimer:
    """Wall-clock seconds per stage of a run. A stage may be entered more than once.

    Example:
        >>> timer = StageTimer()
        >>> with timer.stage("features"):
        ...     pass
        >>> list(timer.seconds) == list(STAGES)
        True
    """

    def __init__(self, listener: Listener = SILENT) -> None:
        """Start the clock. `listener` is told when a stage begins."""
        self._listener = listener
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in this context to the stage `name`."""
        self._listener.stage(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since the timer was created, including the time between stages."""
        return time.perf_counter() - self._started
