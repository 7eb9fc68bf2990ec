"""Progress for people: a bar for each thing that takes long, on a terminal and nowhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atb_fast.config import TrainingConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from atb_fast.training.engine import WindowsCallback

#: Windows of an epoch that takes more than a few seconds.
_LONG_EPOCH = 20_000

#: What is left to do after the training, for minutes if there are millions of windows.
_LAST_STAGES = ("evaluation", "diagnostics", "onnx", "artifacts")

#: Called with a name, what is done and in all, its unit, and a note.
Update = Callable[[str, int, int, str, str], None]


class Bars:
    """Bars by name; without a terminal nothing is shown."""

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
            SpinnerColumn(),  # nothing else moves while epochs are compiled
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            # Epochs may take longer than the half minute that rich looks back for its estimate.
            speed_estimate_period=86_400,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, done: int, total: int, unit: str, note: str = "") -> None:
        """Move the bar of `name`; it goes away when it is full."""
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(
                name, total=total, visible=False, unit=unit, note=note
            )
        self.progress.update(
            self._tasks[name], completed=done, total=total, visible=done < total, note=note
        )

    def rows(self, name: str, done: int, total: int) -> None:
        """Move the bar of candles that come in."""
        self.update(name, done, total, "candles")


def long_epoch(update: Update) -> WindowsCallback:
    """Return what calls `update` with the windows of an epoch; a short one would only flicker."""

    def on_windows(done: int, windows: int) -> None:
        if windows > _LONG_EPOCH:
            update("epoch", done, windows, "windows", "")

    return on_windows


def training_callbacks(config: TrainingConfig, update: Update) -> dict[str, Any]:
    """Return the callbacks of `run_training_pipeline` that call `update` with every step."""
    trained = False
    update("training", 0, config.epochs, "epochs", "")

    def on_epoch(epoch: int, logs: dict[str, float]) -> None:
        note = f"RMSE {_short(logs['rmse'])}, val. {_short(logs['val_rmse'])}"
        update("training", epoch, config.epochs, "epochs", note)

    def on_stage(stage: str) -> None:
        nonlocal trained
        if stage == "evaluation":
            trained = True
            # It may have ended early.
            update("training", config.epochs, config.epochs, "epochs", "")
        if trained and stage in _LAST_STAGES:
            step = _LAST_STAGES.index(stage)
            update("finishing", step, len(_LAST_STAGES), "steps", stage)

    def on_fetch(name: str, done: int, total: int) -> None:
        update(name, done, total, "candles", "")

    return {
        "on_epoch": on_epoch,
        "on_windows": long_epoch(update),
        "on_stage": on_stage,
        "on_fetch": on_fetch,
    }


def _short(error: float) -> str:
    """Return an error of prices, which have thousands, or of windows scaled to about 1."""
    return f"{error:,.0f}" if error >= 1000 else f"{error:.4g}"


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show bars while the context lasts; log lines appear above them."""
    shown = Bars(console)
    if not console.is_terminal:
        yield shown
        return
    with shown.progress:
        # rich put something in the place of sys.stderr that knows where the bars are.
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
