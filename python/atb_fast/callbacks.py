"""The listener that long-running work reports its progress to."""

from __future__ import annotations

from typing import Any


class Listener:
    """Hears about progress. Override the methods you need; by default they do nothing."""

    def fetched(self, name: str, done: int, total: int) -> None:
        """Rows of a series were downloaded: `done` of about `total` so far."""

    def stage(self, name: str) -> None:
        """A stage of the run begins; see `timing.STAGES`."""

    def windows(self, done: int, total: int) -> None:
        """Within an epoch, the model was fitted to `done` of its `total` windows."""

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        """Epoch `number`, from 1, has ended with Keras' logs."""

    def fold(self, fold: Any) -> None:
        """A fold of a walk-forward evaluation has ended; see `walk_forward.Fold`."""

    def finished(self) -> None:
        """The training of one of several symbols has ended, with a model or without."""


#: For callers that do not care about progress.
SILENT = Listener()
