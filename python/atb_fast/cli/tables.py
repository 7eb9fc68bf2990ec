"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import click

from atb_fast.errors import printable

#: Width without a terminal, so that programs and files get whole values.
_UNLIMITED = 10_000
#: Smallest width of a column whose cells are folded, and the space between two columns.
_FOLDED, _GAP = 8, 2


class Column(NamedTuple):
    """A column of a table.

    An `optional` column is left out if all of its cells are empty. The cells of a `whole` column
    stay on one line, unless the terminal is too narrow even if all other columns are folded.
    """

    name: str
    right: bool = False
    optional: bool = False
    whole: bool = False


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
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    texts = [[_text(cell) for cell in row] for row in rows]
    shown = [
        i for i, column in enumerate(columns) if not column.optional or any(row[i] for row in texts)
    ]
    console = Console(highlight=False, width=terminal_width())
    least = {
        i: max(cell_len(text) for text in (columns[i].name, *(row[i] for row in texts)))
        if columns[i].whole
        else _FOLDED
        for i in shown
    }
    fits = sum(least.values()) + _GAP * (len(shown) - 1) <= console.width
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i in shown:
        # Without folding, rich crops cells that do not fit, which would drop digits.
        table.add_column(
            columns[i].name,
            justify="right" if columns[i].right else "left",
            overflow="fold",
            no_wrap=columns[i].whole and fits,
        )
    for row in texts:
        table.add_row(*(Text(row[i]) for i in shown))
    with console.capture() as captured:
        console.print(table)
    if title:
        print_text(title)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


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
