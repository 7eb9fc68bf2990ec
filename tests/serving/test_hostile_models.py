"""A model.onnx that would make onnxruntime read other files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from sealing import reseal

from atb_fast import BundleError, load_bundle
from atb_fast.serving.model import load_session
from atb_fast.serving.verification import verify

SHAPE = [4, 4]
MESSAGE = "the model stores weights in other files, expected one self-contained file"


def stored_in(location: str) -> TensorProto:
    """Return weights that are stored in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=SHAPE)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def model(weights: TensorProto, where: str) -> bytes:
    """Return a model that multiplies its input by weights, which are in a part of its graph."""
    value = helper.make_tensor_value_info
    x, y = (value(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if where == "a constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weights))
    elif where == "a subgraph":
        inner = helper.make_graph(
            [helper.make_node("Identity", ["w"], ["same"])],
            "inner",
            [],
            [value("same", TensorProto.FLOAT, SHAPE)],
            [weights],
        )
        true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
        nodes = [
            helper.make_node("Constant", [], ["true"], value=true),
            helper.make_node("If", ["true"], ["w2"], then_branch=inner, else_branch=inner),
            helper.make_node("MatMul", ["x", "w2"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes, "graph", [x], [y], [weights] if where == "the initializers" else []
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the working directory."""
    path = tmp_path / "secret.bin"
    path.write_bytes(np.arange(16, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.parametrize("where", ["the initializers", "a constant", "a subgraph"])
@pytest.mark.parametrize("location", ["secret.bin", "./secret.bin", "../secret.bin", "/etc/passwd"])
def test_a_model_reads_no_other_files(secret: Path, where: str, location: str) -> None:
    with pytest.raises(BundleError, match=MESSAGE):
        load_session(model(stored_in(location), where), Path("model.onnx"))


@pytest.mark.parametrize("length", [b"\x88\x00", b"\x88\x80\x00", b"\x88\x80\x80\x80\x00"])
def test_other_spellings_of_the_key(secret: Path, length: bytes) -> None:
    """Protocol Buffers accepts a length in more bytes than necessary."""
    weights = stored_in("secret.bin").SerializeToString()
    entry = weights.index(b"\x0a\x08location") - 2
    assert weights[entry] == 13 << 3 | 2  # the field external_data
    longer = weights[entry + 2 :].replace(b"\x0a\x08location", b"\x0a" + length + b"location")
    size = weights[entry + 1] + len(length) - 1
    changed = weights[: entry + 1] + bytes([size]) + longer
    assert TensorProto.FromString(changed) == TensorProto.FromString(weights)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
    ).SerializeToString()
    graph += b"\x2a" + bytes([len(changed)]) + changed  # one more initializer
    opset = helper.make_opsetid("", 13).SerializeToString()
    size_of_graph = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7])
    content = b"\x08\x08\x3a" + size_of_graph + graph + b"\x42" + bytes([len(opset)]) + opset
    assert onnx.ModelProto.FromString(content).graph.initializer[0].external_data
    with pytest.raises(BundleError, match=MESSAGE):
        load_session(content, Path("model.onnx"))


def test_the_format_of_onnxruntime_is_not_read(tmp_path: Path) -> None:
    """What it contains has not been checked."""
    weights = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    content = model(weights, "the initializers")
    assert load_session(content, tmp_path / "model.onnx").get_inputs()[0].name == "x"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with pytest.raises(BundleError, match="onnxruntime cannot load the model"):
        load_session((tmp_path / "model.ort").read_bytes(), tmp_path / "model.onnx")


def test_a_bundle_whose_weights_are_next_to_it(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(models / "BTCUSDT" / "price" / "latest", path)
    model = onnx.load(path / "model.onnx")
    onnx.save_model(model, path / "model.onnx", save_as_external_data=True, location="weights.bin")
    reseal(path)
    with pytest.raises(BundleError, match=MESSAGE):
        load_bundle(path)
    assert any(MESSAGE in problem for problem in verify(path).problems)


def test_names_that_contain_the_key(tmp_path: Path) -> None:
    """The key may be part of a longer name."""
    weights = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    named = onnx.ModelProto.FromString(model(weights, "the initializers"))
    named.graph.node[0].name = "attention/location/MatMul"
    named.doc_string = "location"[:-1]
    load_session(named.SerializeToString(), tmp_path / "model.onnx")
    named.graph.node[0].name = "location"  # cannot be told from the key
    with pytest.raises(BundleError, match="a node that is named location"):
        load_session(named.SerializeToString(), tmp_path / "model.onnx")
