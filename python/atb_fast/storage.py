"""Files that are either the old or the new, whatever happens while they are written."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: complete and on the disk, or not at all.

    What a killed process leaves is named `.*.tmp` and stands beside `path`.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        # mkstemp makes it private; others may read what this user may.
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make sure that new names in `directory` survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def umask() -> int:
    """Return the permissions that new files do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


#: Features that were not used for so long are removed when others are written.
UNUSED_DAYS = 30


def remove_unused(directory: Path, days: float, *, dry_run: bool = False) -> list[tuple[Path, int]]:
    """Remove what was not used for `days`; return what it was, and the bytes of each.

    What killed runs left goes after a day: before that another run may be writing it.
    """
    removed = []
    for pattern, least in (("*.npz", 0.0), (".*.tmp", 1.0)):
        for path in directory.glob(pattern):
            with suppress(FileNotFoundError):  # another process was quicker
                stat = path.stat()
                if time.time() - stat.st_mtime < max(days, least) * 86_400:
                    continue
                if not dry_run:
                    path.unlink()
                removed.append((path, stat.st_size))
    return removed
