"""Progress: bars on a terminal, otherwise a log line every 30 seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atb_fast.callbacks import Listener
from atb_fast.training.startup import native_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from atb_fast.evaluation.walk_forward import Fold
    from atb_fast.recipes.config import TrainingConfig

log = logging.getLogger(__name__)

#: Columns of a terminal with room for all errors of an epoch.
_WIDE = 100
#: Seconds between two lines about the same work, and until the first one.
_PAUSE = 30.0
#: Epochs with more windows take more than a few seconds, so they get a bar of their own.
_LONG_EPOCH = 20_000
#: The stages after training, which take minutes if there are millions of windows.
_LAST_STAGES = ("evaluation", "diagnostics", "onnx", "artifacts")


class Bars(Listener):
    """Progress bars by name. Without a terminal, each is a log line every 30 seconds."""

    def __init__(self, console: Console, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Show bars on `console`; `monotonic` is the clock that log lines follow."""
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
        self._lines: dict[str, _Line] = {}
        self._monotonic = monotonic

    def update(self, name: str, done: int, total: int, unit: str, note: str = "") -> None:
        """Update the bar called `name`. A full bar disappears."""
        if not self.progress.console.is_terminal:
            line = self._lines.setdefault(name, _Line(self._monotonic))
            if (time_left := line.update(done, total)) is not None:
                what = f"{done:,} of {total:,} {unit}"
                log.info("%s: %s", name, ", ".join(filter(None, (what, note, time_left))))
            return
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(
                name, total=total, visible=False, unit=unit, note=note
            )
        self.progress.update(
            self._tasks[name], completed=done, total=total, visible=done < total, note=note
        )

    def errors(self, logs: dict[str, float]) -> str:
        """Return the errors of an epoch and of a baseline, as far as the terminal has room."""
        kind, name, trivial, brief = "RMSE", "rmse", "persistence", "pers."
        reference = logs.get("val_persistence_rmse")
        if reference is None:
            kind, name, trivial, brief = "log loss", "loss", "class shares", "shares"
            reference = logs["val_shares_loss"]
        validation, other = _short(logs[f"val_{name}"]), _short(reference)
        console = self.progress.console
        if console.is_terminal and console.width < _WIDE:
            return f"val. {validation}, {brief} {other}"
        return f"{kind} {_short(logs[name])}, val. {validation}, {trivial} {other}"

    def fetched(self, name: str, done: int, total: int) -> None:
        """Update the bar of a series that is being downloaded."""
        self.update(name, done, total, "candles")

    def for_training(self, config: TrainingConfig, *, several: bool = False) -> Listener:
        """Return a listener for a training run: one of `several` in parallel, or the only one."""
        return _TrainingBars(self, config.epochs, config.symbol if several else "")

    def for_folds(self, config: TrainingConfig, folds: int, *, several: bool = False) -> Listener:
        """Return a listener for an evaluation; `several` if others run in parallel."""
        return _FoldBars(self, config.epochs, folds, config.symbol if several else "")

    def for_study(self, trials: int) -> Listener:
        """Return a listener for a study."""
        return _StudyBars(self, trials)


class _Line:
    """When the next log line about some work is due, and an estimate of the time left."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._next = monotonic() + _PAUSE
        self._first: tuple[float, int] | None = None
        self._last = 0

    def update(self, done: int, total: int) -> str | None:
        """Return the time left, which may be empty; None if no line is due."""
        now = self._monotonic()
        if done < self._last:  # the next epoch
            self._first = None
        self._last = done
        if done and not self._first:  # the time left is estimated without the compilation
            self._first = now, done
        if done >= total or now < self._next:
            return None
        self._next = now + _PAUSE
        since, before = self._first or (now, done)
        if done == before:
            return ""
        return f"about {_duration((now - since) / (done - before) * (total - done))} left"


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
        self._done = self._step = 0
        self._move("")

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self._done = number
        self._move(self._bars.errors(logs))

    def stage(self, name: str) -> None:
        if name == "evaluation":
            self._trained = True
            self._done = self._epochs  # training may have stopped early
            self._move("")
        if not self._trained:
            self._move(name)
        elif name in _LAST_STAGES:
            # The comparison with the live model is evaluation again, when most steps are done.
            self._step = max(self._step, _LAST_STAGES.index(name))
            steps = len(_LAST_STAGES)
            self._bars.update(self._name("finishing"), self._step, steps, "steps", name)

    def finished(self) -> None:
        self._done = self._epochs
        self._move("")
        for name in ("epoch", "finishing"):
            self._bars.update(self._name(name), 1, 1, "")

    def _move(self, note: str) -> None:
        name = self._symbol or "training"
        self._bars.update(name, self._done, self._epochs, "epochs", note)


class _FoldBars(_EpochBars):
    """The bars of a walk-forward evaluation."""

    def __init__(self, bars: Bars, epochs: int, folds: int, symbol: str = "") -> None:
        super().__init__(bars, epochs, symbol)
        self._folds, self._done = folds, 0

    def stage(self, name: str) -> None:
        if name == "compiling":
            self._move(0, name)
        if not self._done:
            note = "" if name == "compiling" else name
            self._bars.update(self._name("walk-forward"), 0, self._folds, "folds", note)

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self._move(number, self._bars.errors(logs))

    def fold(self, fold: Fold) -> None:
        self._move(self._epochs)  # training may have stopped early
        self._done = fold.number
        unchanged = "persistence" if fold.accuracy is None else "class shares"
        note = f"ratio to {unchanged} {fold.ratio:.3f}"
        self._bars.update(self._name("walk-forward"), self._done, self._folds, "folds", note)

    def finished(self) -> None:
        self._move(self._epochs)
        for name in ("epoch", "walk-forward"):
            self._bars.update(self._name(name), 1, 1, "")

    def _move(self, epochs: int, note: str = "") -> None:
        name = self._name(f"fold {self._done + 1} of {self._folds}")
        self._bars.update(name, epochs, self._epochs, "epochs", note)


class _StudyBars(Listener):
    """The progress bar of a study and, on a terminal, a log line for each finished trial."""

    def __init__(self, bars: Bars, trials: int) -> None:
        self._bars = bars
        self._best: float | None = None
        bars.update("study", 0, trials, "trials")

    def fetched(self, name: str, done: int, total: int) -> None:
        self._bars.fetched(name, done, total)

    def trial(self, result: Mapping[str, Any], done: int, total: int) -> None:
        value, what = result["value"], result["state"]
        if value is not None:
            self._best = value if self._best is None else min(self._best, value)
            what = f"{value:.4f}"
        if result["error"]:
            what = f"failed: {result['error']}"
        if self._bars.progress.console.is_terminal:
            log.info("trial %s: %s", result["trial_id"], what)
        best = "" if self._best is None else f"best so far {self._best:.4f}"
        self._bars.update("study", done, total, "trials", best)


def _short(error: float) -> str:
    """Format an RMSE, which is in the thousands for prices and may be 0.01 for returns.

    It has as many digits as change from epoch to epoch.
    """
    return f"{error:,.0f}" if error >= 1000 else f"{error:#.6g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show bars during the context; log lines and messages of C++ code appear above them."""
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
            with native_lines(sys.stderr.write):
                yield shown
        finally:
            for handler, stream in streams.items():
                handler.setStream(stream)
