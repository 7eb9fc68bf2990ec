"""The gate that compares model.onnx with Keras checks each column, and what engines accept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import strategy_bundles
from strategy_breaks import appended

from atb_fast.bundles.onnx_export import GATE_BATCHES, check
from atb_fast.errors import ExportError
from atb_fast.features.outputs import Classes, Return

OUTPUTS = {"binary": Classes((-1, 1)), "ternary": Classes((-1, 0, 1)), "smoothed return": Return()}


@pytest.fixture
def inputs() -> Any:
    return np.random.default_rng(0).random((256, 120, 5), dtype=np.float32)


def written(path: Path, kind: str, *changes: Any) -> Any:
    """Write a model, changed, and return a function that runs it, like Keras would."""
    model = strategy_bundles.graph(kind, 5)
    for change in changes:
        change(model)
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path)
    return lambda windows: session.run(None, {"windows": windows})[0]


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_same_outputs_pass(tmp_path: Path, inputs: Any, kind: str) -> None:
    path = tmp_path / "model.onnx"
    expected = written(path, kind)(inputs)
    found = check(path, inputs, expected, output=OUTPUTS[kind], scale=1.0)
    assert list(found) == list(map(str, GATE_BATCHES))
    assert max(found.values()) < 1e-6


@pytest.mark.parametrize("column", [0, 1, 2])
def test_each_column_is_compared(tmp_path: Path, inputs: Any, column: int) -> None:
    path = tmp_path / "model.onnx"
    expected = written(path, "ternary")(inputs)
    expected[:, column] += 2e-5
    with pytest.raises(ExportError, match="differs from Keras by 2"):
        check(path, inputs, expected, output=OUTPUTS["ternary"], scale=1.0)


@pytest.mark.parametrize(
    ("kind", "operator", "constant", "message"),
    [
        ("binary", "Mul", 3.0, "expected probabilities from 0 to 1"),
        ("ternary", "Mul", 0.98, "sum to 0.98 up to 0.98, expected 1"),
        ("ternary", "Sub", 1.0, "expected probabilities from 0 to 1"),
        ("smoothed return", "Mul", np.nan, "NaN or infinite values"),
        ("smoothed return", "Add", [[0.0, 0.0]], r"returns shape \(1, 2\), expected \(1, 1\)"),
    ],
)
def test_outputs_that_engines_ignore(
    tmp_path: Path, inputs: Any, kind: str, operator: str, constant: Any, message: str
) -> None:
    """Even if Keras computes the same."""
    path = tmp_path / "model.onnx"
    expected = written(path, kind, appended(operator, constant))(inputs)[
        :, : 3 if kind == "ternary" else 1
    ]
    with pytest.raises(ExportError, match=message):
        check(path, inputs, expected, output=OUTPUTS[kind], scale=1.0)
