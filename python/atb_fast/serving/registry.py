"""The model registry: the directory that trading engines load bundles from.

    {registry}/{SYMBOL}/{type}/{version}/    a complete bundle
    {registry}/{SYMBOL}/{type}/latest        a relative link to the version that engines load

    {parent}/.{name}-work/staging/           bundles being written, versions being deleted
    {parent}/.{name}-work/unpublished/{SYMBOL}_{type}_{version}/
                                             trained models without a checked model.onnx
    {parent}/.{name}-work/lock

Engines take every directory in the registry for a symbol, every directory in a symbol for a type,
and every directory in a type for a version, including hidden ones. The registry therefore contains
published versions only. Everything else is kept in a work folder next to it. `{parent}/{name}` is
the path of the registry with links resolved.

This module reads the registry; `bundles/publishing.py` writes to it.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atb_fast.config import BASIC_TIMEFRAME, TIMEFRAMES
from atb_fast.errors import BundleError, StorageError

#: What engines accept as one part of a path.
_PART = re.compile(r"[\w\-.]+", re.ASCII)
_VERSION = re.compile(r"(\d{4}-\d{2}-\d{2}_\d{2}h\d{2}m\d{2}s)_v(\d{1,9})", re.ASCII)
#: Largest JSON document that is read, in bytes; real ones are far smaller.
MOST_JSON_BYTES = 4 << 20


def work_folder(registry: Path) -> Path:
    """Return the work folder of `registry`, a hidden folder next to it."""
    real = resolved(registry)
    return real.parent / f".{real.name}-work"


def unpublished(registry: Path) -> list[Path]:
    """Return the trained models that were kept but not published, oldest first."""
    # Early versions of atb-fast kept them in the registry; the next write moves them.
    folders = (work_folder(registry) / "unpublished", resolved(registry) / ".unpublished")
    return sorted((path for folder in folders for path in folder.glob("*/")), key=lambda p: p.name)


def live_version(home: Path) -> str | None:
    """Return the name of the version in `home` that `latest` points to; None if there is none."""
    link = home / "latest"
    if not link.is_symlink():
        return None
    target = resolved(link)
    return target.name if target.parent == resolved(home) and target.is_dir() else None


def is_broken(home: Path) -> bool:
    """Return whether `latest` in `home` is a link, but not to a version in `home`."""
    return (home / "latest").is_symlink() and live_version(home) is None


def resolved(path: Path) -> Path:
    """Return `path` with links resolved. A link that leads to itself is not an error."""
    return Path(os.path.realpath(path))


def versions(registry: Path) -> list[Path]:
    """Return the directories of all versions, by symbol and type, oldest first.

    A directory is a version if it is named like one, or if it contains a metadata.json, as bundles
    of other trainers do. Links are not followed.

    Raises:
        StorageError: The registry cannot be read.
    """
    try:
        homes = [home for symbol in _directories(registry) for home in _directories(symbol)]
        found = [versions_in(home) for home in homes]
    except OSError as error:
        if not registry.exists():
            raise StorageError(
                f"registry {registry} does not exist; train a model first, or pass the --registry "
                "of an earlier training"
            ) from error
        raise StorageError(
            f"registry {registry} cannot be read ({error.strerror}: {error.filename}); pass "
            "--registry or set MODEL_REGISTRY_PATH"
        ) from error
    return [version for group in found for version in group]


def versions_in(home: Path) -> list[Path]:
    """Return the directories of the versions of one symbol and type, oldest first."""
    return sorted((path for path in _directories(home) if is_bundle(path)), key=age)


def _directories(path: Path) -> list[Path]:
    return [
        inside
        for inside in sorted(path.iterdir())
        if is_part(inside.name) and inside.name[0] != "." and not inside.is_symlink()
        if inside.is_dir()
    ]


def is_version(path: Path) -> bool:
    """Return whether `path` is named like a version."""
    return bool(_VERSION.fullmatch(path.name))


def is_bundle(path: Path) -> bool:
    """Return whether `path`, a directory in a type, is a version; see `versions`."""
    return is_version(path) or (path / "metadata.json").is_file()


def age(version: Path) -> tuple[datetime, str, int]:
    """Return the key that sorts versions by age.

    It is the time in the name, which survives damaged metadata. Names of other trainers may have
    none; then it is the training time in metadata.json, else the modification time of the
    directory. Versions with the same time are sorted by name.
    """
    match = _VERSION.fullmatch(version.name)
    name, number = (match[1], int(match[2])) if match else (version.name, 0)
    trained: datetime | None = None
    if match:
        with suppress(ValueError):  # for example, February 31
            trained = datetime.strptime(match[1], "%Y-%m-%d_%Hh%Mm%Ss").replace(tzinfo=UTC)
    if trained is None:
        with suppress(BundleError):
            trained = trained_at(read_json(version / "metadata.json"))
    if trained is None:
        with suppress(OSError):  # another process has just removed it
            trained = datetime.fromtimestamp(version.stat().st_mtime, UTC)
    return trained or datetime.min.replace(tzinfo=UTC), name, number


def trained_at(metadata: dict[str, Any]) -> datetime | None:
    """Return the training time in the metadata of a bundle, UTC; None if there is none."""
    for key in ("training_date", "created_at"):
        with suppress(TypeError, ValueError, OverflowError):
            found = datetime.fromisoformat(metadata[key]) if key in metadata else None
            if found:
                return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def is_foreign(metadata: dict[str, Any]) -> bool:
    """Return whether a bundle is of a trainer other than atb-fast."""
    return not all(isinstance(metadata.get(key), dict) for key in ("config", "versions"))


def is_synthetic(metadata: dict[str, Any]) -> bool | None:
    """Return whether a model was trained on the sample market; None if that is not recorded."""
    dataset = metadata.get("dataset")
    found = dataset.get("synthetic") if isinstance(dataset, dict) else None
    return found if isinstance(found, bool) else None


def is_sample(bundle: Path) -> bool:
    """Return whether a bundle is known to be trained on the sample market."""
    with suppress(BundleError):
        return is_synthetic(read_json(bundle / "metadata.json")) is True
    return False


def is_part(name: str) -> bool:
    """Return whether `name` is allowed as a part of a bundle's path."""
    return bool(_PART.fullmatch(name)) and name not in (".", "..")


def timeframe(bundle: Path) -> str:
    """Return the timeframe of a bundle.

    Raises:
        BundleError: Its metadata cannot be read or has no valid timeframe.
    """
    return check_timeframe(read_json(bundle / "metadata.json"), bundle)


def check_timeframe(metadata: dict[str, Any], bundle: Path) -> str:
    """Return the timeframe in the metadata of `bundle`.

    Raises:
        BundleError: It is missing or invalid.
    """
    found = metadata.get("timeframe")
    if not isinstance(found, str) or found not in TIMEFRAMES:
        raise BundleError(
            f"{bundle}: metadata.json has the timeframe {found!r:.80}; expected one of "
            f"{', '.join(TIMEFRAMES)}"
        )
    return found


def other_live_timeframe(home: Path, wanted: str) -> str | None:
    """Return the timeframe that `latest` in `home` must keep; None if it may change to `wanted`.

    Engines that expect the timeframe of the live bundle fail with any other, and strategies that
    load a basic bundle, or a meta_label bundle next to it, fail with any timeframe but 1h.
    """
    live = live_version(home)
    expected = BASIC_TIMEFRAME if home.name in ("basic", "meta_label") else wanted
    if live:
        with suppress(BundleError):
            expected = timeframe(home / live)
    return expected if expected != wanted else None


def regular_file(path: Path) -> Path:
    """Return `path` if it is a regular file.

    Raises:
        BundleError: It is missing, a link, or not a file.
    """
    if path.is_symlink() or not path.is_file():
        if not os.path.lexists(path):
            raise BundleError(
                f"{path} is missing, so {path.parent} is not a complete bundle; pass the directory "
                "of a version, or restore the file"
            )
        found = "a link" if path.is_symlink() else "something else"
        raise BundleError(f"{path}: found {found}, expected a regular file")
    return path


def read_file(path: Path, most: int) -> bytes:
    """Return the content of a file of a bundle.

    Raises:
        BundleError: It cannot be read, or has more than `most` bytes.
    """
    try:
        size = regular_file(path).stat().st_size
        if size > most:
            raise BundleError(f"{path}: has {size} bytes, expected at most {most}")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON document of a bundle; see `parse_json`.

    Raises:
        BundleError: The file cannot be read, is too large, or does not contain a JSON object.
    """
    return parse_json(read_file(path, MOST_JSON_BYTES), path)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON document in `content`, which was read from `path`.

    NaN and infinities, found in old bundles, are accepted.

    Raises:
        BundleError: It is not a JSON object.
    """
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BundleError(f"{path}: cannot be read as JSON: {reason}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{path}: found {type(document).__name__}, expected a JSON object")
    return document
