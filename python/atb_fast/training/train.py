"""Trains the network of a recipe: build, fit, shrinkage."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from zipfile import ZipFile

import numpy as np

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import FitOptions
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.base import BaseRecipe
from atb_fast.recipes.networks import Linear
from atb_fast.training.device import DevicePolicy
from atb_fast.training.engine import FitResult, fit
from atb_fast.training.predict import predict_outputs

log = logging.getLogger(__name__)

#: Held while weights are initialized, because threads share the random generator of Keras.
_building = Lock()

#: ZIP has no earlier dates.
_FIRST_ZIP_YEAR = 1980


def train(
    recipe: BaseRecipe,
    options: FitOptions,
    data: WindowedData,
    policy: DevicePolicy,
    *,
    listener: Listener = SILENT,
    callbacks: Sequence[Any] = (),
    checkpoints: Path | None = None,
) -> tuple[Any, FitResult]:
    """Return the trained model, in float32, and the result of the fit.

    Args:
        recipe: Builds the network and estimates the shrinkage factor.
        options: Hyperparameters and seed.
        data: Training and validation windows.
        policy: The precision, and the engine and batch size that replace those of `options`.
        listener: See `engine.fit`.
        callbacks: See `engine.fit`.
        checkpoints: See `engine.fit`.

    Raises:
        TrainingError: See `engine.fit`.
    """
    import keras

    network = recipe.trained_network
    if type(network) is Linear:  # no device is faster than the exact engine
        policy = replace(policy, engine=options.engine, dtype_policy="float32")
    with _building:
        keras.utils.set_random_seed(options.seed)
        model = build(recipe, data, policy.dtype_policy)
    fitted = fit(
        model,
        data,
        replace(options, engine=policy.engine, batch_size=policy.batch_size),
        network=network,
        listener=listener,
        callbacks=callbacks,
        checkpoints=checkpoints,
    )
    if policy.dtype_policy != "float32":
        twin = build(recipe, data)
        twin.set_weights(model.get_weights())
        model = twin
    shrinkage = recipe.shrinkage(data, lambda starts: predict_outputs(model, data, starts))
    unshrunk = None
    if shrinkage != 1.0:
        # A factor of 0 would leave no trace of what the network predicts.
        unshrunk = predict_outputs(model, data, data.test)
        # Networks of recipes in Python may have other names.
        last = next((each for each in model.layers if each.name == "head"), model.layers[-1])
        last.set_weights([weights * np.float32(shrinkage) for weights in last.get_weights()])
    based = data.labels.base is not None  # only volatility has a base
    if shrinkage == 0.0:
        log.warning(
            "on the validation windows, the model is not significantly better than %s, so its "
            "shrinkage factor is 0: it equals %s",
            *["HAR" if based else "persistence"] * 2,
        )
    elif shrinkage < 1.0:
        log.info(
            "shrinkage factor of predicted %s, estimated on the validation windows: %.2f",
            "differences from HAR" if based else "returns",
            shrinkage,
        )
    return model, replace(fitted, shrinkage=shrinkage, unshrunk=unshrunk)


def build(recipe: BaseRecipe, data: WindowedData, dtype_policy: str = "float32") -> Any:
    """Return the uncompiled network of `recipe` for `data`; see `BaseRecipe.build`."""
    # Other recipes may have their own `build` without that argument.
    base: dict[str, Any] = {} if data.labels.base is None else {"base": data.labels.base}
    shape = (data.length, data.prepared.matrix.shape[1])
    return recipe.build(*shape, dtype_policy=dtype_policy, **base)


def save(model: Any, path: Path) -> None:
    """Write `model` to `path`, a .keras file, even if the clock is before 1980.

    Keras dates one of the files in it with the current time, which ZIP cannot store before 1980.
    """
    try:
        model.save(path)
    except ValueError:
        now = time.localtime()
        if now.tm_year >= _FIRST_ZIP_YEAR:
            raise
    else:
        return
    log.warning(
        "the clock of this machine says %s; set it, because versions are named after it",
        time.strftime("%Y-%m-%d", now),
    )
    with TemporaryDirectory() as folder:
        model.save(folder, zipped=False)
        with ZipFile(path, "w", strict_timestamps=False) as archive:
            for file in sorted(filter(Path.is_file, Path(folder).rglob("*"))):
                archive.write(file, file.relative_to(folder))


def forget_models() -> None:
    """Free the memory that Keras holds for models that are no longer used."""
    import keras

    keras.backend.clear_session()
