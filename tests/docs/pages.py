"""The Markdown pages of the project, parsed for the tests in this folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*) *(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        where: Page and line, for messages.
        language: First word of the info string.
        tag: The rest of the info string.
        code: What is inside the fences.
    """

    where: str
    language: str
    tag: str
    code: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page in order."""
    text = page.read_text("utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(f"{name(page)}:{line}", *found.groups())


def prose(page: Path) -> str:
    """Return a page without its code blocks, with the same line numbers."""
    return _FENCE.sub(lambda found: "\n" * found[0].count("\n"), page.read_text("utf-8"))


def inline_code(page: Path) -> Iterator[str]:
    """Yield the text of each `inline code` of a page, on one line."""
    for found in re.finditer(r"`([^`]+)`", prose(page)):
        yield " ".join(found[1].split())


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
