"""The one place that decides the device and the precision that a model is trained with."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Lock
from typing import Any

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import Engine, FitOptions
from atb_fast.errors import MissingExtraError, lacks_memory
from atb_fast.training.startup import ahead, quick_startup

log = logging.getLogger(__name__)

CPU_BATCH_SIZE = 32
#: A GPU is mostly idle with batches of 32. Not measured.
GPU_BATCH_SIZE = 128

_importing = Lock()


@dataclass(frozen=True)
class DevicePolicy:
    """How a model is trained on this machine, and why.

    Attributes:
        gpus: Names of the GPUs visible to TensorFlow.
        engine: `keras`, `compiled`, `exact`, or `auto` to let the layers of the model decide.
        dtype_policy: Keras dtype policy of the hidden layers.
        jit: Whether TensorFlow may compile parts of its graphs with XLA.
        batch_size: Windows per batch.
        reason: The decision and its reason, one line for the log.
    """

    gpus: tuple[str, ...]
    engine: Engine
    dtype_policy: str
    jit: bool
    batch_size: int
    reason: str


def decide(
    gpus: Sequence[str], *, engine: Engine, mixed_precision: bool, batch_size: int | None
) -> DevicePolicy:
    """Return the policy for the given GPUs.

    Args:
        gpus: Names of the GPUs; empty for a CPU.
        engine: The requested engine.
        mixed_precision: Whether to use mixed float16 on a GPU.
        batch_size: The requested batch size; None for the default of the device.
    """
    if not gpus:
        size = batch_size or CPU_BATCH_SIZE
        reason = f"CPU: float32, batch {size} (no GPU found)"
        return DevicePolicy((), engine, "float32", False, size, reason)
    size = batch_size or GPU_BATCH_SIZE
    found = f"batch {size} ({len(gpus)} found"
    if engine in ("compiled", "exact"):
        reason = f"GPU: float32, {engine} engine, {found}; --engine keras allows mixed precision)"
        return DevicePolicy(tuple(gpus), engine, "float32", False, size, reason)
    # Only Keras' own loop uses cuDNN for the LSTMs.
    if mixed_precision:
        reason = f"GPU: mixed_float16, XLA, {found}; --no-mixed-precision turns it off)"
        return DevicePolicy(tuple(gpus), "keras", "mixed_float16", True, size, reason)
    reason = f"GPU: float32, {found}; --no-mixed-precision is set)"
    return DevicePolicy(tuple(gpus), "keras", "float32", False, size, reason)


def import_tensorflow() -> Any:
    """Return TensorFlow, imported quietly.

    Raises:
        MissingExtraError: It is not installed.
        MemoryError: There is too little memory.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the user may have configured another one
    try:
        # Only one thread may redirect stderr; the others wait until it has imported TensorFlow.
        with _importing:
            first = "tensorflow" not in sys.modules
            if first:  # unless the user asks for more, C++ code logs only errors
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            with quick_startup() if first else nullcontext():
                import keras
                import tensorflow as tf
            if first:
                tf.get_logger().setLevel("ERROR")
    except Exception as error:
        if lacks_memory(error):
            why = str(error) or type(error).__name__
            raise MemoryError(f"TensorFlow cannot be imported ({why})") from error
        if not isinstance(error, ImportError):
            raise
        raise _missing(f"cannot be imported ({error})") from error
    if keras.backend.backend() != "tensorflow":
        raise MissingExtraError(
            f"Keras was imported with the backend {keras.backend.backend()}, expected tensorflow; "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )
    return tf


def import_ahead() -> None:
    """Start to import TensorFlow in the background, which takes seconds.

    Errors of the import are ignored: `import_tensorflow` raises them again.

    Raises:
        MissingExtraError: It is not installed.
    """
    if find_spec("tensorflow") is None:
        raise _missing("is not installed")
    ahead(import_tensorflow)


def _missing(why: str) -> MissingExtraError:
    return MissingExtraError(
        f"training needs TensorFlow, which {why}; install it with pip install 'atb-fast[train]', "
        "or 'atb-fast[train-gpu]' for NVIDIA GPUs"
    )


def configure(
    options: FitOptions, *, threads: int | None = None, listener: Listener = SILENT
) -> DevicePolicy:
    """Set up TensorFlow for this machine, and return the policy.

    Args:
        options: The requested engine, precision and batch size.
        threads: Threads per operation; None for one per core. The exact weights depend on it.
        listener: Told when the import begins.
    """
    log.info("loading TensorFlow")
    listener.stage("importing TensorFlow")
    tf = import_tensorflow()
    if threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:  # this process has used TensorFlow before
            log.warning(
                "TensorFlow is already initialized, so its number of threads cannot be changed to "
                "%d; the weights may differ from those of the recorded run",
                threads,
            )
    devices = tf.config.list_physical_devices("GPU")
    policy = decide(
        [device.name for device in devices],
        engine=options.engine,
        mixed_precision=options.mixed_precision,
        batch_size=options.batch_size,
    )
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)
    tf.config.optimizer.set_jit(policy.jit)
    return policy
