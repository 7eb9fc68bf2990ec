"""Models that stand in for trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.bundles.contents import computed_features
from atb_fast.features.windows import WindowedData


class Momentum:
    """Predicts from the close and the sentiment of the last row."""

    def __init__(self, data: WindowedData) -> None:
        names = data.prepared.matrix.names
        self.columns = [names.index("close_scaled"), names.index("sentiment_momentum_scaled")]

    def predict_on_batch(self, windows: Any) -> Any:
        return (windows[:, -1, self.columns] @ [5000.0, 1000.0])[:, None]


def write_bundle(path: Path, data: WindowedData, *, bias: float, **changes: Any) -> Path:
    """Write a bundle whose model predicts the last close plus `bias`, trained on `data`.

    If the labels are classes, the scaled close plus `bias` is the logit of the last one. It can be
    scored, but it lacks what engines and verification need.

    Args:
        path: Its directory.
        data: Windows of the legacy recipe.
        bias: Quote currency, or a logit.
        changes: Keys of metadata.json; those of `dataset` are changed one by one.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    prepared, length = data.prepared, data.length
    assert prepared.pipeline is not None
    names = list(prepared.pipeline.names)
    close = prepared.pipeline.scalers[names.index("close_scaled")]
    head = data.output.head
    weights = np.zeros((len(names), head.units), np.float32)
    linear = head.activation == "linear"
    weights[names.index("close_scaled"), -1] = close.data_max - close.data_min if linear else 1.0
    biases = np.zeros(head.units, np.float32)
    biases[-1] = bias + (close.data_min if linear else 0.0)
    constants = {"last": np.array(length - 1), "weights": weights, "bias": biases}
    shapes = {"windows": [None, length, len(names)], "price": [None, head.units]}
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["windows", "last"], ["row"], axis=1),
        helper.make_node("MatMul", ["row", "weights"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["price" if linear else "logits"]),
    ]
    if not linear:
        nodes.append(helper.make_node(head.activation.capitalize(), ["logits"], ["price"]))
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "stand-in", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 17)]
    path.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path / "model.onnx")
    )
    schema: dict[str, Any] = {"sequence_length": length, "features": computed_features(prepared)}
    schema["sentiment"] = prepared.join
    (path / "feature_schema.json").write_text(json.dumps(schema))
    last = data.times(data.validation[-1:])[0].isoformat()
    dataset = {"synthetic": False, "last": last, "validation_last": last}
    dataset |= changes.pop("dataset", {})
    metadata = {"timeframe": "1d"} | data.output.to_metadata()
    metadata |= {"config": {}, "versions": {}, "dataset": dataset}
    (path / "metadata.json").write_text(json.dumps(metadata | changes))
    return path
