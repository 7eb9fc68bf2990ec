"""Text that is not an expression: every mistake has a message and a place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_expressions import broken_texts, expressions

from atb_fast import ExpressionError
from atb_fast.features.expressions import Expr
from atb_fast.features.parser import parse

COLUMNS = ("open", "high", "low", "close", "volume", "fear_greed", "funding rate")

OPERAND = "expected a column, a number or a function"
OPERATOR = "expected an operator, such as `*`, before this"
ENDS = "the text ends where a column, a number or a function is expected"
QUOTED = "the quoted name is not closed, or has an unknown escape or a control character"
WHOLE = "must be a whole number of bars from"


@pytest.mark.parametrize(
    ("text", "index", "part", "problem"),
    [
        # Unfinished, or in the wrong order.
        ("close +", 6, "+", ENDS),
        ("-", 0, "-", ENDS),
        ("close / (open - ", 14, "-", ENDS),
        ("(close", 0, "(", "this parenthesis is never closed"),
        ("log((close)", 3, "(", "this parenthesis is never closed"),
        ("mean(close, 5", 4, "(", "this parenthesis is never closed"),
        ("mean(close, ", 10, ",", ENDS),
        ("close)", 5, ")", "unmatched parenthesis"),
        ("(close))", 7, ")", "unmatched parenthesis"),
        ("()", 1, ")", OPERAND),
        ("log()", 0, "log()", "expected 1 argument, got 0: log(x)"),
        ("log(,)", 4, ",", OPERAND),
        ("mean(close, )", 12, ")", OPERAND),
        ("mean(close 5)", 11, "5", OPERATOR),
        ("close open", 6, "open", OPERATOR),
        ("2 close", 2, "close", OPERATOR),
        ("close 2", 6, "2", OPERATOR),
        ("close (open)", 0, "close", "no such function"),
        ("(close)(open)", 7, "(", OPERATOR),
        ("2(close)", 1, "(", OPERATOR),
        ("close, open", 5, ",", "a comma may only separate the arguments of a function"),
        ("(close, open)", 6, ",", "a comma may only separate the arguments of a function"),
        ("close * / open", 8, "/", OPERAND),
        ("* close", 0, "*", OPERAND),
        ("close // 2", 7, "/", OPERAND),
        ("log(*close)", 4, "*", OPERAND),
        ("close <> open", 7, ">", OPERAND),
        ("close === open", 8, "=", "to compare, write `==`"),
        # Columns and functions.
        ("volme", 0, "volme", "no such column; did you mean `volume`?"),
        ("log(close / Open)", 12, "Open", "no such column; did you mean `open`?"),
        ("eth_close", 0, "eth_close", 'for a column of --extra, write extra = ["eth_close"] in'),
        ("xyz", 0, "xyz", "no such column; found: open, high, low, close, volume, fear_"),
        ('col("funding_rate")', 0, 'col("funding_rate")', 'did you mean `col("funding rate")`?'),
        ("mena(close, 5)", 0, "mena", "no such function; did you mean `mean`?"),
        ("Mean(close, 5)", 0, "Mean", "no such function; did you mean `mean`?"),
        ("1 + truerange(high, low, close)", 4, "truerange", "did you mean `true_range`?"),
        ("frobnicate(close)", 0, "frobnicate", "no such function; the functions are abs, argmax, "),
        ("frobnicate(close)", 0, "frobnicate", "hour, lag, log, "),  # `lead` is for targets only
        ("mean / 2", 0, "mean", 'this is a function, called as mean(x, n)'),
        ("col + 1", 0, "col", 'this is a function, called as col("funding rate")'),
        ("col(close)", 0, "col(close", 'expected one quoted name, as in col("funding rate")'),
        ("col()", 0, "col()", "expected one quoted name"),
        ('col("close", 1)', 11, ",", "a comma may only separate"),
        ('"close" / 2', 0, '"close"', 'write its name, or col("name")'),
        ('col("")', 0, 'col("")', "a column name must be a non-empty string"),
        ('col("close)', 4, '"', QUOTED),
        ("col('close\")", 4, "'", QUOTED),
        ('col("a\nb")', 4, '"', QUOTED),
        ('col("a\\d")', 4, '"', QUOTED),
        ('col("a\0b")', 4, '"', QUOTED),
        ('col("\ud800")', 4, '"', QUOTED),
        (r'col("\ud800")', 0, r'col("\ud800")', "must be valid Unicode"),
        ('col(b"close")', 0, "col(b", "expected one quoted name"),
        # Arguments.
        ("mean(close)", 0, "mean(close)", "expected 2 arguments, got 1: mean(x, n)"),
        ("1 + mean(close, 5, 6)", 4, "mean(close, 5, 6)", "expected 2 arguments, got 3: mean"),
        ("hour(1, sin, 2)", 0, "hour(1, sin, 2)", "expected 0 to 2 arguments, got 3: hour(k=0, "),
        ("rsi(close, 14)", 0, "rsi(close, 14)", "got 2: rsi(x, n, simple|wilder)"),
        ("mean(close, n=5)", 13, "=", "arguments are passed by position, without names"),
        ("mean(close, 0)", 12, "0", f"`n` of `mean` {WHOLE} 1 to 1,048,576, got 0"),
        ("std(close, 1)", 11, "1", f"`n` of `std` {WHOLE} 2 to 1,048,576, got 1"),
        ("mean(close, 2.0)", 12, "2.0", f"`n` of `mean` {WHOLE} 1 to 1,048,576, got 2.0"),
        ("mean(close, 1048577)", 12, "1048577", "1 to 1,048,576, got 1048577"),
        ("mean(close, 24 * 7)", 12, "24 * 7", f"`n` of `mean` {WHOLE} 1 to 1,048,576: mean(x, n)"),
        ("mean(close, volume)", 12, "volume", f"`n` of `mean` {WHOLE}"),
        ("mean(5, close)", 8, "close", f"`n` of `mean` {WHOLE}"),
        ("mean(close, --5)", 12, "--5", f"`n` of `mean` {WHOLE}"),
        ("max(high, low)", 10, "low", "(for the larger of two values, use `maximum`)"),
        ("min(high, 0.5)", 10, "0.5", "(for the smaller of two values, use `minimum`), got 0.5"),
        ("quantile(close, 5, 1.5)", 19, "1.5", "`q` of `quantile` must be a number from 0 to 1"),
        ("clip(close, 2, 1)", 0, "clip(close, 2, 1)", "`lo` of `clip` must not exceed `hi`"),
        ("clip(close, low, 1)", 12, "low", "`lo` of `clip` must be a number: clip(x, lo, hi)"),
        ("rsi(close, 14, wildr)", 15, "wildr", "must be one of simple, wilder, got 'wildr'"),
        ("rsi(close, 14, 3)", 15, "3", "must be one of simple, wilder, got 3"),
        ("hour(sin)", 5, "sin", "; a recipe lists other columns in `extra`"),
        ("hour(-1)", 5, "-1", f"`k` of `hour` {WHOLE} 0 to 1,048,576, got -1"),
        # Look-ahead.
        ("log(lead(close, 1))", 4, "lead", "looks into the future; only a target may use it"),
        ("lag(close, -1)", 11, "-1", "would look into the future; only a target may, with `lead`"),
        ("diff(close, -3)", 12, "-3", "would look into the future; only a target may, with `lead`"),
        # Numbers.
        ("1e999", 0, "1e999", "the number is too large"),
        ("2 ** 1" + 400 * "0", 5, "1" + 36 * "0" + "...", "the number is too large"),
        ("0x10", 0, "0x10", "not a decimal number"),
        ("1_000", 0, "1_000", "not a decimal number"),
        ("close * 1j", 8, "1j", "not a decimal number"),
        ("007", 0, "007", "not a decimal number"),
        ("1.2.3", 0, "1.2.3", "not a decimal number"),
        ("5m", 0, "5m", "not a decimal number"),
        ("nan", 0, "nan", "no such column"),
        # What other languages have.
        ("$close / 2", 0, "$", "columns are written without `$`"),
        ("close ^ 2", 6, "^", "for a power, write `**`"),
        ("close % 2", 6, "%", "this character is not allowed"),
        ("high > 1 & low > 1", 9, "&", "for `and`, multiply the conditions"),
        ("high > 1 and low > 1", 9, "and", "for `and`, multiply the conditions"),
        ("high > 1 | low > 1", 9, "|", "for `or`, write `maximum(a > 0, b > 0)`"),
        ("high > 1 or low > 1", 9, "or", "for `or`, write `maximum(a > 0, b > 0)`"),
        ("not high", 0, "not", "for `not c`, write `c == 0`"),
        ("!high", 0, "!", "for `not c`, write `c == 0`"),
        ("high if low else 1", 5, "if", "write `where(c, a, b)`"),
        ("high = 1", 5, "=", "to compare, write `==`"),
        ("1 < high < 2", 9, "<", "comparisons do not chain; write `(a < x) * (x < b)`"),
        ("high == low != 1", 12, "!=", "comparisons do not chain"),
        ("where(True, 1, 2)", 6, "True", "write 1 for true"),
        ("None", 0, "None", 'for a column of that name, write col("None")'),
        ("close[1]", 5, "[", "this character is not allowed"),
        ("close.shift(1)", 5, ".", "this character is not allowed"),
        ("x := 1", 2, ":", "this character is not allowed"),
        ("lambda: 1", 0, "lambda", 'write col("lambda")'),
        ("__import__('os')", 0, "__import__", "no such function"),
        ("close # price", 6, "#", "comments are not supported"),
        ("close; open", 5, ";", "this character is not allowed"),
        ("close \\\n", 6, "\\", "this character is not allowed"),
        # Characters that look like others.
        ("größe", 2, "ö", "only ASCII characters are allowed outside quotes"),
        ("ﬁll(close, 0)", 0, "ﬁ", "only ASCII characters are allowed outside quotes"),
        ("close − 1", 6, "−", "only ASCII characters are allowed outside quotes"),
        ("close\u00a0+ 1", 5, "?", "only ASCII characters are allowed outside quotes"),
        ("\ufeffclose", 0, "?", "only ASCII characters are allowed outside quotes"),
        ("close\0", 5, "?", "this character is not allowed"),
        # Too large.
        ("(" * 200 + "x" + ")" * 200, 150, "(", "more than 150 nested parentheses, signs"),
        ("-" * 9000 + "close", 150, "-", "more than 150 nested parentheses, signs"),
        ("2**" * 9000 + "2", 451, "**", "more than 150 nested parentheses, signs"),
        ("1+" * 9000 + "1", 0, "1+" * 18 + "1...", "more than 100 levels of nesting; split"),
        ("abs(" * 101 + "close" + ")" * 101, 4, "abs(" * 9 + "a...", "more than 100 levels"),
    ],
)  # fmt: skip
def test_mistakes_have_a_message_and_a_place(
    text: str, index: int, part: str, problem: str
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, columns=COLUMNS, label="feature 'trend'")
    first, shown, caret = str(caught.value).split("\n")
    where = f"character {index + 1}"
    assert first.startswith(f"feature 'trend': `{part}` ({where}): ")
    assert problem in first
    assert caught.value.position == index
    assert caret.strip() == "^"
    at = caret.index("^")
    assert shown[at] in (text[index], "?")
    assert len(shown) <= 82


@pytest.mark.parametrize(
    ("text", "line", "character"),
    [
        ("close +\n  volme", 2, 3),
        ("close +\r\n\tvolme", 2, 2),
        ("\n\nvolme", 3, 1),
        ("close +\r volme", 2, 2),
        ('col("größe") + volme', 1, 16),
    ],
)
def test_mistakes_in_several_lines(text: str, line: int, character: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text, columns=["close", "größe", "volume"])
    first, shown, caret = str(caught.value).split("\n")
    where = f"character {character}" if line == 1 else f"line {line}, character {character}"
    assert first == f"expression: `volme` ({where}): no such column; did you mean `volume`?"
    assert shown.index("volme") == caret.index("^")
    assert caught.value.position == text.index("volme")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expression: the text is empty; write an expression such as `close`"),
        (" \n\t", "expression: the text is empty; write an expression such as `close`"),
        (5, "expression: expected a string, got int"),
        (None, "expression: expected a string, got NoneType"),
        (b"close", "expression: expected a string, got bytes"),
        (" " * 200_001, "expression: the text has 200,001 characters; at most 200,000 are allowed"),
    ],
)
def test_what_is_no_text(text: Any, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_targets_may_look_ahead() -> None:
    assert parse("log(lead(close, 4) / close)", target=True).lead == 4


def test_columns_are_those_of_the_frame() -> None:
    text = 'close + col("funding rate") * fear_greed'
    assert parse(text, columns=iter(COLUMNS)) == parse(text)


@settings(deadline=None, max_examples=600)
@given(st.one_of(broken_texts(expressions(max_leaves=8).map(str)), st.text()), st.booleans())
def test_any_text_is_an_expression_or_an_error_that_shows_the_place(
    text: str, target: bool
) -> None:
    check_any_text(text, target)


def check_any_text(text: str, target: bool) -> bool:
    """Return whether `text` is an expression; fail if the parser fails in an unexpected way."""
    expr = error = None
    try:
        expr = parse(text, target=target)
    except ExpressionError as caught:
        error = caught
    if error is not None:
        lines = str(error).split("\n")
        assert len(lines) == 3 or not text.strip(" \t\r\n\f\v")
        assert error.position in range(max(len(text), 1))
        assert all(each.isprintable() for each in lines)
        return False
    assert isinstance(expr, Expr)
    assert parse(str(expr), target=target) == expr
    return True


def test_a_column_named_like_a_function() -> None:
    for columns in (None, (*COLUMNS, "mean")):
        with pytest.raises(ExpressionError, match=r'for a column, write col\("mean"\)'):
            parse("mean / 2", columns=columns)
        assert parse('col("mean") / 2', columns=columns).columns == {"mean"}
