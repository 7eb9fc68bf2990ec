"""Fitting a model, behind one function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atb_fast.datasets import WindowedData, gathered_dataset
from atb_fast.errors import TrainingError

#: Called after each epoch with its number (from 1) and Keras' logs.
EpochCallback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class FitResult:
    """How a fit went.

    Attributes:
        history: Each epoch's value of loss, rmse, val_loss, val_rmse.
        epochs: Epochs that were run.
        best_epoch: The epoch whose weights the model has, from 1.
    """

    history: dict[str, list[float]]
    epochs: int
    best_epoch: int


def fit(
    model: Any,
    data: WindowedData,
    *,
    epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    on_epoch: EpochCallback | None = None,
) -> FitResult:
    """Fit `model` on the training windows; it ends with the weights of its best epoch.

    Mean squared error, Adam with Keras' defaults; ends early when the loss on the test windows has
    not improved for `patience` epochs. The test windows thus choose the epoch, as in the legacy
    trainer: their error is a little flattering.

    Args:
        model: Uncompiled, (batch, length, features) to (batch, 1).
        data: Training and test windows.
        epochs: Most epochs.
        batch_size: Windows in a batch.
        patience: Epochs without improvement before the fit ends.
        seed: Of the shuffling.
        on_epoch: Called after each epoch.

    Raises:
        TrainingError: The loss is not a finite number.
    """
    from keras import callbacks, metrics

    model.compile(
        optimizer=_optimizer(model),
        loss="mse",
        metrics=[metrics.RootMeanSquaredError(name="rmse")],
    )
    early = callbacks.EarlyStopping(
        monitor="val_loss", patience=patience, restore_best_weights=True
    )

    def check(epoch: int, logs: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in logs.values()):
            raise TrainingError(
                f"the loss is not a number in epoch {epoch + 1}; check the candles for outliers, "
                "or try another --seed or --no-mixed-precision"
            )
        if on_epoch:
            on_epoch(epoch + 1, logs)

    fitted = model.fit(
        gathered_dataset(data, data.train, batch_size, seed=seed),
        validation_data=gathered_dataset(data, data.test, batch_size),
        epochs=epochs,
        shuffle=False,  # the dataset shuffles
        verbose=0,
        callbacks=[early, callbacks.LambdaCallback(on_epoch_end=check)],
    )
    return FitResult(
        history={name: [float(v) for v in values] for name, values in fitted.history.items()},
        epochs=len(fitted.epoch),
        best_epoch=early.best_epoch + 1,
    )


def _optimizer(model: Any) -> Any:
    """Return Adam, with dynamic loss scaling if a layer computes in float16.

    Keras adds the scaling by itself only under a global policy, and ours is set layer by layer.
    """
    from keras import optimizers

    adam = optimizers.Adam()
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        return optimizers.LossScaleOptimizer(adam)
    return adam
