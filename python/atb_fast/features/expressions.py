"""Expressions: trees of operators that define features and targets.

Build them with `atb_fast.features.functions` and Python's operators, or from text with
`atb_fast.features.parser.parse`. `str` returns the text of an expression; parsing it returns an
equal expression.
"""

from __future__ import annotations

import json
import keyword
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import ClassVar, NoReturn, TypeAlias

from atb_fast.errors import ExpressionError
from atb_fast.features.lowering import Graph, Node
from atb_fast.features.signatures import (
    ATOM,
    COMPARISON,
    FUNCTIONS,
    OPERATORS,
    POWER,
    SIGN,
    Value,
    as_number,
    shown,
)

#: Maximum number of operators and leaves in an expression, and maximum depth.
MAX_SIZE, MAX_DEPTH = 10_000, 100

#: Maximum length of the text of an expression. Expressions whose text may be longer are rejected,
#: so that the text of every expression can be parsed.
MAX_TEXT = 200_000

#: The message for an expression that is too large.
TOO_LARGE = "the expression has {}; split it up, or add part of it to the frame as a column"

#: What operators and functions accept as an operand.
Operand: TypeAlias = "Expr | float"


@dataclass(frozen=True, slots=True, repr=False)
class Expr:
    """An expression over the columns of a frame, with one value per bar.

    `+ - * / **`, unary minus and `< <= > >=` build larger expressions; numbers are allowed on
    either side. `==` and `!=` compare the expressions themselves and return a bool; to compare
    values, use `equal` and `unequal`. Expressions are immutable, hashable and picklable.

    Attributes:
        op: The operator: a function, `add`, `sub`, `mul`, `div`, `pow`, `neg`, `lt`, `le`, `gt`,
            `ge`, `eq`, `ne`, or a leaf, which is `column` or `number`.
        args: The operands.
        params: The other arguments: numbers of bars (int), numbers (float), styles, and for
            `column` its name.
        size: Number of operators and leaves in the tree.
        depth: Number of operators and leaves on the longest path through the tree.
        length: Upper bound on the number of characters of the text.

    Raises:
        ExpressionError: The operator is unknown, an argument is invalid, or the expression is too
            large.
    """

    op: str
    args: tuple[Expr, ...] = ()
    params: tuple[Value, ...] = ()
    size: int = field(init=False, compare=False)
    depth: int = field(init=False, compare=False)
    length: int = field(init=False, compare=False)

    #: NumPy leaves the operators to `Expr`, so `np.float64(2) * expr` works.
    __array_ufunc__: ClassVar[None] = None

    def __post_init__(self) -> None:
        operator = OPERATORS.get(self.op)
        if operator is None:
            raise ExpressionError(f"unknown operator {shown(self.op)}")
        expected = len(operator.operands), len(operator.parameters)
        args, params = tuple(self.args), tuple(self.params)
        if (len(args), len(params)) != expected or not all(isinstance(x, Expr) for x in args):
            raise ExpressionError(
                f"`{self.op}` takes {expected[0]} expressions and {expected[1]} parameters, got "
                f"{shown(args)} and {shown(params)}"
            )
        if self.op == "neg" and args[0].op == "number":
            raise ExpressionError("`neg` cannot be applied to a number; negate the number itself")
        params = tuple(
            parameter.check(self.op, value)
            for parameter, value in zip(operator.parameters, params, strict=True)
        )
        if self.op == "clip" and params[0] > params[1]:  # type: ignore[operator]
            raise ExpressionError(
                f"`lo` of `clip` must not exceed `hi`, got {params[0]} and {params[1]}"
            )
        if self.op in ("column", "number"):
            own = len(column_text(str(params[0])) if self.op == "column" else _number(params[0]))
        else:  # with parentheses, commas, and spaces around symbols
            own = len(operator.symbol or self.op) + 4 + 2 * len(args)
            own += sum(len(x if isinstance(x, str) else _number(x)) + 2 for x in params)
        self._set(
            args=args,
            params=params,
            size=1 + sum(each.size for each in args),
            depth=1 + max((each.depth for each in args), default=0),
            length=own + sum(each.length for each in args),
        )
        for what, value, limit in (
            ("operators and columns", self.size, MAX_SIZE),
            ("levels of nesting", self.depth, MAX_DEPTH),
            ("characters", self.length, MAX_TEXT),
        ):
            if value > limit:
                raise ExpressionError(TOO_LARGE.format(f"more than {limit:,} {what}"))

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that the expression reads."""
        return frozenset(str(each.params[0]) for each in self.walk() if each.op == "column")

    @property
    def lead(self) -> int:
        """How many bars the expression looks into the future; 0 for features.

        `lag` offsets `lead`: `lag(lead(x, 5), 2)` looks 3 bars ahead.
        """
        reach = _reach(self)
        return max(int(reach), 0) if math.isfinite(reach) else 0

    def walk(self) -> Iterator[Expr]:
        """Yield every part of the tree, operands before the operators that use them."""
        for each in self.args:
            yield from each.walk()
        yield self

    def nodes(self, bar_ms: int) -> list[Node]:
        """Return the nodes that the extension evaluates; equal parts appear once.

        Operators that the extension lacks are expanded into others: `zscore`, for example, becomes
        a difference, a mean, a standard deviation and a quotient.

        Args:
            bar_ms: Length of a bar in milliseconds.

        Returns:
            For each node its operator, the indices of its operands and its parameters. Operands
            come first; the last node is the whole expression.

        Raises:
            ExpressionError: The expression looks into the future with `lead`, or `bar_ms` is not
                a positive whole number.
        """
        if isinstance(bar_ms, bool) or not isinstance(bar_ms, int) or bar_ms < 1:
            raise ExpressionError(
                f"`bar_ms` must be the length of a bar in milliseconds, got {shown(bar_ms)}"
            )
        graph = Graph(bar_ms)
        known: dict[int, int] = {}

        def add(expr: Expr) -> int:
            if id(expr) not in known:
                if expr.op == "lead":
                    raise ExpressionError(LOOK_AHEAD)
                known[id(expr)] = graph.lower(expr.op, tuple(map(add, expr.args)), expr.params)
            return known[id(expr)]

        add(self)
        return graph.nodes

    def __str__(self) -> str:
        operator = OPERATORS[self.op]
        if self.op == "column":
            return column_text(str(self.params[0]))
        if self.op == "number":
            return _number(self.params[0])
        if self.op == "neg":
            return f"-{self.args[0]._within(SIGN)}"
        if not operator.symbol:
            shown_params = list(zip(operator.parameters, self.params, strict=True))
            while shown_params and shown_params[-1][0].default == shown_params[-1][1]:
                shown_params.pop()
            values = (x if isinstance(x, str) else _number(x) for _, x in shown_params)
            return f"{self.op}({', '.join((*map(str, self.args), *values))})"
        level = operator.precedence
        # `a - b - c` is `(a - b) - c`, `a ** b ** c` is `a ** (b ** c)`, and comparisons do not
        # associate. The exponent may start with a minus.
        left = level + 1 if level in (POWER, COMPARISON) else level
        right = SIGN if level == POWER else level + 1
        x, y = self.args
        return f"{x._within(left)} {operator.symbol} {y._within(right)}"

    def _within(self, level: int) -> str:
        """Return the text, in parentheses if it binds less tightly than `level`."""
        own = OPERATORS[self.op].precedence or ATOM
        if self.op == "number" and self.params[0] < 0:  # type: ignore[operator]
            own = SIGN
        return str(self) if own >= level else f"({self})"

    def __repr__(self) -> str:
        return f"Expr({str(self)!r})"

    def __reduce__(self) -> tuple[type[Expr], tuple[object, ...]]:
        return Expr, (self.op, self.args, self.params)

    def __bool__(self) -> NoReturn:
        raise ExpressionError(
            "an expression has no single truth value, so `and`, `or`, `not`, `if` and `a < x < b` "
            "do not work on it; use where(c, a, b), c * d for and, maximum(c, d) for or"
        )

    def __add__(self, other: Operand) -> Expr:
        return Expr("add", (self, lift(other)))

    def __radd__(self, other: Operand) -> Expr:
        return Expr("add", (lift(other), self))

    def __sub__(self, other: Operand) -> Expr:
        return Expr("sub", (self, lift(other)))

    def __rsub__(self, other: Operand) -> Expr:
        return Expr("sub", (lift(other), self))

    def __mul__(self, other: Operand) -> Expr:
        return Expr("mul", (self, lift(other)))

    def __rmul__(self, other: Operand) -> Expr:
        return Expr("mul", (lift(other), self))

    def __truediv__(self, other: Operand) -> Expr:
        return Expr("div", (self, lift(other)))

    def __rtruediv__(self, other: Operand) -> Expr:
        return Expr("div", (lift(other), self))

    def __pow__(self, other: Operand) -> Expr:
        return Expr("pow", (self, lift(other)))

    def __rpow__(self, other: Operand) -> Expr:
        return Expr("pow", (lift(other), self))

    def __neg__(self) -> Expr:
        if self.op == "number":
            return Expr("number", (), (-self.params[0],))  # type: ignore[operator]
        return Expr("neg", (self,))

    def __pos__(self) -> Expr:
        return self

    def __lt__(self, other: Operand) -> Expr:
        return Expr("lt", (self, lift(other)))

    def __le__(self, other: Operand) -> Expr:
        return Expr("le", (self, lift(other)))

    def __gt__(self, other: Operand) -> Expr:
        return Expr("gt", (self, lift(other)))

    def __ge__(self, other: Operand) -> Expr:
        return Expr("ge", (self, lift(other)))


#: The message for a feature that uses `lead`.
LOOK_AHEAD = "`lead` looks into the future; only a target may use it"


def lift(value: object) -> Expr:
    """Return `value` as an expression.

    Raises:
        ExpressionError: It is neither an expression nor a finite number.
    """
    if isinstance(value, Expr):
        return value
    if isinstance(value, bool):
        raise ExpressionError(
            f"expected an expression or a number, got {value}; to compare values, use equal(a, b) "
            "or unequal(a, b), because `==` and `!=` compare the expressions themselves"
        )
    if isinstance(value, str):
        raise ExpressionError(
            f"expected an expression or a number, got {shown(value)}; for a column, write "
            f"col({shown(value)})"
        )
    if not isinstance(value, Real):
        raise ExpressionError(f"expected an expression or a number, got {shown(value)}")
    return Expr("number", (), (as_number("an operand", value),))


def col(name: str) -> Expr:
    """Return a column of the frame, for example `close`."""
    return Expr("column", (), (name,))


def call(name: str, *values: object) -> Expr:
    """Return the operator `name` applied to `values`: its expressions, then its parameters."""
    count = len(OPERATORS[name].operands)
    return Expr(name, tuple(map(lift, values[:count])), values[count:])  # type: ignore[arg-type]


def _reach(expr: Expr) -> float:
    """Return how many bars ahead `expr` reads; negative for the past, -inf if it reads no bar."""
    if expr.op == "column":
        return 0.0
    reach = max(map(_reach, expr.args), default=-math.inf)
    shift = {"lead": 1, "lag": -1}.get(expr.op, 0)
    return reach + shift * float(expr.params[0]) if shift else reach


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def column_text(name: str) -> str:
    """Return a column in text: its name, or `col("name")` where the name would be ambiguous."""
    plain = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    return name if plain and name not in FUNCTIONS and name != "col" else f"col({_quoted(name)})"


def _number(value: Value) -> str:
    """Return the shortest text of a number that parses to the same number."""
    whole = isinstance(value, int) or (float(value).is_integer() and abs(float(value)) < 2**53)
    return str(int(value)) if whole else repr(float(value))
