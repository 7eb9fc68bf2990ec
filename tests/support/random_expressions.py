"""Random expressions, and random changes of their text, for Hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from atb_fast.features.expressions import Expr
from atb_fast.features.signatures import OPERATORS, Operator, Parameter

_NAMES = st.one_of(
    st.sampled_from(["open", "high", "low", "close", "volume", "x1", "_", "sin", "match"]),
    st.sampled_from(
        ["mean", "col", "lag", "if", "None", "funding rate", "größe", "a\"b'c\\", "1h"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
)
_NUMBERS = st.one_of(
    st.integers(-1000, 1000).map(float), st.floats(allow_nan=False, allow_infinity=False)
)


def _parameter(parameter: Parameter) -> st.SearchStrategy[Any]:
    low, high = parameter.minimum, parameter.maximum
    if parameter.kind == "bars":
        return st.one_of(st.integers(int(low), 60), st.integers(int(low), int(high)))
    if parameter.kind == "style":
        return st.sampled_from(parameter.choices)
    if parameter.kind == "name":
        return _NAMES
    return _NUMBERS if low == -float("inf") else st.floats(low, high)


def _build(operator: Operator, args: list[Expr], params: list[Any]) -> Expr:
    if operator.name == "clip":
        params = sorted(params)
    if operator.name == "neg":
        return -args[0]  # the negative of a number is a number
    return Expr(operator.name, tuple(args), tuple(params))


def _applied(operator: Operator, operands: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    args = st.tuples(*(operands for _ in operator.operands)).map(list)
    params = st.tuples(*map(_parameter, operator.parameters)).map(list)
    return st.builds(_build, st.just(operator), args, params)


def expressions(*, without: tuple[str, ...] = (), max_leaves: int = 25) -> st.SearchStrategy[Expr]:
    """Return expressions that use every operator except those in `without`."""
    nothing = st.nothing()
    used = [each for name, each in OPERATORS.items() if name not in without]
    leaves = st.one_of([_applied(each, nothing) for each in used if not each.operands])
    return st.recursive(
        leaves,
        lambda part: st.one_of([_applied(each, part) for each in used if each.operands]),
        max_leaves=max_leaves,
    )


#: What is put into the text of expressions to break it.
_PIECES = (
    *"()+-*/<>=!,.\"'\\ \t\n\r\0#$%^&|~@:;[]{}`?_019eEjx",
    *("**", "//", "==", "!=", "<=", "lag(", "mean(", "close", "lead(x, 1)", "col(", 'col("', "-1"),
    *("1e999", "0x1", "1_0", "01", "True", "None", "lambda", "lambda: ", " if ", " else ", " and "),
    *(" or ", "not ", " is ", " in ", " for x in y", ":=", "...", '"""', "f'", "b'", "r'", "\\u12"),
    *("é", "ﬁ", "\u00a0", "\u2028", "\ufeff", "\ud800", "𝑥", "\x85", "\x1c", "9" * 5000, "((" * 80),
    *("-" * 3000, "mean(" * 90, "x**" * 500, "await ", "yield ", "print(", "__import__('os')"),
)


@st.composite
def broken_texts(draw: st.DrawFn, valid: st.SearchStrategy[str]) -> str:
    """Return the text of an expression after a few random insertions, deletions and copies."""
    text = draw(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(start + 8, len(text))))
        piece = draw(st.one_of(st.sampled_from(_PIECES), st.text(max_size=3), st.just(text[:end])))
        text = text[:start] + piece + text[end:]
    return text
