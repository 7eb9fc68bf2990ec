"""Curves of a training for TensorBoard."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from atb_fast.config import TrainingConfig
from atb_fast.errors import MissingExtraError

log = logging.getLogger(__name__)


def callbacks(config: TrainingConfig) -> list[Any]:
    """Return Keras' callback that writes the curves, or nothing if they are not asked for.

    They are in `{config.tensorboard}/{symbol}_{timeframe}/{UTC time}`, in `train` and `validation`.

    Raises:
        MissingExtraError: The tensorboard package is not installed; TensorFlow writes with it.
        OSError: The directory cannot be made.
    """
    if config.tensorboard is None:
        return []
    if find_spec("tensorboard") is None:
        raise MissingExtraError(
            "--tensorboard needs the package tensorboard, which is not installed; "
            "pip install tensorboard"
        )
    from keras.callbacks import TensorBoard

    now = f"{datetime.now(UTC):%Y-%m-%d_%Hh%Mm%Ss}"
    directory = config.tensorboard / f"{config.symbol}_{config.timeframe}" / now
    directory.mkdir(parents=True, exist_ok=True)
    log.info("tensorboard: %s; to look: tensorboard --logdir %s", directory, config.tensorboard)
    return [TensorBoard(directory, write_graph=False)]
