"""Moving working folders out of a registry.

Early versions of atb-fast kept `.staging`, `.unpublished` and `.lock` inside the registry, where
engines took them for symbols.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def old_folders(registry: Path) -> tuple[Path, Path, Path]:
    """Return where early versions of atb-fast put their working files."""
    return registry / ".staging", registry / ".unpublished", registry / ".lock"


def move_out(registry: Path, work: Path, abandoned: float) -> None:
    """Move what early versions left in `registry` to the working folder beside it.

    A process of an early version may still be running, so what it may be using stays until it is
    `abandoned` seconds old: the folder of a training in progress cannot be told from that of a
    killed one. To engines, such a folder is a type without versions. One with a version inside is
    what a killed `models prune` left. That goes at once, because engines load it.

    The caller holds the lock of the working folder.
    """
    staging, unpublished, lock = old_folders(registry)
    left = _move_kept(unpublished, work / "unpublished")
    left += _clear(staging, work / "staging", abandoned)
    if left:
        log.warning(
            "engines take %s for a symbol, and it may be in use by an early version of atb-fast; "
            "if no training is running, delete it",
            left[0].parent,
        )
        return
    for folder in (unpublished, staging):
        with suppress(OSError):  # missing, or not empty again
            folder.rmdir()
    _remove_lock(lock)


def _move_kept(source: Path, target: Path) -> list[Path]:
    """Move what is in `source`; return what has to stay."""
    for path in source.iterdir() if source.is_dir() else ():
        with suppress(OSError):  # moved by another process, or owned by another user
            path.rename(target / path.name)
    return list(source.iterdir()) if source.is_dir() else []


def _clear(source: Path, target: Path, abandoned: float) -> list[Path]:
    """Delete what is in `source`; return what has to stay."""
    for path in source.iterdir() if source.is_dir() else ():
        with suppress(OSError):  # as above
            versions = [inside for inside in path.iterdir() if inside.is_dir()]
            if versions or time.time() - path.stat().st_mtime > abandoned:
                trash = Path(tempfile.mkdtemp(dir=target))
                path.rename(trash / path.name)
                shutil.rmtree(trash, ignore_errors=True)
    return list(source.iterdir()) if source.is_dir() else []


def _remove_lock(lock: Path) -> None:
    from filelock import FileLock

    if lock.is_file():
        # Engines skip a file, so one that belongs to another user may stay.
        with suppress(OSError), FileLock(lock):  # wait for a promotion in progress
            lock.unlink(missing_ok=True)
