"""Tables on standard output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from atb_fast.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

#: Width without a terminal, so that programs and files get whole values.
_UNLIMITED = 10_000
#: Words up to this width, such as numbers, are not folded if other columns can give way; smallest
#: width of a column that may be apart; space between two columns.
_WORD, _READABLE, _GAP = 16, 40, 2
#: Stands for a cell that has lines of its own; control characters in cells are escaped.
_APART = "\0"


class Column(NamedTuple):
    """A column of a table.

    An `optional` column is left out if all of its cells are empty. The cells of a `whole` column
    stay on one line if the terminal is wide enough for that when all other columns are folded
    between words. If it is too narrow, the cells of a column that may be `apart` get their own
    lines: above the row if it is the first column, else below it. If it still is, columns that are
    `minor` are left out, those with the fewest cells first, and a line names them.
    """

    name: str
    right: bool = False
    optional: bool = False
    whole: bool = False
    apart: bool = False
    minor: bool = False


def terminal_width() -> int:
    """Return the number of columns of the terminal; unlimited if there is none."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else _UNLIMITED


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str | int | bool | None]], title: str = ""
) -> None:
    """Print a table that fits the terminal; a cell that is too wide continues on the next line.

    Args:
        columns: The name and alignment of each column.
        rows: The cells of each row. Integers get thousands separators; None is an empty cell.
        title: Printed on a separate line above the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    texts = [[_text(cell) for cell in row] for row in rows]
    shown = [
        i for i, column in enumerate(columns) if not column.optional or any(row[i] for row in texts)
    ]
    limits = {i: _limits(columns[i], [row[i] for row in texts]) for i in shown}

    def fits(width: int) -> bool:
        return sum(limits[i][0] for i in shown) + _GAP * (len(shown) - 1) <= width

    width = terminal_width()
    apart = None if fits(width) else next((i for i in shown if columns[i].apart), None)
    if apart is not None:
        shown.remove(apart)
        width -= _GAP  # one of both is indented
    minor = [i for i in shown if columns[i].minor]
    minor.sort(key=lambda i: -sum(bool(row[i]) for row in texts))
    hidden = []
    while minor and not fits(width):
        hidden.append(minor.pop())
        shown.remove(hidden[-1])
    widths = _widths({i: limits[i] for i in shown}, width) if fits(width) else {}
    console = Console(highlight=False, width=width)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i in shown:
        # Without folding, rich crops cells that do not fit, which would drop digits.
        table.add_column(
            columns[i].name,
            justify="right" if columns[i].right else "left",
            overflow="fold",
            width=widths.get(i),
        )
    for row in texts:
        if apart == 0:
            table.add_row(_APART)
        table.add_row(*(Text(_breakable(row[i], widths.get(i, width))) for i in shown))
        if apart:
            table.add_row(_APART)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    if apart is not None:
        cells = iter(_cells(columns[apart], [row[apart] for row in texts], console))
        lines.insert(next(i for i, line in enumerate(lines) if "─" in line) if apart else 0, _APART)
        indent = " " * _GAP * (apart == 0)
        lines = [next(cells) if _APART in line else indent + line for line in lines]
    if title:
        print_text(title)
    click.echo("\n".join(lines))
    if hidden:
        names = ", ".join(columns[i].name for i in sorted(hidden))
        print_text(f"The terminal is too narrow for: {names}.")


def _limits(column: Column, texts: Sequence[str]) -> tuple[int, int]:
    """Return the smallest and the largest useful width of a column."""
    from rich.cells import cell_len

    cells = [column.name, *texts]
    full = max(map(cell_len, cells))
    if column.whole:
        return full, full
    if column.apart:
        return min(full, _READABLE), full
    words = (word for cell in cells for word in cell.split())
    return max((min(cell_len(word), _WORD) for word in words), default=0), full


def _widths(limits: Mapping[int, tuple[int, int]], width: int) -> dict[int, int]:
    """Return the width of each column, between its limits; all have an equal part of the rest."""
    widths = {i: least for i, (least, _) in limits.items()}
    spare = width - sum(widths.values()) - _GAP * (len(widths) - 1)
    while folded := [i for i, (_, full) in limits.items() if widths[i] < full][:spare]:
        for i in folded:
            widths[i] += 1
        spare -= len(folded)
    return widths


def _breakable(text: str, width: int) -> str:
    """Return the text with words that are too wide, such as file names, broken after _ or /."""
    return re.sub(r"\S+", lambda word: _broken(word[0], width), text)


def _broken(word: str, width: int) -> str:
    lines = [""]
    for part in re.findall(r"[^_/]*[_/]|[^_/]+", word):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _cells(column: Column, texts: Sequence[str], console: Console) -> Iterator[str]:
    """Yield the head and the cells of a column that has lines of its own."""
    from rich.text import Text

    for text in (column.name, *texts):
        if column.whole:
            yield text
        else:
            lines = Text(text).wrap(console, console.width, overflow="fold")
            yield "\n".join(f"{'':{_GAP}}{line.plain.rstrip()}" for line in lines)


def echo(text: object = "", *, nl: bool = True, err: bool = False) -> None:
    """Print a text as it is, but with control characters escaped; see `click.echo`."""
    click.echo(printable(str(text)), nl=nl, err=err)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print one line for each fact: its name and its value."""
    width = max(map(len, facts))
    echo("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))


def print_text(text: str) -> None:
    """Print a paragraph, wrapped between words on a terminal and on one line otherwise."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(printable(text)), soft_wrap=not console.is_terminal)


def _text(cell: str | int | bool | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:,}" if isinstance(cell, int) else printable(cell)
