"""The directory that the engines load models from.

    {registry}/{SYMBOL}/{type}/{version}/...       only complete bundles
    {registry}/{SYMBOL}/{type}/latest              relative link to one of them
    {registry}/.staging/...                        a bundle while it is written
    {registry}/.unpublished/{SYMBOL}_{type}_{version}/
                                                   a trained model without a checked model.onnx

Engines take every directory inside {SYMBOL}/{type} for a version, so a bundle is built outside of
it, on the same file system, and renamed in.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from atb_fast.atomic import sync_directory, umask
from atb_fast.errors import StorageError

#: Longer than any training run takes.
_ABANDONED_SECONDS = 7 * 86_400


@contextmanager
def staging(registry: Path) -> Iterator[Path]:
    """Yield a new directory on the file system of `registry`, removed at the end if still there.

    Raises:
        StorageError: The registry cannot be written.
    """
    try:
        root = registry / ".staging"
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        directory = Path(tempfile.mkdtemp(dir=root))
        # mkdtemp makes it private; a published bundle must be readable by the engines' user.
        directory.chmod(0o777 & ~umask())
    except OSError as error:
        raise StorageError(
            f"registry {registry} cannot be written ({error.strerror}); give a writable --registry"
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def publish(
    staged: Path,
    registry: Path,
    *,
    symbol: str,
    model_type: str,
    created: datetime,
    finish: Callable[[str], None],
    live: bool,
) -> tuple[Path, str]:
    """Move a staged bundle to its place and return that and the version.

    Args:
        staged: The complete bundle but for what `finish` writes.
        registry: Root of the registry.
        symbol: For example BTCUSDT.
        model_type: For example sentiment.
        created: UTC time that the version is named after.
        finish: Called with the version before the move, to write files that name it.
        live: Whether the bundle passed every check. If so it becomes a version and `latest`;
            if not it is kept where engines do not look.

    Raises:
        StorageError: A file cannot be written. `latest` is unchanged then.
    """
    if live:
        home = registry / symbol / model_type
        prefix = ""
    else:
        home = registry / ".unpublished"
        prefix = f"{symbol}_{model_type}_"
    try:
        home.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            version = f"{created:%Y-%m-%d_%Hh%Mm%Ss}_v{number}"
            target = home / f"{prefix}{version}"
            number += 1
            if target.exists():
                continue
            finish(version)
            _sync(staged)
            try:
                staged.rename(target)
            except OSError as error:
                # Another process took the name since.
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    continue
                raise
            break
        sync_directory(home)
        if live:
            _point_latest(home, version, staged.parent)
    except OSError as error:
        raise StorageError(f"the bundle cannot be written to {home}: {error.strerror}") from error
    return target, version


def _point_latest(home: Path, version: str, scratch: Path) -> None:
    link = Path(tempfile.mktemp(dir=scratch, prefix="latest-"))
    link.symlink_to(version)
    link.replace(home / "latest")
    sync_directory(home)


def _sync(directory: Path) -> None:
    """Make sure that what was written survives a power cut before it becomes visible."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(directory)


def _sweep(root: Path) -> None:
    """Remove what killed runs left, days ago."""
    for path in root.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path)
