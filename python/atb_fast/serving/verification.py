"""Verifies that engines can use a bundle, and that serving features match training features.

The contract with the engines is checked by reading the files and by running the model. Train/serve
skew is checked on the training windows in samples.npz: the scoring code computes each window again,
from only the candles that it needs.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.config import BASIC_SEQUENCE_LENGTH, CANDLE_COLUMNS
from atb_fast.errors import AtbFastError, BundleError, MissingExtraError
from atb_fast.features.heads import Output
from atb_fast.features.price import PriceScale
from atb_fast.serving import checksums, registry
from atb_fast.serving.predictor import Bundle

#: Largest accepted difference between a feature in training and in scoring; features are about 1.
SKEW = 1e-6
#: Largest accepted difference between predictions of the bundle and of Keras, relative to the
#: largest price.
_PREDICTION = 1e-5
#: The same for a graph that computes features from float32 candles: its RSI is less exact.
_PREDICTION_FROM_CANDLES = 1e-4
#: Largest unpacked size of samples.npz that is read, in bytes.
_MOST_BYTES = 64 << 20

_NO_CHECKSUMS = (
    f"whether its files have changed since they were published, because there is no "
    f"{checksums.NAME}; bundles of early versions have none"
)

#: Keys that metadata.json must have, and the type of each value.
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
_VALUES = {"task_type": "regression", "framework": "onnx", "model_file": "model.onnx"}
_BASIC = [f"{name}_normalized" for name in ("close", "volume", "high", "low", "open")]


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
            relative to the largest price; None if unchecked.
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
        problems += _not_finite({"metadata.json": metadata, "feature_schema.json": schema})
        if identity is None:
            unchecked.append("symbol, type and version, because it is not in a registry")
        else:
            problems += _identity(metadata, identity)
        bundle = Bundle(path, metadata=metadata)
        problems += _agreement(bundle, schema)
        problems += _runs(bundle)
        if find_spec("onnx"):
            problems += _graph(path / "model.onnx")
        else:
            unchecked.append("opset, IR version and operators, because onnx is not installed")
        if (path / "samples.npz").exists():
            differences = _samples(bundle, registry.regular_file(path / "samples.npz"))
            problems += _too_different(bundle, *differences)
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


def _metadata(metadata: dict[str, Any]) -> Iterator[str]:
    for key, kind in METADATA_KEYS.items():
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
    expected: Output = PriceScale.linear()
    if metadata.get("model_type") == "basic":
        length = BASIC_SEQUENCE_LENGTH
        expected = PriceScale.rolling_minmax(length)
        if names != _BASIC or bundle.sequence_length != length:
            yield f"a basic bundle must have windows of {length} rows of {', '.join(_BASIC)}"
    elif metadata.get("model_type") not in ("price", "sentiment"):
        expected = bundle.output  # any that can be read
    for key, value in expected.to_metadata().items():
        if metadata.get(key) != value:
            yield f"{key} is {metadata.get(key)}, expected {value}"


def _runs(bundle: Bundle) -> Iterator[str]:
    shape = (bundle.sequence_length, len(bundle.feature_names))
    rng = np.random.default_rng(0)
    for size in (1, 7, 256):
        got = bundle.run(rng.random((size, *shape), dtype=np.float32))
        if got.shape != (size, 1) or got.dtype != np.float32:
            yield (
                f"model.onnx returns {got.dtype} {got.shape} for {size} windows, expected float32 "
                f"({size}, 1)"
            )
        elif not np.isfinite(got).all():
            yield "model.onnx returns NaN or infinite values, expected finite numbers"


def _graph(path: Path) -> Iterator[str]:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if not 13 <= opsets.get("", 0) <= 17:
        yield f"model.onnx has opset {opsets.get('')}, expected 13 to 17 for engines"
    if model.ir_version > 8:
        yield f"model.onnx has IR version {model.ir_version}, expected at most 8 for engines"
    operators = {node.op_type for node in model.graph.node}
    if operators & {"Loop", "Scan"} or "LSTM" not in operators:
        yield "model.onnx has no LSTM operator, or has a loop; engines would run it too slowly"
    if any(tensor.data_location for tensor in model.graph.initializer):
        yield "model.onnx stores weights in other files, expected one self-contained file"


def _samples(bundle: Bundle, path: Path) -> tuple[float, float]:
    """Return the largest difference of a feature and of a prediction between scoring and training.

    Both are NaN if any value is.
    """
    import polars as pl

    arrays = _arrays(path)
    times, candles, ends = (arrays[name] for name in ("timestamps", "candles", "ends"))
    if "extras" in arrays:
        candles = np.concatenate([candles, arrays["extras"]], axis=1)
    names = (*CANDLE_COLUMNS, *bundle.extra_columns)
    windows, predictions = arrays["windows"], arrays["predictions"].astype(np.float64)
    sentiment: Any = None
    if "index" in arrays:
        index = arrays["index"]
        sentiment = pl.DataFrame({"timestamp": index[0].astype(np.int64), "value": index[1]})
        if bundle.uses_sentiment == "optional":
            sentiment = "neutral"
    count = len(predictions)
    if not count == len(windows) == len(ends) > 0:
        raise BundleError(
            f"{path}: has {len(windows)} windows and {count} predictions, with {len(ends)} ends; "
            "expected the same number of each"
        )
    skew, difference = np.zeros(count), np.zeros(count)
    for i, rows in enumerate(np.split(np.arange(len(times)), ends[:-1])):
        values = (
            pl.Series(name, candles[rows, j], nan_to_null=True) for j, name in enumerate(names)
        )
        frame = pl.DataFrame([pl.Series("timestamp", times[rows]), *values])
        matrix = bundle.features(frame, sentiment)
        start = np.array([len(matrix) - bundle.sequence_length])
        seen = matrix.gather(start, bundle.sequence_length)[0, :, : windows.shape[2]]
        # Relative for large values, because a float32 has only seven digits.
        skew[i] = (np.abs(seen - windows[i]) / np.maximum(1.0, np.abs(windows[i]))).max()
        difference[i] = abs(bundle.predict_last(frame, sentiment) - predictions[i])
    return float(skew.max()), float(difference.max() / np.abs(predictions).max())


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size <= _MOST_BYTES:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    except Exception as error:  # zip, zlib and NumPy have no common base class
        raise BundleError(f"{path}: cannot be read: {error}") from error
    raise BundleError(f"{path}: has {size} bytes unpacked, expected at most {_MOST_BYTES}")


def prediction_limit(onnx_input: str | None) -> float:
    """Return the largest accepted difference from Keras, relative to the largest price."""
    return _PREDICTION_FROM_CANDLES if onnx_input == "ohlcv" else _PREDICTION


def _too_different(bundle: Bundle, skew: float, difference: float) -> Iterator[str]:
    limit = prediction_limit(bundle.metadata.get("onnx_input"))
    if not skew <= SKEW:  # also if it is NaN
        yield (
            f"train/serve skew: a feature differs by {skew:.1e} between training and serving, "
            f"expected at most {SKEW:.0e}"
        )
    if not difference <= limit:
        yield (
            f"a prediction differs from that of Keras by {difference:.1e} of the largest price, "
            f"expected at most {limit:.0e}"
        )
