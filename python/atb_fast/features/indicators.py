"""Features of the legacy recipe: prices, moving averages, RSI, sentiment momentum.

The extension computes them; see `Feature`. feature_schema.json describes each by its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atb_fast._core import Feature
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import BundleError
from atb_fast.features.frames import MOMENTUM

#: Operators of the extension, by the name of the transform in feature_schema.json.
_OPERATORS = {"sma": "mean", "rsi_simple_mean": "rsi_simple"}


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


def transform_of(feature: Feature) -> tuple[str, str | None, int]:
    """Return the column, the operator and the window of a feature made by `of_column`."""
    (_, _, (column,)), *rest = feature.nodes
    if not rest:
        return str(column), None, 0
    ((operator, _, (window,)),) = rest
    return str(column), operator, int(window)


#: Features of a price model, in channel order; a sentiment model appends `SENTIMENT_FEATURE`.
PRICE_FEATURES = (
    *(of_column(f"{name}_scaled", name) for name in CANDLE_COLUMNS),
    *(of_column(f"sma_{n}_scaled", "close", "mean", n) for n in (7, 14, 30)),
    of_column("rsi_scaled", "close", "rsi_simple", 14),
)
SENTIMENT_FEATURE = of_column(f"{MOMENTUM}_scaled", MOMENTUM, null_as=0.0)

#: Rows before the longest moving average has a value.
WARMUP = max(feature.warmup for feature in PRICE_FEATURES)


def to_source(feature: Feature) -> dict[str, Any]:
    """Return the source of a feature, as written to feature_schema.json."""
    column, operator, window = transform_of(feature)
    transforms = {operator: transform for transform, operator in _OPERATORS.items()}
    if operator is None:
        return {"column": column}
    return {"column": column, "transform": transforms[operator], "window": window}


def from_source(name: str, source: Mapping[str, Any]) -> Feature:
    """Return the feature that a source in feature_schema.json describes.

    Raises:
        BundleError: The transform is unknown.
    """
    transform, column = source.get("transform"), source["column"]
    if transform is not None and transform not in _OPERATORS:
        raise BundleError(
            f"feature {name:.80} has the unknown transform {transform!r:.80}; expected sma, "
            "rsi_simple_mean, or expanding_minmax for every feature"
        )
    null_as = 0.0 if column == MOMENTUM else None
    if transform is None:
        return of_column(name, column, null_as=null_as)
    return of_column(name, column, _OPERATORS[transform], source["window"], null_as=null_as)
