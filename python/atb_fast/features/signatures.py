"""The operators of expressions: their arguments and limits, each declared once.

The parser, the printer, the Python functions and the documentation use this table.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from atb_fast.errors import ExpressionError

#: A value that is not an expression: a number of bars, a number, a style or the name of a column.
Value = float | int | str

#: Maximum window, in bars.
MAX_BARS = 2**20

_HINTS = {
    "min": " (for the smaller of two values, use `minimum`)",
    "max": " (for the larger of two values, use `maximum`)",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument that is a plain value rather than an expression.

    Attributes:
        name: Name of the argument.
        kind: `bars` for a whole number of bars, `number`, `style` for one of `choices`, or `name`
            for the name of a column.
        minimum: Smallest value.
        maximum: Largest value.
        choices: The allowed styles.
        default: The value if the argument is left out; None if it is required.
    """

    name: str
    kind: Literal["bars", "number", "style", "name"]
    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    default: Value | None = None

    def __str__(self) -> str:
        shown = "|".join(self.choices) or self.name
        return shown if self.default is None else f"{shown}={self.default}"

    def check(self, owner: str, value: object) -> Value:
        """Return `value` as an int, a float or a string.

        Args:
            owner: The operator, for messages.
            value: What the caller passed.

        Raises:
            ExpressionError: The value has the wrong type or is out of range.
        """
        what = f"`{self.name}` of `{owner}`"
        if self.kind == "name":
            return _column_name(value)
        if self.kind == "number":
            number = as_number(what, value)
            if self.minimum <= number <= self.maximum:
                return number
        elif self.kind == "style":
            if isinstance(value, str) and value in self.choices:
                return str(value)
        elif (bars := _whole(value)) is not None:
            if self.minimum <= bars <= self.maximum:
                return bars
            if bars < 0 and owner in ("lag", "diff"):
                raise ExpressionError(
                    f"{what} must not be negative, got {shown(bars)}: that would look into the "
                    "future; only a target may, with `lead`"
                )
        raise ExpressionError(f"{self.requirement(owner)}, got {shown(value)}")

    def requirement(self, owner: str) -> str:
        """Return what the argument of the operator `owner` must be, for messages."""
        expected = f"one of {', '.join(self.choices)}"
        if self.kind == "bars":
            expected = f"a whole number of bars from {self.minimum:,} to {self.maximum:,}"
        elif self.kind == "number":
            limited = math.isfinite(self.minimum)
            expected = f"a number{f' from {self.minimum:g} to {self.maximum:g}' if limited else ''}"
        hint = _HINTS.get(owner, "")
        return f"`{self.name}` of `{owner}` must be {expected}{hint}"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: a function, a symbol such as `+`, or one of the leaves `column` and `number`.

    Attributes:
        name: Name of the operator in `Expr.op`.
        operands: Names of the arguments that are expressions; they come first.
        parameters: The other arguments.
        symbol: The symbol in text; empty for functions and leaves.
        precedence: How tightly the symbol binds; higher binds tighter.
    """

    name: str
    operands: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    symbol: str = ""
    precedence: int = 0

    @property
    def counts(self) -> tuple[int, int]:
        """The minimum and maximum number of arguments."""
        required = sum(each.default is None for each in self.parameters)
        return len(self.operands) + required, len(self.operands) + len(self.parameters)

    def __str__(self) -> str:
        """Return how to call it, for example `quantile(x, n, q)`."""
        return f"{self.name}({', '.join((*self.operands, *map(str, self.parameters)))})"


COMPARISON, SUM, PRODUCT, SIGN, POWER, ATOM = range(1, 7)

_SYMBOLS = {
    **{op: (symbol, COMPARISON) for op, symbol in zip(
        ("lt", "le", "gt", "ge", "eq", "ne"), ("<", "<=", ">", ">=", "==", "!="), strict=True
    )},
    "add": ("+", SUM),
    "sub": ("-", SUM),
    "mul": ("*", PRODUCT),
    "div": ("/", PRODUCT),
    "pow": ("**", POWER),
}  # fmt: skip


def _bars(minimum: int = 1) -> Parameter:
    return Parameter("n", "bars", minimum, MAX_BARS)


def _functions() -> Iterable[Operator]:
    x, xy = ("x",), ("x", "y")
    for name in ("log", "log1p", "exp", "sqrt", "abs", "sign", "tanh"):
        yield Operator(name, x)
    yield Operator("where", ("c", "a", "b"))
    yield Operator("clip", x, (Parameter("lo", "number"), Parameter("hi", "number")))
    yield Operator("minimum", xy)
    yield Operator("maximum", xy)
    yield Operator("fill", x, (Parameter("value", "number"),))
    yield Operator("lag", x, (_bars(0),))
    yield Operator("lead", x, (_bars(0),))
    for name in ("diff", "sum", "mean", "min", "max", "median", "rank", "argmax", "argmin"):
        yield Operator(name, x, (_bars(),))
    yield Operator("count", ("c",), (_bars(),))
    yield Operator("quantile", x, (_bars(), Parameter("q", "number", 0, 1)))
    for name in ("std", "var", "zscore", "slope", "rsquare", "resid"):
        yield Operator(name, x, (_bars(2),))
    for name in ("corr", "cov"):
        yield Operator(name, xy, (_bars(2),))
    yield Operator("ema", x, (_bars(),))
    yield Operator("wilder", x, (_bars(),))
    yield Operator("rsi", x, (_bars(), Parameter("style", "style", choices=("simple", "wilder"))))
    candle = ("high", "low", "close")
    yield Operator("true_range", candle)
    yield Operator("atr", candle, (_bars(),))
    later = Parameter("k", "bars", 0, MAX_BARS, default=0)
    style = Parameter("style", "style", choices=("plain", "sin", "cos"), default="plain")
    for name in ("hour", "weekday", "day_of_year"):
        yield Operator(name, (), (later, style))


#: The functions that text can call, by name; text also has `col("name")`.
FUNCTIONS = {each.name: each for each in _functions()}

#: Every operator, by the name in `Expr.op`.
OPERATORS = {
    "column": Operator("column", (), (Parameter("name", "name"),), precedence=ATOM),
    "number": Operator("number", (), (Parameter("value", "number"),), precedence=ATOM),
    "neg": Operator("neg", ("x",), symbol="-", precedence=SIGN),
    **{
        op: Operator(op, ("x", "y"), symbol=symbol, precedence=precedence)
        for op, (symbol, precedence) in _SYMBOLS.items()
    },
    **FUNCTIONS,
}


def as_number(what: str, value: object) -> float:
    """Return `value` as a finite float.

    Raises:
        ExpressionError: It is not a number, not finite, or too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ExpressionError(f"{what} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ExpressionError(f"{what} must be a finite number, got {shown(value)}")
    return number + 0.0  # turns -0.0 into 0.0, so that both print as 0


def _whole(value: object) -> int | None:
    """Return a whole number of any integer type as an int; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _column_name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ExpressionError(f"a column name must be a non-empty string, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ExpressionError(f"a column name must be valid Unicode, got {value!a}") from None
    return str(value)


def shown(value: object, width: int = 40) -> str:
    """Return a short `repr` of any object, for messages."""
    if isinstance(value, int) and abs(value) >= 10**width:
        return "an integer that is too large"  # repr() refuses to print more than 4300 digits
    try:
        text = repr(value)
    except Exception:  # a broken repr must not replace the message
        text = f"a {type(value).__name__}"
    return text if len(text) <= width else f"{text[: width - 3]}..."
