"""Checkpoints: the state of a run after an epoch, from which it can be resumed.

There is one file per key. The key is a hash of everything the weights depend on, so a run never
finds the checkpoint of a different one. A resumed run ends with the same bits as an uninterrupted
one: the order of the windows depends only on the number of the epoch, and dropout on variables in
the checkpoint.
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

#: Pause after a write, as a multiple of its duration, so writing takes at most 1/31 of the time.
PAUSE = 30


def key(model: Any, data: WindowedData, **options: Any) -> str:
    """Return a hash of everything the final weights depend on.

    Args:
        model: The untrained model. Its variables include the seeds of dropout.
        data: The windows that it will be fitted to.
        options: Options of the fit.
    """
    # Keras numbers layer names within a process, so the names are not reproducible.
    layers = [{**layer.get_config(), "name": type(layer).__name__} for layer in model.layers]
    versions = {"atb-fast": build_info()["version"], "python": platform.python_version()}
    versions |= {module.__name__: module.__version__ for module in (keras, np, tf)}
    text = json.dumps([layers, versions, data.length, options], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    inputs = [data.prepared.matrix.values, data.labels.values, data.train, data.validation]
    if data.labels.weights is not None:
        inputs.append(data.labels.weights)
    for array in (*inputs, *map(np.asarray, model.variables)):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class State:
    """The contents of a checkpoint: the state of EarlyStopping and History, and all variables."""

    best: float
    best_epoch: int
    wait: int
    history: dict[str, list[float]]
    seconds: list[float]
    machine: dict[str, Any]
    variables: list[NDArray[Any]]
    best_weights: list[NDArray[Any]]


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the state after an epoch, and restores it when the fit begins.

    Used as a context manager around the fit, it adds a note on how to resume to an interrupt.

    It must come after the callbacks whose state it keeps: their `on_train_begin` clears that state,
    then `on_train_begin` of this one restores it.
    """

    def __init__(self, path: Path, early: Any, history: Any, seconds: list[float]) -> None:
        """Keep references to everything that belongs to the state.

        Args:
            path: Path of the file. Neither the file nor its directory need exist.
            early: The EarlyStopping callback, which has the best weights.
            history: The History callback.
            seconds: Duration of each epoch so far; the list grows during the fit.
        """
        super().__init__()
        self.path = path
        self._early, self._history, self._seconds = early, history, seconds
        self.state: State | None = None
        self._next_write = -math.inf
        self._kept = 0  # Epochs in the checkpoint.
        found = environment()
        self._machine = {name: found[name] for name in ("cpu", "intra_op_threads", "gpus")}

    def find(self, model: Any, *, resume: bool) -> int:
        """Load the checkpoint if there is one, and return how many epochs it covers.

        Args:
            model: The model passed to `key`, compiled with a built optimizer.
            resume: Whether to use the checkpoint.
        """
        try:
            state = load_state(self.path, model)
        except FileNotFoundError:
            if resume:
                log.info("nothing to resume: there is no checkpoint of this run; starting over")
            return 0
        except Exception as error:  # NumPy and zipfile can raise anything for damaged bytes
            if resume:
                log.warning(
                    "checkpoint %s is damaged (%s: %s); starting over",
                    self.path,
                    type(error).__name__,
                    error,
                )
            return 0
        epochs = len(state.seconds)
        if not resume:
            log.info(
                "starting over; there is a checkpoint of this run, and --resume would continue "
                "after epoch %d",
                epochs,
            )
            return 0
        log.info("resuming after epoch %d", epochs)
        if state.machine != self._machine:
            log.warning(
                "the checkpoint was written on %s, and this is %s: the weights will differ from "
                "those of an uninterrupted run",
                state.machine,
                self._machine,
            )
        self.state, self._kept = state, epochs
        return epochs

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt) and self._kept:
            error.add_note(f"the same command with --resume continues after epoch {self._kept}")

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        """Restore the state that `find` loaded, if any."""
        state, early = self.state, self._early
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
        """Write the state, unless the last write was too recent."""
        # Resumed from here, a fit that has stopped would not stop again.
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
                "no checkpoints from epoch %d on, because %s cannot be written: %s; training "
                "continues",
                epoch + 1,
                self.path,
                error.strerror,
            )
            self._next_write = math.inf
            return
        ended = time.perf_counter()
        self._next_write = ended + PAUSE * (ended - started)

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
    """Return the weights, the seeds of dropout, and the variables of the optimizer."""
    return [*model.variables, *model.optimizer.variables]


def load_state(path: Path, model: Any) -> State:
    """Return the state in a checkpoint of `model`; a damaged file raises one of many errors."""

    def like(name: str, expected: Any) -> NDArray[Any]:
        array, wanted = np.asarray(stored[name]), np.asarray(expected)
        if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
        return array

    # NumPy verifies the checksums. The file is opened here, because NumPy does not close a file
    # that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return State(
            **json.loads(str(stored["document"])),
            variables=[like(f"variable_{n}", v) for n, v in enumerate(_variables(model))],
            best_weights=[like(f"best_{n}", w) for n, w in enumerate(model.get_weights())],
        )
