"""Keeps compiled programs in the cache directory, so that only the first run compiles them.

XLA stores its programs in a directory if asked to, but does not check what it reads there. Damaged
machine code would crash or, worse, compute something else. Therefore each process gets a directory
of its own, which XLA reads and writes. It is filled with copies of the stored programs, whose
checksums are verified, and new programs in it are added to those.

    {cache_dir}/compiled/{key}/{name}.pb     SHA-256 of a program, then the program itself
    {cache_dir}/compiled/.{pid}-xxxx/        the directory of a running process, with its lock

The key covers everything that machine code depends on: the processor, the number of threads, and
the versions of all packages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from atb_fast.storage import write_atomic
from atb_fast.training.environment import cores, versions
from atb_fast.training.startup import owns_stderr

log = logging.getLogger(__name__)

#: Total size of the stored programs, in bytes; the least recently used are removed. One has 3 MB.
_MOST_BYTES = 64 << 20
#: Environment variables that change what XLA compiles.
_VARIABLES = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)
_DIGEST = hashlib.sha256().digest_size

#: Where programs are stored, and the directory of this process; empty if nothing is stored.
_open: list[tuple[Path, Path]] = []


def open_cache(cache_dir: Path, *, threads: int | None = None) -> None:
    """Let XLA find the programs in `cache_dir`. Call this before TensorFlow is imported.

    Args:
        cache_dir: The cache directory.
        threads: Threads per operation; None for one per core.

    Nothing is stored if the processor is unknown, because machine code for another processor must
    not be run, nor if Python writes to file descriptor 2: XLA prints false alarms when it loads a
    program, which can be kept off the terminal only if nothing else is written there.
    """
    processor = _processor()
    if _open or not processor or not owns_stderr() or "tensorflow" in sys.modules:
        return
    root = cache_dir / "compiled"
    what = [
        processor,
        threads or cores(),
        versions(),
        {name: os.environ.get(name) for name in _VARIABLES},
    ]
    stored = root / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    try:
        stored.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        own = Path(tempfile.mkdtemp(dir=root, prefix=f".{os.getpid()}-"))
        _hold(own)
        _fill(own, stored)
    except OSError as error:
        log.warning("compiled programs are not stored: %s", error)
        return
    flags = f"--tf_xla_persistent_cache_directory={own} --tf_xla_persistent_cache_device_types=CPU"
    os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {flags}".strip()
    _open.append((stored, own))


def store() -> None:
    """Add the programs that this process has compiled to the stored ones."""
    for stored, own in _open:
        try:
            for path in own.glob("*.pb"):
                if not (stored / path.name).exists():
                    program = path.read_bytes()
                    write_atomic(stored / path.name, hashlib.sha256(program).digest() + program)
            _remove_oldest(stored.parent)
        except OSError as error:
            log.warning("compiled programs are not stored: %s", error)


def _processor() -> str:
    """Return the model and the features of the processor; empty if the platform has no list."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    first = text.partition("\n\n")[0].splitlines()
    return "\n".join(sorted(line for line in first if line.startswith(("model name", "flags"))))


def _fill(own: Path, stored: Path) -> None:
    """Copy the stored programs into `own`; remove damaged ones."""
    for path in stored.glob("*.pb"):
        with suppress(FileNotFoundError):  # another process has removed it
            content = path.read_bytes()
            digest, program = content[:_DIGEST], content[_DIGEST:]
            if hashlib.sha256(program).digest() != digest:
                log.warning("%s is damaged and was removed", path)
                path.unlink()
                continue
            (own / path.name).write_bytes(program)
            os.utime(path)


def _hold(own: Path) -> None:
    """Lock `own` until this process ends."""
    import fcntl

    descriptor = os.open(own / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _remove_abandoned(root: Path) -> None:
    """Remove the directories of processes that have ended."""
    import fcntl  # missing on Windows

    for own in root.glob(".*-*/"):
        with suppress(OSError), (own / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(own)


def _remove_oldest(root: Path) -> None:
    """Remove the least recently used programs until their total size is small enough."""
    found = []
    for path in root.glob("[!.]*/*.pb"):
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= _MOST_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size
