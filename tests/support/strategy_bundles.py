"""Bundles written by hand that satisfy the contract with the strategies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from engine_contract import BASIC
from onnx import TensorProto, helper, numpy_helper
from strategy_contract import KINDS

VERSION = "2024-01-02_03h04m05s_v1"
STAMP = "2024-01-02T03:04:05+00:00"
#: Any eight names: the documents do not give them.
META = [f"feature_{number}" for number in range(8)]
HEADS = {"binary": "Sigmoid", "ternary": "Softmax", "meta label": "Sigmoid"}


def write(registry: Path, kind: str) -> Path:
    """Write a live bundle of `kind` and return its directory."""
    expected = KINDS[kind]
    names = META if kind == "meta label" else BASIC
    bundle = registry / "BTCUSDT" / expected.model_type / VERSION
    bundle.mkdir(parents=True)
    onnx.save(graph(kind, len(names)), bundle / "model.onnx")
    metadata: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "timeframe": "1h",
        "model_type": expected.model_type,
        "version_id": VERSION,
        "created_at": STAMP,
        "training_date": STAMP,
        "sequence_length": expected.rows,
        "feature_names": names,
        "feature_count": len(names),
        "task_type": expected.task,
        "framework": "onnx",
        "model_file": "model.onnx",
        "training_params": {},
        "evaluation_results": {},
        "robustness_results": {},
        "sentiment_assessment": {},
        "has_sentiment": False,
        "dataset": {},
        "diagnostics": {"plots": False, "robustness": False, "onnx": True},
    }
    if expected.labels:
        metadata["class_labels"] = list(expected.labels)
    else:
        values = [0.001, 0.002, 0.004]
        metadata["target_distribution"] = {"values": values, "percentiles": [0, 50, 100]}
    if kind == "meta label":
        metadata["primary_model_type"] = "basic"
    schema = {
        "sequence_length": expected.rows,
        "features": [{"name": name, "required": True} for name in names],
    }
    for name, document in (("metadata", metadata), ("feature_schema", schema)):
        (bundle / f"{name}.json").write_text(json.dumps(document))
    (bundle.parent / "latest").symlink_to(VERSION)
    return bundle


def graph(kind: str, columns: int) -> Any:
    """Return a linear model of the last row with the head of `kind`."""
    rows, units = KINDS[kind].rows, KINDS[kind].outputs
    # With this seed, each class is the most probable one on some real bars.
    weights = np.random.default_rng(4).normal(size=(columns, units)).astype(np.float32)
    constants: dict[str, Any] = {"weights": weights, "bias": np.zeros(units, np.float32)}
    if kind == "meta label":
        constants["shape"] = np.array([-1, columns])
        nodes = [helper.make_node("Reshape", ["windows", "shape"], ["row"])]
    else:
        constants["last"] = np.array(rows - 1)
        nodes = [helper.make_node("Gather", ["windows", "last"], ["row"], axis=1)]
    nodes.append(helper.make_node("MatMul", ["row", "weights"], ["weighted"]))
    head = HEADS.get(kind)
    nodes.append(helper.make_node("Add", ["weighted", "bias"], ["logits" if head else "output"]))
    if head:
        nodes.append(helper.make_node(head, ["logits"], ["output"]))
    shapes = {"windows": ["batch", rows, columns], "output": ["batch", units]}
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    made = helper.make_graph(
        nodes,
        "model",
        values[:1],
        values[1:],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
