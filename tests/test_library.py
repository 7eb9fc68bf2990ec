"""What an importer sees."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import atb_fast
from atb_fast import _core


def test_public_names_exist() -> None:
    assert all(getattr(atb_fast, name) is not None for name in atb_fast.__all__)
    assert set(atb_fast.__all__) <= set(dir(atb_fast))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = atb_fast.nothing_like_it


def test_the_extension_is_of_this_version() -> None:
    assert _core.build_info()["version"] == atb_fast.__version__


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import atb_fast", ["numpy", "polars", "click", "tensorflow"]),
        ("import atb_fast.cli.main", ["numpy", "polars", "rich", "tensorflow"]),
        ("from atb_fast import prepare", ["tensorflow", "keras", "onnx", "matplotlib"]),
        ("from atb_fast import run_training_pipeline", ["tensorflow", "onnx", "matplotlib"]),
    ],
)
def test_imports_stay_light(statement: str, unwanted: list[str]) -> None:
    code = f"import sys, json; {statement}; print(json.dumps(list(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(unwanted) & set(json.loads(out.stdout))
