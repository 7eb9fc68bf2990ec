"""The public names of the package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import atb_fast
from atb_fast import _core


def imported_for_type_checkers() -> dict[str, str]:
    """Return the module of each name that `if TYPE_CHECKING` re-exports."""
    tree = ast.parse(Path(atb_fast.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name  # otherwise, mypy does not treat it as public
                found[alias.name] = str(node.module)
    return found


def test_type_checkers_see_the_public_names() -> None:
    expected = imported_for_type_checkers()
    assert sorted(expected) == atb_fast.__all__
    for name, module in expected.items():
        assert getattr(atb_fast, name) is getattr(import_module(module), name)


def test_public_names_exist() -> None:
    promised = {"merge", "sma", "rsi", "evaluate", "find_leaks", "load_market", "read_run"}
    errors = {name for name in vars(atb_fast.errors) if name.endswith("Error")}
    assert promised | errors <= set(atb_fast.__all__)
    assert {*atb_fast.__all__, "__version__"} <= set(dir(atb_fast))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = atb_fast.nothing_like_it


def test_the_extension_has_the_version_of_the_package() -> None:
    assert _core.build_info()["version"] == atb_fast.__version__


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import atb_fast", ["numpy", "polars", "click", "tensorflow"]),
        ("import atb_fast.cli.main", ["numpy", "polars", "rich", "tensorflow"]),
        ("from atb_fast import prepare", ["tensorflow", "keras", "onnx", "matplotlib"]),
        ("from atb_fast import load_bundle", ["polars", "onnxruntime", "tensorflow"]),
        ("from atb_fast import PriceScale, ArrowFrame", ["polars", "onnxruntime", "tensorflow"]),
        (
            "from atb_fast import run_training_pipeline",
            ["tensorflow", "onnx", "matplotlib", "jinja2"],
        ),
        ("from atb_fast import *", ["tensorflow", "keras", "onnx", "matplotlib"]),
    ],
)
def test_imports_stay_light(statement: str, unwanted: list[str]) -> None:
    code = f"import sys, json; {statement}; print(json.dumps(list(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(unwanted) & set(json.loads(out.stdout))
