"""A hash of what is in a frame."""

from __future__ import annotations

import hashlib

import polars as pl


def content_hash(frame: pl.DataFrame) -> str:
    """Return the sha256 of the values of `frame`, column by column, little-endian.

    Timestamps count as milliseconds (int64), numbers as float64; neither chunks nor files matter.
    """
    digest = hashlib.sha256(",".join(frame.columns).encode())
    for column in frame:
        digest.update(column.to_physical().to_numpy().tobytes())
    return digest.hexdigest()
