"""Checks of the installation and the directories that training depends on, without a network."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Literal

import atb_fast
from atb_fast.bundles.workspace import check_place
from atb_fast.config import OPTIONS
from atb_fast.errors import (
    AtbFastError,
    FetchError,
    MissingExtraError,
    StorageError,
    counted,
    lacks_memory,
)
from atb_fast.ingestion.exchange.http import Endpoints
from atb_fast.options import Option
from atb_fast.recipes.config import TrainingConfig
from atb_fast.training import compile_cache
from atb_fast.training.device import decide, import_tensorflow
from atb_fast.training.environment import cores, default_jobs
from atb_fast.training.startup import quiet

_TRAIN = "pip install 'atb-fast[train]'"
#: Required packages other than TensorFlow and Keras, and how to install each.
_PACKAGES = {
    "numpy": "pip install --force-reinstall numpy",
    "polars": "pip install --force-reinstall polars",
    "onnx": f"{_TRAIN}, or train with --skip-onnx",
    "onnxruntime": f"{_TRAIN}, or train with --skip-onnx",
    "tf2onnx": f"{_TRAIN}, or train with --skip-onnx",
    "matplotlib": f"{_TRAIN}, or train with --skip-plots",
    "jinja2": f"{_TRAIN}, or train with --skip-plots",
}
#: Exists where an NVIDIA driver is loaded, also in containers.
_NVIDIA = Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        state: `ok`, `missing` if a required package cannot be imported, `problem` otherwise.
        found: What was found.
        fix: How to fix it; empty if there is nothing to do.
        exit_code: The exit code that this check asks of `doctor`; 0 if training works anyway.
    """

    name: str
    state: Literal["ok", "problem", "missing"]
    found: str
    fix: str = ""
    exit_code: int = 0


def examine(config: TrainingConfig) -> Iterator[Check]:
    """Yield the results of all checks, for a training run with these options."""
    yield Check("python", "ok", f"{platform.python_version()}, {platform.platform()}")
    yield _extension()
    # TensorFlow comes first: tf2onnx imports it too, without suppressing its messages.
    yield from _tensorflow(config)
    with quiet():  # tf2onnx imports TensorFlow again if that failed
        packages = [_package(name, fix) for name, fix in _PACKAGES.items()]
    yield from packages
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "not set")
    found = f"{cores()} of {os.cpu_count()}, TF_NUM_INTRAOP_THREADS {threads}"
    yield Check("cores", "ok", f"{found}, --jobs {default_jobs()} by default")
    yield _directory(OPTIONS["cache_dir"], config.cache_dir)
    yield _registry(config.registry)
    yield from _endpoints(needed=config.source == "binance" and not config.offline)


def _extension() -> Check:
    from atb_fast._core import build_info

    info = build_info()
    found = f"{atb_fast.__version__}, extension {info['version']}, {info['profile']} build"
    if info["version"] != atb_fast.__version__:
        fix = "the extension is of another version; reinstall atb-fast"
        return Check("atb-fast", "problem", found, fix)
    if info["profile"] != "release":
        fix = "debug builds are slow; rebuild with maturin develop --release"
        return Check("atb-fast", "problem", found, fix)
    return Check("atb-fast", "ok", found)


def _package(name: str, fix: str) -> Check:
    try:
        with warnings.catch_warnings(action="ignore"):
            module = import_module(name)
    except Exception as error:  # a broken package can raise anything
        return _missing(name, error, fix)
    return Check(name, "ok", str(module.__version__))


def _missing(name: str, error: Exception, fix: str) -> Check:
    if lacks_memory(error):
        fix = "free some memory, or raise the limit (ulimit -v)"
        return Check(name, "problem", f"not enough memory: {error}", fix, AtbFastError.exit_code)
    code = MissingExtraError.exit_code
    return Check(name, "missing", f"cannot be imported: {error}", fix, code)


def _tensorflow(config: TrainingConfig) -> Iterator[Check]:
    """Yield the checks of TensorFlow, Keras, the device to train on, and compiled programs."""
    try:
        tf = import_tensorflow()
    except MissingExtraError as error:
        yield Check("tensorflow", "missing", str(error), exit_code=error.exit_code)
        return
    except MemoryError as error:
        yield _missing("tensorflow", error, "")
        return
    yield Check("tensorflow", "ok", tf.__version__)
    yield _package("keras", _TRAIN)
    gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    if not gpus and _NVIDIA.exists():
        fix = "pip install 'atb-fast[train-gpu]' instead of 'atb-fast[train]'"
        found = f"{_NVIDIA} exists, but TensorFlow sees no GPU; training runs on the CPU"
        yield Check("gpu", "problem", found, fix)
    else:
        yield Check("gpu", "ok", ", ".join(gpus) or "none")
    policy = decide(
        gpus,
        engine=config.engine,
        mixed_precision=config.mixed_precision,
        batch_size=config.batch_size,
    )
    yield Check("device", "ok", policy.reason)
    yield _programs(config, gpus)


def _programs(config: TrainingConfig, gpus: Sequence[str]) -> Check:
    """Say where compiled programs are kept, or why they are not."""
    if not config.compile_cache:
        why = "--no-compile-cache is set"
    elif gpus:
        why = "programs for a GPU are not"
    else:
        why = compile_cache.obstacle()
    if why:
        return Check("compiled programs", "ok", f"not kept: {why}")
    directory = compile_cache.stored_in(config.cache_dir)
    sizes = [path.stat().st_size for path in directory.glob("*.pb")]
    # Besides compiled programs, the directory has traces of TensorFlow.
    found = f"{counted(len(sizes), 'file')}, {sum(sizes) / 1e6:.1f} MB, kept in {directory}"
    return Check("compiled programs", "ok", found)


def _directory(option: Option, path: Path) -> Check:
    """Check that files can be created in `path`, or in its closest parent that exists."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    free = f"{shutil.disk_usage(there).free / 1e9:,.1f} GB free"
    new = "" if there == path.absolute() else ", not created yet"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(1))
    except OSError as error:
        fix = f"pass a writable {option.flag}, or set {option.variable}"
        found = f"{path} is not writable: {error.strerror}; {free}"
        return Check(option.name, "problem", found, fix, StorageError.exit_code)
    return Check(option.name, "ok", f"{path}, {free}{new}")


def _registry(path: Path) -> Check:
    """Check that bundles can be published in the registry at `path`."""
    found = _directory(OPTIONS["registry"], path)
    if found.state == "ok":
        try:
            check_place(path)
        except StorageError as error:
            return Check(found.name, "problem", str(error), exit_code=error.exit_code)
    return found


def _endpoints(*, needed: bool) -> Iterator[Check]:
    """Check the addresses. If they are not `needed`, training works without them."""
    for item in fields(Endpoints):
        name, variable = f"{item.name} url", Endpoints.variable(item.name)
        given = Endpoints.given(item.name)
        found = f"{given}, from {variable}" if given else f"{item.default}, default"
        if given and (expected := Endpoints.expected(item.name, given)):
            code = FetchError.exit_code if needed else 0
            yield Check(name, "problem", found, f"set {variable} to {expected}", code)
        else:
            yield Check(name, "ok", found)
