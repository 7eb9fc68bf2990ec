"""Seconds per stage of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from atb_fast.callbacks import StageCallback

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
    """Adds up the wall-clock seconds of the stages of a run; a stage may be entered more than once.

    Example:
        >>> timer = StageTimer()
        >>> with timer.stage("features"):
        ...     pass
        >>> list(timer.seconds) == list(STAGES)
        True
    """

    def __init__(self, on_stage: StageCallback | None = None) -> None:
        """Take what is called with the name of each stage that begins."""
        self._on_stage = on_stage
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to stage `name`."""
        if self._on_stage:
            self._on_stage(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since the timer was made: the stages and what lies between them."""
        return time.perf_counter() - self._started
