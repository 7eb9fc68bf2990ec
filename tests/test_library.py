"""The public names of the package."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import atb_fast
from atb_fast import AtbFastError, Market, TrainingConfig, _core
from atb_fast.config import CANDLE_COLUMNS

TIMES = pl.Series([0, 86_400_000]).cast(pl.Datetime("ms", "UTC"))
FRAME = pl.DataFrame({"timestamp": TIMES, **{name: [1.0, 2.0] for name in CANDLE_COLUMNS}})
MARKET: Any = Market(FRAME, None)


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


CONFIG: Any = TrainingConfig(symbol="BTCUSDT", source="sample")
API: Any = atb_fast
CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: API.load_market("BTCUSDT"), "options has type str, expected atb_fast.Train"),
    (lambda: API.load_market(CONFIG, listener=len), "listener has type builtin_function"),
    (lambda: API.prepare("BTCUSDT", CONFIG), "market has type str, expected atb_fast.Market"),
    (lambda: API.prepare(MARKET, "BTCUSDT"), "config has type str, expected atb_fast.Train"),
    (lambda: API.find_leaks(FRAME, CONFIG), "market has type polars.DataFrame, expected atb"),
    (lambda: API.find_leaks(MARKET, None), "config has type NoneType, expected atb_fast.Tr"),
    (lambda: API.evaluate("BTCUSDT"), "config has type str, expected atb_fast.TrainingConfig"),
    (lambda: API.evaluate(CONFIG, listener=len), "listener has type builtin_function"),
    (lambda: API.run_training_pipeline({}), "config has type dict, expected atb_fast.Train"),
    (
        lambda: API.run_training_pipeline(CONFIG, listener=len),
        "listener has type builtin_function_or_method, expected atb_fast.Listener",
    ),
    (
        lambda: API.Market(FRAME.to_pandas(), None),
        "candles has type pandas.DataFrame, expected polars.DataFrame",
    ),
    (
        lambda: API.Market(FRAME, FRAME["close"]),
        "sentiment has type polars.Series, expected polars.DataFrame",
    ),
    (lambda: API.Market(FRAME.clear(), None), "candles has no rows, expected at least one"),
    (lambda: API.Market(FRAME.drop("close"), None), "candles has no column close (found: time"),
    (
        lambda: API.Market(FRAME.with_columns(close=None), None),
        "column close of candles has dtype Null, expected Float64; cast it first",
    ),
    (
        lambda: API.Market(FRAME.with_columns(timestamp=1), None),
        "column timestamp of candles has dtype Int32, expected a Datetime; cast it first",
    ),
    (
        lambda: API.Market(FRAME, FRAME),
        "sentiment has no column value (found: timestamp, open, high, low, close, volume); expec",
    ),
    *(
        (
            partial(call, MARKET, TrainingConfig(symbol="BTCUSDT", source="sample", recipe=recipe)),
            "the market has no sentiment, but the recipe has features of the Fear & Greed index",
        )
        for recipe in ("legacy", "causal")
        for call in (API.prepare, API.find_leaks)
    ),
    *(
        (
            partial(call, timeframe),
            f"the market has 1d bars, but the timeframe is {timeframe}; pass a Market with "
            f'{timeframe} bars, or timeframe="1d"',
        )
        for timeframe in ("1h", "4h")
        for call in (
            lambda timeframe: API.prepare(MARKET, replace(CONFIG, timeframe=timeframe)),
            lambda timeframe: API.find_leaks(MARKET, replace(CONFIG, timeframe=timeframe)),
            lambda timeframe: API.walk_forward(replace(CONFIG, timeframe=timeframe), market=MARKET),
        )
    ),
    (lambda: API.read_run(3), "got 3, expected a directory or SYMBOL:TIMEFRAME:TYPE"),
    (lambda: API.load_bundle(3), "got 3, expected a directory or SYMBOL:TIMEFRAME:TYPE"),
    *(
        (call, f"{name} is {bad!r}, expected an integer of at least 1")
        for bad in (0, -1, 2.0, True, "2")
        for name, call in (
            ("cuts", partial(API.find_leaks, MARKET, CONFIG, cuts=bad)),
            ("folds", partial(API.evaluate, CONFIG, folds=bad)),
        )
    ),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_arguments_of_the_wrong_type(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(AtbFastError, match=re.escape(message)):
        call()


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
