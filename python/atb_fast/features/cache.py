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
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast import _core
from atb_fast.storage import write_atomic

log = logging.getLogger(__name__)

#: Features that were not used for so long are removed when others are written.
UNUSED_DAYS = 30


@dataclass(frozen=True)
class Features:
    """What a recipe makes of candles; see `PreparedData` for the meaning of each."""

    matrix: _core.FeatureMatrix
    close: NDArray[np.float64]
    timestamps: pl.Series
    pipeline: _core.FeaturePipeline


def content_hash(frame: pl.DataFrame) -> str:
    """Return the sha256 of the values of `frame`, column by column, little-endian.

    Timestamps count as milliseconds (int64), numbers as float64; neither chunks nor files matter.
    """
    digest = hashlib.sha256(",".join(frame.columns).encode())
    for column in frame:
        digest.update(column.to_physical().to_numpy().tobytes())
    return digest.hexdigest()


def key(**depends_on: Any) -> str:
    """Return the name of the features that depend on these values and on this code."""
    code = [Path(module.__file__ or "").stat() for module in (_core, *_modules())]
    build = [(stat.st_size, stat.st_mtime_ns) for stat in code]
    version = _core.build_info()["version"]
    text = json.dumps({**depends_on, "version": version, "build": build}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(directory: Path, name: str, features: tuple[_core.Feature, ...]) -> Features | None:
    """Return the features stored under `name`, None if there are none that can be read."""
    path = directory / f"{name}.npz"
    try:
        # The zip's checksums are verified. numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            matrix, rows, close, times, scalers = (
                stored[part] for part in ("matrix", "rows", "close", "timestamps", "scalers")
            )
        fitted = [_core.MinMaxScaler(*ends) for ends in scalers.tolist()]
        found = Features(
            _core.FeatureMatrix(matrix, [feature.name for feature in features], rows=rows),
            close,
            pl.Series("timestamp", times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"),
            _core.FeaturePipeline(features, scalers=fitted),
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


def _modules() -> tuple[Any, ...]:
    from atb_fast.features import sentiment
    from atb_fast.recipes import legacy

    return sentiment, legacy
