"""Recipe files and modules that are not what they seem."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from atb_fast import Recipe, TrainingConfig, find_leaks, prepare
from atb_fast.errors import ArgumentError
from atb_fast.ingestion import sample
from atb_fast.ingestion.market import Market
from atb_fast.recipes import library
from atb_fast.recipes.documents import from_document, read_file, schema

PLAIN: dict[str, Any] = {
    "name": "plain",
    "features": {"x": "fear_greed / 100"},
    "target": {"kind": "close"},
}


def test_what_is_not_a_file_is_not_opened(tmp_path: Path) -> None:
    pipe, device, folder = (tmp_path / f"{name}.toml" for name in ("pipe", "device", "folder"))
    os.mkfifo(pipe)  # opening it would wait for a writer
    device.symlink_to("/dev/zero")
    folder.mkdir()
    for path in (pipe, device, folder):
        with pytest.raises(ArgumentError, match="is not a file; pass the path of a recipe file"):
            read_file(path)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    text = 'name = "plain"\n[features]\nx = "close"\n[target]\nkind = "close"\n'
    path.write_text(text, "utf-8-sig")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_file(path) == from_document(tomllib.loads(text))


def test_a_lag_that_no_bundle_can_have() -> None:
    days = schema()["properties"]["sentiment_lag_days"]
    assert (days["minimum"], days["maximum"]) == (0, 365)
    assert from_document(PLAIN | {"sentiment_lag_days": 365}).sentiment_lag_days == 365
    message = "sentiment_lag_days: found 366, expected an integer of at most 365"
    with pytest.raises(ArgumentError, match=message):
        from_document(PLAIN | {"sentiment_lag_days": 366})


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x07", "\x7f", "\u202e"])
def test_texts_that_would_control_a_terminal(text: str) -> None:
    with pytest.raises(ArgumentError, match="a text without control characters") as caught:
        from_document(PLAIN | {"description": text})
    assert str(caught.value).isprintable()
    with pytest.raises(ArgumentError, match="expected a name of at most") as caught:
        from_document(PLAIN | {"features": {text: "close"}})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        ("import sys\nsys.exit(0)\n", "X", "cannot be imported .SystemExit"),
        ("from atb_fast import Recipe\nclass X(Recipe):\n    def __init__(self):\n        1 / 0\n",
         "X", "cannot be created: ZeroDivisionError"),
        ("from atb_fast import Recipe\nclass X(Recipe):\n    def __init__(self):\n"
         "        super().__init__(name='x', features={})\n", "X", "^features: found {}"),
    ],
)  # fmt: skip
def test_modules_that_fail(
    body: str, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_recipe.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "failing_recipe", raising=False)
    with pytest.raises(ArgumentError, match=message) as caught:
        library.find(f"failing_recipe:{name}")
    assert caught.value.options == ("recipe",)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", r"returned 3 from prepare, expected an atb_fast\.PreparedData"),
        ("return None", "returned None from prepare"),
        ("1 / 0", r"failed in prepare \(ZeroDivisionError: division by zero, failing_recipe.py, "
         r"line 5\); fix that error. For the traceback, call atb_fast.prepare in Python$"),
        ("raise SystemExit('a\\nb')", r"failed in prepare \(SystemExit: a, failing_recipe.py, "),
        ("open('nowhere')", r"failed in prepare \(FileNotFoundError: .*nowhere"),
    ],
)  # fmt: skip
def test_classes_that_cannot_prepare(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_recipe.py").write_text(
        "from atb_fast import BaseRecipe\nclass X(BaseRecipe):\n    name = 'x'\n"
        f"    def prepare(self, market, options, context):\n        {body}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "failing_recipe", raising=False)
    config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe="failing_recipe:X")
    market = Market(sample.candles("BTCUSDT", "1d"), None)
    for run in (prepare, find_leaks):
        with pytest.raises(
            ArgumentError, match=f"^the recipe failing_recipe:X {message}"
        ) as caught:
            run(market, config)
        assert "\n" not in str(caught.value)
        assert caught.value.options == ("recipe",)


def test_a_description_may_have_lines() -> None:
    assert Recipe(name="x", features={"x": "close"}, description="one\ntwo é").description
