"""Reads feature_schema.json and metadata.json, which are not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from atb_fast._core import FeaturePipeline, MinMaxScaler
from atb_fast.config import CANDLE_COLUMNS, LARGEST_WINDOW, LONGEST_LAG_DAYS, TIMEFRAMES
from atb_fast.errors import BundleError, ExpressionError
from atb_fast.features import outputs
from atb_fast.features.expressions import Expr
from atb_fast.features.heads import Output
from atb_fast.features.parser import parse
from atb_fast.features.price import PriceScale
from atb_fast.features.specs import UNSCALED, FeatureSpec
from atb_fast.serving import checksums
from atb_fast.serving.inputs import FeatureWindows, Join, ModelInput, ScaledWindows
from atb_fast.serving.old_schema import upgraded
from atb_fast.serving.registry import MOST_JSON_BYTES, check_timeframe, parse_json

#: Most rows in a window.
_LONGEST_WINDOW = 1 << 20
_TIME_OPERATORS = {"hour", "weekday", "day_of_year"}


@dataclass(frozen=True)
class Documents:
    """The model of a bundle, as described by its documents.

    Attributes:
        metadata: Contents of metadata.json.
        length: Rows in a window.
        names: Columns of the ONNX input, in channel order.
        input: How these columns are computed from candles.
        output: How the outputs of the model are read.
    """

    metadata: dict[str, Any]
    length: int
    names: tuple[str, ...]
    input: ModelInput
    output: Output


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
        made = _input(upgraded(schema), metadata, path)
        output = _output(metadata, made, length)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    except ExpressionError as error:
        raise BundleError(f"{path}: feature_schema.json: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BundleError(
            f"{path}: feature_schema.json cannot be used ({type(error).__name__}: {error}); "
            "retrain the model"
        ) from error
    return Documents(metadata, length, names, made, output)


def extra_columns(metadata: dict[str, Any], path: Path) -> dict[str, int]:
    """Return the columns that a frame must have besides candles, each with its lag in milliseconds.

    Raises:
        BundleError: The metadata of the bundle in `path` has invalid requirements.
    """
    required = metadata.get("requirements", {})
    columns = required.get("columns", {}) if isinstance(required, dict) else None
    if isinstance(columns, dict):
        lags = {
            str(name): column.get("lag_ms") if isinstance(column, dict) else None
            for name, column in columns.items()
        }
        found = {name: lag for name, lag in lags.items() if isinstance(lag, int) and lag >= 0}
        if found == lags:
            return found
    raise BundleError(
        f"{path}: metadata.json has requirements {required!r:.80}, expected columns, each "
        "with an integer lag_ms >= 0"
    )


def trained_until(metadata: dict[str, Any], path: Path) -> datetime | None:
    """Return the close of the last bar that a model was fitted or selected on, UTC.

    This includes the bars that scalers were fitted on. For bundles that do not record this time, it
    is the end of the validation part. None if that is not recorded either.

    Raises:
        BundleError: The metadata of the bundle in `path` has an invalid time.
    """
    recorded = _time(metadata, path, "trained_until")
    return recorded or _close_of(metadata, path, "validation_last")


def seen_end(metadata: dict[str, Any], path: Path) -> datetime | None:
    """Return the close of the last bar that the labels of training and validation depend on, UTC.

    Early versions of atb-fast did not record the end of the validation part. For their bundles, it
    is the last bar of the data, including the test part. None if that is not recorded either.

    Raises:
        BundleError: The metadata of the bundle in `path` has an invalid time.
    """
    return _close_of(metadata, path, "validation_last") or _close_of(metadata, path, "last")


def _close_of(metadata: dict[str, Any], path: Path, bar: str) -> datetime | None:
    """Return the time at which a bar of `dataset` closed, UTC; None if it is not recorded."""
    opened = _time(metadata, path, bar)
    if opened is None:
        return None
    return opened + timedelta(milliseconds=TIMEFRAMES[check_timeframe(metadata, path)])


def _time(metadata: dict[str, Any], path: Path, name: str) -> datetime | None:
    """Return a time of `dataset`, UTC; None if it is not recorded."""
    dataset = metadata.get("dataset")
    stamp = dataset.get(name) if isinstance(dataset, dict) else None
    if stamp is None:
        return None
    try:
        found = datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        found = datetime.min
    if found.utcoffset() != timedelta(0):
        raise BundleError(
            f"{path}: metadata.json has dataset.{name} {stamp!r:.80}, expected an ISO time in UTC"
        )
    return found


def _output(metadata: dict[str, Any], made: ModelInput, length: int) -> Output:
    scale = outputs.read(metadata)
    if not isinstance(scale, PriceScale):
        return scale
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
    if not 1 <= len(names) * length <= LARGEST_WINDOW:
        raise BundleError(
            f"a window has {length} rows of {len(names)} features, expected 1 to "
            f"{LARGEST_WINDOW} values"
        )
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise BundleError(
            f"feature_schema.json has the feature {twice!r:.80} twice; names must be unique"
        )
    return length, names


def _input(schema: dict[str, Any], metadata: dict[str, Any], path: Path) -> ModelInput:
    features = schema["features"]
    specs = {str(feature["name"]): _spec(feature) for feature in features}
    scaled_by_window = {spec.scaler == "window" for spec in specs.values()}
    if scaled_by_window == {True}:
        columns = [spec.expression.columns for spec in specs.values()]
        plain = all(spec.expression.op == "column" for spec in specs.values())
        if not plain or not set().union(*columns) <= set(CANDLE_COLUMNS):
            raise BundleError(
                "feature_schema.json has a feature that is scaled by its window and is not a "
                "column of the candles"
            )
        return ScaledWindows(tuple(name for (name,) in columns))
    if len(scaled_by_window) > 1:
        raise BundleError(
            "feature_schema.json scales some features by their window and others not; expected all "
            "or none"
        )
    bar_ms = _bar_ms([spec.expression for spec in specs.values()], metadata, path)
    made = [spec.compiled(name, bar_ms) for name, spec in specs.items()]
    pipeline = FeaturePipeline(made, scalers=[_scaler(feature) for feature in features])
    return FeatureWindows(pipeline, _join(schema.get("sentiment")))


def _spec(feature: dict[str, Any]) -> FeatureSpec:
    name, scaler = str(feature["name"]), feature.get("scaler") or {}
    expression = feature["expression"]
    if not isinstance(expression, Expr):  # bundles of early versions have none
        expression = parse(expression, label=f"feature {name:.80}")
    by_window = scaler.get("method") == "window"
    return FeatureSpec(expression, "window" if by_window else "none", feature.get("null_as"))


def _scaler(feature: dict[str, Any]) -> MinMaxScaler:
    scaler = feature.get("scaler")
    return MinMaxScaler(scaler["data_min"], scaler["data_max"]) if scaler else UNSCALED


def _bar_ms(expressions: list[Expr], metadata: dict[str, Any], path: Path) -> int:
    """Return the length of a bar; any number if no expression depends on it."""
    if any(part.op in _TIME_OPERATORS for each in expressions for part in each.walk()):
        return TIMEFRAMES[check_timeframe(metadata, path)]
    return 1


def _join(given: Any) -> Join | None:
    if given is None:
        return None
    if given == {"method": "resampled"}:
        return Join("resampled")
    lag = given.get("lag_days") if isinstance(given, dict) else None
    if type(lag) is not int or not 0 <= lag <= LONGEST_LAG_DAYS or given.get("method") != "as_of":
        raise BundleError(
            f"feature_schema.json has the sentiment {given!r:.80}, expected the method resampled, "
            f"or as_of with lag_days from 0 to {LONGEST_LAG_DAYS}"
        )
    return Join("as_of", lag)
