"""What the trading engines expect of a bundle, without any code of atb-fast.

`violations(registry, key)` reads a bundle as an engine would and names every rule it breaks, by a
short code. `scan(registry)` loads all bundles as an engine does when it starts. Both know JSON,
ONNX and the file system only.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

VERSION = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}h\d{2}m\d{2}s_v\d+")
PART = re.compile(r"^[\w\-.]+$")
KEYS = {
    *("symbol", "timeframe", "model_type", "version_id", "created_at", "training_date"),
    *("sequence_length", "feature_names", "feature_count", "task_type", "price_normalization"),
    *("framework", "model_file", "training_params", "evaluation_results", "robustness_results"),
    *("sentiment_assessment", "has_sentiment", "dataset", "diagnostics"),
}
BASIC = [f"{name}_normalized" for name in ("close", "volume", "high", "low", "open")]


@dataclass
class Scan:
    """What an engine found in a registry.

    Attributes:
        symbols: Directories taken for symbols.
        loaded: SYMBOL/type/version of each bundle that was loaded.
        live: SYMBOL/type/version that each `latest` pointed to.
        vanished: Versions that were deleted between listing and loading: the engine skips them.
        errors: Everything else that went wrong.
    """

    symbols: set[str] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def scan(registry: Path) -> Scan:
    """Load every bundle in `registry` as an engine does.

    Every directory is scanned, even hidden ones. As in engines, errors while listing are not
    caught.
    """
    found = Scan()
    for symbol in _directories(registry):
        found.symbols.add(symbol.name)
        for model_type in _directories(symbol):
            for version in _directories(model_type):
                name = str(version.relative_to(registry))
                try:
                    if version.name == "latest":
                        found.live.append(_load(version.resolve(strict=True), run=True))
                    else:
                        _load(version, run=False)
                        found.loaded.append(name)
                except FileNotFoundError as error:
                    gone = version.name != "latest" and not version.exists()
                    (found.vanished if gone else found.errors).append(f"{name}: {error}")
                except Exception as error:
                    found.errors.append(f"{name}: {type(error).__name__}: {error}")
    return found


def _directories(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir()]


def _load(bundle: Path, *, run: bool) -> str:
    metadata = json.loads((bundle / "metadata.json").read_text())
    schema = json.loads((bundle / "feature_schema.json").read_text())
    content = (bundle / "model.onnx").read_bytes()
    if run:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        if session.get_inputs()[0].shape[1] != schema["sequence_length"]:
            raise ValueError("the files are of different bundles")
    if metadata["version_id"] != bundle.name:
        raise ValueError("the files are of another version")
    return "/".join(bundle.parts[-3:])


def violations(registry: Path, symbol: str, model_type: str) -> set[str]:
    """Return the codes of the rules that the live bundle of `symbol` and `model_type` breaks."""
    broken, bundle = layout(registry, symbol, model_type)
    return broken | bundle_violations(bundle, symbol, model_type) if bundle else broken


def layout(registry: Path, symbol: str, model_type: str) -> tuple[set[str], Path | None]:
    """Return the rules that the files around a bundle break, and the live bundle, if any."""
    broken: set[str] = set()
    home = registry / symbol / model_type
    for entry in home.iterdir():
        if entry.name != "latest" and entry.is_dir() and not VERSION.fullmatch(entry.name):
            broken.add("version-name")
        if not PART.match(entry.name):
            broken.add("part")
    latest = home / "latest"
    if not latest.is_symlink():
        return broken | {"no-latest"}, None
    if latest.readlink().is_absolute():
        broken.add("latest-absolute")
    bundle = latest.resolve()
    if not bundle.is_relative_to(registry.resolve()):
        return broken | {"latest-outside"}, None
    if not bundle.is_dir():
        return broken | {"latest-dangles"}, None
    return broken, bundle


def bundle_violations(bundle: Path, symbol: str, model_type: str) -> set[str]:
    """Return the codes of the rules that one bundle breaks."""
    documents = read(bundle)
    if isinstance(documents, str):
        return {documents}
    metadata, schema = documents
    broken = document_violations(bundle, metadata, schema, (symbol, model_type))
    if KEYS - set(metadata):
        broken.add("keys")
    if metadata.get("task_type") != "regression":
        broken.add("task")
    names = [feature["name"] for feature in schema["features"]]
    broken |= _price(metadata, model_type, names)
    shape = (metadata.get("sequence_length"), len(names))
    return broken | _model(bundle / "model.onnx", shape)


def read(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]] | str:
    """Return metadata.json and feature_schema.json, or the rule because of which they cannot be."""
    if [path.name for path in bundle.glob("*.onnx")] != ["model.onnx"]:
        return "onnx-count"
    try:
        return (
            json.loads((bundle / "metadata.json").read_text()),
            json.loads((bundle / "feature_schema.json").read_text()),
        )
    except (OSError, ValueError):
        return "json"


def document_violations(
    bundle: Path, metadata: dict[str, Any], schema: dict[str, Any], identity: tuple[str, str]
) -> set[str]:
    """Return the rules for the documents of every kind of bundle that these break.

    Args:
        bundle: The bundle's directory.
        metadata: metadata.json.
        schema: feature_schema.json.
        identity: The expected symbol and type.
    """
    broken = set()
    if "normalization_params" in metadata:
        broken.add("normalization-params")
    if not all(map(_finite, (metadata, schema))):
        broken.add("finite")
    if (metadata.get("symbol"), metadata.get("model_type")) != identity:
        broken.add("identity")
    if metadata.get("version_id") != bundle.name:
        broken.add("version-id")
    if (metadata.get("framework"), metadata.get("model_file")) != ("onnx", "model.onnx"):
        broken.add("framework")
    stamps = {str(metadata.get(name)) for name in ("created_at", "training_date")}
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)"
    if len(stamps) != 1 or not re.fullmatch(stamp, min(stamps)):
        broken.add("dates")
    flags = metadata.get("diagnostics", {})
    if set(flags) != {"plots", "robustness", "onnx"} or set(map(type, flags.values())) != {bool}:
        broken.add("diagnostics")
    if type(metadata.get("has_sentiment")) is not bool or not isinstance(
        metadata.get("dataset"), dict
    ):
        broken.add("types")
    if not re.fullmatch(r"\d+[mhdw]", str(metadata.get("timeframe"))):
        broken.add("timeframe")
    names = [feature["name"] for feature in schema["features"]]
    if names != metadata.get("feature_names") or len(names) != metadata.get("feature_count"):
        broken.add("feature-order")
    if schema["sequence_length"] != metadata.get("sequence_length"):
        broken.add("length")
    if not all(feature.get("required") is True for feature in schema["features"]):
        broken.add("required")
    return broken


def _price(metadata: dict[str, Any], model_type: str, names: list[str]) -> set[str]:
    given = metadata.get("price_normalization")
    if not given:
        return {"price-normalization"}
    if model_type == "causal":
        scale, horizon = given.get("scale"), given.get("horizon")
        sound = given.get("method") == "log_return" and type(horizon) is int and horizon > 0
        return set() if sound and scale and scale > 0 else {"price-normalization"}
    if model_type != "basic":
        return set() if given == {"mean": 0.0, "std": 1.0} else {"price-normalization"}
    length = metadata.get("sequence_length")
    expected = {"method": "rolling_minmax", "window": length, "target_feature": "close"}
    broken = set() if given == expected else {"price-normalization"}
    if names != BASIC:
        broken.add("basic-features")
    if length != 120:
        broken.add("basic-length")
    if metadata.get("timeframe") != "1h":
        broken.add("basic-timeframe")
    return broken


def _model(path: Path, shape: tuple[Any, int]) -> set[str]:
    session = session_of(path, shape)
    if isinstance(session, set):
        return session
    broken = set()
    rng = np.random.default_rng(0)
    for size in (1, 5):
        got = run(session, rng.random((size, *shape), dtype=np.float32))
        if got.shape != (size, 1) or got.dtype != np.float32:
            broken.add("output-shape")
        elif not np.isfinite(got).all():
            broken.add("output-finite")
    return broken


def session_of(path: Path, shape: tuple[Any, int]) -> set[str] | Any:
    """Return an onnxruntime session, or the rules for every graph that this one breaks.

    Args:
        path: The ONNX file.
        shape: Rows and columns of a window.
    """
    broken = set()
    try:
        model = onnx.load(str(path), load_external_data=False)
        if any(tensor.data_location for tensor in model.graph.initializer):
            return {"external-data"}
        onnx.checker.check_model(model)
    except Exception:
        return {"onnx"}
    opset = {o.domain: o.version for o in model.opset_import}.get("", 0)
    if not 13 <= opset <= 17:
        broken.add("opset")
    if model.ir_version > 8:
        broken.add("ir")
    if {node.op_type for node in model.graph.node} & {"Loop", "Scan"}:
        broken.add("loop")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0]
    if feed.type != "tensor(float)" or not isinstance(feed.shape[0], str):
        return broken | {"input"}
    if list(feed.shape[1:]) != list(shape):
        return broken | {"input-shape"}
    return broken or session


def run(session: Any, windows: Any) -> Any:
    """Return the first output of a session for float32 windows of its first input."""
    return session.run(None, {session.get_inputs()[0].name: windows})[0]


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
