"""What a run records about the extra series that its features read."""

from __future__ import annotations

from dataclasses import replace

from atb_fast.errors import ArgumentError
from atb_fast.features.hashing import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.features.specs import INDEX_COLUMNS
from atb_fast.ingestion.market import Market


def with_record(prepared: PreparedData, market: Market) -> PreparedData:
    """Return `prepared` with the hash of each extra of `market`, and the lags of its columns.

    The hash is that of the joined columns that features read. So it does not depend on rows after
    the last candle, and it changes with the lag.

    Raises:
        ArgumentError: No feature reads a column of an extra.
    """
    if not market.extras:
        return prepared
    frame, sha256, lags = market.frame, dict(prepared.sha256), dict(prepared.lags)
    used = set(prepared.pipeline.columns if prepared.pipeline else ())
    if used.difference(frame.columns, INDEX_COLUMNS):
        # The recipe computes columns itself, perhaps from any other.
        used |= set(frame.columns)
    for extra in market.extras:
        columns = [name for name in extra.columns if name in used]
        if not columns:
            raise ArgumentError(
                f"--extra {extra.name} has no effect: no feature of the recipe reads "
                f"{' or '.join(extra.columns)}; remove it, or use a recipe file that lists the "
                "column under `extra` and has a feature that reads it",
                options=["extra"],
            )
        sha256[extra.name] = content_hash(frame.select(columns))
        lags |= dict.fromkeys(columns, extra.lag_ms)
    return replace(prepared, sha256=sha256, lags=lags)
