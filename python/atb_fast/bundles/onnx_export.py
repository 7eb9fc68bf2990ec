"""Exports model.onnx: converts the Keras model, makes the file reproducible, and checks it.

The same weights give the same bytes in every process. tf2onnx does not guarantee that, so all names
are replaced and all nodes are reordered in a way that depends on the graph alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.bundles.candle_graph import CandleFeatures
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import ExportError, MissingExtraError
from atb_fast.features.frames import MOMENTUM
from atb_fast.features.heads import Output
from atb_fast.training.predict import inference
from atb_fast.training.startup import quiet

OPSET = 17
#: The IR version of opset 17. onnxruntime 1.17 reads up to 9.
IR_VERSION = 8
#: Largest accepted difference from Keras, relative to the largest target. float32 rounds to 6e-8.
TOLERANCE = 1e-5
#: The same for a graph that computes features from float32 candles: its RSI is less exact.
CANDLES_TOLERANCE = 1e-4
#: Batch sizes that the exported file is run with.
GATE_BATCHES = (1, 7, 256)


def check_packages() -> None:
    """Check that every package the export needs is installed, without importing any.

    Raises:
        MissingExtraError: A package is not installed.
    """
    missing = [name for name in ("onnx", "onnxruntime", "tf2onnx") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the ONNX export needs {', '.join(missing)}; install with pip install "
            "'atb-fast[train]', or pass --skip-onnx"
        )


def convert(
    model: Any,
    *,
    properties: Mapping[str, str],
    candles: CandleFeatures | None = None,
) -> bytes:
    """Return `model` as an ONNX file.

    Args:
        model: A float32 Keras model: (batch, length, features) to (batch, units).
        properties: Written to `metadata_props` of the file.
        candles: If given, the graph takes the raw candles of a window and computes these features
            itself; see `CandleFeatures`. If one of them is sentiment, it is a neutral constant of
            the graph: `sentiment_momentum`, float32 (1, length, 1). The property `optional_input`
            names it, and `load_bundle` turns it into an input. It is not an optional input in the
            file, because onnxruntime would log a warning each time it loads the file.

    Returns:
        Opset 17, IR version 8. The input is `features` or `candles`, float32
        (batch, length, columns); the output is `prediction`, float32 (batch, units).

    Raises:
        ExportError: The conversion failed, or engines would run the graph too slowly.
    """
    length, columns = model.input_shape[1:]
    units = model.output_shape[-1]
    try:
        graph = _converted(model)
    except OSError:
        raise
    except Exception as error:  # tf2onnx and Keras have no base class for errors
        raise ExportError(f"the conversion to ONNX failed: {error}") from error
    (fed,) = (value.name for value in graph.input)
    if candles is None:
        return _canonical(graph, {fed: "features"}, (length, columns, units), properties)
    candles.add_to(graph, fed, length)
    if candles.uses_momentum:
        properties = {**properties, "optional_input": MOMENTUM}
    shape = (length, len(CANDLE_COLUMNS), units)
    return _canonical(graph, {"candles": "candles"}, shape, properties)


def _converted(model: Any) -> Any:
    """Return the ONNX graph of a Keras model, as tf2onnx makes it.

    `model.export` takes twice as long, because it also looks for tables and other resources.
    """
    import tf2onnx

    with quiet():  # TensorFlow 2.20 reports devices and sessions
        function, signature = inference(model)
        return tf2onnx.convert.from_function(function, signature, opset=OPSET)[0].graph


def _canonical(
    graph: Any, fed: dict[str, str], shape: tuple[int, int, int], properties: Mapping[str, str]
) -> bytes:
    """Return `graph` as a file whose names and order depend only on what the graph computes.

    Args:
        graph: The graph from tf2onnx.
        fed: Old and new name of its input.
        shape: Rows and columns of the input, and columns of the output.
        properties: See `convert`.
    """
    from onnx import AttributeProto, TensorProto, helper, numpy_helper

    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    names = {**fed, graph.output[0].name: "prediction", "": "", MOMENTUM: MOMENTUM}
    nodes: list[Any] = []
    written: set[str] = set()
    used: list[Any] = []

    def visit(name: str) -> None:
        """Write the nodes that compute `name`, each after the nodes it depends on."""
        if name in written or name not in {**weights, **makers}:
            return
        written.add(name)
        if name in weights:
            names.setdefault(name, f"weight_{len(used)}")
            used.append(numpy_helper.from_array(weights[name], names[name]))
            return
        node = makers[name]
        written.update(node.output)
        for needed in node.input:
            visit(needed)
        for i, made in enumerate(node.output):
            names.setdefault(made, f"value_{len(nodes)}_{i}" if made else "")
        subgraphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        if any(attribute.type in subgraphs for attribute in node.attribute):
            raise ExportError(
                f"the ONNX graph contains a {node.op_type}, which engines run 15 to 40 times "
                "slower than an LSTM; pass unroll=True to recurrent layers, except to a float32 "
                "LSTM without recurrent dropout, or pass --skip-onnx, which publishes no bundle"
            )
        clean = helper.make_node(
            node.op_type,
            [names[needed] for needed in node.input],
            [names[made] for made in node.output],
            name=f"{node.op_type}_{len(nodes)}",
            domain=node.domain,
        )
        clean.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
        for attribute in clean.attribute:
            attribute.doc_string = ""
        nodes.append(clean)

    visit(graph.output[0].name)
    made = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(*fed.values(), TensorProto.FLOAT, ["batch", *shape[:2]])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["batch", shape[2]])],
        used,
    )
    model = helper.make_model(
        made,
        producer_name="atb-fast",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, dict(sorted(properties.items())))
    return bytes(model.SerializeToString(deterministic=True))


def check(
    path: Path,
    inputs: NDArray[np.float32],
    expected: NDArray[np.float32],
    *,
    output: Output | None = None,
    scale: float,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Run the file on `inputs` and compare its outputs with those of Keras.

    Args:
        path: The ONNX file.
        inputs: Windows of real data, shape (windows, length, columns).
        expected: The outputs of Keras, shape (windows, units).
        output: How outputs are read, which limits their values. Default: any value is valid.
        scale: Divisor of the differences.
        tolerance: The largest accepted difference, relative to `scale`.

    Returns:
        The largest difference by batch size, relative to `scale`.

    Raises:
        ExportError: onnxruntime cannot run the file, or its outputs differ from those of Keras.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no common base class
        raise ExportError(f"onnxruntime cannot load {path.name}: {error}") from error
    feed = session.get_inputs()[0]
    shape = inputs.shape[1:]
    if feed.type != "tensor(float)" or tuple(feed.shape[1:]) != shape:
        raise ExportError(
            f"{path.name} takes {feed.type} {feed.shape}, expected tensor(float) [batch, "
            f"{shape[0]}, {shape[1]}]"
        )
    differences = {}
    for size in GATE_BATCHES:
        batch, wanted = (np.resize(array, (size, *array.shape[1:])) for array in (inputs, expected))
        try:
            got = np.asarray(session.run(None, {feed.name: batch})[0])
        except Exception as error:
            raise ExportError(f"onnxruntime cannot run {path.name}: {error}") from error
        differences[str(size)] = _difference(got, wanted, scale, tolerance, path.name)
        if output and (problem := output.problem(got)):
            raise ExportError(f"{path.name} returns {problem}")
    return differences


def _difference(
    got: NDArray[np.float32],
    expected: NDArray[np.float32],
    scale: float,
    tolerance: float,
    name: str,
) -> float:
    """Return the largest difference in any column, relative to `scale`."""
    if got.shape != expected.shape:
        raise ExportError(f"{name} returns shape {got.shape}, expected {expected.shape} as Keras")
    if not np.isfinite(got).all():
        raise ExportError(f"{name} returns NaN or infinite values, expected finite numbers")
    difference = float(np.abs(got - expected).max()) / scale
    if not difference <= tolerance:  # also if Keras itself returned NaN
        raise ExportError(
            f"{name} differs from Keras by {difference:.1e} of the largest target, expected at "
            f"most {tolerance:.0e}"
        )
    return difference
