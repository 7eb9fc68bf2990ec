"""Verifies that engines can use a bundle, and that serving features match training features.

The contract with the engines is checked by reading the files and by running the model; `skew`
compares the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.config import BASIC_SEQUENCE_LENGTH, BASIC_TIMEFRAME
from atb_fast.errors import AtbFastError, BundleError, MissingExtraError
from atb_fast.features import outputs
from atb_fast.features.heads import Output
from atb_fast.features.outputs import Return
from atb_fast.features.price import PriceScale
from atb_fast.serving import checksums, registry, skew
from atb_fast.serving.predictor import Bundle

_NO_CHECKSUMS = (
    f"whether its files have changed since they were published, because there is no "
    f"{checksums.NAME}; bundles of early versions have none"
)

#: Keys that metadata.json must have, and the type of each value. price_normalization is only for
#: models that predict a price.
METADATA_KEYS: dict[str, type] = {
    "symbol": str,
    "timeframe": str,
    "model_type": str,
    "version_id": str,
    "created_at": str,
    "training_date": str,
    "sequence_length": int,
    "feature_names": list,
    "feature_count": int,
    "task_type": str,
    "price_normalization": dict,
    "framework": str,
    "model_file": str,
    "training_params": dict,
    "evaluation_results": dict,
    "robustness_results": dict,
    "sentiment_assessment": dict,
    "has_sentiment": bool,
    "dataset": dict,
    "diagnostics": dict,
}
#: The parts in `dataset.split`, and the keys of `dataset` that say when they end. Bundles of early
#: versions and of other trainers have neither.
_PARTS = ("train", "validation", "test")
_TIMES_OF_SPLIT = ("split", "trained_until")
_VALUES = {"framework": "onnx", "model_file": "model.onnx"}
_BASIC = [f"{name}_normalized" for name in ("close", "volume", "high", "low", "open")]
#: Features of a meta_label bundle.
_META_FEATURES = 8


#: What each kind of target predicts; see `outputs.kind_of`.
TARGET_FORECASTS = {
    "close": "prices",
    "window_close": "prices",
    "log_return": "prices",
    "binary_direction": "the classes -1, 1",
    "triple_barrier": "the classes -1, 0, 1",
    "meta_label": "the classes 0, 1",
    "smoothed_return": "returns",
    "volatility": "volatility",
}


@dataclass(frozen=True)
class Report:
    """The result of verifying a bundle.

    Attributes:
        path: The bundle's directory.
        problems: Violations of the contract with the engines, and differences between serving and
            training. Empty if the bundle may go live.
        unchecked: Checks that could not be run, and why.
        skew: Largest difference between a feature in training and in scoring; None if unchecked.
        prediction_difference: Largest difference between predictions of the bundle and of Keras,
            see `skew.relative_to`; None if unchecked.
        synthetic: Whether the model was trained on the sample market; None if unknown.
    """

    path: str
    problems: tuple[str, ...]
    unchecked: tuple[str, ...]
    skew: float | None = None
    prediction_difference: float | None = None
    synthetic: bool | None = None

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Checks that could not be run, except those that bundles of early versions never allow."""
        return tuple(what for what in self.unchecked if what != _NO_CHECKSUMS)


def verify(
    path: Path,
    *,
    identity: tuple[str, str, str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Report:
    """Return the problems of the bundle in `path`, and what could not be checked.

    Args:
        path: The bundle's directory.
        identity: The expected symbol, type and version. Default: those in its path, if the
            directory is named like a version.
        metadata: Contents of metadata.json, if it has not been written yet.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    problems: list[str] = []
    unchecked: list[str] = []
    differences: tuple[float | None, float | None] = (None, None)
    resolved = path.resolve()
    if identity is None and registry.is_version(resolved):
        symbol, model_type, version = resolved.parts[-3:]
        identity = (symbol, model_type, version)
    with collected(problems):
        if metadata is None:
            hashes = checksums.read(path)
            problems += checksums.differences(path, hashes) if hashes else ()
            if problems:  # a damaged file would only cause further problems
                unchecked.append(f"anything else, because the files differ from {checksums.NAME}")
                return Report(str(path), tuple(problems), tuple(unchecked))
            metadata = registry.read_json(path / "metadata.json")
            checksums.check_present(metadata, hashes, path)
            if hashes is None:
                unchecked.append(_NO_CHECKSUMS)
        problems += _layout(path)
        schema = registry.read_json(path / "feature_schema.json")
        problems += _metadata(metadata)
        problems += _split(metadata)
        problems += _not_finite({"metadata.json": metadata, "feature_schema.json": schema})
        if identity is None:
            unchecked.append("symbol, type and version, because it is not in a registry")
        else:
            problems += _identity(metadata, identity)
        bundle = Bundle(path, metadata=metadata)
        problems += _agreement(bundle, schema)
        problems += _recorded(bundle)
        unchecked += _timeframe(bundle)
        problems += _runs(bundle)
        if find_spec("onnx"):
            problems += _graph(path / "model.onnx", bundle.output)
        else:
            unchecked.append("opset, IR version and operators, because onnx is not installed")
        if (path / "samples.npz").exists():
            differences = skew.differences(bundle, registry.regular_file(path / "samples.npz"))
            problems += skew.too_different(bundle, *differences)
        else:
            unchecked.append("train/serve skew, because there is no samples.npz")
    synthetic = registry.is_synthetic(metadata or {})
    return Report(str(path), tuple(problems), tuple(unchecked), *differences, synthetic)


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Add an error of a bundle to its `problems`, so that others can still be verified."""
    try:
        yield
    except MissingExtraError:
        raise
    except AtbFastError as error:
        problems.append(str(error))
    except Exception as error:  # a broken bundle can raise anything
        problems.append(f"it cannot be checked ({type(error).__name__}: {error})")


def _layout(path: Path) -> Iterator[str]:
    for file in sorted(path.iterdir()):
        if file.is_symlink() or not file.is_file():
            yield f"{file.name} is not a regular file; a bundle may only contain files"
    models = sorted(file.name for file in path.glob("*.onnx"))
    if models != ["model.onnx"]:
        yield f"found {', '.join(models) or 'no *.onnx'}, expected model.onnx and no other *.onnx"


def expected_keys(metadata: dict[str, Any]) -> dict[str, type]:
    """Return those of `METADATA_KEYS` that the metadata of this kind of model must have."""
    keys = dict(METADATA_KEYS)
    with suppress(BundleError):
        if not isinstance(outputs.read(metadata), PriceScale):
            del keys["price_normalization"]
    return keys


def _metadata(metadata: dict[str, Any]) -> Iterator[str]:
    for key, kind in expected_keys(metadata).items():
        if key not in metadata:
            yield f"metadata.json lacks {key}"
        elif type(metadata[key]) is not kind:
            yield f"metadata.json has {key} {metadata[key]!r:.80}, expected {kind.__name__}"
        elif metadata[key] != _VALUES.get(key, metadata[key]):
            yield f"metadata.json has {key} {metadata[key]!r:.80}, expected {_VALUES[key]!r}"
    if "normalization_params" in metadata:
        yield "metadata.json has normalization_params: engines would normalize a second time"
    if metadata.get("created_at") != metadata.get("training_date"):
        yield "created_at and training_date differ, expected the same time: engines read either"
    if not _is_utc(metadata.get("created_at")):
        yield f"created_at is {metadata.get('created_at')!r:.80}, expected an ISO time in UTC"
    steps = metadata.get("diagnostics")
    if not isinstance(steps, dict) or set(steps) != {"plots", "robustness", "onnx"}:
        yield f"diagnostics is {steps!r:.80}, expected the keys plots, robustness and onnx"
    elif {type(ran) for ran in steps.values()} != {bool}:
        yield f"diagnostics is {steps!r:.80}, expected true or false for each"


def _is_utc(stamp: Any) -> bool:
    try:
        return datetime.fromisoformat(stamp).utcoffset() == timedelta(0)
    except (TypeError, ValueError):
        return False


def _split(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the recorded times of the training, validation and test parts."""
    dataset = metadata.get("dataset")
    if not isinstance(dataset, dict) or dataset.keys().isdisjoint(_TIMES_OF_SPLIT):
        return
    split, until = dataset.get("split"), dataset.get("trained_until")
    parts = split if isinstance(split, dict) else {}
    names = ("first", "last", "labels_until")
    stamps: list[Any] = [
        part.get(name) if isinstance(part := parts.get(key), dict) else None
        for key in _PARTS
        for name in names
    ]
    if not all(map(_is_utc, [until, *stamps])):
        yield (
            f"dataset has the split {split!r:.400} and trained_until {until!r:.80}, expected ISO "
            f"times in UTC: trained_until, and {', '.join(names)} of {', '.join(_PARTS)}"
        )
        return
    times = [datetime.fromisoformat(stamp) for stamp in stamps]
    firsts, lasts, labels = times[::3], times[1::3], times[2::3]
    ascending = (
        first <= last < end for first, last, end in zip(firsts, lasts, labels, strict=True)
    )
    if not all(ascending) or firsts != sorted(firsts):
        yield (
            f"dataset.split is {split!r:.400}, expected ascending times within each part, and "
            f"{', '.join(_PARTS)} in this order"
        )
    if datetime.fromisoformat(str(until)) < max(labels[:2]):
        yield (
            f"dataset.trained_until is {until}, expected no earlier time than labels_until of the "
            "training and validation parts: in-sample predictions would pass as out of sample"
        )


def _identity(metadata: dict[str, Any], identity: tuple[str, str, str]) -> Iterator[str]:
    for name, value in zip(("symbol", "model_type", "version_id"), identity, strict=True):
        if metadata.get(name) != value:
            found = f"metadata.json has {name} {metadata.get(name)!r:.80}"
            yield f"{found}, expected {value!r} as in its path"


def _not_finite(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where.removeprefix('.')} is {value}, expected a finite number"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{where}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _not_finite(item, f"{where}[{i}]")


def _agreement(bundle: Bundle, schema: dict[str, Any]) -> Iterator[str]:
    """Yield contradictions between the documents, and values that the model type does not allow."""
    metadata, names = bundle.metadata, bundle.feature_names
    registry.check_timeframe(metadata, bundle.path)
    if metadata.get("sequence_length") != bundle.sequence_length:
        yield "metadata.json and feature_schema.json disagree about sequence_length"
    if metadata.get("feature_names") != names or metadata.get("feature_count") != len(names):
        yield "metadata.json and feature_schema.json disagree about the features"
    for feature in schema["features"]:
        if feature.get("required") is not True:
            yield f"feature_schema.json does not require {feature['name']}"
    expected = bundle.output  # any readable output, unless the model type requires one
    if metadata.get("model_type") == "basic":
        expected = PriceScale.rolling_minmax(BASIC_SEQUENCE_LENGTH)
        yield from _basic_windows(bundle)
    elif isinstance(expected, PriceScale) and metadata.get("model_type") in ("price", "sentiment"):
        expected = PriceScale.linear()
    elif metadata.get("model_type") in ("price", "meta_label"):
        yield from _strategy(bundle, schema)
    if "target_distribution" in metadata or isinstance(bundle.output, Return):
        yield from _distribution(metadata.get("target_distribution"))
    given = expected.to_metadata()
    for key in ("price_normalization", "class_labels"):
        if key in metadata and key not in given:
            yield f"metadata.json has {key}, which a model of this kind must not have"
    for key, value in given.items():
        if metadata.get(key) != value:
            yield f"{key} is {metadata.get(key)}, expected {value}"


def _recorded(bundle: Bundle) -> Iterator[str]:
    """Yield where metadata.json describes other outputs than the recipe and options in it.

    A recipe that is a class in Python records no target.
    """
    output, document = bundle.output, bundle.metadata.get("recipe_document")
    target = document.get("target") if isinstance(document, dict) else None
    if not (isinstance(document, dict) and isinstance(target, dict)):
        return
    kind, found = target.get("kind"), outputs.kind_of(output)
    expected = TARGET_FORECASTS.get(kind, found) if isinstance(kind, str) else found
    if found != expected:
        yield (
            f"metadata.json says that the model predicts {found}, but the target {kind} in "
            f"recipe_document predicts {expected}"
        )
    if isinstance(output, PriceScale):
        return  # early versions recorded the recipe without the horizon of the run
    config = bundle.metadata.get("config")
    options = config if isinstance(config, dict) else {}
    for name, where, value, recorded in (
        ("horizon", "recipe_document", output.horizon, target.get("horizon", output.horizon)),
        ("horizon", "config", output.horizon, options.get("horizon", output.horizon)),
        ("lag", "recipe_document", output.lag, document.get("lag", 0)),
    ):
        if recorded != value:
            yield f"the output has {name} {value}, but {where} has {name} {recorded!r:.80}"


def _basic_windows(bundle: Bundle) -> Iterator[str]:
    length = BASIC_SEQUENCE_LENGTH
    if bundle.feature_names != _BASIC or bundle.sequence_length != length:
        yield (
            f"a {bundle.model_type} bundle must have windows of {length} rows of "
            f"{', '.join(_BASIC)}, because strategies compute no others"
        )


def _strategy(bundle: Bundle, schema: dict[str, Any]) -> Iterator[str]:
    """Yield the problems that keep strategies from using a bundle of classes or returns."""
    expected = ((0, 1),) if bundle.model_type == "meta_label" else ((-1, 1), (-1, 0, 1), None)
    if bundle.class_labels not in expected:
        yield (
            f"a {bundle.model_type} bundle has the class_labels {bundle.class_labels}, expected "
            f"{' or '.join(map(str, expected))}"
        )
    if bundle.model_type == "price":
        if bundle.lag != 1:
            yield f"the output has lag {bundle.lag}, expected 1, because strategies act a bar later"
        yield from _basic_windows(bundle)
        if any("normalization" in feature for feature in schema["features"]):
            yield "feature_schema.json has normalization: engines would scale the columns again"
        return
    if bundle.sequence_length != 1 or len(bundle.feature_names) != _META_FEATURES:
        yield (
            f"a meta_label bundle has windows of {bundle.sequence_length} rows of "
            f"{len(bundle.feature_names)} features, expected 1 row of {_META_FEATURES}"
        )
    primary = bundle.metadata.get("primary_model_type")
    if not isinstance(primary, str) or not primary:
        yield (
            f"metadata.json has primary_model_type {primary!r:.80}, expected the type of the model "
            "whose signals it filters"
        )


def _timeframe(bundle: Bundle) -> Iterator[str]:
    """Yield why the strategies that load such a type fail with the timeframe of this bundle."""
    if bundle.model_type != "price" or isinstance(bundle.output, PriceScale):
        return
    if bundle.timeframe != BASIC_TIMEFRAME:
        yield (
            f"use by strategies, because they load classes and returns of {BASIC_TIMEFRAME} only, "
            f"but the timeframe is {bundle.timeframe}"
        )


def _distribution(given: Any) -> Iterator[str]:
    """Yield why strategies cannot interpolate in the distribution of the predictions."""
    found: Any = given if isinstance(given, dict) else {}
    values, percentiles = found.get("values"), found.get("percentiles")
    if not (_ascends(values) and _ascends(percentiles) and len(values) == len(percentiles)):
        yield (
            f"target_distribution is {given!r:.80}, expected values and percentiles: lists of the "
            "same length, strictly ascending, of at least two numbers"
        )
    elif percentiles[0] != 0 or percentiles[-1] > 100 or values[0] < 0:
        yield (
            f"target_distribution has percentiles from {percentiles[0]} to {percentiles[-1]} and "
            f"values from {values[0]}, expected percentiles from 0 to at most 100 and values from "
            "0 or above"
        )


def _ascends(given: Any) -> bool:
    if not isinstance(given, list) or len(given) < 2:
        return False
    numbers = all(type(value) in (int, float) for value in given)
    return numbers and all(low < high for low, high in pairwise(given))


def _runs(bundle: Bundle) -> Iterator[str]:
    shape = (bundle.sequence_length, len(bundle.feature_names))
    units = bundle.output.head.units
    rng = np.random.default_rng(0)
    for size in (1, 7, 256):
        got = bundle.run(rng.random((size, *shape), dtype=np.float32))
        if got.shape != (size, units) or got.dtype != np.float32:
            yield (
                f"model.onnx returns {got.dtype} {got.shape} for {size} windows, expected float32 "
                f"({size}, {units})"
            )
        elif problem := bundle.output.problem(got):
            yield f"model.onnx returns {problem}"


def _graph(path: Path, output: Output) -> Iterator[str]:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if not 13 <= opsets.get("", 0) <= 17:
        yield f"model.onnx has opset {opsets.get('')}, expected 13 to 17 for engines"
    if model.ir_version > 8:
        yield f"model.onnx has IR version {model.ir_version}, expected at most 8 for engines"
    operators = {node.op_type for node in model.graph.node}
    if operators & {"Loop", "Scan"}:
        yield "model.onnx has a loop; engines would run it too slowly"
    # Logits can be between 0 and 1 for all windows that were tried.
    head = output.head.activation
    if head != "linear" and head.capitalize() not in operators:
        yield f"model.onnx has no {head}, so its outputs are not probabilities"
