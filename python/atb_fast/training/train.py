"""The network of a recipe, built, fitted and shrunk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast import recipes
from atb_fast.callbacks import EpochCallback, WindowsCallback
from atb_fast.config import TrainingConfig
from atb_fast.features.windows import WindowedData
from atb_fast.training.device import DevicePolicy
from atb_fast.training.engine import FitResult, fit
from atb_fast.training.predict import predict_outputs

log = logging.getLogger(__name__)


def train(
    config: TrainingConfig,
    data: WindowedData,
    policy: DevicePolicy,
    *,
    on_epoch: EpochCallback | None = None,
    on_windows: WindowsCallback | None = None,
    callbacks: Sequence[Any] = (),
    checkpoints: Path | None = None,
) -> tuple[Any, FitResult]:
    """Return the trained model, in float32, and how the fit went.

    Args:
        config: Recipe, hyperparameters and seed.
        data: What the model is fitted to.
        policy: Where, and in which precision.
        on_epoch: As in `engine.fit`.
        on_windows: As in `engine.fit`.
        callbacks: As in `engine.fit`.
        checkpoints: As in `engine.fit`.

    Raises:
        TrainingError: As `engine.fit`.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    recipe = recipes.get(config.recipe)
    shape = (data.length, data.prepared.matrix.shape[1])
    model = recipe.build(*shape, dtype_policy=policy.dtype_policy)
    fitted = fit(
        model,
        data,
        engine=policy.engine,
        epochs=config.epochs,
        batch_size=policy.batch_size,
        patience=config.patience,
        seed=config.seed,
        on_epoch=on_epoch,
        on_windows=on_windows,
        callbacks=callbacks,
        checkpoints=checkpoints,
        resume=config.resume,
    )
    if policy.dtype_policy != "float32":
        twin = recipe.build(*shape)
        twin.set_weights(model.get_weights())
        model = twin
    shrinkage = recipe.shrinkage(data, lambda starts: predict_outputs(model, data, starts))
    if shrinkage != 1.0:
        last = model.layers[-1]
        last.set_weights([weights * np.float32(shrinkage) for weights in last.get_weights()])
    if shrinkage == 0.0:
        log.warning(
            "on the validation windows the model is not better than no change beyond chance: it "
            "was shrunk to predict no change"
        )
    elif shrinkage < 1.0:
        log.info("predicted returns are shrunk to %.0f %% by the validation", 100 * shrinkage)
    return model, replace(fitted, shrinkage=shrinkage)


def forget_models() -> None:
    """Free what Keras keeps of models that this process no longer uses."""
    import keras

    keras.backend.clear_session()
