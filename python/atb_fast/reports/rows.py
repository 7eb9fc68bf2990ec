"""The values that the templates show: rows of tables, banners, checks and formatted numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

#: What `n` counts in `accuracy_text` if horizons overlap: for classes, and for directions.
N_OF_CLASSES = (
    "n: test bars whose horizons do not overlap. The interval counts only these; the accuracy "
    "counts all."
)
N_OF_DIRECTIONS = "n: test bars that moved and whose horizons do not overlap. Only these count."
#: Color and sign of each state. A step that only ran does not judge the model, so it has neither.
_STATES = {
    "passed": ("good", "✓"),
    "failed": ("bad", "✗"),
    "skipped": ("note", "–"),
    "written": ("", ""),
    "measured": ("", ""),
}


class Pair(NamedTuple):
    """A row of a table with two columns."""

    name: str
    value: Any


class Bar(NamedTuple):
    """A row of a bar chart. `share` is its length relative to the longest bar, 0..1."""

    name: str
    text: str
    share: float


class Banner(NamedTuple):
    """A statement at the top of the page. `tone` is `good`, `bad` or `note`."""

    tone: str
    title: str
    text: str


class Check(NamedTuple):
    """The outcome of a check or of an optional step. `state` is one of `_STATES`."""

    name: str
    state: str
    text: str

    @property
    def tone(self) -> str:
        """CSS class that colors the state."""
        return _STATES[self.state][0]

    @property
    def sign(self) -> str:
        """Character that marks the state without color."""
        return _STATES[self.state][1]


class Row(NamedTuple):
    """A row of a comparison."""

    name: str
    texts: list[str]


class Comparison(NamedTuple):
    """A table of forecasts (rows) and their figures (columns), with notes below it."""

    caption: str
    columns: list[str]
    rows: list[Row]
    notes: list[str]


class Interval(NamedTuple):
    """A 95% interval as a bar from 0 to 100%, and a mark for a simple forecast; all in percent.

    `comparison` says the same in words.
    """

    low: float
    width: float
    base: float
    comparison: str


class Tile(NamedTuple):
    """A figure at the top of the page. `tone` is as in `Banner`, or empty."""

    name: str
    figure: str
    note: str
    tone: str = ""
    wide: bool = False
    interval: Interval | None = None


def part_text(part: Any) -> str:
    """Format a target or a network of a recipe document: its kind, and the values of its keys.

    Metadata may contain anything; what is not such a part is empty.
    """
    if not isinstance(part, Mapping) or "kind" not in part:
        return ""
    texts = [str(part["kind"])]
    for name, value in part.items():
        if name != "kind":
            items = value if isinstance(value, list) else [value]
            texts.append(f"{name.replace('_', ' ')} {' / '.join(map(str, items)) or 'none'}")
    return ", ".join(texts)


def number(value: float, digits: int = 5) -> str:
    """Format a price with cents if it is large, else with this many significant digits.

    Trailing zeros are kept, so that all numbers in a column have the same precision. Integers have
    no decimals.
    """
    if isinstance(value, int):
        return f"{value:,}"
    if abs(float(f"{value:.{digits}g}")) >= 100:
        return f"{value:,.2f}"
    return f"{value:#.{digits}g}".removesuffix(".")


def digits_of(figure: Mapping[str, Any]) -> int:
    """Return how many digits a figure of several runs has: 3 for an accuracy, which has `bars`."""
    return 3 if "bars" in figure else 5


def notes_of(figures: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what `n` counts in the figures of several runs; empty if none has it."""
    if not any("bars" in value for each in figures for value in each["values"] if value):
        return []
    return [
        "n: test bars. If horizons overlap, only bars whose horizons do not overlap count; the "
        "accuracy of classes is still that of all test bars."
    ]


def over(baseline: str) -> str:
    """Return the head of a column of errors divided by those of a baseline; see `NAMES`."""
    return f"/ {baseline.removeprefix('the ')}"


def percent(share: float) -> str:
    """Format a share of 0..1 as 12.3%."""
    return f"{100 * share:.1f}%"


def fewer_text(independent: float, windows: float) -> str:
    """Return how many bars the interval of an accuracy counts; empty if it counts all."""
    if independent == windows:
        return ""
    return f" from {independent:,} bars whose horizons do not overlap"


def accuracy_text(share: float, low: float, high: float, count: int) -> str:
    """Format an accuracy, its 95% interval, and how many bars the interval counts."""
    return f"{percent(share)} ({100 * low:.0f}–{100 * high:.0f}, n = {count:,})"


def ratio_text(ratio: float | None) -> str:
    """Format the ratio of two errors; it is None if the second one is 0."""
    if ratio is None:
        return "undefined"
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:,.1f}"
