"""What is installed and set up here, and whether training works with it. Opens no connection."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import atb_fast
from atb_fast.errors import MissingExtraError, StorageError
from atb_fast.ingestion.exchange.http import Endpoints
from atb_fast.runs.parallel import default_jobs
from atb_fast.training.device import decide, import_tensorflow
from atb_fast.training.environment import cores

_TRAIN = "pip install 'atb-fast[train]'"
#: Packages beside TensorFlow and Keras, and what installs each.
_PACKAGES = {
    "numpy": "pip install --force-reinstall numpy",
    "polars": "pip install --force-reinstall polars",
    "onnx": f"{_TRAIN}, or train with --skip-onnx",
    "onnxruntime": f"{_TRAIN}, or train with --skip-onnx",
    "tf2onnx": f"{_TRAIN}, or train with --skip-onnx",
    "matplotlib": f"{_TRAIN}, or train with --skip-plots",
}
#: What an NVIDIA driver makes, also in containers.
_NVIDIA = Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: `problem` if it should be mended, `missing` if a part that training needs is.
        found: What there is.
        fix: How to mend it.
        exit_code: 0 unless training fails for it.
    """

    name: str
    state: Literal["ok", "problem", "missing"]
    found: str
    fix: str = ""
    exit_code: int = 0


def examine(options: Mapping[str, Any]) -> Iterator[Check]:
    """Yield what there is, with the options that a training would have.

    Args:
        options: Of TrainingConfig: cache_dir, registry, engine, mixed_precision, batch_size.
    """
    yield Check("python", "ok", f"{platform.python_version()}, {platform.platform()}")
    yield _extension()
    # First: it is told to be quiet, and tf2onnx imports it, too.
    yield from _tensorflow(options)
    for name, fix in _PACKAGES.items():
        yield _package(name, fix)
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "not set")
    found = f"{cores()} of {os.cpu_count()}, TF_NUM_INTRAOP_THREADS {threads}"
    yield Check("cores", "ok", f"{found}, --jobs {default_jobs()} unless given")
    for name, flag in (("cache_dir", "ATB_FAST_CACHE"), ("registry", "MODEL_REGISTRY_PATH")):
        yield _directory(name, Path(options[name]), flag)
    yield from _endpoints()


def _extension() -> Check:
    from atb_fast._core import build_info

    info = build_info()
    found = f"{atb_fast.__version__}, extension {info['version']}, {info['profile']} build"
    if info["version"] != atb_fast.__version__:
        fix = "the parts are of two versions; install atb-fast again"
        return Check("atb-fast", "problem", found, fix)
    if info["profile"] != "release":
        fix = "a debug build is slow; build with maturin develop --release"
        return Check("atb-fast", "problem", found, fix)
    return Check("atb-fast", "ok", found)


def _package(name: str, fix: str) -> Check:
    try:
        with warnings.catch_warnings(action="ignore"):
            module = import_module(name)
    except Exception as error:  # whatever a broken package raises
        return _missing(name, error, fix)
    return Check(name, "ok", str(module.__version__))


def _missing(name: str, error: Exception, fix: str) -> Check:
    code = MissingExtraError.exit_code
    return Check(name, "missing", f"cannot be imported: {error}", fix, code)


def _tensorflow(options: Mapping[str, Any]) -> Iterator[Check]:
    """Yield TensorFlow, Keras, and on what they would train."""
    try:
        tf = import_tensorflow()
    except MissingExtraError as error:
        yield Check("tensorflow", "missing", str(error), exit_code=error.exit_code)
        return
    yield Check("tensorflow", "ok", tf.__version__)
    yield _package("keras", _TRAIN)
    gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    if not gpus and _NVIDIA.exists():
        fix = "pip install 'atb-fast[train-gpu]' in place of 'atb-fast[train]'"
        found = f"none that TensorFlow sees, but there is {_NVIDIA}; training works on the CPU"
        yield Check("gpu", "problem", found, fix)
    else:
        yield Check("gpu", "ok", ", ".join(gpus) or "none")
    asked = {name: options[name] for name in ("engine", "mixed_precision", "batch_size")}
    yield Check("device", "ok", decide(gpus, **asked).reason)


def _directory(name: str, path: Path, variable: str) -> Check:
    """Return whether files can be made in `path`, or in what there is of it."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    free = f"{shutil.disk_usage(there).free / 1e9:,.1f} GB free"
    new = "" if there == path.absolute() else ", not made yet"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(1))
    except OSError as error:
        fix = f"give a writable --{name.replace('_', '-')}, or set {variable}"
        found = f"{path} cannot be written: {error.strerror}; {free}"
        return Check(name, "problem", found, fix, StorageError.exit_code)
    return Check(name, "ok", f"{path}, {free}{new}")


def _endpoints() -> Iterator[Check]:
    now = Endpoints.from_environment()
    for item in fields(now):
        name = f"{item.name} url"
        url, variable = getattr(now, item.name), f"ATB_FAST_{item.name.upper()}_URL"
        schemes = ("https://", "http://", *(["file:///"] if item.name == "archive" else []))
        where = f"from {variable}" if os.environ.get(variable) else "default"
        if url.startswith(schemes):
            yield Check(name, "ok", f"{url}, {where}")
        else:
            fix = f"{variable} begins with {' or '.join(schemes)}"
            yield Check(name, "problem", f"{url}, {where}", fix)
