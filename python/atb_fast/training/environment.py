"""The machine and the versions that the bits of a model depend on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a model depends on."""
    found = {"python": platform.python_version()}
    for package in (
        "atb-fast",
        "tensorflow",
        "tensorflow-cpu",
        "keras",
        "numpy",
        "polars",
        "onnx",
        "tf2onnx",
        "onnxruntime",
    ):
        try:
            found[package] = installed_version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Return the commit that the working directory is at; nothing if it is no checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--verify", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return {"git": {"commit": commit, "dirty": dirty}}


def environment() -> dict[str, Any]:
    """Return what, beside versions, the bits of a model depend on: the machine, and its threads.

    One operation is split over `intra_op_threads`, and sums are rounded where it is split.
    """
    import tensorflow as tf

    def threads(asked: int, variable: str) -> int:
        # As TensorFlow decides: what was asked for, the environment, the cores it may use.
        given = os.environ.get(variable, "")
        return asked or (int(given) if given.isdecimal() else 0) or _usable_cores()

    threading = tf.config.threading
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "intra_op_threads": threads(
            threading.get_intra_op_parallelism_threads(), "TF_NUM_INTRAOP_THREADS"
        ),
        "inter_op_threads": threads(
            threading.get_inter_op_parallelism_threads(), "TF_NUM_INTEROP_THREADS"
        ),
        "gpus": [str(detail.get("device_name", "unknown")) for detail in details],
    }


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    """Return the model of the CPU, as well as the platform tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
