"""The functions of expressions, with the same names as in text.

Every function returns an `Expr`. An argument `x` is an expression or a number, and `n` is a window
in bars: the current bar and the `n - 1` before it. A null operand makes the result null, except in
`where` and `fill`. So does a window that contains a null or starts before the first row. A result
that is not finite, such as 0 / 0 or the logarithm of a negative number, is null too.

`sum`, `min`, `max` and `abs` shadow Python's built-ins, so import the module under an alias, or
import only what you need:

    >>> from atb_fast.features.functions import col, mean
    >>> col("close") / mean(col("close"), 24) - 1
    Expr('close / mean(close, 24) - 1')
"""

from __future__ import annotations

from typing import Literal

from atb_fast.features.expressions import Expr, Operand, call, col
from atb_fast.features.signatures import FUNCTIONS

__all__ = ["col", "equal", "unequal", *FUNCTIONS]  # noqa: PLE0604 (the names are known)


def equal(x: Operand, y: Operand) -> Expr:
    """Return 1 where `x` and `y` are equal, else 0; `x == y` in text."""
    return call("eq", x, y)


def unequal(x: Operand, y: Operand) -> Expr:
    """Return 1 where `x` and `y` differ, else 0; `x != y` in text."""
    return call("ne", x, y)


def where(c: Operand, a: Operand, b: Operand) -> Expr:
    """Return `a` where the condition `c` is not 0, else `b`.

    Null where `c` is null, or where the chosen one of `a` and `b` is; the other one is ignored.
    """
    return call("where", c, a, b)


def log(x: Operand) -> Expr:
    """Return the natural logarithm of `x`; null where `x` is not positive."""
    return call("log", x)


def log1p(x: Operand) -> Expr:
    """Return log(1 + x), which is accurate for small `x` too; null where `x` is -1 or less."""
    return call("log1p", x)


def exp(x: Operand) -> Expr:
    """Return e to the power of `x`; null where it overflows, for `x` above about 709."""
    return call("exp", x)


def sqrt(x: Operand) -> Expr:
    """Return the square root of `x`; null where `x` is negative."""
    return call("sqrt", x)


def abs(x: Operand) -> Expr:  # noqa: A001
    """Return the absolute value of `x`."""
    return call("abs", x)


def sign(x: Operand) -> Expr:
    """Return the sign of `x`: -1, 0 or 1."""
    return call("sign", x)


def tanh(x: Operand) -> Expr:
    """Return the hyperbolic tangent of `x`, between -1 and 1."""
    return call("tanh", x)


def clip(x: Operand, lo: float, hi: float) -> Expr:
    """Return `x`, limited to the range from `lo` to `hi`."""
    return call("clip", x, lo, hi)


def minimum(x: Operand, y: Operand) -> Expr:
    """Return the smaller of `x` and `y`, bar by bar. For a window, use `min`."""
    return call("minimum", x, y)


def maximum(x: Operand, y: Operand) -> Expr:
    """Return the larger of `x` and `y`, bar by bar. For a window, use `max`."""
    return call("maximum", x, y)


def fill(x: Operand, value: float) -> Expr:
    """Return `x` with `value` in place of nulls.

    Rows in the warm-up of `x`, at the start of the frame, stay null.
    """
    return call("fill", x, value)


def lag(x: Operand, n: int) -> Expr:
    """Return the value of `x` `n` bars earlier; n >= 0."""
    return call("lag", x, n)


def lead(x: Operand, n: int) -> Expr:
    """Return the value of `x` `n` bars later; n >= 0. Only targets may use it."""
    return call("lead", x, n)


def diff(x: Operand, n: int) -> Expr:
    """Return the change of `x` over `n` bars: x - lag(x, n)."""
    return call("diff", x, n)


def sum(x: Operand, n: int) -> Expr:  # noqa: A001
    """Return the sum of the last `n` values."""
    return call("sum", x, n)


def mean(x: Operand, n: int) -> Expr:
    """Return the arithmetic mean of the last `n` values, a simple moving average."""
    return call("mean", x, n)


def min(x: Operand, n: int) -> Expr:  # noqa: A001
    """Return the minimum of the last `n` values."""
    return call("min", x, n)


def max(x: Operand, n: int) -> Expr:  # noqa: A001
    """Return the maximum of the last `n` values."""
    return call("max", x, n)


def median(x: Operand, n: int) -> Expr:
    """Return the median of the last `n` values; for even `n`, the mean of the middle two."""
    return call("median", x, n)


def quantile(x: Operand, n: int, q: float) -> Expr:
    """Return the quantile `q`, from 0 to 1, of the last `n` values.

    Linearly interpolated at position q (n - 1) of the sorted values, as `numpy.quantile` does by
    default (definition 7 of Hyndman and Fan, 1996).
    """
    return call("quantile", x, n, q)


def rank(x: Operand, n: int) -> Expr:
    """Return the rank of the current value among the last `n`, divided by `n`.

    Greater than 0, and 1 where the current value is the largest. Ties get the mean of their ranks,
    as in `rolling(n).rank(pct=True)` of pandas.
    """
    return call("rank", x, n)


def argmax(x: Operand, n: int) -> Expr:
    """Return the position of the maximum in the window: 0 for the oldest bar, n - 1 for the newest.

    Of equal values, the oldest counts.
    """
    return call("argmax", x, n)


def argmin(x: Operand, n: int) -> Expr:
    """Return the position of the minimum in the window: 0 for the oldest bar, n - 1 for the newest.

    Of equal values, the oldest counts.
    """
    return call("argmin", x, n)


def count(c: Operand, n: int) -> Expr:
    """Return the number of the last `n` bars on which the condition `c` is not 0."""
    return call("count", c, n)


def std(x: Operand, n: int) -> Expr:
    """Return the sample standard deviation of the last `n` values, with divisor n - 1; n >= 2."""
    return call("std", x, n)


def var(x: Operand, n: int) -> Expr:
    """Return the sample variance of the last `n` values, with divisor n - 1; n >= 2."""
    return call("var", x, n)


def zscore(x: Operand, n: int) -> Expr:
    """Return (x - mean(x, n)) / std(x, n); null where the values are all equal; n >= 2."""
    return call("zscore", x, n)


def corr(x: Operand, y: Operand, n: int) -> Expr:
    """Return the Pearson correlation of the last `n` values of `x` and `y`; n >= 2.

    Null where `x` or `y` is constant over the window.
    """
    return call("corr", x, y, n)


def cov(x: Operand, y: Operand, n: int) -> Expr:
    """Return the sample covariance of the last `n` values of `x` and `y`; n >= 2."""
    return call("cov", x, y, n)


def slope(x: Operand, n: int) -> Expr:
    """Return the slope, in units of `x` per bar, of the line fitted to the last `n` values; n >= 2.

    The line is the least-squares fit of the values on 0, 1, ..., n - 1.
    """
    return call("slope", x, n)


def rsquare(x: Operand, n: int) -> Expr:
    """Return the coefficient of determination R² of the line fitted to the last `n` values.

    From 0 to 1; null where the values are all equal; n >= 2. `slope` describes the line.
    """
    return call("rsquare", x, n)


def resid(x: Operand, n: int) -> Expr:
    """Return the current value minus that of the line fitted to the last `n` values; n >= 2.

    `slope` describes the line.
    """
    return call("resid", x, n)


def ema(x: Operand, n: int) -> Expr:
    """Return the exponential moving average with the smoothing factor alpha = 2 / (n + 1).

    y = y + alpha (x - y) for each bar, starting from the first value. The average depends on all
    earlier values; it is null until the weight of everything before the first value,
    (1 - alpha)^k after k bars, is below 1e-13. After a null, the recursion starts again.
    """
    return call("ema", x, n)


def wilder(x: Operand, n: int) -> Expr:
    """Return Wilder's moving average, which is `ema` with the smoothing factor alpha = 1 / n.

    Source: J. Welles Wilder, New Concepts in Technical Trading Systems, 1978.
    """
    return call("wilder", x, n)


def rsi(x: Operand, n: int, style: Literal["simple", "wilder"]) -> Expr:
    """Return the relative strength index of `x`, from 0 to 100.

    100 g / (g + l), where g and l are the average gain and the average loss from bar to bar.

    Args:
        x: Usually the close.
        n: Length of the averages in bars.
        style: `wilder` for Wilder's averages; 50 where `x` did not change. `simple` for arithmetic
            means over `n` bars; null where `x` did not change, and the first value counts as no
            change.

    Source: J. Welles Wilder, New Concepts in Technical Trading Systems, 1978.
    """
    return call("rsi", x, n, style)


def true_range(high: Operand, low: Operand, close: Operand) -> Expr:
    """Return the true range: the range of the bar, extended to the previous close.

    max(high - low, |high - lag(close, 1)|, |low - lag(close, 1)|); null for the first bar.

    Source: J. Welles Wilder, New Concepts in Technical Trading Systems, 1978.
    """
    return call("true_range", high, low, close)


def atr(high: Operand, low: Operand, close: Operand, n: int) -> Expr:
    """Return the average true range: wilder(true_range(high, low, close), n).

    Source: J. Welles Wilder, New Concepts in Technical Trading Systems, 1978.
    """
    return call("atr", high, low, close, n)


def hour(k: int = 0, style: Literal["plain", "sin", "cos"] = "plain") -> Expr:
    """Return the hour in UTC, 0 to 23, at which a bar opens.

    Args:
        k: 0 for the current bar, 1 for the next one, and so on; their times are known in advance.
        style: `plain` for the hour itself; `sin` or `cos` for the sine or cosine of 2 pi hour / 24.
    """
    return call("hour", k, style)


def weekday(k: int = 0, style: Literal["plain", "sin", "cos"] = "plain") -> Expr:
    """Return the day of the week in UTC, 0 for Monday to 6, on which a bar opens.

    Args:
        k: 0 for the current bar, 1 for the next one, and so on; their times are known in advance.
        style: `plain` for the day itself; `sin` or `cos` for the sine or cosine of 2 pi day / 7.
    """
    return call("weekday", k, style)


def day_of_year(k: int = 0, style: Literal["plain", "sin", "cos"] = "plain") -> Expr:
    """Return the day of the year in UTC, 1 to 366, on which a bar opens.

    Args:
        k: 0 for the current bar, 1 for the next one, and so on; their times are known in advance.
        style: `plain` for the day itself; `sin` or `cos` for the sine or cosine of
            2 pi day / 365.25.
    """
    return call("day_of_year", k, style)
