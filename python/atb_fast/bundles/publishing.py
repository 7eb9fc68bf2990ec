"""Writing to the registry: each change that engines can see is one atomic rename.

A version is reserved first, so its name is known from the start. Its files are written in the work
folder next to the registry, on the same file system, and then moved into the registry as a whole.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from atb_fast.bundles.workspace import locked, not_writable, open_workspace, temporary
from atb_fast.errors import StorageError
from atb_fast.serving import checksums
from atb_fast.serving.registry import is_broken, live_version, work_folder
from atb_fast.storage import sync_directory, write_atomic

#: How long an engine may take between reading `latest` and opening the files of that version.
_LOADING_SECONDS = 2.0


@dataclass(frozen=True)
class Draft:
    """A reserved version whose files are being written.

    Attributes:
        directory: Where to write its files.
        registry: The registry to publish it in.
        symbol: For example BTCUSDT.
        model_type: For example sentiment.
        version: Its unique name.
        created: The time, UTC, that the version is named after.
    """

    directory: Path
    registry: Path
    symbol: str
    model_type: str
    version: str
    created: datetime

    @property
    def destinations(self) -> tuple[Path, Path]:
        """Where `publish` and `keep` move it."""
        kept = work_folder(self.registry) / "unpublished"
        return self.home / self.version, kept / self.directory.name

    @property
    def home(self) -> Path:
        """The directory of all versions of this symbol and type."""
        return self.registry / self.symbol / self.model_type

    def publish(self, *, live: bool) -> Path:
        """Make the bundle visible to engines, and return its directory.

        Args:
            live: Whether to promote it.

        Raises:
            StorageError: It cannot be written. In that case, `latest` is unchanged.
        """
        self._seal()
        bundle = self._move(self.destinations[0])
        if live:
            with _says_where(bundle):
                promote(bundle)
        return bundle

    def keep(self) -> Path:
        """Move the files to a folder that engines do not see, and return it.

        Raises:
            StorageError: They cannot be moved.
        """
        with suppress(StorageError):  # even on a full disk, the model is kept
            self._seal()
        return self._move(self.destinations[1])

    def _seal(self) -> None:
        """Write SHA256SUMS, the last file of a bundle."""
        try:
            write_atomic(self.directory / checksums.NAME, checksums.content_for(self.directory))
        except OSError as error:
            raise StorageError(
                f"{self.directory} cannot be written: {error.strerror or error}"
            ) from error

    def _move(self, target: Path) -> Path:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(self.directory)
            self.directory.rename(target)
            sync_directory(target.parent)
        except OSError as error:
            raise StorageError(
                f"the bundle cannot be moved to {target}: {error.strerror or error}"
            ) from error
        return target


@contextmanager
def _says_where(bundle: Path) -> Iterator[None]:
    """Say where the published bundle is if it cannot be promoted."""
    try:
        yield
    except BaseException as error:
        text = f"the bundle is complete but not live: {bundle}"
        if isinstance(error, StorageError):
            raise StorageError(f"{error}; {text}") from error
        error.add_note(text)
        raise


@contextmanager
def reserve(registry: Path, symbol: str, model_type: str, created: datetime) -> Iterator[Draft]:
    """Reserve a version. At the end, it is deleted unless it was published or kept.

    Raises:
        StorageError: The registry cannot be written.
    """
    work = open_workspace(registry, registry / symbol / model_type)
    number = 1
    while True:
        version = f"{created:%Y-%m-%d_%Hh%Mm%Ss}_v{number}"
        directory = work / "staging" / f"{symbol}_{model_type}_{version}"
        draft = Draft(directory, registry, symbol, model_type, version, created)
        if _claimed(draft):
            break
        number += 1
    try:
        yield draft
    finally:
        # If it was moved, a directory of this name belongs to a process that tries to claim it.
        if not any(map(os.path.lexists, draft.destinations)):
            shutil.rmtree(directory, ignore_errors=True)


def _claimed(draft: Draft) -> bool:
    """Create the directory of `draft`; return False if its version is taken."""
    try:
        draft.directory.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise not_writable(draft.registry, error) from error
    # A version leaves staging by a single rename. As this directory could be created, any earlier
    # version of this name has already arrived at one of the destinations.
    if any(map(os.path.lexists, draft.destinations)):
        draft.directory.rmdir()
        return False
    return True


def promote(version: Path) -> str | None:
    """Point `latest` to `version`, a directory in a registry; return what was live before.

    Raises:
        StorageError: The link cannot be replaced. In that case, it is unchanged.
    """
    home = version.parent
    registry = home.parent.parent
    work = open_workspace(registry, home)
    try:
        with locked(work), temporary(work) as scratch:
            before = live_version(home)
            if not version.is_dir():
                raise FileNotFoundError(2, "the version has been removed", str(version))
            link = scratch / "latest"
            link.symlink_to(version.name)
            link.replace(home / "latest")
            sync_directory(home)
    except OSError as error:
        raise StorageError(
            f"{home / 'latest'} cannot be replaced: {error.strerror or error}"
        ) from error
    return before


def remove(version: Path) -> bool:
    """Delete a version unless it is live; return whether it is gone.

    Engines see either the whole version or nothing, because it is moved out of the registry first.
    If it was live a moment ago, engines get time to finish loading it.

    Raises:
        StorageError: It cannot be deleted.
    """
    home = version.parent
    registry = home.parent.parent
    work = open_workspace(registry, home)
    latest = home / "latest"
    try:
        with temporary(work) as scratch, locked(work):
            # A broken link may have pointed to any version.
            if is_broken(home) or live_version(home) == version.name:
                return False
            if latest.is_symlink():
                moved = time.time() - latest.lstat().st_mtime
                time.sleep(min(max(_LOADING_SECONDS - moved, 0.0), _LOADING_SECONDS))
            with suppress(FileNotFoundError):  # another process removed it first
                version.rename(scratch / version.name)
                sync_directory(home)
    except OSError as error:
        raise StorageError(f"{version} cannot be deleted: {error.strerror or error}") from error
    return True


def _sync(directory: Path) -> None:
    """Flush the files to the disk, so that a power failure cannot leave a partial bundle."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(directory)
