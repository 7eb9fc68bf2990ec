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

#: Features of a price model, in channel order; a sentiment model appends `SENTIMENT_FEATURE`.
PRICE_FEATURES = (
    *(Feature(f"{name}_scaled", name) for name in CANDLE_COLUMNS),
    *(Feature(f"sma_{n}_scaled", "close", sma=n) for n in (7, 14, 30)),
    Feature("rsi_scaled", "close", rsi=14),
)
SENTIMENT_FEATURE = Feature(f"{MOMENTUM}_scaled", MOMENTUM, null_as=0.0)

#: Rows before the longest moving average has a value.
WARMUP = max(feature.sma or feature.rsi or 1 for feature in PRICE_FEATURES) - 1


def to_source(feature: Feature) -> dict[str, Any]:
    """Return the source of a feature, as written to feature_schema.json."""
    source: dict[str, Any] = {"column": feature.source}
    if feature.sma:
        source |= {"transform": "sma", "window": feature.sma}
    if feature.rsi:
        source |= {"transform": "rsi_simple_mean", "window": feature.rsi}
    return source


def from_source(name: str, source: Mapping[str, Any]) -> Feature:
    """Return the feature that a source in feature_schema.json describes.

    Raises:
        BundleError: The transform is unknown.
    """
    transform, window = source.get("transform"), source.get("window")
    known = {None: {}, "sma": {"sma": window}, "rsi_simple_mean": {"rsi": window}}
    if transform not in known:
        raise BundleError(
            f"feature {name:.80} has the unknown transform {transform!r:.80}; expected sma, "
            "rsi_simple_mean, or expanding_minmax for every feature"
        )
    column = source["column"]
    return Feature(name, column, null_as=0.0 if column == MOMENTUM else None, **known[transform])
