"""A cache of prepared features, so that further runs on the same data skip the preparation.

There is one file per key. The key is a hash of everything the features depend on, so a file is
never outdated. A file that cannot be read is replaced.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast._core import Feature, FeatureMatrix, FeaturePipeline, MinMaxScaler, build_info
from atb_fast.storage import UNUSED_DAYS, remove_unused, write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """The attributes of `PreparedData` that are cached."""

    matrix: FeatureMatrix
    pipeline: FeaturePipeline


def key(code: Iterable[str | None], **depends_on: Any) -> str:
    """Return the name under which features are cached.

    Args:
        code: `__file__` of each module that computes them, except the extension.
        depends_on: Everything else that they depend on, as JSON values.
    """
    files = [Path(file or "").stat() for file in (sys.modules["atb_fast._core"].__file__, *code)]
    build = [(stat.st_size, stat.st_mtime_ns) for stat in files]
    version = build_info()["version"]
    text = json.dumps({**depends_on, "version": version, "build": build}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(directory: Path, name: str, features: Sequence[Feature]) -> Features | None:
    """Return the features cached under `name`; None if there are none or they cannot be read."""
    path = directory / f"{name}.npz"
    try:
        # NumPy verifies the checksums. The file is opened here, because NumPy does not close a file
        # that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            matrix, rows, scalers = (stored[part] for part in ("matrix", "rows", "scalers"))
        fitted = [MinMaxScaler(*ends) for ends in scalers.tolist()]
        found = Features(
            FeatureMatrix(matrix, [feature.name for feature in features], rows=rows),
            FeaturePipeline(features, scalers=fitted),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); preparing the features again", path, error)
        return None
    with suppress(OSError):  # records the last use
        os.utime(path)
    return found


def save(directory: Path, name: str, features: Features) -> None:
    """Cache `features` under `name`. If that fails, log a warning."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        matrix=features.matrix.values,
        rows=features.matrix.rows,
        scalers=np.array([(s.data_min, s.data_max) for s in features.pipeline.scalers]),
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_unused(directory, UNUSED_DAYS)
        write_atomic(directory / f"{name}.npz", buffer.getvalue())
    except OSError as error:
        log.warning("features not cached: %s cannot be written: %s", directory, error.strerror)
