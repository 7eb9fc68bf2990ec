"""Parses text such as `close / mean(close, 24) - 1` into an `Expr`.

Text is never evaluated. Python's own parser is not used, because long chains of operators overflow
the stack of threads with a small stack, and its messages differ between versions. Operator
precedence is that of Python.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from atb_fast.errors import ExpressionError
from atb_fast.features.expressions import (
    LOOK_AHEAD,
    MAX_DEPTH,
    MAX_TEXT,
    TOO_LARGE,
    Expr,
    call,
    col,
    column_text,
    lift,
)
from atb_fast.features.signatures import (
    COMPARISON,
    FUNCTIONS,
    OPERATORS,
    POWER,
    Operator,
    Parameter,
)
from atb_fast.features.tokens import SPACE, InvalidTextError, Token, split

_T = TypeVar("_T")

_BINARY = {
    each.symbol: each for each in OPERATORS.values() if len(each.operands) == 2 and each.symbol
}

#: Maximum nesting of parentheses, signs and powers. An expression of the maximum depth may need one
#: for each level.
_MAX_NESTING = MAX_DEPTH + 50

_TOO_DEEP = TOO_LARGE.format(f"more than {_MAX_NESTING} nested parentheses, signs and powers")


def parse(
    text: str,
    *,
    columns: Iterable[str] | None = None,
    target: bool = False,
    label: str = "expression",
) -> Expr:
    """Return the expression that `text` describes.

    Text uses the operators and functions of `atb_fast.features.functions`, with `==` and `!=` in
    place of `equal` and `unequal`. A bare name is a column. A column whose name is not an
    identifier, or is also that of a function, is written `col("name")`. Styles are bare words:
    `rsi(close, 14, wilder)`.

    Args:
        text: The text, at most 200,000 characters, on one or more lines.
        columns: The columns that exist; None accepts any name.
        target: Whether the expression may look into the future with `lead`.
        label: Name of the text in messages, for example `feature 'trend'`.

    Raises:
        ExpressionError: The text is not a valid expression. The message shows the position.
    """
    if not isinstance(text, str):
        raise ExpressionError(f"{label}: expected a string, got {type(text).__name__}")
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
    """Parses one text by precedence climbing."""

    def __init__(self, text: str, columns: tuple[str, ...] | None, target: bool) -> None:
        self.tokens = split(text)
        self.index = 0
        self.nesting = 0
        self.columns = columns
        self.target = target

    @property
    def token(self) -> Token:
        """The next token."""
        return self.tokens[self.index]

    def parse(self) -> Expr:
        try:
            expr = self._expression()
        except RecursionError:  # the caller has used up most of the stack
            raise self._invalid(_TOO_DEEP, self.token) from None
        if self.token.kind == ")":
            raise self._invalid("unmatched parenthesis", self._take())
        if self.token.kind != "end":
            raise self._no_operator()
        return expr

    def _take(self) -> Token:
        token = self.token
        self.index += token.kind != "end"
        return token

    def _expression(self, level: int = COMPARISON) -> Expr:
        """Return the expression that starts here, up to a symbol that binds less tightly."""
        first = self.token
        left = self._operand()
        while (symbol := _BINARY.get(self.token.kind)) and symbol.precedence >= level:
            taken = self._take()
            if symbol.precedence == POWER:  # `x ** y ** z` is `x ** (y ** z)`
                right = self._nested(taken, POWER)
            else:
                right = self._expression(symbol.precedence + 1)
            left = self._at(first, Expr, symbol.name, (left, right))
            after = _BINARY.get(self.token.kind)
            if symbol.precedence == COMPARISON and after and after.precedence == COMPARISON:
                problem = "comparisons do not chain; write `(a < x) * (x < b)`"
                raise self._invalid(problem, self._take())
        return left

    def _nested(self, outer: Token, level: int = COMPARISON) -> Expr:
        """Return the expression inside parentheses, or after a sign or `**`."""
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            raise self._invalid(_TOO_DEEP, outer)
        expr = self._expression(level)
        self.nesting -= 1
        return expr

    def _operand(self) -> Expr:
        first = self._take()
        match first.kind:
            case "number":
                expr = self._at(first, lift, first.value)
            case "name" if self.token.kind == "(":
                expr = self._call(first)
            case "name":
                expr = self._bare_name(first)
            case "+" | "-":  # `-x ** 2` is `-(x ** 2)`
                value = self._nested(first, POWER)
                expr = self._at(first, operator.neg, value) if first.kind == "-" else value
            case "(":
                expr = self._nested(first)
                self._close(first)
            case "quoted":
                problem = 'for a column, write its name, or col("name") with quotes'
                raise self._invalid(problem, first)
            case "end":
                problem = "the text ends where a column, a number or a function is expected"
                raise self._invalid(problem, first)
            case _:
                raise self._invalid("expected a column, a number or a function", first)
        return expr

    def _close(self, opened: Token) -> None:
        if self.token.kind == "end":
            raise InvalidTextError("this parenthesis is never closed", opened.start, opened.end)
        if self.token.kind != ")":
            raise self._no_operator()
        self._take()

    def _no_operator(self) -> InvalidTextError:
        """Return the error for an operand that is not followed by an operator."""
        problem = "expected an operator, such as `*`, before this"
        if self.token.kind == ",":
            problem = "a comma may only separate the arguments of a function"
        return self._invalid(problem, self._take())

    def _bare_name(self, first: Token) -> Expr:
        name = str(first.value)
        if name in FUNCTIONS or name == "col":
            usage = FUNCTIONS.get(name, 'col("funding rate")')
            problem = f"this is a function, called as {usage}"
            if self.columns is None or name in self.columns:
                problem += f'; for a column, write col("{name}")'
            raise self._invalid(problem, first)
        return self._column(first, name)

    def _column(self, first: Token, name: str) -> Expr:
        column = self._at(first, col, name)
        if self.columns is not None and name not in self.columns:
            texts = {each: column_text(each) for each in self.columns}
            known = ", ".join([*texts.values()][:20])
            hint = _near(name, texts) or f"found: {known}; a recipe lists other columns in `extra`"
            if any(name.endswith(f"_{each}") for each in self.columns):  # as of another symbol
                hint = f'for a column of --extra, write extra = ["{name}"] in the recipe'
            raise self._invalid(f"no such column; {hint}", first)
        return column

    def _call(self, first: Token) -> Expr:
        name, opened = str(first.value), self.token
        if name == "col":
            return self._quoted_column(first)
        function = FUNCTIONS.get(name)
        if function is None:
            names = {each: each for each in sorted(FUNCTIONS) if each != "lead" or self.target}
            hint = _near(name, names) or f"the functions are {', '.join(names)}"
            raise self._invalid(f"no such function; {hint}", first)
        if name == "lead" and not self.target:
            raise self._invalid(LOOK_AHEAD, first)
        self._take()
        values = self._arguments(function, opened)
        self._close(opened)
        needed, most = function.counts
        if not needed <= len(values) <= most:
            expected = f"{most}" if needed == most else f"{needed} to {most}"
            plural = "" if expected == "1" else "s"
            problem = f"expected {expected} argument{plural}, got {len(values)}: {function}"
            raise self._invalid(problem, first)
        missing = function.parameters[len(values) - len(function.operands) :]
        return self._at(first, call, name, *values, *(each.default for each in missing))

    def _quoted_column(self, first: Token) -> Expr:
        opened, quoted = self._take(), self._take()
        if quoted.kind != "quoted":
            raise self._invalid('expected one quoted name, as in col("funding rate")', first)
        self._close(opened)
        return self._column(first, str(quoted.value))

    def _arguments(self, function: Operator, opened: Token) -> list[object]:
        """Return the arguments of a call: expressions, then plain values."""
        values: list[object] = []
        if self.token.kind == ")":
            return values
        while True:
            place = len(values) - len(function.operands)
            if 0 <= place < len(function.parameters):
                values.append(self._parameter(function, function.parameters[place], opened))
            else:
                values.append(self._nested(opened))
            if self.token.kind != ",":
                return values
            self._take()

    def _parameter(self, function: Operator, parameter: Parameter, opened: Token) -> object:
        """Return the value of an argument that is not an expression."""
        start, first = self.index, self.token
        sign = -1 if first.kind == "-" else 1
        if first.kind == "-":
            self._take()
        token = self._take()
        value: object = None
        if isinstance(token.value, (int, float)):
            value = sign * token.value
        elif parameter.kind == "style" and token.kind == "name" and token is first:
            value = token.value
        if value is None or self.token.kind not in (",", ")", "end"):
            self.index = start
            self._nested(opened)  # reads the whole argument, so that the message shows it
            problem = f"{parameter.requirement(function.name)}: {function}"
            raise self._invalid(problem, first)
        return self._at(first, parameter.check, function.name, value)

    def _at(self, first: Token, build: Callable[..., _T], *args: object) -> _T:
        """Return `build(*args)`; errors point to the text from `first` to the last token read."""
        try:
            return build(*args)
        except ExpressionError as error:
            raise self._invalid(str(error), first) from None

    def _invalid(self, problem: str, first: Token) -> InvalidTextError:
        """Return an error about the text from `first` to the last token read."""
        return InvalidTextError(problem, first.start, self.tokens[max(self.index - 1, 0)].end)


def _located(label: str, text: str, error: InvalidTextError) -> ExpressionError:
    """Return the error to raise, whose message shows the position in the text."""
    part = text[error.start : error.end]
    part = _visible(part if len(part) <= 40 else f"{part[:37]}...")
    lines = re.split("\r\n|\r|\n", text[: error.start])
    line = f"line {len(lines)}, " if len(lines) > 1 else ""
    before = lines[-1][-40:]
    after = re.split("[\r\n]", text[error.start :])[0][:40]
    return ExpressionError(
        f"{label}: `{part}` ({line}character {len(lines[-1]) + 1}): {error.problem}\n"
        f"  {_visible(before + after)}\n"
        f"  {' ' * len(before)}^",
        error.start,
    )


def _visible(text: str) -> str:
    """Return the text with unprintable characters replaced by a space or a question mark."""
    return "".join(each if each.isprintable() else " ?"[each not in SPACE] for each in text)


def _near(name: str, texts: Mapping[str, str]) -> str:
    """Return a suggestion with the name closest to `name`; empty if none is close."""
    from difflib import get_close_matches

    lower = {each.lower(): text for each, text in texts.items()}
    near = get_close_matches(name.lower(), lower, n=1)
    return f"did you mean `{lower[near[0]]}`?" if near else ""
