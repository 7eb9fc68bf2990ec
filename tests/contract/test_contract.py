"""Bundles of all types beside the contract with the engines, and each rule broken on purpose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from engine_contract import violations

from atb_fast import registry
from atb_fast.errors import BundleError
from atb_fast.verification import verify

TYPES = ("sentiment", "price", "basic")


@pytest.mark.parametrize("model_type", TYPES)
def test_bundles_keep_the_contract(models: Path, model_type: str) -> None:
    assert violations(models, "BTCUSDT", model_type) == set()
    report = verify(registry.find(models / "BTCUSDT" / model_type / "latest"))
    assert (report.problems, report.notes) == ((), ())
    assert report.skew == 0.0
    assert report.prediction_difference is not None
    assert 0 < report.prediction_difference < 1e-6


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(bundle: Path) -> None:
        document = json.loads((bundle / name).read_text())
        change(document)
        (bundle / name).write_text(json.dumps(document))

    return apply


def metadata(**changes: Any) -> Callable[[Path], object]:
    return edit("metadata.json", lambda document: document.update(changes))


def without(key: str) -> Callable[[Path], object]:
    return edit("metadata.json", lambda document: document.pop(key))


def graph(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def apply(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        change(model)
        onnx.save(model, bundle / "model.onnx")

    return apply


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def two_outputs_wide(model: Any) -> None:
    last = model.graph.node[-1]
    last.output[0] = "single"
    model.graph.node.append(onnx.helper.make_node("Concat", ["single"] * 2, ["prediction"], axis=1))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2


def not_a_number(model: Any) -> None:
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = np.full(list(weight.dims), np.nan, np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def external(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.save_model(
        model,
        bundle / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def truncated(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[: len(content) // 2])


BREAKS: dict[str, Callable[[Path], object]] = {
    "keys": without("has_sentiment"),
    "normalization-params": metadata(normalization_params={"mean": 0, "std": 1}),
    "finite": metadata(robustness_results={"rmse": float("nan")}),
    "identity": metadata(symbol="ETHUSDT"),
    "version-id": metadata(version_id="2020-01-01_00h00m00s_v1"),
    "task": metadata(framework="keras"),
    "dates": metadata(created_at="2020-01-01T00:00:00+00:00"),
    "diagnostics": metadata(diagnostics={"plots": "yes"}),
    "price-normalization": without("price_normalization"),
    "length": metadata(sequence_length=7),
    "feature-order": edit("feature_schema.json", lambda d: d["features"].reverse()),
    "required": edit("feature_schema.json", lambda d: d["features"][0].update(required=False)),
    "json": lambda bundle: (bundle / "metadata.json").write_text("{"),
    "onnx-count": lambda bundle: shutil.copy(bundle / "model.onnx", bundle / "copy.onnx"),
    "onnx": truncated,
    "opset": graph(lambda m: setattr(m.opset_import[0], "version", 18)),
    "ir": graph(lambda m: setattr(m, "ir_version", 9)),
    "external-data": external,
    "input": graph(fixed_batch),
    "output-shape": graph(two_outputs_wide),
    "output-finite": graph(not_a_number),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_is_caught(models: Path, tmp_path: Path, rule: str) -> None:
    """By the independent reading of the contract, and by `models verify`."""
    shutil.copytree(models / "BTCUSDT" / "basic", tmp_path / "BTCUSDT" / "basic", symlinks=True)
    bundle = (tmp_path / "BTCUSDT" / "basic" / "latest").resolve()
    BREAKS[rule](bundle)
    assert rule in violations(tmp_path, "BTCUSDT", "basic")
    assert verify(bundle).problems


@pytest.mark.parametrize(
    ("rule", "target"),
    [("latest-outside", "../../../elsewhere"), ("latest-dangles", "gone"), ("no-latest", None)],
)
def test_a_wrong_latest_is_caught(
    models: Path, tmp_path: Path, rule: str, target: str | None
) -> None:
    root = tmp_path / "registry"
    shutil.copytree(models / "BTCUSDT" / "basic", root / "BTCUSDT" / "basic", symlinks=True)
    shutil.copytree((root / "BTCUSDT" / "basic" / "latest").resolve(), tmp_path / "elsewhere")
    link = root / "BTCUSDT" / "basic" / "latest"
    link.unlink()
    if target:
        link.symlink_to(target)
    assert rule in violations(root, "BTCUSDT", "basic")
    with pytest.raises(BundleError):
        registry.find("BTCUSDT:1h:basic", root)


def test_the_same_weights_give_the_same_bytes(models: Path, tmp_path: Path) -> None:
    """In another process, whose names and hashes differ."""
    import hashlib
    import subprocess
    import sys

    bundle = (models / "BTCUSDT" / "sentiment" / "latest").resolve()
    code = (
        "import sys, hashlib, keras\n"
        "from atb_fast.onnx_export import convert\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print(hashlib.sha256(convert(model, properties={'b': '2', 'a': '1'})).hexdigest())\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, str(bundle / "model.keras")],
            capture_output=True,
            text=True,
            check=True,
            env={
                "PYTHONHASHSEED": seed,
                "KERAS_BACKEND": "tensorflow",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
        ).stdout.splitlines()[-1]
        for seed in ("1", "2")
    }
    import keras

    from atb_fast.onnx_export import convert

    model = keras.models.load_model(bundle / "model.keras")
    seen.add(hashlib.sha256(convert(model, properties={"a": "1", "b": "2"})).hexdigest())
    assert len(seen) == 1
