"""Progress for people: a bar for each thing that takes long, on a terminal and nowhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


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
