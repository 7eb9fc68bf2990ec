"""Moves the working files of early versions of atb-fast out of a registry.

They kept `.staging`, `.unpublished` and `.lock` inside the registry, where engines take them for
symbols.
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
    """Return the paths of the working files of early versions of atb-fast."""
    return registry / ".staging", registry / ".unpublished", registry / ".lock"


def move_out(registry: Path, work: Path, abandoned: float) -> None:
    """Move the working files of early versions in `registry` to the work folder `work`.

    A process of an early version may still be running. The folder of a training in progress looks
    like that of a killed one, so it stays until it is `abandoned` seconds old; to engines, it is a
    type without versions. A folder with a version inside was left by a killed `models prune`; it is
    deleted immediately, because engines would load that version.

    The caller holds the lock of the work folder.
    """
    staging, unpublished, lock = old_folders(registry)
    left = _move_kept(unpublished, work / "unpublished")
    left += _clear(staging, work / "staging", abandoned)
    if left:
        log.warning(
            "%s may be in use by an early version of atb-fast, so it stays, but engines take it "
            "for a symbol; if no training is running, delete it",
            left[0].parent,
        )
        return
    for folder in (unpublished, staging):
        with suppress(OSError):  # missing, or no longer empty
            folder.rmdir()
    _remove_lock(lock)


def _move_kept(source: Path, target: Path) -> list[Path]:
    """Move the contents of `source` to `target`; return what could not be moved."""
    for path in source.iterdir() if source.is_dir() else ():
        with suppress(OSError):  # moved by another process, or owned by another user
            path.rename(target / path.name)
    return list(source.iterdir()) if source.is_dir() else []


def _clear(source: Path, target: Path, abandoned: float) -> list[Path]:
    """Delete the abandoned contents of `source`; return what stays."""
    for path in source.iterdir() if source.is_dir() else ():
        with suppress(OSError):  # as in _move_kept
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
