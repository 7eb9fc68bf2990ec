"""Repeating a run from its metadata."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from atb_fast import TrainingConfig
from atb_fast.errors import ArgumentError, BundleError, DataError
from atb_fast.recipes.documents import to_document
from atb_fast.recipes.recipe import Recipe
from atb_fast.runs.repeat import read_run

CONFIG = TrainingConfig(
    symbol="BTCUSDT", source="sample", epochs=3, start_date=date(2023, 1, 1), registry=Path("old")
)


def document(**changes: Any) -> dict[str, Any]:
    return {
        "config": CONFIG.to_dict(),
        "training_params": {"engine": "compiled", "batch_size": 32, "epochs": 2},
        "dataset": {"sha256": {"candles": "0"}, "candles_last": "2024-12-31T05:00:00+00:00"},
        "sentiment_assessment": {"assessed_at": "2026-01-02T03:04:05+00:00"},
        **changes,
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_options_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_PATH", "here")
    recorded = document()
    recorded["config"] |= {"force_refresh": True, "cache_dir": "/old", "resume": True}
    del recorded["config"]["patience"]  # as if the option were newer than the metadata
    run = read_run(str(write(tmp_path / "metadata.json", recorded)), offline=True)
    assert run.config == TrainingConfig(
        symbol="BTCUSDT", source="sample", epochs=3, start_date=date(2023, 1, 1), batch_size=32,
        end_date=date(2024, 12, 31), engine="compiled", offline=True, registry=Path("here"),
    )  # fmt: skip
    assert run.assessed_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (run.onnx_sha256, run.threads) == (None, None)


def test_a_registry_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "models" / "BTCUSDT" / "price" / "2026-01-02_03h04m05s_v1"
    bundle.mkdir(parents=True)
    path = write(bundle / "metadata.json", document(timeframe="1d"))
    monkeypatch.setenv("HOME", str(tmp_path))
    run = read_run(f"BTCUSDT:1d:price:{bundle.name}", registry="~/models")
    assert run.path == path
    assert run.config.registry == tmp_path / "models"


def test_files_that_moved(tmp_path: Path) -> None:
    recorded = document()
    recorded["config"] |= {
        "source": "files",
        "candles": str(tmp_path / "old.csv"),
        "force_price_only": True,
    }
    path = str(write(tmp_path / "metadata.json", recorded))
    with pytest.raises(DataError, match=r"old\.csv as --candles, .*pass --candles FILE"):
        read_run(path)
    assert read_run(path, candles=tmp_path / "new.csv").config.candles == tmp_path / "new.csv"
    recorded["config"] |= {"sentiment": str(tmp_path / "old index.csv")}
    path = str(write(tmp_path / "metadata.json", recorded))
    read_run(path, candles=tmp_path / "new.csv")  # no sentiment was read
    recorded["config"]["force_price_only"] = False
    path = str(write(tmp_path / "metadata.json", recorded))
    with pytest.raises(DataError, match=r"index\.csv as --sentiment, .*pass --sentiment FILE"):
        read_run(path, candles=tmp_path / "new.csv")


def test_impossible_bars_are_allowed_as_in_the_run(tmp_path: Path) -> None:
    recorded = document()
    for allowed in (True, False):
        recorded["config"]["allow_bad_candles"] = allowed
        path = str(write(tmp_path / "metadata.json", recorded))
        assert read_run(path).config.allow_bad_candles is allowed
    # Early versions only warned of such bars.
    del recorded["config"]["allow_bad_candles"]
    assert read_run(str(write(tmp_path / "metadata.json", recorded))).config.allow_bad_candles


def test_options_that_contradict_the_metadata(tmp_path: Path) -> None:
    path = str(write(tmp_path / "metadata.json", document()))
    with pytest.raises(ArgumentError, match="--source sample does not use --candles"):
        read_run(path, candles=Path("x.csv"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {}}, "has no config"),
        ({"config": ["BTCUSDT"]}, "config is list, expected an object"),
        ({"config": {"epochs": 3}}, "config cannot be used: .*symbol"),
        ({"config": {"symbol": "../../x"}}, "symbol is '../../x'"),
        ({"config": {"symbol": "BTCUSDT", "timeframe": "1y"}}, "timeframe is '1y'"),
        (
            {"config": {"symbol": "BTCUSDT", "recipe": "mine"}},
            "recipe is 'mine' without a recipe_doc",
        ),
        (
            {"config": {"symbol": "BTCUSDT", "recipe": ["mine"]}},
            "recipe is .* without a recipe_doc",
        ),
        ({"recipe_document": 3}, "recipe: found 3, expected a table"),
        ({"recipe_document": {"python": ["a:B"]}}, "python is .*, expected package.module:Class"),
        ({"recipe_document": {"python": "a:B; x"}}, "python is .*, expected package.module:Class"),
        ({"config": {"symbol": "BTCUSDT", "candles": "\0"}}, "candles is .*, expected a path"),
        ({"config": {"symbol": "BTCUSDT", "candles": "~nobody0/x"}}, "expected a path"),
        (
            {"config": {"symbol": "BTCUSDT", "depth\n": 7}},
            r"unknown to this version .*: \['depth\\n'\]",
        ),
        ({"training_params": {"engine": "gpu"}}, "engine is 'gpu'"),
        ({"training_params": {"batch_size": "many"}}, "--batch-size is 'many'"),
        ({"training_params": None}, "training_params is NoneType"),
        ({"dataset": {}}, "dataset.sha256 is None"),
        ({"dataset": {"sha256": "0"}}, "dataset.sha256 is '0'"),
        (
            {"dataset": {"sha256": {"candles": "0"}, "candles_last": 7}},
            "found 7, expected an ISO time",
        ),
        ({"sentiment_assessment": {"assessed_at": "2026-01-02"}}, "found '2026-01-02', expected"),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path: Path, changes: Any, message: str) -> None:
    path = write(tmp_path / "metadata.json", document(**changes))
    with pytest.raises(BundleError, match=message) as caught:
        read_run(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", ["2", -1, 10**9, True, 2.0, [2]])
def test_an_invalid_number_of_threads(tmp_path: Path, threads: Any) -> None:
    recorded = document(environment={"intra_op_threads": threads})
    assert read_run(str(write(tmp_path / "metadata.json", recorded))).threads is None


def test_an_extra_that_moved(tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    recipe = Recipe(name="mine", features={"x": "funding / eth"}, extra=("funding", "eth"))
    recorded = document(recipe_document=to_document(recipe))
    recorded["config"] |= {
        "recipe": "mine",
        "extra": {"funding": str(old), "eth": str(tmp_path / "eth.csv")},
        "extra_lag": {"funding": "8h"},
    }
    path = str(write(tmp_path / "metadata.json", recorded))
    (tmp_path / "eth.csv").touch()
    with pytest.raises(
        DataError, match=r"old\.csv as --extra funding, .*pass --extra funding=FILE"
    ):
        read_run(path)
    for given in ([f"funding={new}"], {"funding": new}):
        config = read_run(path, extra=given).config
        # The others are as recorded.
        assert config.extra == {"funding": new, "eth": tmp_path / "eth.csv"}
        assert config.extra_lag == {"funding": "8h"}
    old.touch()
    assert read_run(path).config.extra == {"funding": old, "eth": tmp_path / "eth.csv"}


EVIL = """\
from pathlib import Path

from atb_fast import Recipe

Path("imported").touch()


class X(Recipe):
    def __init__(self):
        super().__init__(name="evil", features={"x": "close / open"})
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working directory that records its import."""
    (tmp_path / "evil_import.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "evil_import", raising=False)
    return tmp_path


def test_a_module_named_by_metadata_is_imported_only_if_confirmed(evil: Path) -> None:
    recorded = document(recipe_document={"python": "evil_import:X"})
    recorded["config"]["recipe"] = "evil"
    path = write(evil / "metadata.json", recorded)
    for given in (None, "evil_import:Y", "evil"):
        with pytest.raises(ArgumentError, match=r"pass --recipe evil_import:X$") as caught:
            read_run(path, recipe=given)
        assert caught.value.options == ("recipe",)
    assert not Path("imported").exists()
    assert read_run(path, recipe="evil_import:X").config.recipe == "evil"
    assert Path("imported").exists()


def test_the_recorded_name_of_a_recipe_imports_nothing(evil: Path) -> None:
    declared = to_document(Recipe(name="mine", features={"x": "close"}))
    for changes, message in (
        ({}, "recipe is 'evil_import:X' without a recipe_document"),
        ({"recipe_document": declared}, "but the name in recipe_document is 'mine'"),
    ):
        recorded = document(**changes)
        recorded["config"]["recipe"] = "evil_import:X"
        with pytest.raises(BundleError, match=message):
            read_run(write(evil / "metadata.json", recorded))
    assert not Path("imported").exists()


def test_a_recipe_to_confirm_that_is_not_recorded(tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.json", document())
    with pytest.raises(ArgumentError, match="records no Python recipe to confirm; leave out"):
        read_run(path, recipe="evil_import:X")
