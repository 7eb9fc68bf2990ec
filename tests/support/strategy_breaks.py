"""Ways to break each rule of `strategy_contract`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from strategy_contract import KINDS

EVERY = tuple(KINDS)
CLASSES = ("binary", "ternary", "meta label")
PRICE = ("binary", "ternary", "smoothed return")
Break = Callable[[Path], object]


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Break:
    def apply(bundle: Path) -> None:
        document = json.loads((bundle / name).read_text())
        change(document)
        (bundle / name).write_text(json.dumps(document))

    return apply


def metadata(**changes: Any) -> Break:
    return edit("metadata.json", lambda document: document.update(changes))


def without(key: str) -> Break:
    return edit("metadata.json", lambda document: document.pop(key))


def both(**changes: Any) -> Break:
    def apply(bundle: Path) -> None:
        for name in ("metadata.json", "feature_schema.json"):
            edit(name, lambda document: document.update(changes))(bundle)

    return apply


def names(change: Callable[[list[Any]], object]) -> Break:
    """Change the features in both documents."""

    def apply(bundle: Path) -> None:
        edit("feature_schema.json", lambda document: change(document["features"]))(bundle)
        schema = json.loads((bundle / "feature_schema.json").read_text())
        found = [feature["name"] for feature in schema["features"]]
        metadata(feature_names=found, feature_count=len(found))(bundle)

    return apply


def graph(change: Callable[[Any], object]) -> Break:
    def apply(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        change(model)
        onnx.save(model, bundle / "model.onnx")

    return apply


def appended(operator: str, constant: Any = None, **attributes: Any) -> Callable[[Any], None]:
    """Apply one more operator to the output, with a constant as its second input if given."""

    def apply(model: Any) -> None:
        output, last = model.graph.output[0].name, model.graph.node[-1]
        last.output[0] = "inner"
        inputs = ["inner"]
        if constant is not None:
            array = np.asarray(constant, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, "constant"))
            inputs.append("constant")
        model.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))

    return apply


def headless(model: Any) -> None:
    """Return the logits, near 0.5 for any window but a huge one."""
    output = model.graph.output[0].name
    head = next(node for node in model.graph.node if node.op_type in ("Sigmoid", "Softmax"))
    head.op_type = "Identity"
    del head.attribute[:]
    assert output in head.output


def looped(model: Any) -> None:
    """Let a loop of one step return the output."""
    kinds, value = onnx.TensorProto, helper.make_tensor_value_info
    output, width = model.graph.output[0].name, model.graph.output[0].type.tensor_type.shape.dim[1]
    model.graph.node[-1].output[0] = "inner"
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            value("step", kinds.INT64, []),
            value("go", kinds.BOOL, []),
            value("before", kinds.FLOAT, [None, width.dim_value]),
        ],
        [value("still", kinds.BOOL, []), value("after", kinds.FLOAT, [None, width.dim_value])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(1), "steps"))
    model.graph.node.append(helper.make_node("Loop", ["steps", "", "inner"], [output], body=body))


def not_a_number(model: Any) -> None:
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = np.full(list(weight.dims), np.nan, np.float32)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def two_columns(model: Any) -> None:
    output = model.graph.output[0]
    model.graph.node[-1].output[0] = "inner"
    model.graph.node.append(helper.make_node("Concat", ["inner"] * 2, [output.name], axis=1))
    output.type.tensor_type.shape.dim[1].dim_value *= 2


def optional_input(model: Any) -> None:
    weight = next(w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT)
    value = helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
    model.graph.input.append(value)


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def longer(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 130


def of_130_rows(bundle: Path) -> None:
    both(sequence_length=130)(bundle)
    graph(longer)(bundle)


def external(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    place: dict[str, Any] = {"save_as_external_data": True, "location": "weights.bin"}
    onnx.save_model(model, bundle / "model.onnx", size_threshold=0, **place)


def truncated(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[: len(content) // 2])


def distribution(**changes: Any) -> Break:
    good = {"values": [0.001, 0.002, 0.004], "percentiles": [0, 50, 100]}
    return metadata(target_distribution=good | changes)


#: For each rule, how it is broken, and the kinds of bundles in which it can be.
BREAKS: list[tuple[str, Break, tuple[str, ...]]] = [
    *(("keys", without(key), EVERY) for key in ("dataset", "has_sentiment")),
    ("json", lambda bundle: (bundle / "metadata.json").write_text("{"), EVERY),
    ("onnx-count", lambda b: shutil.copy(b / "model.onnx", b / "copy.onnx"), EVERY),
    ("normalization-params", metadata(normalization_params={"mean": 0, "std": 1}), EVERY),
    ("price-normalization", metadata(price_normalization={"mean": 0.0, "std": 1.0}), EVERY),
    ("finite", metadata(evaluation_results={"error": float("nan")}), EVERY),
    ("identity", metadata(symbol="ETHUSDT"), EVERY),
    ("identity", metadata(model_type="basic"), EVERY),
    ("version-id", metadata(version_id="2020-01-01_00h00m00s_v1"), EVERY),
    ("framework", metadata(framework="keras"), EVERY),
    ("dates", metadata(created_at="2020-01-01T00:00:00+00:00"), EVERY),
    ("diagnostics", metadata(diagnostics={"plots": True}), EVERY),
    ("types", metadata(has_sentiment="no"), EVERY),
    ("timeframe", metadata(timeframe=None), EVERY),
    ("strategy-timeframe", metadata(timeframe="4h"), EVERY),
    ("strategy-length", of_130_rows, EVERY),
    ("length", metadata(sequence_length=7), EVERY),
    ("feature-order", edit("feature_schema.json", lambda d: d["features"].reverse()), EVERY),
    ("required", edit("feature_schema.json", lambda d: d["features"][0].pop("required")), EVERY),
    ("basic-features", names(list.reverse), PRICE),
    ("normalization", names(lambda f: f[0].update(normalization={"mean": 0, "std": 1})), PRICE),
    ("meta-features", names(lambda f: f[0].update(name=f[1]["name"])), ("meta label",)),
    ("task", metadata(task_type="classification"), EVERY),
    ("task", metadata(task_type="regression"), CLASSES),
    ("task", metadata(task_type="binary_classification"), ("smoothed return", "ternary")),
    *(
        ("class-labels", metadata(class_labels=wrong), EVERY)
        for wrong in ([-1, 2], [1, -1], [1, 0, -1], [], None, "down up", {"down": 0}, [True, False])
    ),
    ("class-labels", metadata(class_labels=[-1.0, 1.0]), ("binary",)),
    ("class-labels", metadata(class_labels=[False, True]), ("meta label",)),
    ("class-labels", metadata(class_labels=[0, 1]), ("binary", "ternary", "smoothed return")),
    ("class-labels", without("class_labels"), CLASSES),
    ("primary", without("primary_model_type"), ("meta label",)),
    ("primary", metadata(primary_model_type=""), ("meta label",)),
    *(
        ("distribution", break_it, ("smoothed return",))
        for break_it in (
            without("target_distribution"),
            metadata(target_distribution=[0.1, 0.2]),
            edit("metadata.json", lambda d: d["target_distribution"].pop("percentiles")),
            distribution(values=[0.1, 0.2]),
            distribution(values=[0.001, 0.002, 0.002]),
            distribution(values=[0.001, "0.002", 0.004]),
            distribution(values=[0.001, float("nan"), 0.004]),
            distribution(percentiles=[0, 100, 50]),
            distribution(values=[0.001], percentiles=[0]),
            distribution(values=None),
        )
    ),
    ("distribution-percentiles", distribution(percentiles=[1, 50, 100]), ("smoothed return",)),
    ("distribution-percentiles", distribution(percentiles=[0, 50.5, 100]), ("smoothed return",)),
    ("distribution-percentiles", distribution(percentiles=[0, 50, 101]), ("smoothed return",)),
    ("distribution-values", distribution(values=[-0.001, 0.0, 0.1]), ("smoothed return",)),
    ("distribution-values", distribution(values=[10.0, 42e3, 43e3]), ("smoothed return",)),
    ("onnx", truncated, EVERY),
    ("external-data", external, EVERY),
    ("opset", graph(lambda m: setattr(m.opset_import[0], "version", 18)), EVERY),
    ("ir", graph(lambda m: setattr(m, "ir_version", 9)), EVERY),
    ("loop", graph(looped), EVERY),
    ("input", graph(fixed_batch), EVERY),
    ("input-shape", graph(longer), EVERY),
    ("inputs", graph(optional_input), EVERY),
    ("head", graph(headless), CLASSES),
    ("meta-operators", graph(appended("Identity")), ("meta label",)),
    ("output-shape", graph(two_columns), EVERY),
    ("output-finite", graph(not_a_number), EVERY),
    ("output-range", graph(headless), CLASSES),
    ("output-range", graph(appended("Add", 1.0)), CLASSES),
    ("output-range", graph(appended("Mul", -1.0)), CLASSES),
    ("output-sum", graph(appended("Mul", 0.98)), ("ternary",)),
]
