"""Reads feature_schema.json and metadata.json, which are not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from atb_fast._core import Feature, FeaturePipeline, MinMaxScaler
from atb_fast.config import CANDLE_COLUMNS, TIMEFRAMES
from atb_fast.errors import BundleError
from atb_fast.features.indicators import from_source
from atb_fast.features.price import PriceScale
from atb_fast.serving import checksums
from atb_fast.serving.inputs import CausalFeatures, FeatureWindows, ModelInput, ScaledWindows
from atb_fast.serving.registry import MOST_JSON_BYTES, check_timeframe, parse_json

#: Most rows in a window.
_LONGEST_WINDOW = 1 << 20
#: Most values in a window: more than any model has, but hundreds of windows still fit into memory.
_LARGEST_WINDOW = 1 << 17


@dataclass(frozen=True)
class Documents:
    """The model of a bundle, as described by its documents.

    Attributes:
        metadata: Contents of metadata.json.
        length: Rows in a window.
        names: Columns of the ONNX input, in channel order.
        input: How these columns are computed from candles.
        price_scale: How outputs are converted to prices.
    """

    metadata: dict[str, Any]
    length: int
    names: tuple[str, ...]
    input: ModelInput
    price_scale: PriceScale


def read_documents(
    path: Path,
    metadata: dict[str, Any] | None = None,
    *,
    hashes: Mapping[str, str] | None = None,
) -> Documents:
    """Return the model that the documents of the bundle in `path` describe.

    Args:
        path: The bundle's directory.
        metadata: Contents of metadata.json, if it has been read before or is not written yet.
        hashes: Hashes of the files of the bundle; None if they are not checked.

    Raises:
        BundleError: A document is missing or damaged, cannot be read, or contradicts the other.
    """

    def document(name: str) -> dict[str, Any]:
        content = checksums.read_checked(path / name, MOST_JSON_BYTES, hashes)
        return parse_json(content, path / name)

    if metadata is None:
        metadata = document("metadata.json")
        checksums.check_present(metadata, hashes, path)
    schema = document("feature_schema.json")
    try:
        length, names = _shape(schema)
        made = _input(schema["features"])
        scale = _price_scale(metadata, made, length)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BundleError(
            f"{path}: feature_schema.json cannot be used ({type(error).__name__}: {error}); "
            "retrain the model"
        ) from error
    return Documents(metadata, length, names, made, scale)


def train_end(metadata: dict[str, Any], path: Path) -> datetime | None:
    """Return the time at which the last training target closed, UTC; None if it is not recorded.

    Raises:
        BundleError: The metadata of the bundle in `path` has an invalid time.
    """
    return _close_of(metadata, path, "train_last")


def seen_end(metadata: dict[str, Any], path: Path) -> datetime | None:
    """Return the close of the last bar that a model was fitted or selected on, UTC.

    Early versions of atb-fast did not record the end of the validation part. For their bundles, it
    is the last bar of the data, including the test part. None if that is not recorded either.

    Raises:
        BundleError: The metadata of the bundle in `path` has an invalid time.
    """
    return _close_of(metadata, path, "validation_last") or _close_of(metadata, path, "last")


def _close_of(metadata: dict[str, Any], path: Path, bar: str) -> datetime | None:
    """Return the time at which a bar of `dataset` closed, UTC; None if it is not recorded."""
    dataset = metadata.get("dataset")
    stamp = dataset.get(bar) if isinstance(dataset, dict) else None
    if stamp is None:
        return None
    try:
        opened = datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        opened = datetime.min
    if opened.utcoffset() != timedelta(0):
        raise BundleError(
            f"{path}: metadata.json has dataset.{bar} {stamp!r:.80}, expected an ISO time in UTC"
        )
    return opened + timedelta(milliseconds=TIMEFRAMES[check_timeframe(metadata, path)])


def _price_scale(metadata: dict[str, Any], made: ModelInput, length: int) -> PriceScale:
    scale = PriceScale.from_dict(metadata.get("price_normalization"))
    if scale.kind not in made.price_scales:
        raise BundleError(
            f"price_normalization is {scale.kind}, expected {' or '.join(made.price_scales)} for "
            "the features in feature_schema.json"
        )
    if scale.kind == "rolling_minmax" and scale.window != length:
        raise BundleError(
            f"price_normalization has a window of {scale.window} rows, expected the {length} of "
            "sequence_length"
        )
    return scale


def _shape(schema: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Return the rows in a window and the names of its columns."""
    length, features = schema["sequence_length"], schema["features"]
    if not isinstance(length, int) or not 1 <= length <= _LONGEST_WINDOW:
        raise BundleError(
            f"sequence_length is {length!r:.80}, expected an integer from 1 to {_LONGEST_WINDOW}"
        )
    names = tuple(str(feature["name"]) for feature in features)
    if not 1 <= len(names) * length <= _LARGEST_WINDOW:
        raise BundleError(
            f"a window has {length} rows of {len(names)} features, expected 1 to "
            f"{_LARGEST_WINDOW} values"
        )
    return length, names


def _input(features: list[dict[str, Any]]) -> ModelInput:
    columns = tuple(filter(None, map(_scaled_by_window, features)))
    if len(columns) == len(features):
        return ScaledWindows(columns)
    made, scalers = zip(*map(_feature, features), strict=True)
    pipeline = FeaturePipeline(made, scalers=scalers)
    lag_days = _causal_lag([feature.get("source") or {} for feature in features])
    return FeatureWindows(pipeline) if lag_days is None else CausalFeatures(pipeline, lag_days)


def _scaled_by_window(feature: dict[str, Any]) -> str | None:
    """Return the column of a feature that is scaled by its window; None for other features."""
    source = feature.get("source")
    if source:
        expanding = source.get("transform") == "expanding_minmax"
        return str(source["column"]) if expanding else None
    # Bundles of other trainers have only the names, which engines know.
    column = str(feature["name"]).removesuffix("_normalized")
    return column if column in CANDLE_COLUMNS and column != feature["name"] else None


def _feature(feature: dict[str, Any]) -> tuple[Feature, MinMaxScaler]:
    name, source = str(feature["name"]), feature.get("source")
    if source is None:
        if name not in CANDLE_COLUMNS:
            raise BundleError(
                f"feature_schema.json does not say how {name} is computed and scaled, so this "
                "bundle cannot be scored; retrain the model"
            )
        source = {"column": name}
    made = from_source(name, source)
    if "scaler" in feature:
        ends = (feature["scaler"]["data_min"], feature["scaler"]["data_max"])
    else:
        # A min-max scaler from mean to mean + std computes (x - mean) / std; 0 to 1 is no change.
        normalization = feature.get("normalization") or {"mean": 0.0, "std": 1.0}
        ends = (normalization["mean"], normalization["mean"] + normalization["std"])
    return made, MinMaxScaler(*ends)


def _causal_lag(sources: list[dict[str, Any]]) -> int | None:
    """Return the sentiment lag of features of the causal recipe; None for other features."""
    recipes = {source.get("recipe") for source in sources}
    if recipes == {None}:
        return None
    if recipes != {"causal"}:
        raise BundleError(f"the features belong to the recipes {recipes}, expected only 'causal'")
    from atb_fast.features import returns

    columns = {source["column"] for source in sources}
    unknown = columns - {*returns.PRICE_COLUMNS, *returns.SENTIMENT_COLUMNS}
    if unknown:
        raise BundleError(
            f"feature_schema.json has the column {min(unknown)!r}, which the causal recipe lacks; "
            "retrain the model"
        )
    lags = [source["sentiment_lag_days"] for source in sources]
    if any(type(lag) is not int or not 0 <= lag <= 365 or lag != lags[0] for lag in lags):
        raise BundleError(
            f"sentiment_lag_days is {lags}, expected the same number from 0 to 365 everywhere"
        )
    return int(lags[0])
