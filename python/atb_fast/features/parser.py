"""The parser: from text such as `close / mean(close, 24) - 1` to an `Expr`.

Text is never evaluated. Its tokens are checked first, then Python's own parser turns them into a
syntax tree, of which only a few kinds of nodes are accepted.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from atb_fast.errors import ExpressionError
from atb_fast.features.expressions import LOOK_AHEAD, MAX_DEPTH, MAX_TEXT, TOO_LARGE, Expr, call
from atb_fast.features.signatures import FUNCTIONS, Operator, Parameter
from atb_fast.features.tokens import SPACE, InvalidTextError, check_tokens

_T = TypeVar("_T")

_SYMBOLS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
}


def parse(
    text: str,
    *,
    columns: Iterable[str] | None = None,
    target: bool = False,
    label: str = "expression",
) -> Expr:
    """Return the expression that `text` describes.

    Text has the operators and functions of `atb_fast.features.functions`, with `==` and `!=` in
    place of `equal` and `unequal`. A bare name is a column. `col("name")` is a column whose name
    is not a plain one, or is also that of a function. Styles are bare words:
    `rsi(close, 14, wilder)`.

    Args:
        text: The text, at most 100,000 characters, in one or more lines.
        columns: The columns that exist; None accepts any name.
        target: Whether the expression may look into the future with `lead`.
        label: What the text is, for messages, for example `feature 'trend'`.

    Raises:
        ExpressionError: The text is not a valid expression. The message names the place.
    """
    if not isinstance(text, str):
        raise ExpressionError(f"{label}: expected text, got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise ExpressionError(
            f"{label}: the text has {len(text):,} characters; at most {MAX_TEXT:,} are allowed"
        )
    if not text.strip(SPACE):
        raise ExpressionError(f"{label}: the text is empty; write an expression such as `close`", 0)
    try:
        return _Parser(text, None if columns is None else tuple(columns), target).parse()
    except InvalidTextError as error:
        raise _located(label, text, error) from None


class _Parser:
    """One text that is being parsed."""

    def __init__(self, text: str, columns: tuple[str, ...] | None, target: bool) -> None:
        self.text = text
        self.columns = columns
        self.target = target

    def parse(self) -> Expr:
        check_tokens(self.text)
        # Python's parser gets one line without leading space. Characters keep their distances.
        self.start = len(self.text) - len(self.text.lstrip(SPACE))
        line = re.sub(f"[{SPACE}]", " ", self.text[self.start :])
        self.encoded = line.encode()
        try:
            return self._expression(ast.parse(line, mode="eval").body)
        except (RecursionError, MemoryError):
            problem = TOO_LARGE.format(f"more than {MAX_DEPTH} levels")
        except (SyntaxError, ValueError) as error:
            if isinstance(error, ExpressionError):
                raise
            problem = str(error)
        raise InvalidTextError(problem, self.start, self.start + 1)

    def _expression(self, node: ast.expr) -> Expr:
        match node:
            case ast.BinOp(left, symbol, right) | ast.Compare(left, [symbol], [right]):
                operands = self._expression(left), self._expression(right)
                return self._at(node, Expr, _SYMBOLS[type(symbol)], operands)
            case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, operand):
                value = self._expression(operand)
                return self._at(node, operator.neg, value) if isinstance(sign, ast.USub) else value
            case ast.Constant(int() | float() as number):
                return self._at(node, Expr, "number", (), (number,))
            case ast.Name(name):
                return self._column(node, name)
            case ast.Call(ast.Name("col"), [ast.Constant(str() as name)]):
                return self._column(node, name)
            case ast.Call(ast.Name(name) as function, values):
                return self._call(node, function, name, values)
        if isinstance(node, ast.Compare):
            raise self._invalid(node, "comparisons do not chain; write `(a < x) * (x < b)`")
        raise self._invalid(node, 'for a column, write its name, or col("name") with quotes')

    def _column(self, node: ast.expr, name: str) -> Expr:
        if isinstance(node, ast.Name) and (name in FUNCTIONS or name == "col"):
            usage = FUNCTIONS.get(name, 'col("funding rate")')
            problem = f'this is a function, called as {usage}; for a column, write col("{name}")'
            raise self._invalid(node, problem)
        if self.columns is not None and name not in self.columns:
            hint = _near(name, self.columns) or f"found: {', '.join(self.columns[:20])}"
            raise self._invalid(node, f"no such column; {hint}")
        return self._at(node, Expr, "column", (), (name,))

    def _call(self, node: ast.Call, called: ast.expr, name: str, values: list[ast.expr]) -> Expr:
        if name == "col":
            raise self._invalid(node, 'expected one quoted name, as in col("funding rate")')
        function = FUNCTIONS.get(name)
        if function is None:
            hint = _near(name, FUNCTIONS) or f"the functions are {', '.join(sorted(FUNCTIONS))}"
            raise self._invalid(called, f"no such function; {hint}")
        if name == "lead" and not self.target:
            raise self._invalid(node, LOOK_AHEAD)
        needed, most = function.counts
        if not needed <= len(values) <= most:
            expected = f"{most}" if needed == most else f"{needed} to {most}"
            plural = "" if expected == "1" else "s"
            problem = f"expected {expected} argument{plural}, got {len(values)}: {function}"
            raise self._invalid(node, problem)
        count = len(function.operands)
        operands = [self._expression(value) for value in values[:count]]
        given = [
            self._parameter(function, parameter, value)
            for parameter, value in zip(function.parameters, values[count:], strict=False)
        ]
        defaults = [each.default for each in function.parameters[len(given) :]]
        return self._at(node, call, name, *operands, *given, *defaults)

    def _parameter(self, function: Operator, parameter: Parameter, node: ast.expr) -> object:
        """Return the value of an argument that is not an expression."""
        value: object
        match node:
            case ast.Constant(int() | float() as value):
                pass
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
                value = -number
            case ast.Name(value) if parameter.kind == "style":
                pass
            case _:
                problem = f"`{parameter.name}` of `{function.name}` must be {parameter.expected}"
                raise self._invalid(node, f"{problem}: {function}")
        return self._at(node, parameter.check, function.name, value)

    def _at(self, node: ast.expr, build: Callable[..., _T], *args: object) -> _T:
        """Return `build(*args)`; an error gets the place of `node`."""
        try:
            return build(*args)
        except ExpressionError as error:
            raise self._invalid(node, str(error)) from None

    def _invalid(self, node: ast.expr, problem: str) -> InvalidTextError:
        start, end = (  # of Python's parser, which counts bytes
            self.start + len(self.encoded[:offset].decode())
            for offset in (node.col_offset, node.end_col_offset)
        )
        return InvalidTextError(problem, start, end)


def _located(label: str, text: str, error: InvalidTextError) -> ExpressionError:
    """Return the error to raise, whose message shows the place in the text."""
    part = text[error.start : error.end]
    part = _visible(part if len(part) <= 40 else f"{part[:37]}...")
    lines = re.split("\r\n|\r|\n", text[: error.start])
    character = len(lines[-1]) + 1
    where = (
        f"line {len(lines)}, character {character}" if len(lines) > 1 else f"character {character}"
    )
    before = lines[-1][-40:]
    after = re.split("[\r\n]", text[error.start :])[0][:40]
    return ExpressionError(
        f"{label}: `{part}` ({where}): {error.problem}\n"
        f"  {_visible(before + after)}\n"
        f"  {' ' * len(before)}^",
        error.start,
    )


def _visible(text: str) -> str:
    """Return the text with one space or question mark in place of what a terminal cannot show."""
    return "".join(each if each.isprintable() else " ?"[each not in SPACE] for each in text)


def _near(name: str, names: Iterable[str]) -> str:
    """Return a suggestion: the one of `names` that is most like `name`; empty if none is."""
    from difflib import get_close_matches

    lower = {each.lower(): each for each in names}
    near = get_close_matches(name.lower(), lower, n=1)
    return f"did you mean `{lower[near[0]]}`?" if near else ""
