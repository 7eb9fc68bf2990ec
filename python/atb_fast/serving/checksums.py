"""SHA256SUMS: the hash of every other file of a bundle, in the format of `sha256sum`.

It is written last, before engines can see the bundle. Bundles of early versions of atb-fast and of
other trainers have none; metadata.json names the file if there is one, so that its loss is noticed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atb_fast.errors import BundleError
from atb_fast.serving.registry import read_file, regular_file

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([\w\-.]+)", re.ASCII)
_MOST_BYTES = 1 << 20
_REMEDY = "restore the bundle from a backup, or retrain the model"


def content_for(bundle: Path) -> bytes:
    """Return what SHA256SUMS must contain for the files that are in the directory `bundle` now."""
    others = sorted(path for path in bundle.iterdir() if path.name != NAME)
    return "".join(f"{_sha256(path)}  {path.name}\n" for path in others).encode()


def read(bundle: Path) -> dict[str, str] | None:
    """Return the hash of each file by its name; None if the bundle has no SHA256SUMS.

    Raises:
        BundleError: SHA256SUMS cannot be read, or is not in the expected format.
    """
    path = bundle / NAME
    if not os.path.lexists(path):
        return None
    # Decoded so that every byte is a character, and any damage is a line that does not match.
    *lines, rest = read_file(path, _MOST_BYTES).decode("latin-1").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines]
    found = {match[2]: match[1] for match in matches if match}
    if rest or not found or len(found) != len(lines):
        raise BundleError(
            f"{path} is damaged: expected lines with a SHA-256 hash, two spaces and a file name, "
            f"and each name once; {_REMEDY}"
        )
    return found


def check_present(
    metadata: Mapping[str, Any], hashes: Mapping[str, str] | None, bundle: Path
) -> None:
    """Raise BundleError if `bundle` has lost its SHA256SUMS; `hashes` is what `read` returned."""
    if hashes is None and metadata.get("checksums") is not None:
        raise BundleError(f"{bundle / NAME} is missing, but metadata.json names it; {_REMEDY}")


def read_checked(path: Path, most: int, hashes: Mapping[str, str] | None) -> bytes:
    """Return the content of a file of a bundle.

    Args:
        path: The file.
        most: Largest size that is read, in bytes.
        hashes: What `read` returned for the bundle. If None, the content is not checked.

    Raises:
        BundleError: The file cannot be read, or its content does not have the expected hash.
    """
    content = read_file(path, most)
    if hashes is not None and path.name not in hashes:
        raise BundleError(f"{path} is not listed in {NAME}; {_REMEDY}")
    if hashes is not None and hashlib.sha256(content).hexdigest() != hashes[path.name]:
        raise BundleError(_different(path))
    return content


def differences(bundle: Path, hashes: Mapping[str, str]) -> Iterator[str]:
    """Yield the differences from SHA256SUMS: damaged, missing and additional files of a bundle."""
    for name, expected in hashes.items():
        path = bundle / name
        if not os.path.lexists(path):
            yield f"{path} is missing, but listed in {NAME}; {_REMEDY}"
        elif _sha256(regular_file(path)) != expected:
            yield _different(path)
    for path in sorted(bundle.iterdir()):
        if path.name not in hashes and path.name != NAME:
            yield f"{path} is not listed in {NAME}; move it out of the bundle, or {_REMEDY}"


def _different(path: Path) -> str:
    return f"{path} was damaged or changed: its hash is not the one in {NAME}; {_REMEDY}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
