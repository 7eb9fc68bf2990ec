"""The documentation site has every page, every public name and every option."""

from __future__ import annotations

import re
import runpy

import click
import pytest
from pages import PAGES, ROOT
from test_pages import COMMANDS

import atb_fast


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    docs = ROOT / "docs"
    pages = [page.relative_to(docs).as_posix() for page in PAGES if page.is_relative_to(docs)]
    assert sorted(listed) == sorted(pages)


def test_every_public_name_is_on_the_page_of_the_api_once() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert sorted(re.findall(r"^::: atb_fast\.(\w+)$", text, re.MULTILINE)) == atb_fast.__all__


def test_reference_has_every_command_with_its_options() -> None:
    pytest.importorskip("markdown")  # of the extra docs
    text = runpy.run_path(str(ROOT / "docs" / "extensions" / "commands.py"))["reference"]()
    sections = dict(re.findall(r"^### (.+)\n((?:(?!###).*\n)*)", text, re.MULTILINE))
    assert sections.keys() == COMMANDS.keys()
    for path, command in COMMANDS.items():
        options = [each for each in command.params if isinstance(each, click.Option)]
        shown = [set(term.split()) for term in re.findall(r"^- `(.+?)`: ", sections[path], re.M)]
        missing = [each.name for each in options if not any({*each.opts} <= it for it in shown)]
        assert missing == [], path
