"""The progress of long-running work: the listener, and the prefix of log lines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

#: The prefix of log lines, which names the work of this thread; empty by default.
WORK: ContextVar[str] = ContextVar("WORK", default="")


class Formatter(logging.Formatter):
    """Formats log records as lines that begin with `WORK`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record. Call it in the thread that logged it, as handlers do."""
        return f"{WORK.get()}{super().format(record)}"


class Listener:
    """Receives progress. Override the methods you need; by default they do nothing."""

    def fetched(self, name: str, done: int, total: int) -> None:
        """Rows of a series were downloaded: `done` of about `total` so far."""

    def stage(self, name: str) -> None:
        """A stage of the run begins: one of `runs.timing.STAGES`, or a step that takes seconds.

        These steps are `importing TensorFlow` and `compiling`.
        """

    def windows(self, done: int, total: int) -> None:
        """The model was fitted to `done` of the `total` windows of an epoch."""

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        """Epoch `number`, counted from 1, has ended.

        `logs` has the values of Keras, and the error of a baseline on the validation windows. For
        prices, returns and volatility, that is `val_persistence_rmse`, the RMSE of persistence in
        the unit of `val_rmse`. For classes, it is `val_shares_loss`, the loss of a forecast that
        gives each class its share of the weights of the training windows; `rmse` and `val_rmse`
        are missing.
        """

    def fold(self, fold: Any) -> None:
        """A fold of a walk-forward evaluation has ended; it is a `walk_forward.Fold`."""

    def trial(self, result: Mapping[str, Any], done: int, total: int) -> None:
        """A trial of a study has ended with `result`; see `experiments.trial.run_trial`.

        So far, `done` of at most `total` trials have ended, including those of an earlier run.
        """

    def finished(self) -> None:
        """One of several training runs has ended, whether or not it succeeded."""


#: A listener that ignores everything.
SILENT = Listener()
