"""What the bot's strategies expect of a bundle, without any code of atb-fast.

`violations(registry, symbol, kind)` reads a bundle as a strategy would and names every rule it
breaks, by a short code. The kinds are those of `KINDS`. The rules that hold for every bundle are in
`engine_contract`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import engine_contract
import numpy as np
import onnx
from engine_contract import BASIC, KEYS

#: Largest difference of the sum of probabilities from 1.
_SUM = 1e-2


@dataclass(frozen=True)
class Kind:
    """A column of the table in targets.md.

    Attributes:
        task: The `task_type`.
        labels: The `class_labels`; None if there are none.
        outputs: Columns of the output.
        model_type: The directory in the registry.
        rows: Rows in a window.
    """

    task: str
    labels: tuple[int, ...] | None
    outputs: int = 1
    model_type: str = "price"
    rows: int = 120


KINDS = {
    "binary": Kind("binary_classification", (-1, 1)),
    "ternary": Kind("ternary_classification", (-1, 0, 1), outputs=3),
    "smoothed return": Kind("regression", None),
    "meta label": Kind("binary_classification", (0, 1), model_type="meta_label", rows=1),
}


def violations(registry: Path, symbol: str, kind: str) -> set[str]:
    """Return the codes of the rules that the live bundle of a kind breaks."""
    expected = KINDS[kind]
    broken, bundle = engine_contract.layout(registry, symbol, expected.model_type)
    return broken | bundle_violations(bundle, symbol, expected) if bundle else broken


def bundle_violations(bundle: Path, symbol: str, kind: Kind) -> set[str]:
    """Return the codes of the rules that one bundle breaks."""
    documents = engine_contract.read(bundle)
    if isinstance(documents, str):
        return {documents}
    metadata, schema = documents
    identity = (symbol, kind.model_type)
    broken = engine_contract.document_violations(bundle, metadata, schema, identity)
    broken |= _metadata(metadata, kind) | _features(schema, kind)
    shape = (metadata.get("sequence_length"), len(schema["features"]))
    return broken | _model(bundle / "model.onnx", shape, kind)


def _metadata(metadata: dict[str, Any], kind: Kind) -> set[str]:
    broken = set()
    if (KEYS - {"price_normalization"}) - set(metadata):
        broken.add("keys")
    if "price_normalization" in metadata:
        broken.add("price-normalization")
    if metadata.get("timeframe") != "1h":
        broken.add("strategy-timeframe")
    if metadata.get("sequence_length") != kind.rows:
        broken.add("strategy-length")
    if metadata.get("task_type") != kind.task:
        broken.add("task")
    labels = metadata.get("class_labels")
    if kind.labels is None:
        if "class_labels" in metadata:
            broken.add("class-labels")
        broken |= distribution_violations(metadata.get("target_distribution"))
    elif labels != list(kind.labels) or {*map(type, labels)} != {int}:
        broken.add("class-labels")
    primary = metadata.get("primary_model_type")
    if kind.model_type == "meta_label" and not (isinstance(primary, str) and primary):
        broken.add("primary")
    return broken


def distribution_violations(given: Any) -> set[str]:
    """Return the rules that `target_distribution` breaks."""
    if not isinstance(given, dict) or set(given) != {"values", "percentiles"}:
        return {"distribution"}
    values, percentiles = given["values"], given["percentiles"]
    columns = (values, percentiles)
    if not all(isinstance(column, list) for column in columns):
        return {"distribution"}
    if not 2 <= len(values) == len(percentiles) <= 101 or not all(map(_ascending, columns)):
        return {"distribution"}
    broken = set()
    # Of whole percentiles, only some are left out, never the first.
    whole = all(float(share).is_integer() for share in percentiles)
    if percentiles[0] != 0 or percentiles[-1] > 100 or not whole:
        broken.add("distribution-percentiles")
    # These are sizes of returns, and no forecast of a day is a price or a doubling of it.
    if not 0 <= values[0] <= values[-1] < 1:
        broken.add("distribution-values")
    return broken


def _ascending(values: list[Any]) -> bool:
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in values)
    return numbers and all(a < b for a, b in pairwise(values))


def _features(schema: dict[str, Any], kind: Kind) -> set[str]:
    broken = set()
    names = [feature["name"] for feature in schema["features"]]
    if kind.model_type == "meta_label":
        if len(names) != 8 or len(set(names)) != 8:
            broken.add("meta-features")
        return broken
    if names != BASIC:
        broken.add("basic-features")
    # The columns are scaled already: the reader would scale them again.
    if any("normalization" in feature for feature in schema["features"]):
        broken.add("normalization")
    return broken


def _model(path: Path, shape: tuple[Any, int], kind: Kind) -> set[str]:
    session = engine_contract.session_of(path, shape)
    if isinstance(session, set):
        return session
    broken = set()
    # onnxruntime warns of an optional input on each load.
    if len(session.get_inputs()) != 1 or session.get_overridable_initializers():
        broken.add("inputs")
    operators = [node.op_type for node in onnx.load(path).graph.node]
    # The outputs of an untrained graph of logits can be in 0..1 by chance.
    head = {1: "Sigmoid", 3: "Softmax"}[kind.outputs] if kind.labels else None
    if head and head not in operators:
        broken.add("head")
    if kind.model_type == "meta_label" and operators != ["Reshape", "MatMul", "Add", "Sigmoid"]:
        broken.add("meta-operators")
    for windows in _windows(shape):
        got = engine_contract.run(session, windows)
        if got.shape != (len(windows), kind.outputs) or got.dtype != np.float32:
            return broken | {"output-shape"}
        if not np.isfinite(got).all():
            return broken | {"output-finite"}
        if kind.labels and not ((got >= 0) & (got <= 1)).all():
            broken.add("output-range")
        if kind.outputs > 1 and not (np.abs(got.sum(axis=1) - 1) <= _SUM).all():
            broken.add("output-sum")
    return broken


def _windows(shape: tuple[Any, int]) -> list[Any]:
    """Return windows of one and of several bars: usual values, constant ones, and huge ones."""
    rng = np.random.default_rng(0)
    usual = [rng.random((size, *shape), dtype=np.float32) for size in (1, 5)]
    flat = np.stack([np.full(shape, value, np.float32) for value in (0.0, 0.5, 1.0)])
    return [*usual, flat, *(np.float32(scale) * usual[1] for scale in (-1e3, 1e3))]
