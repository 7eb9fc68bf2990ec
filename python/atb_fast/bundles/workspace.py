"""The work folder next to a registry, where bundles are written and versions are deleted.

It is on the file system of the registry, so a bundle moves in or out by one atomic rename.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from atb_fast.bundles.old_layout import move_out, old_folders
from atb_fast.errors import StorageError, remedy
from atb_fast.serving.registry import work_folder
from atb_fast.storage import write_atomic

#: Longer than any training run takes.
_ABANDONED_SECONDS = 7 * 86_400


def open_workspace(registry: Path, home: Path) -> Path:
    """Return the work folder of `registry`, ready for use. Both are created if missing.

    Raises:
        StorageError: `home` or the work folder cannot be written.
    """
    _check_directory(registry)
    work = work_folder(registry)
    try:
        registry.mkdir(parents=True, exist_ok=True)
        place = _existing(home)
        _check_writable(place)
    except OSError as error:
        raise not_writable(registry, error) from error
    _check_file_system(registry, work)
    if place.stat().st_dev != registry.stat().st_dev:
        raise StorageError(
            f"{place} is on another file system than the registry {registry}, so bundles cannot be "
            "moved into it in one step; make it a directory of that file system"
        )
    for link in (home.parent, home):
        if link.is_symlink():
            raise StorageError(
                f"{link} is a symbolic link, which may lead out of the registry; replace it with a "
                "directory"
            )
    try:
        for name in ("staging", "unpublished"):
            (work / name).mkdir(parents=True, exist_ok=True)
        if not (work / ".gitignore").exists():  # a registry may be part of a checkout
            write_atomic(work / ".gitignore", b"*\n")
        _sweep(work / "staging")
        if any(map(os.path.lexists, old_folders(registry.resolve()))):
            with locked(work):
                move_out(registry.resolve(), work, _ABANDONED_SECONDS)
    except OSError as error:
        raise _unusable(registry, work, error) from error
    return work


def check_place(registry: Path) -> None:
    """Raise StorageError if `registry` cannot have a work folder. Nothing is created."""
    _check_directory(registry)
    work = work_folder(registry)
    if registry.is_dir():
        _check_file_system(registry, work)
    try:
        _check_writable(_existing(work))
    except OSError as error:
        raise _unusable(registry, work, error) from error


def _check_directory(registry: Path) -> None:
    """Raise StorageError if `registry` is a file or a broken link."""
    if os.path.lexists(registry) and not registry.is_dir():
        raise not_writable(registry, NotADirectoryError(errno.ENOTDIR, "it is not a directory"))


def _existing(path: Path) -> Path:
    """Return `path`, or its closest parent that exists, even as a broken link."""
    return next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))


def _check_writable(place: Path) -> None:
    """Raise OSError unless files can be created in `place`."""
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{place} is not a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"no permission to write to {place}")


def _unusable(registry: Path, work: Path, error: OSError) -> StorageError:
    return StorageError(
        f"the work folder {work} of registry {registry} cannot be used "
        f"({error.strerror or error}); bundles are written there because engines would see "
        f"them in the registry; "
        + remedy(error, "make the work folder writable, or pass a --registry in a writable folder")
    )


def not_writable(registry: Path, error: OSError) -> StorageError:
    """Return the error that says that `registry` cannot be written."""
    return StorageError(
        f"registry {registry} cannot be written ({error.strerror or error}); "
        + remedy(error, "pass a writable --registry")
    )


def _check_file_system(registry: Path, work: Path) -> None:
    """Raise StorageError if files cannot be renamed from the work folder into the registry."""
    resolved = registry.resolve()
    mounted = resolved == resolved.parent
    mounted |= resolved.stat().st_dev != resolved.parent.stat().st_dev
    try:
        # This never renames anything, because a name that ends with "." is invalid. Linux reports
        # different mounts first, even bind mounts of one file system, whose device is the same.
        os.rename(work.with_name(f"{work.name}-none"), f"{resolved}/.")  # noqa: PTH104
    except OSError as error:
        mounted |= error.errno == errno.EXDEV
    if mounted:
        raise StorageError(
            f"registry {registry} is a mount point, so bundles cannot be moved into it from "
            f"{work} in one step; use a directory inside it, such as {registry / 'models'}, and "
            "set MODEL_REGISTRY_PATH of the engines to it"
        )


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Hold the lock under which one process at a time moves `latest` or deletes versions."""
    from filelock import FileLock

    with FileLock(work / "lock"):
        yield


@contextmanager
def temporary(work: Path) -> Iterator[Path]:
    """Yield a new directory in the work folder, and delete it at the end."""
    directory = Path(tempfile.mkdtemp(dir=work / "staging"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(staging: Path) -> None:
    """Delete what killed processes left more than a week ago."""
    for path in staging.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path)
