"""Features as early versions of atb-fast and other trainers describe them in feature_schema.json.

Version 0.1.0 named a column and a transform instead of an expression. Other trainers have only the
names of features.
"""

from __future__ import annotations

from typing import Any

from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import BundleError
from atb_fast.features.expressions import Expr
from atb_fast.features.frames import MOMENTUM
from atb_fast.features.functions import col, mean, rsi
from atb_fast.features.parser import parse
from atb_fast.features.specs import INDEX_COLUMNS

#: The columns of the causal recipe of version 0.1.0, besides those of the index.
_CAUSAL = {
    "return_1": "log(close / lag(close, 1))",
    "open_to_close": "log(close / open)",
    "high_to_close": "log(close / high)",
    "low_to_close": "log(close / low)",
    **{f"close_to_sma_{n}": f"close / mean(close, {n}) - 1" for n in (7, 14, 30)},
    "volume_to_sma_30": "log1p(where(mean(volume, 30) == 0, 0, volume / mean(volume, 30)))",
    "rsi_14": "rsi(close, 14, wilder) / 100",
}


def upgraded(schema: dict[str, Any]) -> dict[str, Any]:
    """Return feature_schema.json with an expression for each feature.

    Raises:
        BundleError: It does not say how a feature is computed.
    """
    features = schema["features"]
    if all("expression" in feature for feature in features):
        return schema
    sources = [feature.get("source") or {} for feature in features]
    sentiment = _causal_join(sources)
    if sentiment is None and any(source.get("column") == MOMENTUM for source in sources):
        sentiment = {"method": "resampled"}
    return {**schema, "features": [_feature(f) for f in features], "sentiment": sentiment}


def _feature(feature: dict[str, Any]) -> dict[str, Any]:
    name, source, scaler = str(feature["name"]), feature.get("source"), feature.get("scaler")
    if source is None:
        source = _source(name)
    if source.get("transform") == "expanding_minmax":
        return {"name": name, "expression": col(source["column"]), "scaler": {"method": "window"}}
    if scaler is None and feature.get("normalization"):
        given = feature["normalization"]
        # A min-max scaler from mean to mean + std computes (x - mean) / std.
        scaler = {"data_min": given["mean"], "data_max": given["mean"] + given["std"]}
    return {
        "name": name,
        "expression": _expression(name, source),
        "scaler": scaler,
        "null_as": 0.0 if source["column"] == MOMENTUM and "recipe" not in source else None,
    }


def _source(name: str) -> dict[str, Any]:
    """Return the source of a feature of which only the name is known, as engines do."""
    column = name.removesuffix("_normalized")
    if column not in CANDLE_COLUMNS:
        raise BundleError(
            f"feature_schema.json does not say how {name:.80} is computed and scaled, so this "
            "bundle cannot be scored; retrain the model"
        )
    return {"column": column} | ({} if column == name else {"transform": "expanding_minmax"})


def _expression(name: str, source: dict[str, Any]) -> Expr:
    column, transform = source["column"], source.get("transform")
    window: Any = source.get("window")
    if source.get("recipe") == "causal":
        if column in INDEX_COLUMNS:
            return col(column)
        if column in _CAUSAL:
            return parse(_CAUSAL[column])
        raise BundleError(
            f"feature_schema.json has the column {column!r:.80}, which the causal recipe lacks; "
            "retrain the model"
        )
    if transform is None:
        return col(column)
    if transform == "sma":
        return mean(col(column), window)
    if transform == "rsi_simple_mean":
        return rsi(col(column), window, "simple")
    raise BundleError(
        f"feature {name:.80} has the unknown transform {transform!r:.80}; expected sma, "
        "rsi_simple_mean, or expanding_minmax for every feature"
    )


def _causal_join(sources: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return how the causal recipe joined the index; None if it did not, or for other features."""
    recipes = {source.get("recipe") for source in sources}
    if recipes == {None}:
        return None
    if recipes != {"causal"}:
        raise BundleError(f"the features belong to the recipes {recipes}, expected only 'causal'")
    lags = [source["sentiment_lag_days"] for source in sources]
    if any(lag != lags[0] for lag in lags):
        raise BundleError(f"sentiment_lag_days is {lags}, expected the same number everywhere")
    if not any(source["column"] in INDEX_COLUMNS for source in sources):
        return None
    return {"method": "as_of", "lag_days": lags[0]}
