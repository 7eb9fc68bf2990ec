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
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from atb_fast.config import BASIC_TIMEFRAME, TIMEFRAMES, default_registry
from atb_fast.errors import BundleError, StorageError
from atb_fast.storage import sync_directory, umask

#: Longer than any training run takes.
_ABANDONED_SECONDS = 7 * 86_400
#: What engines accept as part of a path.
_PART = re.compile(r"^[\w\-.]+$", re.ASCII)
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}h\d{2}m\d{2}s_v\d{1,9}", re.ASCII)
#: Far more than the documents of any bundle have.
_MOST_BYTES = 4 << 20


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
    latest: bool = True,
) -> tuple[Path, str]:
    """Move a staged bundle to its place and return that and the version.

    Args:
        staged: The complete bundle but for what `finish` writes.
        registry: Root of the registry.
        symbol: For example BTCUSDT.
        model_type: For example sentiment.
        created: UTC time that the version is named after.
        finish: Called with the version before the move, to write files that name it.
        live: Whether the bundle passed every check. If so it becomes a version; if not it is kept
            where engines do not look.
        latest: Whether `latest` moves to the version.

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
    except OSError as error:
        raise StorageError(f"the bundle cannot be written to {home}: {error.strerror}") from error
    if live and latest:
        promote(target)
    return target, version


def unpublished(registry: Path) -> list[Path]:
    """Return the trained models that are kept where engines do not look, oldest first."""
    return sorted((registry / ".unpublished").glob("*/"))


def promote(version: Path) -> None:
    """Make `version`, a directory of the registry, the one that `latest` names, at once.

    Raises:
        StorageError: The link cannot be written; it is unchanged then.
    """
    home = version.parent
    registry = home.parent.parent
    try:
        with staging(registry) as scratch, _locked(registry):
            if not version.is_dir():
                raise FileNotFoundError(2, "the version has been removed", str(version))
            link = scratch / "latest"
            link.symlink_to(version.name)
            link.replace(home / "latest")
            sync_directory(home)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{home / 'latest'} cannot be moved: {error.strerror}") from error


def remove(version: Path) -> bool:
    """Remove a version of the registry; return whether it is gone: the one of `latest` is not.

    Raises:
        StorageError: It cannot be removed.
    """
    registry = version.parent.parent.parent
    try:
        with staging(registry) as scratch, _locked(registry):
            latest = version.parent / "latest"
            live = live_version(version.parent)
            # What a link means that is not understood is not known: it may be this version.
            if live == version.name or (latest.is_symlink() and live is None):
                return False
            if not version.is_dir():
                return True  # another process was quicker
            # Renamed first, so that engines never see half of it.
            version.rename(scratch / version.name)
            sync_directory(version.parent)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{version} cannot be removed: {error.strerror}") from error
    return True


@contextmanager
def _locked(registry: Path) -> Iterator[None]:
    """Let one process at a time move `latest` or remove versions."""
    from filelock import FileLock

    with FileLock(registry / ".lock"):
        yield


def live_version(home: Path) -> str | None:
    """Return the version that `latest` in `home` leads to, None if to none there."""
    link = home / "latest"
    if not link.is_symlink():
        return None
    target = link.resolve()
    return target.name if target.parent == home.resolve() and target.is_dir() else None


def versions(registry: Path) -> list[Path]:
    """Return the directories of all versions, by symbol, type and time.

    Whatever else is there, or lies behind a link, is none.

    Raises:
        StorageError: The registry cannot be read.
    """
    try:
        homes = [home for symbol in _directories(registry) for home in _directories(symbol)]
        found = [sorted(filter(is_version, _directories(home)), key=by_time) for home in homes]
    except OSError as error:
        raise StorageError(
            f"registry {registry} cannot be read ({error.strerror}: {error.filename}); give "
            "--registry, or set MODEL_REGISTRY_PATH"
        ) from error
    return [version for group in found for version in group]


def _directories(path: Path) -> list[Path]:
    return [
        inside
        for inside in sorted(path.iterdir())
        if is_part(inside.name) and inside.name[0] != "." and not inside.is_symlink()
        if inside.is_dir()
    ]


def is_version(path: Path) -> bool:
    """Return whether `path` is named as a version."""
    return bool(_VERSION.fullmatch(path.name))


def by_time(version: Path) -> tuple[str, int]:
    """Return what versions are sorted by: the second, and the number within it."""
    stamp, _, number = version.name.rpartition("_v")
    return stamp, int(number)


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


@dataclass(frozen=True)
class Reference:
    """`SYMBOL:TIMEFRAME:TYPE` or `SYMBOL:TIMEFRAME:TYPE:VERSION`, as engines name a bundle.

    Without a version it is the one that `latest` names.
    """

    symbol: str
    timeframe: str
    model_type: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference that `text` is.

        Raises:
            BundleError: It is none.
        """
        parts = text.split(":")
        if len(parts) not in (3, 4) or not all(is_part(part) for part in parts):
            raise BundleError(
                f"{text!r} is neither a directory nor SYMBOL:TIMEFRAME:TYPE[:VERSION], for example "
                "BTCUSDT:1h:basic"
            )
        if parts[1] not in TIMEFRAMES:
            raise BundleError(f"{text!r}: there is no timeframe {parts[1]}")
        return cls(*parts)


def is_part(name: str) -> bool:
    """Return whether `name` may be part of the path of a bundle."""
    return bool(_PART.match(name)) and name not in (".", "..")


def find(reference: str | Path, registry: Path | None = None) -> Path:
    """Return the directory of a bundle; `latest` is followed, so it is that of a version.

    Args:
        reference: A directory, or `SYMBOL:TIMEFRAME:TYPE[:VERSION]`.
        registry: Where to look; default `MODEL_REGISTRY_PATH`, else `src/ml/models`.

    Raises:
        BundleError: There is none, or a link leads out of its directory.
    """
    if not isinstance(reference, str | Path):
        raise BundleError(f"got {reference!r}, expected a directory or SYMBOL:TIMEFRAME:TYPE")
    if isinstance(reference, Path) or "/" in reference or (reference and Path(reference).is_dir()):
        directory = Path(reference)
        return follow(directory) if directory.is_symlink() else _directory(directory)
    wanted = Reference.parse(reference)
    home = (registry or default_registry()) / wanted.symbol / wanted.model_type
    if home.is_symlink() or home.parent.is_symlink():
        raise BundleError(f"{home}: found a link, expected a directory")
    if wanted.version:
        found = _directory(home / wanted.version)
    else:
        if not (home / "latest").is_symlink():
            raise BundleError(f"no bundle {reference}: there is no {home / 'latest'}")
        found = follow(home / "latest")
    found_timeframe = timeframe(found)
    if found_timeframe != wanted.timeframe:
        raise BundleError(
            f"no bundle {reference}: {found} is of timeframe {found_timeframe}; ask for that, or "
            "for a version of this one"
        )
    return found


def timeframe(bundle: Path) -> str:
    """Return the timeframe of a bundle.

    Raises:
        BundleError: Its metadata cannot be read, or names none.
    """
    return check_timeframe(read_json(bundle / "metadata.json"), bundle)


def check_timeframe(metadata: dict[str, Any], bundle: Path) -> str:
    """Return the timeframe in the metadata of `bundle`.

    Raises:
        BundleError: It is none.
    """
    found = metadata.get("timeframe")
    if not isinstance(found, str) or found not in TIMEFRAMES:
        raise BundleError(f"{bundle}: metadata.json has the timeframe {found!r}, which is none")
    return found


def other_live_timeframe(home: Path, wanted: str) -> str | None:
    """Return the timeframe that `latest` in `home` is to stay with, None if `wanted` may have it.

    Engines that ask for the timeframe of the live bundle have no fallback; strategies that load a
    basic bundle stop at any other than 1h.
    """
    live = live_version(home)
    expected = BASIC_TIMEFRAME if home.name == "basic" else wanted
    if live:
        with suppress(BundleError):
            expected = timeframe(home / live)
    return expected if expected != wanted else None


def follow(link: Path) -> Path:
    """Return the version directory that `link` names: one beside it, by a relative name.

    Raises:
        BundleError: It names something else.
    """
    target = str(link.readlink())
    if not is_part(target):
        raise BundleError(f"{link}: points to {target!r}, expected the name of a version beside it")
    return _directory(link.parent / target)


def _directory(path: Path) -> Path:
    if path.is_symlink():
        raise BundleError(f"{path}: found a link, expected a directory")
    if not path.is_dir():
        found = "this is a file, give its directory" if path.exists() else "no such directory"
        raise BundleError(f"no bundle in {path}: {found}")
    return path


def regular_file(path: Path) -> Path:
    """Return `path`, which a bundle must have as a file of its own.

    Raises:
        BundleError: It is missing, a link, or no file.
    """
    if path.is_symlink() or not path.is_file():
        found = "a link" if path.is_symlink() else "something else" if path.exists() else "nothing"
        raise BundleError(f"{path}: found {found}, expected a file")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return a document of a bundle. NaN and infinities, which old ones have, are tolerated.

    Raises:
        BundleError: It cannot be read, is too large, or is no JSON object.
    """
    try:
        if regular_file(path).stat().st_size > _MOST_BYTES:
            raise BundleError(f"{path}: has more than {_MOST_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BundleError(f"{path}: cannot be read: {reason}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{path}: found {type(document).__name__}, expected a JSON object")
    return document
