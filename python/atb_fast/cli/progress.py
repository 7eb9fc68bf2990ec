"""Progress bars, shown on a terminal only."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atb_fast.callbacks import Listener

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from atb_fast.config import TrainingConfig
    from atb_fast.evaluation.walk_forward import Fold

#: Epochs with more windows take more than a few seconds, so they get a bar of their own.
_LONG_EPOCH = 20_000
#: The stages after training, which take minutes if there are millions of windows.
_LAST_STAGES = ("evaluation", "diagnostics", "onnx", "artifacts")


class Bars(Listener):
    """Progress bars by name. Without a terminal, nothing is shown."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            SpinnerColumn(),  # the only thing that moves during compilation
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            # By default, rich estimates from the last 30 seconds; an epoch may take longer.
            speed_estimate_period=86_400,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, done: int, total: int, unit: str, note: str = "") -> None:
        """Update the bar called `name`. A full bar disappears."""
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(
                name, total=total, visible=False, unit=unit, note=note
            )
        self.progress.update(
            self._tasks[name], completed=done, total=total, visible=done < total, note=note
        )

    def fetched(self, name: str, done: int, total: int) -> None:
        """Update the bar of a series that is being downloaded."""
        self.update(name, done, total, "candles")

    def for_training(self, config: TrainingConfig, *, several: bool = False) -> Listener:
        """Return a listener for a training run: one of `several` in parallel, or the only one."""
        return _TrainingBars(self, config.epochs, config.symbol if several else "")

    def for_folds(self, config: TrainingConfig, folds: int) -> Listener:
        """Return a listener for a walk-forward evaluation."""
        return _FoldBars(self, config.epochs, folds)


class _EpochBars(Listener):
    """The bars that training and evaluation share."""

    def __init__(self, bars: Bars, epochs: int, symbol: str = "") -> None:
        self._bars, self._epochs, self._symbol = bars, epochs, symbol

    def fetched(self, name: str, done: int, total: int) -> None:
        self._bars.fetched(name, done, total)

    def windows(self, done: int, total: int) -> None:
        if total > _LONG_EPOCH:
            self._bars.update(self._name("epoch"), done, total, "windows")

    def _name(self, name: str) -> str:
        """Return the name of a bar, short enough for a narrow terminal."""
        return f"{self._symbol} {name}".strip()


class _TrainingBars(_EpochBars):
    """The bars of a training run."""

    def __init__(self, bars: Bars, epochs: int, symbol: str) -> None:
        super().__init__(bars, epochs, symbol)
        self._trained = False
        self._move(0)

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self._move(number, f"RMSE {_short(logs['rmse'])}, val. {_short(logs['val_rmse'])}")

    def stage(self, name: str) -> None:
        if name == "evaluation":
            self._trained = True
            self._move(self._epochs)  # training may have stopped early
        if self._trained and name in _LAST_STAGES:
            step, steps = _LAST_STAGES.index(name), len(_LAST_STAGES)
            self._bars.update(self._name("finishing"), step, steps, "steps", name)

    def finished(self) -> None:
        self._move(self._epochs)
        for name in ("epoch", "finishing"):
            self._bars.update(self._name(name), 1, 1, "")

    def _move(self, epochs: int, note: str = "") -> None:
        self._bars.update(self._symbol or "training", epochs, self._epochs, "epochs", note)


class _FoldBars(_EpochBars):
    """The bars of a walk-forward evaluation."""

    def __init__(self, bars: Bars, epochs: int, folds: int) -> None:
        super().__init__(bars, epochs)
        self._folds, self._done = folds, 0

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        note = f"loss {logs['loss']:.4g}, val. {logs['val_loss']:.4g}"
        self._bars.update(f"fold {self._done + 1}", number, self._epochs, "epochs", note)

    def fold(self, fold: Fold) -> None:
        self._done = fold.number
        note = f"{fold.ratio:.3f} of no change"
        self._bars.update("walk-forward", self._done, self._folds, "folds", note)
        # training may have stopped early
        self._bars.update(f"fold {self._done}", self._epochs, self._epochs, "epochs")


def _short(error: float) -> str:
    """Format an RMSE, which is in the thousands for prices and about 1 for scaled targets."""
    return f"{error:,.0f}" if error >= 1000 else f"{error:.4g}"


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show bars during the context; log lines appear above them."""
    shown = Bars(console)
    if not console.is_terminal:
        yield shown
        return
    with shown.progress:
        # rich has replaced sys.stderr with a stream that writes above the bars.
        streams = {
            handler: handler.setStream(sys.stderr)
            for handler in logging.getLogger().handlers
            if isinstance(handler, logging.StreamHandler)
        }
        try:
            yield shown
        finally:
            for handler, stream in streams.items():
                handler.setStream(stream)
