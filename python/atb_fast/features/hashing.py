"""Content hashes of frames."""

from __future__ import annotations

import hashlib

import polars as pl


def content_hash(frame: pl.DataFrame) -> str:
    """Return the sha256 of the column names and values of `frame`, column by column.

    Timestamps are hashed as int64 milliseconds and numbers as float64, little-endian. Chunks do not
    matter.
    """
    digest = hashlib.sha256(",".join(frame.columns).encode())
    for column in frame:
        digest.update(column.to_physical().to_numpy().tobytes())
    return digest.hexdigest()
