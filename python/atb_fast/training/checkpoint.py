"""The state of a training after an epoch, so that a killed one can be continued.

One file per key; the key is a hash of all that the weights depend on, so the checkpoint of another
training is never found. What is continued gives the same bits as what was never interrupted: the
order of an epoch comes from its number, and dropout from variables that are kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from atb_fast._core import build_info
from atb_fast.features.windows import WindowedData
from atb_fast.storage import UNUSED_DAYS, remove_unused, write_atomic
from atb_fast.training.environment import environment

log = logging.getLogger(__name__)

#: Time between two writes, as a multiple of what one takes: they cost at most 1/31 of the time.
_PAUSE = 30


def key(model: Any, data: WindowedData, **options: Any) -> str:
    """Return a hash of what the weights depend on.

    Args:
        model: Not trained yet; its layers and all their variables, the seeds of dropout, too.
        data: What it is to be fitted to.
        options: Of the fit.
    """
    # Layers are numbered by process, so that their names say nothing.
    layers = [{**layer.get_config(), "name": type(layer).__name__} for layer in model.layers]
    versions = {"atb-fast": build_info()["version"], "python": platform.python_version()}
    versions |= {module.__name__: module.__version__ for module in (keras, np, tf)}
    text = json.dumps([layers, versions, data.length, options], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    inputs = [data.prepared.matrix.values, data.labels, data.train, data.validation]
    for array in (*inputs, *map(np.asarray, model.variables)):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _State:
    """What is kept: of EarlyStopping, of History, of the machine, and every variable."""

    best: float
    best_epoch: int
    wait: int
    history: dict[str, list[float]]
    seconds: list[float]
    machine: dict[str, Any]
    variables: list[NDArray[Any]]
    best_weights: list[NDArray[Any]]


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the state after an epoch; gives it back when the fit begins.

    As a context around the fit it adds a note to an interrupt: how the training goes on.

    It stands behind the callbacks whose state it keeps. Their `on_train_begin` clears that, so it
    is given back in the one of this.
    """

    def __init__(self, path: Path, early: Any, history: Any, seconds: list[float]) -> None:
        """Take what belongs to the state.

        Args:
            path: Of the file; it need not exist, nor its directory.
            early: The EarlyStopping, which restores the best weights.
            history: The History.
            seconds: What each epoch took.
        """
        super().__init__()
        self.path = path
        self._early, self._history, self._seconds = early, history, seconds
        self._state: _State | None = None
        self._next_write = -math.inf
        self._kept = 0  # epochs that need not be trained again
        found = environment()
        self._machine = {name: found[name] for name in ("cpu", "intra_op_threads", "gpus")}

    def find(self, model: Any, *, resume: bool) -> int:
        """Return how many epochs need not be trained again; the log says what was found.

        Args:
            model: As it was given to `key`, compiled, with a built optimizer.
            resume: Whether a checkpoint is to be used.
        """
        try:
            state = _load(self.path, model)
        except FileNotFoundError:
            if resume:
                log.info("nothing to resume: no checkpoint of this training, it starts anew")
            return 0
        except Exception as error:  # whatever numpy and zipfile make of damaged bytes
            if resume:
                log.warning(
                    "checkpoint %s is damaged (%s: %s), the training starts anew",
                    self.path,
                    type(error).__name__,
                    error,
                )
            return 0
        epochs = len(state.seconds)
        if not resume:
            log.info(
                "starting anew: a checkpoint of this training is there, and --resume would have "
                "gone on after epoch %d",
                epochs,
            )
            return 0
        log.info("resuming after epoch %d", epochs)
        if state.machine != self._machine:
            log.warning(
                "the checkpoint was written with %s, this is %s: the weights will differ from "
                "those of a run without a break",
                state.machine,
                self._machine,
            )
        self._state, self._kept = state, epochs
        return epochs

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt) and self._kept:
            error.add_note(f"the same command with --resume goes on after epoch {self._kept}")

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """Give the state back, if one is to be used."""
        state, early = self._state, self._early
        if state is None:
            return
        for variable, value in zip(_variables(self.model), state.variables, strict=True):
            variable.assign(value)
        early.best, early.best_weights = state.best, state.best_weights
        early.best_epoch, early.wait = state.best_epoch, state.wait
        self._history.epoch[:] = range(len(state.seconds))
        self._history.history.update(state.history)
        self._seconds[:] = state.seconds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Write the state, unless that would take too much of the time."""
        # What has stopped would not stop again, if it were continued from there.
        if self.model.stop_training or time.perf_counter() < self._next_write:
            return
        started = time.perf_counter()
        try:
            if self._next_write == -math.inf:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                remove_unused(self.path.parent, UNUSED_DAYS)
            write_atomic(self.path, self._dump())
            self._kept = epoch + 1
        except OSError as error:
            log.warning(
                "no checkpoints from epoch %d on: %s: %s", epoch + 1, self.path, error.strerror
            )
            self._next_write = math.inf
            return
        ended = time.perf_counter()
        self._next_write = ended + _PAUSE * (ended - started)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)

    def _dump(self) -> bytes:
        early = self._early
        document = {
            "best": float(early.best),
            "best_epoch": early.best_epoch,
            "wait": early.wait,
            "history": {
                name: [float(value) for value in values]
                for name, values in self._history.history.items()
            },
            "seconds": self._seconds,
            "machine": self._machine,
        }
        arrays: dict[str, Any] = {"document": np.array(json.dumps(document))}
        arrays |= {f"variable_{n}": np.asarray(v) for n, v in enumerate(_variables(self.model))}
        arrays |= {f"best_{n}": weights for n, weights in enumerate(early.best_weights)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def _variables(model: Any) -> list[Any]:
    """Return weights, seeds of dropout, and what the optimizer keeps."""
    return [*model.variables, *model.optimizer.variables]


def _load(path: Path, model: Any) -> _State:
    def like(name: str, expected: Any) -> NDArray[Any]:
        array, wanted = np.asarray(stored[name]), np.asarray(expected)
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
        return array

    # The zip's checksums are verified. numpy leaves a file open that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return _State(
            **json.loads(str(stored["document"])),
            variables=[like(f"variable_{n}", v) for n, v in enumerate(_variables(model))],
            best_weights=[like(f"best_{n}", w) for n, w in enumerate(model.get_weights())],
        )
