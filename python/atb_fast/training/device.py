"""Where a model is trained, and with which precision: decided here and nowhere else."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atb_fast.errors import MissingExtraError
from atb_fast.training.startup import quiet_startup

log = logging.getLogger(__name__)

CPU_BATCH_SIZE = 32
#: A GPU is idle most of the time with batches of 32. Not measured: see the README.
GPU_BATCH_SIZE = 128

_importing = threading.Lock()


@dataclass(frozen=True)
class DevicePolicy:
    """What is on, and why.

    Attributes:
        gpus: Names of the GPUs that TensorFlow sees.
        engine: `keras`, `compiled`, or `auto` if the layers of the model decide.
        dtype_policy: Keras dtype policy of the hidden layers.
        jit: Whether TensorFlow's graph optimizer may compile clusters with XLA.
        batch_size: Windows in a batch.
        reason: One line for people.
    """

    gpus: tuple[str, ...]
    engine: str
    dtype_policy: str
    jit: bool
    batch_size: int
    reason: str


def decide(
    gpus: Sequence[str], *, engine: str, mixed_precision: bool, batch_size: int | None
) -> DevicePolicy:
    """Return the policy for the devices given.

    Args:
        gpus: Names of the GPUs, empty for none.
        engine: What the user asked for: `auto`, `compiled` or `keras`.
        mixed_precision: Whether mixed float16 may be used on a GPU.
        batch_size: What the user asked for, None for the default of the device.
    """
    if not gpus:
        size = batch_size or CPU_BATCH_SIZE
        reason = f"CPU: float32, batch {size} (no GPU found)"
        return DevicePolicy((), engine, "float32", False, size, reason)
    size = batch_size or GPU_BATCH_SIZE
    found = f"batch {size} ({len(gpus)} found"
    if engine == "compiled":
        reason = f"GPU: float32, compiled engine, {found}; --engine keras for mixed precision)"
        return DevicePolicy(tuple(gpus), engine, "float32", False, size, reason)
    # Keras' own loop has cuDNN for the LSTMs.
    if mixed_precision:
        reason = f"GPU: mixed_float16, XLA, {found}; --no-mixed-precision)"
        return DevicePolicy(tuple(gpus), "keras", "mixed_float16", True, size, reason)
    reason = f"GPU: float32, {found}; mixed precision is switched off)"
    return DevicePolicy(tuple(gpus), "keras", "float32", False, size, reason)


def import_tensorflow() -> Any:
    """Return TensorFlow, imported quietly.

    Raises:
        MissingExtraError: It is not installed.
    """
    # C++ code logs errors only, unless the user asks for more.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever else the user's Keras is set up for
    try:
        # Only one thread may redirect the start-up messages; the others wait for its import.
        with _importing, quiet_startup():
            import keras
            import tensorflow as tf
    except ImportError as error:
        raise MissingExtraError(
            f"training needs TensorFlow, which cannot be imported ({error}); install it with "
            "pip install 'atb-fast[train]', or 'atb-fast[train-gpu]' for NVIDIA GPUs"
        ) from error
    if keras.backend.backend() != "tensorflow":
        raise MissingExtraError(
            f"Keras was imported with the backend {keras.backend.backend()}, expected tensorflow; "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )
    tf.get_logger().setLevel("ERROR")
    return tf


def configure(
    *, engine: str, mixed_precision: bool, batch_size: int | None, threads: int | None = None
) -> DevicePolicy:
    """Return the policy for this machine, with TensorFlow set up for it.

    Args:
        engine: See `decide`.
        mixed_precision: See `decide`.
        batch_size: See `decide`.
        threads: That an operation is split over, None for as many as there are cores: the bits of
            the weights depend on it.
    """
    log.info("loading TensorFlow")
    tf = import_tensorflow()
    if threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:  # it has been running, in the process of whoever called
            log.warning("TensorFlow runs already, its threads stay as they are")
    devices = tf.config.list_physical_devices("GPU")
    policy = decide(
        [device.name for device in devices],
        engine=engine,
        mixed_precision=mixed_precision,
        batch_size=batch_size,
    )
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)
    tf.config.optimizer.set_jit(policy.jit)
    return policy
