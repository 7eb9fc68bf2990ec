"""The machine and the package versions that the exact weights of a model depend on."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

#: Before its first operation, TensorFlow reads from these variables how many threads an operation
#: uses, and how many operations run in parallel.
INTRA_OP, INTER_OP = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"


@cache  # it takes milliseconds, and a study needs it for each trial
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a model depends on."""
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
    """Return the commit of the working directory; empty outside a Git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
        done = subprocess.run(  # noqa: S603 - the arguments are constants
            command, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--verify", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return {"git": {"commit": commit, "dirty": dirty}}


def environment() -> dict[str, Any]:
    """Return the machine and the thread counts that the exact weights of a model depend on.

    An operation is split over `intra_op_threads`, and the split changes how sums are rounded.
    """
    import tensorflow as tf

    def threads(asked: int, variable: str) -> int:
        # In the order of TensorFlow: an explicit setting, the environment, the usable cores.
        return asked or _from_environment(variable) or cores()

    threading = tf.config.threading
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "intra_op_threads": threads(threading.get_intra_op_parallelism_threads(), INTRA_OP),
        "inter_op_threads": threads(threading.get_inter_op_parallelism_threads(), INTER_OP),
        "gpus": [str(detail.get("device_name", "unknown")) for detail in details],
    }


def _cpu() -> str:
    """Return the model name of the CPU, or the architecture if the platform has no name."""
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


def parallel_operations() -> int:
    """Return how many operations may run in parallel: TF_NUM_INTEROP_THREADS, else the cores."""
    return _from_environment(INTER_OP) or cores()


def default_jobs() -> int:
    """Return the default number of training runs in parallel: one per two cores."""
    return max(1, cores() // 2)


def _from_environment(variable: str) -> int:
    """Return a number of threads from an environment variable; 0 if it is not set."""
    given = os.environ.get(variable, "")
    return int(given) if given.isdecimal() else 0
