"""Fitting a model, behind one function: by compiled epochs, or by Keras' own loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atb_fast.callbacks import EpochCallback, WindowsCallback
from atb_fast.errors import ArgumentError, TrainingError
from atb_fast.features.windows import WindowedData
from atb_fast.training.tf_data import epoch_order, gathered_dataset

if TYPE_CHECKING:
    from atb_fast.training.compiled import CompiledModel

log = logging.getLogger(__name__)

ENGINES = ("auto", "compiled", "keras")


@dataclass(frozen=True)
class FitResult:
    """How a fit went.

    Attributes:
        engine: `compiled` or `keras`.
        history: Each epoch's value of loss, rmse, val_loss, val_rmse.
        epochs: Epochs that were run.
        best_epoch: The epoch whose weights the model has, from 1.
        epoch_seconds: What each epoch took, with its evaluation; the first compiles the programs.
        shrinkage: What the recipe multiplied the outputs of the fitted model with.
        diverged: The epoch in which the loss stopped being a number, None if it never did. The
            model has the weights of `best_epoch` in that case, too.
        checkpoint: Where the last one is, or would be; to be removed when the model is stored.
    """

    engine: str
    history: dict[str, list[float]]
    epochs: int
    best_epoch: int
    epoch_seconds: list[float]
    diverged: int | None = None
    shrinkage: float = 1.0
    checkpoint: Path | None = None

    @property
    def seconds_per_epoch(self) -> float:
        """Median of the epochs after the first, which compiles; of that one if it is the only."""
        return float(np.median(self.epoch_seconds[1:] or self.epoch_seconds))


def fit(
    model: Any,
    data: WindowedData,
    *,
    engine: str = "auto",
    epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    on_epoch: EpochCallback | None = None,
    on_windows: WindowsCallback | None = None,
    callbacks: Sequence[Any] = (),
    checkpoints: Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Fit `model` on the training windows; it ends with the weights of its best epoch.

    Mean squared error, Adam with Keras' defaults; ends early when the loss on the validation
    windows has not improved for `patience` epochs. Where they are the test windows, as in the
    legacy recipe, the test error is a little flattering.

    Args:
        model: Uncompiled, (batch, length, features) to (batch, 1).
        data: Training and validation windows.
        engine: `compiled`, `keras`, or `auto`: compiled if it can do all that is asked for, and
            `keras` otherwise, which is logged.
        epochs: Most epochs.
        batch_size: Windows in a batch.
        patience: Epochs without improvement before the fit ends.
        seed: Of the shuffling, and of dropout in compiled epochs.
        on_epoch: Called after each epoch.
        on_windows: Called during an epoch, after each batch, or every few seconds if compiled.
        callbacks: Keras callbacks. Compiled epochs cannot serve those that go by batch. What they
            keep for themselves is in no checkpoint.
        checkpoints: Directory to keep the state of the training in, None to keep none.
        resume: Go on from the checkpoint of the same training, if there is one.

    Raises:
        ArgumentError: No such engine, or less than one epoch or window in a batch.
        TrainingError: The loss is not a number in the first epoch, or the compiled engine was asked
            for and cannot do it.
    """
    from keras import callbacks as keras_callbacks
    from keras import metrics

    if engine not in ENGINES or epochs < 1 or batch_size < 1:
        raise ArgumentError(
            f"got engine {engine!r}, epochs {epochs}, batch_size {batch_size}; expected one of "
            f"{ENGINES}, and at least 1"
        )
    engine = _choose(engine, model, callbacks)
    model.compile(
        optimizer=_optimizer(model),
        loss="mse",
        metrics=[metrics.RootMeanSquaredError(name="rmse")],
    )
    early = keras_callbacks.EarlyStopping(
        monitor="val_loss", mode="min", patience=patience, restore_best_weights=True
    )
    history = keras_callbacks.History()
    diverged: list[int] = []
    seconds: list[float] = []
    last_end = time.perf_counter()

    def check(epoch: int, logs: dict[str, float]) -> None:
        nonlocal last_end
        now = time.perf_counter()
        seconds.append(now - last_end)
        last_end = now
        if not all(math.isfinite(value) for value in logs.values()):
            diverged.append(epoch + 1)
            model.stop_training = True
        if on_epoch:
            on_epoch(epoch + 1, logs)

    # Last, so that no other callback takes its stop back.
    asked = [early, history, *callbacks, keras_callbacks.LambdaCallback(on_epoch_end=check)]
    checkpoint, done = None, 0
    if checkpoints:
        from atb_fast.training.checkpoint import Checkpoint, key

        options = {"epochs": epochs, "batch_size": batch_size, "patience": patience, "seed": seed}
        name = key(model, data, engine=engine, **options)
        checkpoint = Checkpoint(checkpoints / f"{name}.npz", early, history, seconds)
        model.optimizer.build(model.trainable_variables)
        done = checkpoint.find(model, resume=resume)
        asked.append(checkpoint)
    with checkpoint or nullcontext():
        if engine == "compiled":
            from atb_fast.training.compiled import CompiledModel

            log.info("compiling the epochs, which takes some seconds once")
            program = CompiledModel(model, data, batch_size, seed=seed)
            together = keras_callbacks.CallbackList(
                asked,
                model=model,
                epochs=epochs,
                steps=-(-len(data.train) // batch_size),
                verbose=0,
            )
            left = range(done, epochs)
            _run_epochs(program, data, together, epochs=left, seed=seed, on_windows=on_windows)
        else:
            if on_windows:
                asked.append(_after_batches(on_windows, batch_size, len(data.train)))
            model.fit(
                gathered_dataset(data, data.train, batch_size, seed=seed, first_epoch=done),
                validation_data=gathered_dataset(data, data.validation, batch_size),
                initial_epoch=done,
                epochs=epochs,
                shuffle=False,  # the dataset shuffles
                verbose=0,
                callbacks=asked,
            )
    if diverged and checkpoint:
        checkpoint.remove()  # it would diverge again
    if diverged and diverged[0] == 1:
        raise TrainingError(
            "the loss is not a number in epoch 1; check the candles for outliers, or try another "
            "--seed or --no-mixed-precision"
        )
    return FitResult(
        engine=engine,
        history={name: [float(v) for v in values] for name, values in history.history.items()},
        epochs=len(history.epoch),
        best_epoch=early.best_epoch + 1,
        epoch_seconds=seconds,
        diverged=diverged[0] if diverged else None,
        checkpoint=checkpoint.path if checkpoint else None,
    )


def _choose(engine: str, model: Any, callbacks: Sequence[Any]) -> str:
    if engine == "keras":
        return engine
    from atb_fast.training.compiled import unsupported

    by_batch = next((type(c).__name__ for c in callbacks if _goes_by_batch(c)), None)
    reason = f"{by_batch} goes by batch" if by_batch else unsupported(model)
    if reason is None:
        return "compiled"
    if engine == "compiled":
        raise TrainingError(
            f"the compiled engine cannot train this model: {reason}; use --engine keras"
        )
    log.info("training with Keras' own loop, because %s", reason)
    return "keras"


def _goes_by_batch(callback: Any) -> bool:
    """Return whether a Keras callback has to be called for each batch."""
    from keras.callbacks import Callback, ModelCheckpoint, TensorBoard

    # These two see each batch, but do something only every so many, if asked to.
    if isinstance(callback, ModelCheckpoint):
        return bool(callback.save_freq != "epoch")
    if isinstance(callback, TensorBoard):
        return bool(callback.update_freq != "epoch")
    hooks = ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin")
    return any(
        getattr(type(callback), hook) is not getattr(Callback, hook) or hook in vars(callback)
        for hook in (*hooks, "on_test_batch_end", "on_batch_begin", "on_batch_end")
    )


def _run_epochs(
    program: CompiledModel,
    data: WindowedData,
    callbacks: Any,
    *,
    epochs: range,
    seed: int,
    on_windows: WindowsCallback | None,
) -> None:
    """Do what `Model.fit` does, with an epoch as a program and Keras' names in the logs."""
    model = callbacks.model
    model.stop_training = False
    callbacks.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in epochs:
        callbacks.on_epoch_begin(epoch)
        loss = program.train(epoch_order(data.train, seed, epoch), on_windows)
        callbacks.on_test_begin()
        val_loss = program.evaluate(data.validation)
        tested = {"loss": val_loss, "rmse": math.sqrt(val_loss)}
        callbacks.on_test_end(tested)
        logs = {"loss": loss, "rmse": math.sqrt(loss)}
        logs |= {f"val_{name}": value for name, value in tested.items()}
        callbacks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    callbacks.on_train_end(logs)


def _after_batches(on_windows: WindowsCallback, batch_size: int, windows: int) -> Any:
    """Return the Keras callback that says how many windows of an epoch are done."""
    from keras.callbacks import LambdaCallback

    def say(batch: int, logs: Any = None) -> None:  # noqa: ARG001
        on_windows(min((batch + 1) * batch_size, windows), windows)

    return LambdaCallback(on_train_batch_end=say)


def _optimizer(model: Any) -> Any:
    """Return Adam, with dynamic loss scaling if a layer computes in float16.

    Keras adds the scaling by itself only under a global policy, and ours is set layer by layer.
    """
    from keras import optimizers

    adam = optimizers.Adam()
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        return optimizers.LossScaleOptimizer(adam)
    return adam
