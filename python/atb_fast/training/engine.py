"""Fits a model with one of three engines.

They are whole epochs compiled by XLA, Keras' own loop, and the exact solution of a linear model.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import Engine, FitOptions
from atb_fast.errors import TrainingError
from atb_fast.features.heads import LINEAR, Head
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.keys import Part
from atb_fast.recipes.networks import Linear
from atb_fast.training.device import CPU_BATCH_SIZE
from atb_fast.training.tf_data import epoch_order, gathered_dataset

if TYPE_CHECKING:
    from atb_fast.training.compiled import CompiledModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The result of a fit.

    Attributes:
        engine: `compiled`, `keras` or `exact`.
        history: loss and val_loss of each epoch; for a linear head, also rmse and val_rmse.
        epochs: Number of epochs; 1 for `exact`.
        best_epoch: The epoch whose weights the model has, counted from 1.
        epoch_seconds: Duration of each epoch with its evaluation; the first includes compilation.
        shrinkage: Factor by which the outputs of the fitted model were multiplied.
        unshrunk: Outputs for the test windows before that; None if the factor is 1.
        diverged: The epoch in which the loss became NaN or infinite; None if it never did. Even
            then, the model has the weights of `best_epoch`.
        checkpoint: Path of the checkpoint; None if checkpoints were off. Remove the file once the
            model is stored.
    """

    engine: str
    history: dict[str, list[float]]
    epochs: int
    best_epoch: int
    epoch_seconds: list[float]
    diverged: int | None = None
    shrinkage: float = 1.0
    unshrunk: NDArray[np.float64] | None = field(default=None, compare=False)
    checkpoint: Path | None = None

    @property
    def seconds_per_epoch(self) -> float:
        """Median duration of the epochs after the first, which compiles; else that of the first."""
        return float(np.median(self.epoch_seconds[1:] or self.epoch_seconds))


def fit(
    model: Any,
    data: WindowedData,
    options: FitOptions,
    *,
    network: Part | None = None,
    listener: Listener = SILENT,
    callbacks: Sequence[Any] = (),
    checkpoints: Path | None = None,
) -> FitResult:
    """Fit `model` to the training windows, restore its best epoch, and return the result.

    The loss is that of the head of the target, the optimizer is Adam with Keras' defaults. The
    weights of the labels apply to it on all windows. The fit stops early when the loss on
    the validation windows has not improved for `patience` epochs. In the legacy recipe these are
    the test windows, so its test error is optimistic. The engine `exact` has no epochs.

    Args:
        model: An uncompiled model, (batch, length, features) to (batch, units).
        data: Training and validation windows.
        options: The engine `auto` is `exact` for the linear network, else `compiled` if that
            supports the model and the callbacks, else `keras`, and the log says why.
        network: What made the model; None if it is not known.
        listener: Receives the progress of epochs and of the windows within them.
        callbacks: Keras callbacks. The compiled engine does not support callbacks on batches.
            Checkpoints do not include their state.
        checkpoints: Directory for checkpoints; None to write none.

    Raises:
        TrainingError: The loss is not finite in the first epoch, the outputs of the model are not
            those of the head, or the requested engine does not support the model or the callbacks.
    """
    from keras import callbacks as keras_callbacks
    from keras import metrics

    head = data.output.head
    if head != LINEAR and tuple(model.output_shape) != (None, head.units):
        raise TrainingError(
            f"the output shape of the network is {model.output_shape}, expected (None, "
            f"{head.units}): the target needs a last layer with {head.units} units and the "
            f"activation {head.activation}"
        )
    engine = choose(options.engine, model, callbacks, head=head, network=network)
    if engine == "exact":
        assert isinstance(network, Linear)
        return _solve(model, data, network, callbacks=callbacks, listener=listener)
    batch_size = options.batch_size or CPU_BATCH_SIZE
    model.compile(
        optimizer=_optimizer(model),
        loss=head.loss,
        metrics=[metrics.RootMeanSquaredError(name="rmse")] if head == LINEAR else [],
    )
    early = keras_callbacks.EarlyStopping(
        monitor="val_loss", mode="min", patience=options.patience, restore_best_weights=True
    )
    history = keras_callbacks.History()
    watch = _Watch(model, listener, {} if listener is SILENT else _reference(data))
    # The watch comes last, so no other callback can undo its decision to stop.
    asked = [early, history, *callbacks, keras_callbacks.LambdaCallback(on_epoch_end=watch)]
    checkpoint, done = None, 0
    if checkpoints:
        from atb_fast.training.checkpoint import Checkpoint, key

        decisive = {name: getattr(options, name) for name in ("epochs", "patience", "seed")}
        name = key(model, data, engine=engine, batch_size=batch_size, **decisive)
        checkpoint = Checkpoint(checkpoints / f"{name}.npz", early, history, watch.seconds)
        model.optimizer.build(model.trainable_variables)
        done = checkpoint.find(model, resume=options.resume)
        asked.append(checkpoint)
    listener.stage("compiling")
    run = _fit_compiled if engine == "compiled" else _fit_keras
    with checkpoint or nullcontext():
        run(
            model,
            data,
            asked,
            epochs=range(done, options.epochs),
            batch_size=batch_size,
            seed=options.seed,
            listener=listener,
        )
    if watch.diverged and checkpoint:
        checkpoint.remove()  # a resumed run would diverge again
    if watch.diverged == 1:
        raise TrainingError(
            "the loss is not a finite number in epoch 1; check the candles for outliers, or try "
            "another --seed or --no-mixed-precision"
        )
    return FitResult(
        engine=engine,
        history={name: [float(v) for v in values] for name, values in history.history.items()},
        epochs=len(history.epoch),
        best_epoch=early.best_epoch + 1,
        epoch_seconds=watch.seconds,
        diverged=watch.diverged,
        checkpoint=checkpoint.path if checkpoint else None,
    )


@dataclass
class _Watch:
    """Times and reports each epoch, and stops the fit if the loss is not finite.

    Attributes:
        reference: The error of a baseline, which is reported with that of the model.
        seconds: Duration of each epoch.
        diverged: The epoch, counted from 1, in which the loss was not finite.
    """

    model: Any
    listener: Listener
    reference: dict[str, float]
    seconds: list[float] = field(default_factory=list)
    diverged: int | None = None
    _last_end: float = field(default_factory=time.perf_counter)

    def __call__(self, epoch: int, logs: dict[str, float]) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last_end)
        self._last_end = now
        if not all(math.isfinite(value) for value in logs.values()):
            self.diverged = self.diverged or epoch + 1
            self.model.stop_training = True
        self.listener.epoch(epoch + 1, {**logs, **self.reference})


def _reference(data: WindowedData) -> dict[str, float]:
    """Return the error of a baseline on the validation windows; see `Listener.epoch`."""
    if data.output.head == LINEAR:
        return {"val_persistence_rmse": _persistence_rmse(data)}
    trained, labels = (data.fitted(part).astype(int) for part in (data.train, data.validation))
    shares = np.bincount(trained, data.weights(data.train), minlength=labels.max() + 1)
    # As in Keras' losses, the logarithm of 0 is that of 1e-7.
    losses = -np.log(np.maximum(shares / shares.sum(), 1e-7))[labels]
    return {"val_shares_loss": float(np.mean(losses * data.weights(data.validation)))}


def _persistence_rmse(data: WindowedData) -> float:
    """Return the RMSE of persistence on the validation windows, in the unit of the labels."""
    starts = data.validation
    # The last close as an output: a line through the prices of two outputs, except that an output
    # of 0 is exactly the last close if outputs are log returns.
    zero, one = (data.forecasts(starts, np.full(len(starts), output)) for output in (0.0, 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):  # the range of closes may be 0
        outputs = (data.persistence(starts) - zero) / (one - zero)
    return float(np.sqrt(np.mean(np.square(outputs - data.fitted(starts)))))


def _solve(
    model: Any,
    data: WindowedData,
    network: Linear,
    *,
    callbacks: Sequence[Any],
    listener: Listener,
) -> FitResult:
    """Fit the linear network; callbacks receive this as one epoch."""
    from keras.callbacks import CallbackList

    from atb_fast.training.exact import solve

    together = CallbackList([*callbacks], model=model, epochs=1, steps=1, verbose=0)
    started = time.perf_counter()
    together.on_train_begin()
    together.on_epoch_begin(0)
    found = solve(data, network)
    model.get_layer("head").set_weights([found.kernel, found.bias])
    logs = _logs(found.loss, found.val_loss, data.output.head)
    together.on_epoch_end(0, logs)
    together.on_train_end(logs)
    seconds = time.perf_counter() - started
    listener.epoch(1, {**logs, **_reference(data)})
    return FitResult("exact", {name: [value] for name, value in logs.items()}, 1, 1, [seconds])


def _logs(loss: float, val_loss: float, head: Head) -> dict[str, float]:
    """Return what Keras logs for an epoch."""
    if head != LINEAR:
        return {"loss": loss, "val_loss": val_loss}
    rmse, val_rmse = math.sqrt(loss), math.sqrt(val_loss)
    return {"loss": loss, "rmse": rmse, "val_loss": val_loss, "val_rmse": val_rmse}


def _fit_compiled(
    model: Any,
    data: WindowedData,
    callbacks: list[Any],
    *,
    epochs: range,
    batch_size: int,
    seed: int,
    listener: Listener,
) -> None:
    from keras.callbacks import CallbackList

    from atb_fast.training.compiled import CompiledModel

    log.info("compiling the epochs, which takes a few seconds")
    program = CompiledModel(model, data, batch_size, seed=seed)
    if epochs:
        program.compile(len(data.train))
    together = CallbackList(
        callbacks,
        model=model,
        epochs=epochs.stop,
        steps=-(-len(data.train) // batch_size),
        verbose=0,
    )
    _run_epochs(program, data, together, epochs=epochs, seed=seed, listener=listener)


def _fit_keras(
    model: Any,
    data: WindowedData,
    callbacks: list[Any],
    *,
    epochs: range,
    batch_size: int,
    seed: int,
    listener: Listener,
) -> None:
    if listener is not SILENT:  # for a callback, Keras converts its logs after every batch
        callbacks = [*callbacks, _after_batches(listener, batch_size, len(data.train))]
    model.fit(
        gathered_dataset(data, data.train, batch_size, seed=seed, first_epoch=epochs.start),
        validation_data=gathered_dataset(data, data.validation, batch_size),
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        shuffle=False,  # the dataset shuffles
        verbose=0,
        callbacks=callbacks,
    )


def choose(
    engine: Engine,
    model: Any,
    callbacks: Sequence[Any] = (),
    *,
    head: Head = LINEAR,
    network: Part | None = None,
) -> Engine:
    """Return the engine that `fit` uses for `model`: `keras`, `compiled` or `exact`.

    Raises:
        TrainingError: `engine` does not support the model or the callbacks.
    """
    if engine == "keras":
        return engine
    by_batch = next((type(c).__name__ for c in callbacks if _goes_by_batch(c)), None)
    called = f"{by_batch} is called for every batch" if by_batch else None
    # A subclass may build another network.
    if type(network) is Linear and engine in ("auto", "exact") and not called:
        return "exact"
    if engine == "exact":
        why = called or "it solves only the network linear"
        raise TrainingError(f"the exact engine cannot fit this model: {why}; use --engine auto")
    from atb_fast.training.layers import unsupported

    reason = called or unsupported(model, head)
    if reason is None:
        return "compiled"
    if engine == "compiled":
        raise TrainingError(
            f"the compiled engine cannot train this model: {reason}; use --engine keras"
        )
    log.info("using the keras engine, because %s", reason)
    return "keras"


def _goes_by_batch(callback: Any) -> bool:
    """Return whether a Keras callback must be called for each batch."""
    from keras.callbacks import Callback, ModelCheckpoint, TensorBoard

    # These two have hooks for batches, but use them only on request.
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
    listener: Listener,
) -> None:
    """Do the same as `Model.fit`, with compiled epochs and Keras' names in the logs."""
    model = callbacks.model
    model.stop_training = False
    callbacks.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in epochs:
        callbacks.on_epoch_begin(epoch)
        loss = program.train(epoch_order(data.train, seed, epoch), listener.windows)
        callbacks.on_test_begin()
        logs = _logs(loss, program.evaluate(data.validation), data.output.head)
        validation = {name for name in logs if name.startswith("val_")}
        callbacks.on_test_end({name.removeprefix("val_"): logs[name] for name in validation})
        callbacks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    callbacks.on_train_end(logs)


def _after_batches(listener: Listener, batch_size: int, windows: int) -> Any:
    """Return the Keras callback that reports how many windows of an epoch are done."""
    from keras.callbacks import LambdaCallback

    def report(batch: int, logs: Any = None) -> None:  # noqa: ARG001
        listener.windows(min((batch + 1) * batch_size, windows), windows)

    return LambdaCallback(on_train_batch_end=report)


def _optimizer(model: Any) -> Any:
    """Return Adam, with dynamic loss scaling if a layer computes in float16.

    Keras adds loss scaling only under a global dtype policy; here, it is set for each layer.
    """
    from keras import optimizers

    adam = optimizers.Adam()
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        return optimizers.LossScaleOptimizer(adam)
    return adam
