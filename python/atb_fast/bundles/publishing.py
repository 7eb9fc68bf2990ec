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
from types import EllipsisType

from atb_fast.bundles.workspace import locked, not_writable, open_workspace, temporary
from atb_fast.errors import BundleError, StorageError, remedy
from atb_fast.serving import checksums
from atb_fast.serving.registry import (
    is_broken,
    is_sample,
    live_version,
    read_json,
    versions_in,
    work_folder,
)
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

    def publish(self, *, live: bool, replacing: str | EllipsisType | None = ...) -> Path:
        """Make the bundle visible to engines, and return its directory.

        Args:
            live: Whether to promote it.
            replacing: The version that it was compared with; None if no version was live. It is
                promoted only if that has not changed. By default, it replaces any version.

        Raises:
            BundleError: It must not replace the live version. In that case, nothing is changed.
            StorageError: It cannot be written. In that case, `latest` is unchanged.
        """
        self._seal()
        if not live:
            return self._move(self.destinations[0])
        with _moving_latest(self.home) as scratch:
            before = live_version(self.home)
            if replacing not in (..., before):
                raise BundleError(
                    f"another process made {before or 'no version'} live in the meantime, but this "
                    f"model was compared with {replacing or 'no live model'}"
                )
            if is_sample(self.directory) and (problem := sample_problem(self.home)):
                raise BundleError(problem)
            bundle = self._move(self.destinations[0])
            with _says_where(bundle):
                _link(bundle, scratch)
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
                f"{self.directory} cannot be written: {error.strerror or error}; {remedy(error)}"
            ) from error

    def _move(self, target: Path) -> Path:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(self.directory)
            self.directory.rename(target)
            sync_directory(target.parent)
        except OSError as error:
            raise StorageError(
                f"the bundle cannot be moved to {target}: {error.strerror or error}; "
                f"{remedy(error)}"
            ) from error
        return target


@contextmanager
def _says_where(bundle: Path) -> Iterator[None]:
    """Say where the published bundle is if it cannot be promoted."""
    text = f"the bundle is complete but not live: {bundle}"
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}; {text}") from error
    except BaseException as error:
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
        BundleError: It was trained on the sample market and would replace a real model.
        StorageError: The link cannot be replaced. In that case, it is unchanged.
    """
    home = version.parent
    with _moving_latest(home) as scratch:
        before = live_version(home)
        if not version.is_dir():
            raise FileNotFoundError(2, "the version has been removed", str(version))
        if is_sample(version) and (problem := sample_problem(home)):
            raise BundleError(f"{version} must not go live: {problem}")
        _link(version, scratch)
    return before


@contextmanager
def _moving_latest(home: Path) -> Iterator[Path]:
    """Hold the lock of the registry, and yield a folder to prepare the new link in."""
    work = open_workspace(home.parent.parent, home)
    try:
        with locked(work), temporary(work) as scratch:
            yield scratch
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{home / 'latest'} cannot be replaced: {error.strerror or error}; {remedy(error)}"
        ) from error


def _link(version: Path, scratch: Path) -> None:
    """Point `latest` to `version` in one step."""
    link = scratch / "latest"
    link.symlink_to(version.name)
    link.replace(version.parent / "latest")
    sync_directory(version.parent)


def sample_problem(home: Path) -> str | None:
    """Return why no model trained on the sample market may go live in `home`; None if one may.

    Such a model never replaces a real one. The live model counts as real unless its metadata says
    otherwise; so do models of other trainers, and damaged ones. If `latest` is broken, any version
    may have been live.
    """
    live = live_version(home)
    candidates = [home / live] if live else versions_in(home) if is_broken(home) else []
    real = next((version.name for version in candidates if not is_sample(version)), None)
    if real is None:
        return None
    state = f"{real} is live" if live else f"latest is broken: {real} may have been live"
    try:
        read_json(home / real / "metadata.json")
    except BundleError:
        state += ", and its metadata.json cannot be read, so it may be a real one"
    return (
        "a model trained on the sample market, whose prices are synthetic, never replaces a real "
        f"one, and {state}; use another --registry for such models"
    )


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
        raise StorageError(
            f"{version} cannot be deleted: {error.strerror or error}; {remedy(error)}"
        ) from error
    return True


def _sync(directory: Path) -> None:
    """Flush the files to the disk, so that a power failure cannot leave a partial bundle."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(directory)
