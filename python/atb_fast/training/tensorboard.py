"""TensorBoard logs of a training run."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atb_fast.errors import MissingExtraError

log = logging.getLogger(__name__)


def callbacks(root: Path | None, name: str) -> list[Any]:
    """Return the Keras callback that writes to `{root}/{name}/{UTC time}`; none if `root` is None.

    Raises:
        MissingExtraError: The tensorboard package is not installed.
        OSError: The directory cannot be created.
    """
    if root is None:
        return []
    if find_spec("tensorboard") is None:
        raise MissingExtraError(
            "--tensorboard needs the package tensorboard; install it with pip install tensorboard"
        )
    from keras.callbacks import TensorBoard

    now = f"{datetime.now(UTC):%Y-%m-%d_%Hh%Mm%Ss}"
    directory = root / name / now
    directory.mkdir(parents=True, exist_ok=True)
    log.info("writing TensorBoard logs to %s; view them: tensorboard --logdir %s", directory, root)
    return [TensorBoard(directory, write_graph=False)]
