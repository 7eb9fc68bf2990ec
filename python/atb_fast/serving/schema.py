"""What the documents of a bundle say of how to feed its model, and what its outputs stand for.

They may come from anywhere. What is not as expected is a BundleError, or one of Python's lookup,
type, value and arithmetic errors: the caller knows the bundle, and says it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from atb_fast._core import Feature, FeaturePipeline, MinMaxScaler
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import BundleError

_SENTIMENT = "sentiment_momentum"
#: Of a window: far more than any model has, and few enough for hundreds of windows at once.
_LARGEST_WINDOW = 1 << 17


def read_schema(
    schema: dict[str, Any],
) -> tuple[int, list[str], FeaturePipeline | list[str]]:
    """Return rows in a window, names of its columns, and how they are made.

    The latter is a pipeline, or the raw columns if each window is scaled by its own values.
    """
    length = schema["sequence_length"]
    if not isinstance(length, int) or not 1 <= length <= 1 << 20:
        raise BundleError(f"sequence_length is {length!r}, expected a whole number from 1 on")
    names = [str(feature["name"]) for feature in schema["features"]]
    if not 1 <= len(names) * length <= _LARGEST_WINDOW:
        raise BundleError(f"a window has {length} rows of {len(names)} features")
    by_window = [_scaled_by_window(feature) for feature in schema["features"]]
    if all(by_window):
        return length, names, [str(column) for column in by_window]
    features, scalers = [], []
    for feature in schema["features"]:
        made, scaler = _feature(feature)
        features.append(made)
        scalers.append(scaler)
    return length, names, FeaturePipeline(features, scalers=scalers)


def _scaled_by_window(feature: dict[str, Any]) -> str | None:
    source = feature.get("source")
    if source:
        return source["column"] if source.get("transform") == "expanding_minmax" else None
    # The contract defines these by their names.
    column = str(feature["name"]).removesuffix("_normalized")
    return column if column in CANDLE_COLUMNS and column != feature["name"] else None


def _feature(feature: dict[str, Any]) -> tuple[Feature, MinMaxScaler]:
    name, source = str(feature["name"]), feature.get("source")
    if source is None:
        if name not in CANDLE_COLUMNS:
            raise BundleError(
                f"feature_schema.json does not say how {name} is computed and scaled, so this "
                "bundle cannot be scored; train it anew"
            )
        source = {"column": name}
    transform, window = source.get("transform"), source.get("window")
    known = {None: {}, "sma": {"sma": window}, "rsi_simple_mean": {"rsi": window}}
    if transform not in known:
        raise BundleError(f"feature {name} has the transform {transform!r}, which is not known")
    made = Feature(
        name,
        source["column"],
        null_as=0.0 if source["column"] == _SENTIMENT else None,
        **known[transform],
    )
    if "scaler" in feature:
        ends = (feature["scaler"]["data_min"], feature["scaler"]["data_max"])
    else:
        # `(x - mean) / std` is a min-max scaler from mean to mean + std; 0 to 1 changes nothing.
        normalization = feature.get("normalization") or {"mean": 0.0, "std": 1.0}
        ends = (normalization["mean"], normalization["mean"] + normalization["std"])
    return made, MinMaxScaler(*ends)


def read_causal(schema: dict[str, Any]) -> int | None:
    """Return the lag of the sentiment if the features are those of the causal recipe."""
    sources = [feature.get("source") or {} for feature in schema["features"]]
    recipes = {source.get("recipe") for source in sources}
    if recipes == {None}:
        return None
    if recipes != {"causal"}:
        raise BundleError(f"the features are of recipes {recipes}, expected causal")
    from atb_fast.features import returns

    columns = {source["column"] for source in sources}
    unknown = columns - {*returns.PRICE_COLUMNS, *returns.SENTIMENT_COLUMNS}
    if unknown:
        raise BundleError(f"the causal recipe has no column {min(unknown)!r}")
    lags = [source["sentiment_lag_days"] for source in sources]
    if any(type(lag) is not int or not 0 <= lag <= 365 or lag != lags[0] for lag in lags):
        raise BundleError(f"sentiment_lag_days is {lags}, expected one number of days")
    return int(lags[0])


class Price(NamedTuple):
    """What price an output stands for; see `price_normalization` in metadata.json."""

    method: str
    mean: float = 0.0
    std: float = 1.0
    horizon: int = 1


def read_normalization(metadata: dict[str, Any], length: int) -> Price:
    """Return what price an output stands for, where windows have `length` rows."""
    given = metadata.get("price_normalization")
    if not given:
        raise BundleError(
            "metadata.json has no price_normalization: nobody knows what price an output stands for"
        )
    method = given.get("method")
    if method == "rolling_minmax":
        if (given.get("window"), given.get("target_feature")) != (length, "close"):
            raise BundleError(
                f"price_normalization is {given}, expected the window of {length} rows and close"
            )
        return Price(method)
    if method == "log_return":
        price = Price(method, 0.0, float(given["scale"]), given["horizon"])
        if type(price.horizon) is not int or not 1 <= price.horizon <= 1 << 20:
            raise BundleError(f"horizon is {price.horizon!r}, expected a whole number from 1 on")
        if not 0.0 < price.std < 100.0:
            raise BundleError(f"scale is {price.std}, expected that of log returns, above 0")
    else:
        price = Price("linear", float(given["mean"]), float(given["std"]))
    if not (math.isfinite(price.mean) and math.isfinite(price.std)):
        raise BundleError(f"price_normalization is {given}, expected finite numbers")
    return price
