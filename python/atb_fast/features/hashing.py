"""Hashes of the content of frames."""

from __future__ import annotations

import hashlib

import polars as pl


def content_hash(frame: pl.DataFrame) -> str:
    """Return the sha256 of the column names and values of `frame`, column by column, little-endian.

    Timestamps are int64 milliseconds, numbers float64. How the frame is chunked does not matter.
    """
    digest = hashlib.sha256(",".join(frame.columns).encode())
    for column in frame:
        digest.update(column.to_physical().to_numpy().tobytes())
    return digest.hexdigest()
