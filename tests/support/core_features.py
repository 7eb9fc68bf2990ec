"""Features for tests and benchmarks of the extension."""

from __future__ import annotations

from atb_fast._core import Feature
from atb_fast.config import TIMEFRAMES
from atb_fast.features.specs import compiled
from atb_fast.recipes import library

#: Features of the legacy recipe: nine of prices, and one of sentiment.
*PRICE_FEATURES, SENTIMENT_FEATURE = compiled(library.get("legacy").specs, TIMEFRAMES["1d"])


def of_column(
    name: str,
    column: str,
    operator: str | None = None,
    window: int = 0,
    *,
    null_as: float | None = None,
) -> Feature:
    """Return the feature of a column: the column itself, or an operator over a window of it."""
    nodes: list[tuple[str, tuple[int, ...], tuple[float | str, ...]]] = [("column", (), (column,))]
    if operator:
        nodes.append((operator, (0,), (window,)))
    return Feature(name, nodes, null_as=null_as)
