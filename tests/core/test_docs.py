"""The stub has the docstrings of the extension; `python tests/core/test_docs.py` copies them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atb_fast import _core

STUB = Path(_core.__file__).with_name("_core.pyi")
Definition = ast.Module | ast.ClassDef | ast.FunctionDef


def definitions(stub: ast.Module) -> Iterator[tuple[Definition, Any]]:
    """Each definition of the stub that is documented, with the object that it describes."""
    yield stub, _core
    for node in stub.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            found = getattr(_core, node.name)
            yield node, found
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield inner, inspect.getattr_static(found, inner.name)


def documented(stub: str) -> str:
    """Return the text of a stub with the docstrings of the extension."""
    lines = stub.split("\n")
    for node, found in reversed(list(definitions(ast.parse(stub)))):
        indent = " " * (0 if isinstance(node, ast.Module) else node.col_offset + 4)
        text = inspect.getdoc(found) or ""
        assert "\\" not in text
        assert '"""' not in text
        doc = f'"""{text}\n"""' if "\n" in text else f'"""{text}"""'
        new = [(indent + line).rstrip() for line in doc.split("\n")]
        first = node.body[0]
        if ast.get_docstring(node) is not None:
            lines[first.lineno - 1 : first.end_lineno] = new
        else:  # the body is ... on the last line of the signature
            start = lines[first.lineno - 1].removesuffix(" ...")
            lines[first.lineno - 1 : first.lineno] = [start, *new, ""]
    return "\n".join(lines)


def test_the_stub_has_the_docstrings_of_the_extension() -> None:
    stub = STUB.read_text(encoding="utf-8")
    assert documented(stub) == stub, "run: python tests/core/test_docs.py"


NAMED = [
    pytest.param(node, found, id=getattr(node, "name", "_core"))
    for node, found in definitions(ast.parse(STUB.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("node", "found"), NAMED)
def test_everything_is_documented(node: Definition, found: Any) -> None:
    text = inspect.getdoc(found)
    assert text
    if isinstance(node, ast.FunctionDef) and not inspect.isgetsetdescriptor(found):
        names = {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)} - {"self"}
        assert found.__text_signature__
        assert ("Args:" in text) == bool(names)
        assert all(f"\n    {name}: " in text for name in names)


def test_special_methods_are_documented_by_their_class() -> None:
    for node in ast.walk(ast.parse(STUB.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            assert ast.get_docstring(node) is None, node.name


if __name__ == "__main__":
    STUB.write_text(documented(STUB.read_text(encoding="utf-8")), encoding="utf-8")
