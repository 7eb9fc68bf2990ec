"""Keeps compiled programs in the cache directory, so that only the first run compiles them.

XLA can keep its programs in a directory, but it does not check what it reads there: damaged machine
code would crash or, worse, compute something else. And a program that cannot be written there, for
example because the disk is full, cannot be run either. Therefore XLA gets a directory in memory. It
is filled with the stored programs, whose checksums are verified, and new programs in it are stored.

    {cache_dir}/compiled/{key}-{name}.pb     SHA-256 of file name and program, then the program
    {cache_dir}/compiled/{key}.{name}.pb     the same for a trace of TensorFlow, see `programs`

A checksum does not stop an attacker, and these files are executed. Therefore, only files that
nobody else could have written are loaded: this user or root must own them, and only the owner may
have permission to write to them.

The key covers everything that machine code depends on: the processor, the number of threads, the
build of TensorFlow and its flags. The name comes from XLA, which uses a program only if it was
compiled from exactly the same computation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from atb_fast._core import build_info
from atb_fast.storage import UNUSED_DAYS, remove_unused, write_atomic
from atb_fast.training.environment import cores
from atb_fast.training.startup import owns_stderr

log = logging.getLogger(__name__)

#: Total size of the stored programs, in bytes. Those of a model have about 3 MB.
_MOST_BYTES = 64 << 20
#: XLA's directory, in the file system that TensorFlow has in the memory of each process.
_MEMORY = "ram://atb-fast"
_FLAGS = f"--tf_xla_persistent_cache_directory={_MEMORY} --tf_xla_persistent_cache_device_types=CPU"
#: Environment variables that change what XLA compiles, besides TF_XLA_FLAGS.
_VARIABLES = (
    "XLA_FLAGS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
#: Lines of /proc/cpuinfo that tell processors apart, on x86 and on ARM.
_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")
_DIGEST = hashlib.sha256().digest_size
#: Permission for the group or others to write to a file.
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH

#: The directory and the key of stored programs; empty if this process stores none.
_open: list[tuple[Path, str]] = []


def open_cache(cache_dir: Path, *, threads: int | None = None) -> None:
    """Let XLA keep programs in `cache_dir`. Call this before TensorFlow is imported.

    Args:
        cache_dir: The cache directory.
        threads: Threads per operation; None for one per core.

    This does nothing where there is an `obstacle`, nor if Python writes to file descriptor 2: XLA
    prints false alarms when it loads a program, which can be kept off the terminal only if nothing
    else is written there.
    """
    if _open or "tensorflow" in sys.modules or not owns_stderr() or obstacle():
        return
    flags = _flags()
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    version = build_info()["version"]
    what = [_processor(), threads or cores(), _libraries(), version, flags, variables]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    os.environ["TF_XLA_FLAGS"] = f"{_FLAGS} {flags}".strip()
    _open.append((stored_in(cache_dir), key))


def stored_in(cache_dir: Path) -> Path:
    """Return the directory of stored programs."""
    return cache_dir / "compiled"


def obstacle() -> str:
    """Return why programs cannot be kept on this machine; empty if they can."""
    if not _processor():
        return "the processor is unknown, because there is no /proc/cpuinfo"
    if not _libraries():
        return "TensorFlow is not the package tensorflow or tensorflow-cpu, so its build is unknown"
    if "persistent_cache" in _flags():
        return "TF_XLA_FLAGS already sets a directory for them"
    for name, value in (("TF_XLA_FLAGS", _flags()), ("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))):
        if value.strip() and not value.strip().startswith("-"):
            return f"{name} is the name of a file, not a list of flags"
    return ""


@contextmanager
def kept_programs() -> Iterator[None]:
    """Let XLA find the stored programs, and store those that it compiles in this context."""
    for directory, key in _open:
        _load(directory, key)
    yield
    with _storing():
        for directory, key in _open:
            _store(directory, key)


def kept_trace(name: str) -> bytes | None:
    """Return the trace that `keep_trace` stored under `name`, in this or an earlier process."""
    for directory, key in _open:
        return _read(directory / f"{key}.{name}.pb")
    return None


def keep_trace(name: str, trace: bytes) -> None:
    """Store a trace of TensorFlow under `name`, if programs are stored."""
    with _storing():
        for directory, key in _open:
            _write(directory / f"{key}.{name}.pb", trace)


@contextmanager
def _storing() -> Iterator[None]:
    """Stop storing anything after a failed write."""
    try:
        yield
    except OSError as error:
        directory, _ = _open[0]
        log.warning(
            "compiled programs not cached: %s cannot be written: %s", directory, error.strerror
        )
        _open.clear()


def _load(directory: Path, key: str) -> None:
    """Copy the stored programs to the memory of XLA."""
    from tensorflow.io import gfile

    gfile.makedirs(_MEMORY)
    known = set(gfile.listdir(_MEMORY))
    for path in _oldest_first(directory, f"{key}-*.pb"):
        name = path.name.removeprefix(f"{key}-")
        program = None if name in known else _read(path)
        if program is not None:
            with gfile.GFile(f"{_MEMORY}/{name}", "wb") as file:
                file.write(program)


def _read(path: Path) -> bytes | None:
    """Return the stored content of a file; remove the file if it must not be used."""
    with suppress(OSError):  # removed by another process, or not readable
        with path.open("rb") as file:
            status, stored = os.fstat(file.fileno()), file.read()
        digest, content = stored[:_DIGEST], stored[_DIGEST:]
        if digest != _digest(path.name, content):
            log.warning("%s is damaged; compiling the program again", path)
        elif status.st_uid not in (os.getuid(), 0) or status.st_mode & _WRITABLE:
            _warn_of_others(path.parent)
        else:
            # Records the last use. Explicit times keep the order.
            os.utime(path, ns=(time.time_ns(), time.time_ns()))
            return content
        path.unlink()
    return None


@cache
def _warn_of_others(directory: Path) -> None:
    """Say it once: there can be hundreds of files, for example of a version without this check."""
    log.warning(
        "files in %s can be written by other users; compiling their programs again. Use a cache "
        "directory of your own",
        directory,
    )


def _store(directory: Path, key: str) -> None:
    """Write the programs in the memory of XLA that are not stored yet."""
    from tensorflow.io import gfile

    for name in gfile.listdir(_MEMORY):
        path = directory / f"{key}-{name}"
        if not path.exists():
            with gfile.GFile(f"{_MEMORY}/{name}", "rb") as file:
                _write(path, file.read())


def _write(path: Path, content: bytes) -> None:
    """Store `content`, and remove what has not been used for a long time."""
    directory = path.parent
    directory.mkdir(parents=True, exist_ok=True)
    remove_unused(directory, UNUSED_DAYS)
    write_atomic(path, _digest(path.name, content) + content, mode=0o600)
    total = 0
    for stored in reversed(_oldest_first(directory)):
        with suppress(FileNotFoundError):
            total += stored.stat().st_size
            if total > _MOST_BYTES:
                stored.unlink()


def _oldest_first(directory: Path, pattern: str = "*.pb") -> list[Path]:
    """Return stored programs, the least recently used first."""
    found = []
    for path in directory.glob(pattern):
        with suppress(FileNotFoundError):  # another process has removed it
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _digest(name: str, program: bytes) -> bytes:
    """Return a checksum of a file's name and content, so that a renamed file is not valid."""
    return hashlib.sha256(name.encode() + program).digest()


def _flags() -> str:
    """Return TF_XLA_FLAGS without what a parent process has added to it."""
    return os.environ.get("TF_XLA_FLAGS", "").replace(_FLAGS, "").strip()


def _processor() -> list[str]:
    """Return the models and the features of the processors; empty if they are unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    return sorted({line for line in text.splitlines() if line.startswith(_PROCESSOR)})


def _libraries() -> list[str]:
    """Return the names and the hashes of TensorFlow's libraries; empty if they are unknown."""
    lines = [
        line for each in _distributions() for line in (each.read_text("RECORD") or "").splitlines()
    ]
    return sorted(line for line in lines if ".so" in line)


def _distributions() -> Iterator[Distribution]:
    """Yield the installed packages of TensorFlow."""
    for name in ("tensorflow", "tensorflow-cpu"):
        with suppress(PackageNotFoundError):
            yield distribution(name)
