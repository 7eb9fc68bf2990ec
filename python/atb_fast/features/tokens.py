"""The tokens of expressions in text, and the checks of their order.

After these checks a text consists only of plain names, numbers, quoted names, operators and
matching brackets in a sensible order, so Python's parser has nothing left to refuse, whatever its
version, and the messages are ours.
"""

from __future__ import annotations

import keyword
import math
import re

#: More brackets than that inside each other are refused; Python's parser allows 200.
_MAX_BRACKETS = 150

#: What separates tokens. Other white space is not allowed outside quotes.
SPACE = " \t\r\n\f\v"

# Quoted names may contain the escapes of JSON, because that is how column names are printed.
_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\r\n\f\v]+ )
    | (?P<quoted> " (?: [^"\\\x00-\x1f\ud800-\udfff] | \\ ["\\bfnrt] | \\u[0-9a-fA-F]{4} )* "
                | ' (?: [^'\\\x00-\x1f\ud800-\udfff] | \\ ['\\bfnrt] | \\u[0-9a-fA-F]{4} )* ' )
    | (?P<number> (?: (?: 0 | [1-9][0-9]* ) (?: \. [0-9]* )? | \. [0-9]+ )
                  (?: [eE] [+-]? [0-9]+ )? (?! [\w.] ) )
    | (?P<name> [A-Za-z_] [A-Za-z0-9_]* )
    | (?P<open> \( )
    | (?P<close> \) )
    | (?P<comma> , )
    | (?P<sign> \+ | - )
    | (?P<operator> \*\* | [<>=!]= | [*/<>] )
    """,
    re.VERBOSE,
)

#: Tokens after which an operand is complete.
_OPERAND_ENDS = ("quoted", "number", "name", "close")

#: What to write instead of what other languages have.
_INSTEAD = {
    "$": "columns are written without `$`, for example `close`",
    "^": "for a power, write `**`",
    "&": "for `and`, multiply the conditions: `(a > 0) * (b > 0)`",
    "|": "for `or`, write `maximum(a > 0, b > 0)`",
    "!": "to compare, write `!=`; for `not c`, write `c == 0`",
    "=": "to compare, write `==`; arguments are given by position, without their names",
    "#": "comments are not allowed",
    '"': "the quoted name is not closed, or has an unknown escape or a control character",
    "'": "the quoted name is not closed, or has an unknown escape or a control character",
    "and": "for `and`, multiply the conditions: `(a > 0) * (b > 0)`",
    "or": "for `or`, write `maximum(a > 0, b > 0)`",
    "not": "for `not c`, write `c == 0`",
    "if": "for a choice, write `where(c, a, b)`",
    "else": "for a choice, write `where(c, a, b)`",
    "True": "write 1 for true",
    "False": "write 0 for false",
}


class InvalidTextError(Exception):
    """What is wrong with the characters from `start` to `end` of a text."""

    def __init__(self, problem: str, start: int, end: int) -> None:
        super().__init__(problem)
        self.problem, self.start, self.end = problem, start, end


def check_tokens(text: str) -> None:
    """Check the tokens of a text and their order, but not yet what the names mean.

    Raises:
        InvalidTextError: There is an unknown token, or one in the wrong place.
    """
    brackets: list[tuple[int, bool]] = []  # where each open bracket is, and whether it is a call
    before = "start"  # the kind of the previous token
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise _unknown(text, place)
        kind, start, place = str(token.lastgroup), place, token.end()
        if kind == "space":
            continue
        problem = _refused(kind, token.group()) or _misplaced(kind, before, brackets)
        if problem:
            raise InvalidTextError(problem, start, place)
        if kind == "open":
            brackets.append((start, before == "name"))
        elif kind == "close":
            brackets.pop()
        before = kind
    if before not in _OPERAND_ENDS:
        raise InvalidTextError(
            "the text ends where a column, a number or a function is expected", place - 1, place
        )
    if brackets:
        start, _ = brackets[-1]
        raise InvalidTextError("this bracket is never closed", start, start + 1)


def _misplaced(kind: str, before: str, brackets: list[tuple[int, bool]]) -> str | None:
    """Return what is wrong with a token of this kind at this place; None if nothing is."""
    operand = before in _OPERAND_ENDS
    call = bool(brackets) and brackets[-1][1]
    problem = None
    if kind == "close" and not brackets:
        problem = "this bracket was never opened"
    elif kind == "open" and len(brackets) >= _MAX_BRACKETS:
        problem = "the expression is nested too deeply"
    elif kind == "comma" and operand and not call:
        problem = "a comma may only separate the arguments of a function"
    elif kind in ("operator", "comma", "close"):
        empty_call = kind == "close" and before == "open" and call
        problem = None if operand or empty_call else "expected a column, a number or a function"
    elif operand and kind != "sign" and (kind, before) != ("open", "name"):
        problem = "expected an operator, such as `*`, before this"
    return problem


def _refused(kind: str, token: str) -> str | None:
    if kind == "name" and keyword.iskeyword(token):
        return _INSTEAD.get(token, f'for a column of that name, write col("{token}")')
    if kind == "number" and not math.isfinite(float(token)):
        return "the number is too large"
    return None


def _unknown(text: str, place: int) -> InvalidTextError:
    character = text[place]
    number = re.compile(r"\.?[0-9][\w.]*", re.ASCII).match(text, place)
    if number:
        return InvalidTextError("not a decimal number", place, number.end())
    if character.isascii():
        problem = _INSTEAD.get(character, "this character is not allowed")
    else:
        problem = 'only ASCII characters are allowed outside quotes; for a column, write col("...")'
    return InvalidTextError(problem, place, place + 1)
