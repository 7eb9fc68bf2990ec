"""Expressions: building, printing, meaning, limits and what the extension gets."""

from __future__ import annotations

import copy
import inspect
import operator
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from random_expressions import expressions

from atb_fast import ArgumentError, ExpressionError
from atb_fast.features import functions as f
from atb_fast.features.expressions import Expr
from atb_fast.features.parser import parse
from atb_fast.features.signatures import FUNCTIONS

HOUR = 3_600_000
close, x, y = f.col("close"), f.col("x"), f.col("y")

#: The same without types, for calls that a type checker refuses.
g: Any = f
z: Any = x


# Text and back ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=500)
@given(expressions())
def test_the_text_of_an_expression_parses_to_an_equal_expression(expr: Expr) -> None:
    text = str(expr)
    again = parse(text, target=True)
    assert again == expr
    assert hash(again) == hash(expr)
    assert str(again) == text
    assert repr(expr) == f"Expr({text!r})"
    assert len(text) <= expr.length
    assert (again.size, again.depth, again.columns) == (expr.size, expr.depth, expr.columns)
    assert pickle.loads(pickle.dumps(expr)) == expr
    assert copy.deepcopy(expr) == expr


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (f.log(close / f.lag(close, 1)), "log(close / lag(close, 1))"),
        (close / f.mean(close, 24) - 1, "close / mean(close, 24) - 1"),
        (f.rsi(close, 14, "wilder") / 100, "rsi(close, 14, wilder) / 100"),
        (x - y - close, "x - y - close"),
        (x - (y - close), "x - (y - close)"),
        (x - (y + close), "x - (y + close)"),
        (x + (y + close), "x + (y + close)"),
        (x / (y / close), "x / (y / close)"),
        ((x + y) * close, "(x + y) * close"),
        (x * y / close, "x * y / close"),
        (x**y**close, "x ** y ** close"),
        ((x**y) ** close, "(x ** y) ** close"),
        (-(x**2), "-x ** 2"),
        ((-x) ** 2, "(-x) ** 2"),
        (x**-y, "x ** -y"),
        (x ** -(y * 2), "x ** -(y * 2)"),
        (f.exp(-1 * x), "exp(-1 * x)"),
        (2 - -(x), "2 - -x"),
        (x - (-3), "x - -3"),
        (x * -(y + 1), "x * -(y + 1)"),
        (-parse("-x"), "--x"),
        (parse("-(2)") ** x, "(-2) ** x"),
        ((x < y) + 1, "(x < y) + 1"),
        ((x < y) < close, "(x < y) < close"),
        (x < (y < close), "x < (y < close)"),
        (f.equal(x, 1), "x == 1"),
        (f.unequal(x, f.equal(y, 2)), "x != (y == 2)"),
        (x + 1 < y, "x + 1 < y"),
        (f.col("funding rate") * 0.5, 'col("funding rate") * 0.5'),
        (f.col("mean") + f.col("col") + f.col("if"), 'col("mean") + col("col") + col("if")'),
        (f.col('a"b\\c\n'), r'col("a\"b\\c\n")'),
        (f.col("größe"), 'col("größe")'),
        (f.hour(), "hour()"),
        (f.hour(1), "hour(1)"),
        (f.weekday(0, "sin"), "weekday(0, sin)"),
        (x + 1e16, "x + 1e+16"),
        (x + 0.1, "x + 0.1"),
        (x + 1e-7, "x + 1e-07"),
        (x + 2**53, "x + 9007199254740992.0"),
        (x * -0.0, "x * 0"),
        (f.clip(x, -1, 1.5), "clip(x, -1, 1.5)"),
        (f.where(x > 0, x, 0), "where(x > 0, x, 0)"),
    ],
)
def test_text_has_only_the_brackets_that_it_needs(expr: Expr, text: str) -> None:
    assert str(expr) == text
    assert parse(text) == expr


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("  close\t/\n  lag(close,1)\r\n", "close / lag(close, 1)"),
        ("((x))", "x"),
        ("+x", "x"),
        ("-1", "-(1)"),
        ("--1", "1"),
        ("1.", "1.0"),
        (".5e1", "5"),
        ("hour(0, plain)", "hour()"),
        ("col('x')", "x"),
        (r'col("\u0078")', "x"),
        ("fill(x, -0)", "fill(x, 0)"),
        ("9007199254740993", "9007199254740992"),
    ],
)
def test_one_expression_can_be_written_in_several_ways(text: str, same: str) -> None:
    assert parse(text) == parse(same)


# Meaning ------------------------------------------------------------------------------------------


def rolled(function: Callable[..., float]) -> Callable[..., Any]:
    """Return a function of windows of three rows; this is only about who is an operand of whom."""

    def of_windows(*args: Any) -> Any:
        *columns, n = args
        columns = [np.broadcast_to(each, 8) for each in columns]
        result = np.full(8, np.nan)
        for row in range(min(n, 9) - 1, 8):
            result[row] = function(*(each[row + 1 - n : row + 1] for each in columns))
        return result

    return of_windows


NAIVE: dict[str, Callable[..., Any]] = {
    "where": np.where,
    "clip": np.clip,
    "fill": lambda v, value: np.where(np.isnan(v), value, v),
    "minimum": np.minimum,
    "maximum": np.maximum,
    **{name: getattr(np, name) for name in ["log", "log1p", "exp", "sqrt", "abs", "sign", "tanh"]},
    "lag": lambda v, n: rolled(lambda window: window[0])(v, n + 1),
    "lead": lambda v, n: rolled(lambda window: window[-1])(v, n + 1),
    "diff": rolled(lambda v: v[-1] - v[0]),
    **{
        name: rolled(getattr(np, name))
        for name in ["sum", "mean", "min", "max", "median", "std", "var", "argmax", "argmin"]
    },
    "quantile": lambda v, n, q: rolled(lambda window: np.quantile(window, q))(v, n),
    "rank": rolled(lambda v: np.mean(v <= v[-1])),
    "count": rolled(np.count_nonzero),
    "zscore": rolled(lambda v: (v[-1] - v.mean()) / v.std()),
    "slope": rolled(lambda v: v[-1] - v[0]),
    "rsquare": rolled(lambda v: v[-1] * v[0]),
    "resid": rolled(lambda v: v[-1] / v[0]),
    "ema": rolled(lambda v: v[-1] + v[0]),
    "wilder": rolled(lambda v: v[-1] + 2 * v[0]),
    "corr": rolled(lambda v, w: v[0] - w[0]),
    "cov": rolled(lambda v, w: v[0] * w[-1]),
    "rsi": lambda v, n, style: rolled(lambda window: window[0] + len(style))(v, n),
    "true_range": lambda high, low, before: np.maximum(high, before) - np.minimum(low, before),
    "atr": rolled(lambda high, low, before: high[0] - low[0] * before[-1]),
    "hour": lambda k=0, style="plain": np.arange(8.0) + k + len(style),
    "weekday": lambda k=0, style="plain": np.arange(8.0) * k + len(style),
    "day_of_year": lambda k=0, style="plain": np.arange(8.0) - k * len(style),
}
SYMBOLS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "neg": operator.neg,
    **{name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
}
RANDOM = np.random.default_rng(7)
COLUMNS: dict[str, Any] = {name: RANDOM.normal(size=8) for name in ("open", "close", "x1", "mean")}


def value(expr: Expr) -> Any:
    """Return the value of the tree."""
    if expr.op == "column":
        return column(str(expr.params[0]))
    if expr.op == "number":
        return np.float64(expr.params[0])
    result = (SYMBOLS | NAIVE)[expr.op](*map(value, expr.args), *expr.params)
    return np.asarray(result, dtype=float)


def column(name: str) -> Any:
    return COLUMNS.get(name, COLUMNS["close"])


class Values:
    """Numbers for Python's `eval`; unlike in NumPy, conditions are numbers too."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, dtype=float)

    @staticmethod
    def method(function: Callable[..., Any]) -> Callable[..., Values]:
        return lambda *operands: Values(function(*(each.values for each in operands)))


for _name, _function in SYMBOLS.items():
    setattr(Values, f"__{_name.replace('div', 'truediv')}__", Values.method(_function))


def called_from_text(name: str) -> Callable[..., Values]:
    """Return a function for `eval`: its numbers are `Values`, and its styles are functions."""
    operands, parameters = FUNCTIONS[name].operands, FUNCTIONS[name].parameters

    def call(*args: Any) -> Values:
        plain: list[Any] = [each.values for each in args[: len(operands)]]
        for parameter, each in zip(parameters, args[len(operands) :], strict=False):
            if parameter.kind == "style":
                plain.append(each.__name__)
            else:
                plain.append(int(each.values) if parameter.kind == "bars" else each.values)
        return Values(NAIVE[name](*plain))

    call.__name__ = name
    return call


@settings(deadline=None, max_examples=200)
@given(expressions())
@example(-(x**2))
@example(parse("(-2) ** x ** -1"))
@example(parse("1 - (2 - 3) - 4 / (5 / 6) * 7 < 1 ** (x < 2)"))
def test_python_understands_the_text_as_the_expression_is_meant(expr: Expr) -> None:
    """Python's own `eval` of the text gives the value of the tree."""
    names: dict[str, Any] = {name: Values(column(name)) for name in expr.columns}
    styles = {name: type(name, (), {}) for name in ("simple", "plain", "sin", "cos")}
    assume(not styles.keys() & expr.columns)
    names |= styles
    names |= {name: called_from_text(name) for name in NAIVE}
    names |= {"col": lambda name: Values(column(name)), "__number__": Values}
    number = r"\"(?:\\.|[^\"])*\"|(?<![\w.])\d[\d.]*(?:e[+-]\d+)?"
    text = re.sub(
        number, lambda m: m[0] if m[0].startswith('"') else f"__number__({m[0]})", str(expr)
    )
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(eval(text, {}, names).values, value(expr))


# Building in Python -------------------------------------------------------------------------------


def test_numbers_of_any_kind_are_operands_on_either_side() -> None:
    numbers: list[Any] = [2, 2.0, np.int64(2), np.float32(2), np.float64(2)]
    for number in numbers:
        assert str(number * x) == "2 * x"
        assert str(x - number) == "x - 2"
        assert str(number / x) == "2 / x"
        assert str(number**x) == "2 ** x"
        assert str(number - x) == "2 - x"
        assert str(number + x) == "2 + x"
        assert str(x > number) == "x > 2"
        assert str(number >= x) == "x <= 2"
        assert str(g.mean(x, np.int16(2))) == "mean(x, 2)"
    assert str(+x) == "x"
    assert str(-Expr("number", (), (2,))) == "-2"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: g.mean(x, True), "`n` of `mean` must be a whole number of bars from 1 to"),
        (lambda: g.mean(x, 2.0), "`n` of `mean` must be .*, got 2.0"),
        (lambda: g.mean(x, "2"), "`n` of `mean` must be .*, got '2'"),
        (lambda: g.mean(x, np.array([1, 2])), "`n` of `mean` must be .*, got array"),
        (lambda: g.mean(x, 0), "from 1 to 1,048,576, got 0"),
        (lambda: g.std(x, 1), "from 2 to 1,048,576, got 1"),
        (lambda: g.sum(x, 2**20 + 1), "from 1 to 1,048,576, got 1048577"),
        (lambda: g.sum(x, 10**5000), "got an integer that is too large"),
        (lambda: g.lag(x, -1), "`n` of `lag` must not be negative, .* into the future"),
        (lambda: g.diff(x, -1), "`n` of `diff` must not be negative"),
        (lambda: g.lead(x, -1), "`n` of `lead` must be a whole number of bars from 0"),
        (lambda: g.hour(-1), "`k` of `hour` must be a whole number of bars from 0"),
        (lambda: g.hour(1, "tan"), "`style` of `hour` must be one of plain, sin, cos, got 'tan'"),
        (lambda: g.rsi(x, 14, "x"), "`style` of `rsi` must be one of simple, wilder, got 'x'"),
        (lambda: g.quantile(x, 5, 1.5), "`q` of `quantile` must be a number from 0 to 1, got 1.5"),
        (lambda: g.quantile(x, 5, True), "`q` of `quantile` must be a number, got True"),
        (lambda: g.clip(x, 1, 0), "`lo` of `clip` must not exceed `hi`, got 1.0 and 0.0"),
        (lambda: g.fill(x, float("nan")), "`value` of `fill` must be a finite number, got nan"),
        (lambda: g.max(x, y), "`n` of `max` must be .*for the larger of two values, use `maximum`"),
        (lambda: z + float("inf"), "an operand must be a finite number, got inf"),
        (lambda: z + 10**400, "an operand must be a finite number, got an integer"),
        (lambda: z + 1j, "expected an expression or a number, got 1j"),
        (lambda: z + {1}, "expected an expression or a number, got {1}"),
        (lambda: z + None, "expected an expression or a number, got None"),
        (lambda: z + "close", r"for a column, write col\('close'\)"),
        (lambda: g.mean("close", 2), r"for a column, write col\('close'\)"),
        (lambda: g.where(z == 1, x, y), r"use equal\(a, b\) or unequal\(a, b\)"),
        (lambda: 1 < z < 2, "no single truth value"),
        (lambda: z and y, "no single truth value"),
        (lambda: not z, "no single truth value"),
        (lambda: g.col(""), "must be a non-empty string, got ''"),
        (lambda: g.col(1), "must be a non-empty string, got 1"),
        (lambda: g.col("\ud800"), "must be valid Unicode"),
        (lambda: Expr("shift", (x,), (1,)), "unknown operator 'shift'"),
        (lambda: Expr("mean", (z,)), "`mean` takes 1 expressions and 1 parameters"),
        (lambda: Expr("add", (x, z.op)), "`add` takes 2 expressions"),
        (lambda: Expr("neg", (Expr("number", (), (1,)),)), "negate the number itself"),
        (lambda: x.nodes(0), "`bar_ms` must be the length of a bar in milliseconds, got 0"),
        (lambda: g.lead(x, 1).nodes(HOUR), "only a target may use it"),
    ],
)
def test_invalid_arguments_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ExpressionError, match=message) as caught:
        build()
    assert isinstance(caught.value, ArgumentError)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_expressions_that_are_too_large_are_refused() -> None:
    deep = x
    for _ in range(99):
        deep = f.abs(deep)
    assert deep.depth == 100
    assert parse(str(deep)) == deep == pickle.loads(pickle.dumps(deep))
    with pytest.raises(ExpressionError, match="more than 100 levels of nesting; split it up"):
        f.abs(deep)
    wide = x
    for _ in range(12):
        wide = wide + wide
    assert wide.size == 8191
    assert parse(str(wide)) == wide
    assert len(wide.nodes(HOUR)) == 13
    with pytest.raises(ExpressionError, match="more than 10,000 operators and columns"):
        _ = wide + wide
    with pytest.raises(ExpressionError, match="more than 200,000 characters"):
        f.col("x" * 200_001)


@pytest.mark.parametrize("build", [lambda e: -e, lambda e: 1 - (e), lambda e: (e) ** (e * 0 + 1)])
def test_the_deepest_expressions_survive_the_round_trip(build: Callable[[Expr], Expr]) -> None:
    expr = x
    with suppress(ExpressionError):  # too large
        while True:
            expr = build(expr)
    assert max(expr.size / 5000, expr.depth / 50) > 1
    assert parse(str(expr)) == expr


def test_every_function_has_the_arguments_of_the_table() -> None:
    assert set(f.__all__) == {"col", "equal", "unequal", *FUNCTIONS}
    for name, function in FUNCTIONS.items():
        parameters = inspect.signature(getattr(f, name)).parameters.values()
        expected: list[Any] = [(each, inspect.Parameter.empty) for each in function.operands]
        expected += [
            (each.name, inspect.Parameter.empty if each.default is None else each.default)
            for each in function.parameters
        ]
        assert [(each.name, each.default) for each in parameters] == expected
        assert getattr(f, name).__doc__.startswith("Return ")


def test_columns_and_forward_reach() -> None:
    expr = f.corr(f.log(close), f.col("funding rate") + f.hour(), 5) + close
    assert expr.columns == {"close", "funding rate"}
    assert expr.lead == 0
    for text, bars in [
        ("lead(close, 4) / close - 1", 4),
        ("lag(lead(close, 4), 1)", 3),
        ("lag(lead(close, 4), 9)", 0),
        ("lead(lag(close, 9), 4)", 0),
        ("mean(lead(close, 4), 3)", 4),
        ("lead(lead(close, 4), 3) + lead(x, 5)", 7),
        ("lead(1, 4) + lead(hour(), 3)", 0),
        ("where(lead(x, 1) > 0, lead(y, 2), close)", 2),
    ]:
        assert parse(text, target=True).lead == bars, text


def test_expressions_are_values() -> None:
    assert {f.mean(x, 5): 1}[f.mean(x, 5)] == 1
    assert f.mean(x, 5) != f.mean(x, 6)
    assert z != "x"
    with pytest.raises(AttributeError):
        x.op = "lag"  # type: ignore[misc]


def test_import_of_the_package_and_of_expressions_is_light() -> None:
    code = (
        "import sys, atb_fast.features.functions, atb_fast.features.parser\n"
        "heavy = {'numpy', 'polars', 'keras', 'atb_fast._core', 'difflib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys, atb_fast\n"
        "assert not [name for name in sys.modules if name.startswith('atb_fast.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What the extension gets --------------------------------------------------------------------------

#: The operators that the extension has, with the number of their operands and parameters.
WIRE = {
    **dict.fromkeys(("column", "number"), (0, 1)),
    **dict.fromkeys(
        [
            "add",
            "sub",
            "mul",
            "div",
            "pow",
            "lt",
            "le",
            "gt",
            "ge",
            "eq",
            "ne",
            "minimum",
            "maximum",
        ],
        (2, 0),
    ),
    **dict.fromkeys(
        ["neg", "log", "log1p", "exp", "sqrt", "abs", "sign", "tanh", "sin", "cos"], (1, 0)
    ),
    "where": (3, 0),
    "clip": (1, 2),
    **dict.fromkeys(
        ["fill", "lag", "sum", "mean", "min", "max", "median", "rank", "std", "var", "argmax"],
        (1, 1),
    ),
    **dict.fromkeys(["argmin", "count", "slope", "rsquare", "resid", "ema", "wilder"], (1, 1)),
    **dict.fromkeys(("rsi_simple", "rsi_wilder"), (1, 1)),
    "quantile": (1, 2),
    **dict.fromkeys(("corr", "cov"), (2, 1)),
    **dict.fromkeys(("hour", "weekday", "day_of_year"), (0, 1)),
}


@settings(deadline=None)
@given(expressions(without=("lead",)), st.sampled_from([60_000, HOUR, 86_400_000]))
def test_nodes_are_in_order_and_equal_parts_are_shared(expr: Expr, bar_ms: int) -> None:
    nodes = expr.nodes(bar_ms)
    assert len(set(nodes)) == len(nodes)
    used = set()
    for index, (op, operands, params) in enumerate(nodes):
        assert WIRE[op] == (len(operands), len(params))
        assert all(0 <= each < index for each in operands)
        assert [type(each) for each in params] == (
            [str] if op == "column" else [float] * len(params)
        )
        used |= {*operands}
    assert used == set(range(len(nodes) - 1))  # only the last node is the result
    assert parse(str(expr)).nodes(bar_ms) == nodes


def run(expr: Expr, frame: pd.DataFrame, bar_ms: int = HOUR) -> Any:
    """Return the values of an expression: its nodes evaluated one by one with pandas."""
    results: list[Any] = []
    for op, operands, params in expr.nodes(bar_ms):
        args = [results[each] for each in operands]
        if op == "column":
            result: Any = frame[params[0]]
        elif op == "number":
            result = params[0]
        elif op == "lag":
            result = args[0].shift(int(params[0]))
        elif op in ("mean", "std"):
            result = getattr(args[0].rolling(int(params[0])), op)()
        elif op in ("hour", "weekday", "day_of_year"):
            times = (frame.index + pd.Timedelta(milliseconds=float(params[0]))).to_series()
            times = times.set_axis(frame.index)
            result = getattr(times.dt, op.replace("weekday", "day_of_week")).astype(float)
        elif op == "wilder":
            result = args[0].dropna().ewm(alpha=1 / float(params[0]), adjust=False).mean()
        elif op in ("sin", "cos", "abs", "maximum"):
            result = getattr(np, op)(*args)
        else:
            result = SYMBOLS[op](*args)
        results.append(result)
    return results[-1]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    times = pd.date_range("2023-12-28", periods=200, freq="h", tz="UTC")
    values = np.random.default_rng(3).uniform(1, 2, size=(200, 3))
    return pd.DataFrame(np.sort(values), times, columns=["low", "close", "high"])


def test_composites_are_lowered_to_their_definition(frame: pd.DataFrame) -> None:
    price = frame["close"]
    exact = pd.testing.assert_series_equal
    exact(run(f.diff(close, 3), frame), price.diff(3))
    window = price.rolling(20)
    exact(run(f.zscore(close, 20), frame), (price - window.mean()) / window.std())
    before = price.shift(1)
    spans = [frame["high"] - frame["low"], frame["high"] - before, frame["low"] - before]
    true_range = pd.concat(spans, axis=1).abs().max(axis=1, skipna=False)
    high, low = f.col("high"), f.col("low")
    exact(run(f.true_range(high, low, close), frame), true_range)
    exact(
        run(f.atr(high, low, close, 14), frame),
        true_range.dropna().ewm(alpha=1 / 14, adjust=False).mean(),
    )


@pytest.mark.parametrize(
    ("name", "field", "period"),
    [("hour", "hour", 24), ("weekday", "day_of_week", 7), ("day_of_year", "day_of_year", 365.25)],
)
@pytest.mark.parametrize("k", [0, 1, 30])
def test_times_of_later_bars(
    frame: pd.DataFrame, name: str, field: str, period: float, k: int
) -> None:
    later = (frame.index + k * pd.Timedelta(hours=1)).to_series(index=frame.index)
    expected = getattr(later.dt, field).astype(float)
    function = getattr(f, name)
    pd.testing.assert_series_equal(run(function(k), frame), expected)
    for style in ("sin", "cos"):
        wave = getattr(np, style)(2 * np.pi * expected / period)
        pd.testing.assert_series_equal(run(function(k, style), frame), wave, rtol=0, atol=0)


def test_styles_of_rsi_are_operators_of_their_own() -> None:
    for style in ("simple", "wilder"):
        assert f.rsi(close, 14, style).nodes(HOUR) == [
            ("column", (), ("close",)),
            (f"rsi_{style}", (0,), (14.0,)),
        ]


def test_nested_composites_stay_small() -> None:
    """Each `zscore` uses its operand twice, which must not double the nodes at every level."""
    expr = close
    for n in range(2, 60):
        expr = f.zscore(expr, n)
    assert len(expr.nodes(HOUR)) == 1 + 4 * 58


def test_threads_with_small_stacks_can_parse() -> None:
    results: list[object] = []

    def work() -> None:
        for text in ("-" * 90_000 + "x", "x**" * 30_000 + "x", "1+" * 40_000 + "1", "(" * 90_000):
            try:
                results.append(parse(text))
            except ExpressionError as error:
                results.append(error)

    size = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
    assert [type(each) for each in results] == [ExpressionError] * 4
