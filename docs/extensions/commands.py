"""Puts the help of every command into the page that contains `<!-- commands -->`.

A Markdown extension of the documentation site, see mkdocs.yml. `--help` writes the groups, the
values and the defaults of options; this formatter only writes them as Markdown.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

from atb_fast.cli.main import cli


def _markdown(text: str) -> str:
    """Return `text` as one line of Markdown, with option names as code."""
    escaped = re.sub(r"([\\`*_{}\[\]#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
    return re.sub(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", r"`\g<0>`", escaped)


class _Formatter(click.HelpFormatter):
    def __init__(self) -> None:
        super().__init__(width=10**6)  # never cut a text

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f"```text\n{prog} {args}\n```\n\n")

    def write_text(self, text: str) -> None:
        for paragraph in text.split("\n\n"):
            lines = paragraph.removeprefix("\b\n")
            as_it_is = lines != paragraph
            self.write(f"```text\n{lines}\n```\n\n" if as_it_is else f"{_markdown(lines)}\n\n")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._title = name
        yield

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        # The page says once that every command has --help.
        items = [f"- `{term}`: {_markdown(text)}\n" for term, text in rows if term != "--help"]
        if items:
            self.write(f"**{self._title}**\n\n{''.join(items)}\n")


def reference(command: click.Command = cli, parent: click.Context | None = None) -> str:
    """Return the help of `command` and of all commands below it as Markdown."""
    name = command.name if parent else "atb-fast"
    context = click.Context(command, parent=parent, info_name=name)
    formatter = _Formatter()
    formatter.write(f"### {context.command_path}\n\n")
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    command.format_options(context, formatter)
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return "".join([formatter.getvalue(), *(reference(each, context) for each in inner)])


class _Commands(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        made = (reference() if line == "<!-- commands -->" else line for line in lines)
        return "\n".join(made).splitlines()


class _Extension(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(_Commands(md), "commands", 40)  # before fenced code


def makeExtension() -> Extension:  # noqa: N802
    """Return the extension; Python-Markdown calls this."""
    return _Extension()
