"""The tokens of expressions in text: plain names, quoted names, numbers and symbols."""

from __future__ import annotations

import keyword
import math
import re
from typing import NamedTuple

#: What separates tokens. Other white space is not allowed outside quotes.
SPACE = " \t\r\n\f\v"

# Quoted names use JSON escapes, because column names are printed as JSON.
_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\r\n\f\v]+ )
    | (?P<quoted> " (?: [^"\\\x00-\x1f\ud800-\udfff] | \\ ["\\bfnrt] | \\u[0-9a-fA-F]{4} )* "
                | ' (?: [^'\\\x00-\x1f\ud800-\udfff] | \\ ['\\bfnrt] | \\u[0-9a-fA-F]{4} )* ' )
    | (?P<number> (?: (?: 0 | [1-9][0-9]* ) (?: \. [0-9]* )? | \. [0-9]+ )
                  (?: [eE] [+-]? [0-9]+ )? (?! [\w.] ) )
    | (?P<name> [A-Za-z_] [A-Za-z0-9_]* )
    | (?P<symbol> \*\* | [<>=!]= | [-+*/<>(),] )
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:u(?P<code>....)|(?P<letter>.))")
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_NUMBER_LIKE = re.compile(r"\.?[0-9][\w.]*", re.ASCII)

#: What to write instead of the syntax of other languages.
_INSTEAD = {
    "$": "columns are written without `$`, for example `close`",
    "^": "for a power, write `**`",
    "&": "for `and`, multiply the conditions: `(a > 0) * (b > 0)`",
    "|": "for `or`, write `maximum(a > 0, b > 0)`",
    "!": "to compare, write `!=`; for `not c`, write `c == 0`",
    "=": "to compare, write `==`; arguments are passed by position, without names",
    "#": "comments are not supported",
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


class Token(NamedTuple):
    """A token: its kind, its value, and where it starts and ends in the text.

    The kind is `number`, `name`, `quoted` or `end`; for a symbol, it is the symbol.
    """

    kind: str
    value: str | float
    start: int
    end: int


def split(text: str) -> list[Token]:
    """Return the tokens of a text, followed by one of the kind `end`.

    Raises:
        InvalidTextError: Some characters are not a token.
    """
    tokens = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _unknown(text, place)
        kind, part = str(match.lastgroup), match.group()
        value: str | float = part
        if kind == "number":
            value = _number(part, place)
        elif kind == "quoted":
            value = _ESCAPE.sub(_unescaped, part[1:-1])
        elif kind == "name" and keyword.iskeyword(part):
            problem = _INSTEAD.get(part, f'for a column of that name, write col("{part}")')
            raise InvalidTextError(problem, place, match.end())
        if kind != "space":
            tokens.append(Token(part if kind == "symbol" else kind, value, place, match.end()))
        place = match.end()
    last = tokens[-1] if tokens else Token("end", "", 0, 0)
    return [*tokens, Token("end", "", last.start, last.end)]


def _number(text: str, place: int) -> float:
    """Return an int where there is neither a point nor an exponent, else a float."""
    if not math.isfinite(float(text)):
        raise InvalidTextError("the number is too large", place, place + len(text))
    try:
        return int(text)
    except ValueError:
        return float(text)


def _unescaped(match: re.Match[str]) -> str:
    letter = match["letter"]
    return _LETTERS.get(letter, letter) if letter else chr(int(match["code"], 16))


def _unknown(text: str, place: int) -> InvalidTextError:
    character = text[place]
    number = _NUMBER_LIKE.match(text, place)
    if number:
        return InvalidTextError("not a decimal number", place, number.end())
    problem = _INSTEAD.get(character, "this character is not allowed")
    if not character.isascii():
        problem = 'only ASCII characters are allowed outside quotes; for a column, write col("...")'
    return InvalidTextError(problem, place, place + 1)
