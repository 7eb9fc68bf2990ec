"""Atomic writes, and removal of files that have not been used for a long time."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path


def check_writable(path: Path) -> None:
    """Raise OSError unless `write_atomic` can write next to `path`. Leaves nothing behind."""
    descriptor, name = _temporary(path)
    os.close(descriptor)
    Path(name).unlink()


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace the content of `path` with `data`, either completely and durably or not at all.

    A killed process may leave a file named `.*.tmp` in the same directory.

    Args:
        path: The file.
        data: Its new content.
        mode: Its permissions, before the umask is applied.

    Raises:
        OSError: The file cannot be written; names `path`.
    """
    try:
        descriptor, name = _temporary(path)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            # mkstemp creates a private file; give it the usual permissions.
            temporary.chmod(mode & ~umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:  # it names the temporary file, or none
        raise OSError(error.errno, error.strerror, str(path)) from error


def _temporary(path: Path) -> tuple[int, str]:
    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")


def sync_directory(directory: Path) -> None:
    """Make new and renamed files in `directory` survive a power failure."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def umask() -> int:
    """Return the umask of this process: the permission bits that new files do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


#: Patterns of cached files: arrays, and compiled programs.
CACHED = ("*.npz", "*.pb")
#: Cached files that have not been used for this many days are removed when others are written.
UNUSED_DAYS = 30


def remove_unused(directory: Path, days: float, *, dry_run: bool = False) -> list[tuple[Path, int]]:
    """Remove cached files that have not been used for `days`; return the path and size of each.

    Temporary files are kept for at least a day, because another run may still be writing them.
    """
    removed = []
    for pattern, least in (*((pattern, 0.0) for pattern in CACHED), (".*.tmp", 1.0)):
        for path in directory.glob(pattern):
            with suppress(FileNotFoundError):  # another process removed it first
                stat = path.stat()
                if time.time() - stat.st_mtime < max(days, least) * 86_400:
                    continue
                if not dry_run:
                    path.unlink()
                removed.append((path, stat.st_size))
    return removed
