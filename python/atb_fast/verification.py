"""Whether a bundle is what engines expect, and sees what its training saw.

The contract is checked by reading the files and by running them; the windows that the bundle makes
of candles are compared with those that the training left in samples.npz, bar by bar.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast import registry
from atb_fast.errors import AtbFastError, BundleError, MissingExtraError
from atb_fast.predictor import Bundle

#: Largest difference between a feature in training and in scoring; features are about 0..1.
SKEW = 1e-6
#: Largest difference of a prediction to Keras', relative to the largest price.
_PREDICTION = 1e-5
_BASIC = (
    *("close_normalized", "volume_normalized", "high_normalized", "low_normalized"),
    "open_normalized",
)
_NEEDED = (
    *("symbol", "timeframe", "model_type", "version_id", "created_at", "training_date"),
    *("sequence_length", "feature_names", "feature_count", "task_type", "price_normalization"),
    *("framework", "model_file", "training_params", "evaluation_results", "robustness_results"),
    *("sentiment_assessment", "has_sentiment", "dataset", "diagnostics"),
)


@dataclass(frozen=True)
class Report:
    """What is wrong with a bundle.

    Attributes:
        path: The bundle.
        problems: What breaks the contract; empty if it can be made live.
        skew: Largest difference between a feature in training and as scored; None if the bundle has
            no samples, or takes raw candles.
        prediction_difference: Largest difference of a prediction to Keras', relative to the largest
            price; None without samples.
        notes: What was not checked, and why.
    """

    path: str
    problems: tuple[str, ...]
    skew: float | None
    prediction_difference: float | None
    notes: tuple[str, ...]


def verify(path: Path, *, identity: tuple[str, str, str] | None = None) -> Report:
    """Check the bundle in `path`.

    Args:
        path: Its directory.
        identity: Symbol, type and version that it must have; default: what its path says.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    problems: list[str] = []
    notes: list[str] = []
    skew = difference = None
    try:
        problems += _layout(path)
        metadata = registry.read_json(path / "metadata.json")
        problems += _metadata(metadata, identity or tuple(path.resolve().parts[-3:]))
        bundle = Bundle(path)
        problems += _agreement(bundle, metadata)
        problems += _runs(bundle)
        found, note = _graph(path / "model.onnx")
        problems += found
        notes += note
        if (path / "samples.npz").exists():
            skew, difference = _samples(bundle, registry.regular_file(path / "samples.npz"))
            problems += _too_different(skew, difference)
        else:
            notes.append("skew was not checked: there is no samples.npz")
    except MissingExtraError:
        raise
    except AtbFastError as error:
        problems.append(str(error))
    return Report(str(path), tuple(problems), skew, difference, tuple(notes))


def _layout(path: Path) -> Iterator[str]:
    for file in sorted(path.iterdir()):
        if file.is_symlink() or not file.is_file():
            yield f"{file.name} is not a file; a bundle has files only"
    models = sorted(file.name for file in path.glob("*.onnx"))
    if models != ["model.onnx"]:
        yield f"expected model.onnx and no other *.onnx, found {', '.join(models) or 'none'}"


def _metadata(metadata: dict[str, Any], identity: tuple[str, ...]) -> Iterator[str]:
    missing = [key for key in _NEEDED if key not in metadata]
    if missing:
        yield f"metadata.json lacks {', '.join(missing)}"
    if "normalization_params" in metadata:
        yield "metadata.json has normalization_params: engines would normalise a second time"
    for name, value in zip(("symbol", "model_type", "version_id"), identity, strict=True):
        if name in metadata and metadata[name] != value:
            yield f"metadata.json has {name} {metadata[name]!r}, its directory says {value!r}"
    if metadata.get("created_at") != metadata.get("training_date"):
        yield "created_at and training_date differ: different readers read different ones"
    if metadata.get("model_file") != "model.onnx" or metadata.get("framework") != "onnx":
        yield "framework and model_file must be onnx and model.onnx"
    steps = metadata.get("diagnostics")
    if not isinstance(steps, dict) or {type(ran) for ran in steps.values()} != {bool}:
        yield "diagnostics must say of each optional step whether it ran"
    yield from (f"metadata.json has {where} {value}" for where, value in _not_finite(metadata))


def _not_finite(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield where.removeprefix("."), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{where}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _not_finite(item, f"{where}[{i}]")


def _agreement(bundle: Bundle, metadata: dict[str, Any]) -> Iterator[str]:
    said = (metadata.get("sequence_length"), metadata.get("feature_names"))
    if said != (bundle.sequence_length, bundle.feature_names):
        yield "metadata.json and feature_schema.json disagree about sequence_length or features"
    if metadata.get("feature_count") != len(bundle.feature_names):
        yield f"feature_count is not {len(bundle.feature_names)}"
    schema = registry.read_json(bundle.path / "feature_schema.json")
    optional = [f["name"] for f in schema["features"] if f.get("required") is not True]
    if optional:
        yield f"feature_schema.json does not require {', '.join(optional)}"
    if metadata.get("model_type") == "basic" and bundle.feature_names != list(_BASIC):
        yield f"a basic bundle has the features {', '.join(_BASIC)}"


def _runs(bundle: Bundle) -> Iterator[str]:
    shape = (bundle.sequence_length, len(bundle.feature_names))
    rng = np.random.default_rng(0)
    for size in (1, 7, 256):
        got = bundle.run(rng.random((size, *shape), dtype=np.float32))
        if got.shape != (size, 1) or got.dtype != np.float32:
            yield f"model.onnx gives {got.dtype} {got.shape} for {size} windows, not ({size}, 1)"
        elif not np.isfinite(got).all():
            yield "model.onnx gives values that are not finite"


def _graph(path: Path) -> tuple[list[str], list[str]]:
    if find_spec("onnx") is None:
        return [], ["opset, IR version and operators were not checked: onnx is not installed"]
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    problems = []
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if not 13 <= opsets.get("", 0) <= 17:
        problems.append(f"model.onnx has opset {opsets.get('')}, engines take 13 to 17")
    if model.ir_version > 8:
        problems.append(f"model.onnx has IR version {model.ir_version}, engines take up to 8")
    operators = {node.op_type for node in model.graph.node}
    if "Loop" in operators or "Scan" in operators or "LSTM" not in operators:
        problems.append("model.onnx has no native LSTM, or a loop: engines would be slow")
    if any(tensor.data_location for tensor in model.graph.initializer):
        problems.append("model.onnx has external data")
    return problems, []


def _samples(bundle: Bundle, path: Path) -> tuple[float | None, float]:
    """Return the largest differences of features and of predictions to those of the training."""
    import polars as pl

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            columns, candles, ends, windows, predictions = (
                stored[name] for name in ("columns", "candles", "ends", "windows", "predictions")
            )
    except Exception as error:  # zip, zlib and NumPy have no common base class
        raise BundleError(f"{path}: cannot be read: {error}") from error
    skew, difference = 0.0, 0.0
    takes_candles = bundle.metadata.get("onnx_input") == "ohlcv"
    scale = float(np.abs(predictions).max()) or 1.0
    parts = np.split(candles, ends[:-1])
    for part, window, expected in zip(parts, windows, predictions, strict=True):
        frame = pl.DataFrame(part, schema=[str(name) for name in columns], orient="row")
        frame = frame.fill_nan(None)
        matrix = bundle.features(frame)
        if not takes_candles:
            start = np.array([len(matrix) - bundle.sequence_length])
            seen = matrix.gather(start, bundle.sequence_length)[0]
            skew = max(skew, float(np.abs(seen - window).max()))
        difference = max(difference, abs(bundle.predict_last(frame) - float(expected)) / scale)
    return None if takes_candles else skew, difference


def _too_different(skew: float | None, difference: float) -> Iterator[str]:
    if skew is not None and not skew <= SKEW:
        yield (
            f"train/serve skew: a feature differs by {skew:.1e} between training and scoring, "
            f"expected at most {SKEW:.0e}"
        )
    # A graph that takes raw candles lacks those before the window: its averages start otherwise.
    if skew is not None and not difference <= _PREDICTION:
        yield (
            f"a prediction differs from Keras' by {difference:.1e} of the price, expected at most "
            f"{_PREDICTION:.0e}"
        )
    if not math.isfinite(difference):
        yield "a prediction for real candles is not finite"
