"""Prepared features, kept so that a run with other hyperparameters need not prepare them again.

One file per key; the key is a hash of all that the features depend on, so nothing ever goes stale.
A file that cannot be read is made anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sys
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import Feature, FeatureMatrix, FeaturePipeline, MinMaxScaler, build_info
from atb_fast.storage import UNUSED_DAYS, remove_unused, write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """What a recipe makes of candles; see `PreparedData` for the meaning of each."""

    matrix: FeatureMatrix
    close: NDArray[np.float64]
    timestamps: pl.Series
    pipeline: FeaturePipeline


def key(code: Iterable[str | None], **depends_on: Any) -> str:
    """Return the name of the features that depend on these values and on this code.

    Args:
        code: `__file__` of every module that computes them, the extension aside.
        depends_on: What else they depend on, as something JSON can hold.
    """
    files = [Path(file or "").stat() for file in (sys.modules["atb_fast._core"].__file__, *code)]
    build = [(stat.st_size, stat.st_mtime_ns) for stat in files]
    version = build_info()["version"]
    text = json.dumps({**depends_on, "version": version, "build": build}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(directory: Path, name: str, features: tuple[Feature, ...]) -> Features | None:
    """Return the features stored under `name`, None if there are none that can be read."""
    path = directory / f"{name}.npz"
    try:
        # The zip's checksums are verified. numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            matrix, rows, close, times, scalers = (
                stored[part] for part in ("matrix", "rows", "close", "timestamps", "scalers")
            )
        fitted = [MinMaxScaler(*ends) for ends in scalers.tolist()]
        found = Features(
            FeatureMatrix(matrix, [feature.name for feature in features], rows=rows),
            close,
            pl.Series("timestamp", times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
            FeaturePipeline(features, scalers=fitted),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s), preparing the features anew", path, error)
        return None
    with suppress(OSError):  # when it was last used
        os.utime(path)
    return found


def save(directory: Path, name: str, features: Features) -> None:
    """Store `features` under `name`. That it fails is no reason to stop."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        matrix=features.matrix.values,
        rows=features.matrix.rows,
        close=features.close,
        timestamps=features.timestamps.to_physical().to_numpy(),
        scalers=np.array([(s.data_min, s.data_max) for s in features.pipeline.scalers]),
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_unused(directory, UNUSED_DAYS)
        write_atomic(directory / f"{name}.npz", buffer.getvalue())
    except OSError as error:
        log.warning("the features are not kept: %s: %s", directory, error.strerror)
