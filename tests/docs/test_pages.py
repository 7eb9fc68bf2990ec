"""The README and docs/ have valid links, are complete, and are plain English."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from pages import PAGES, ROOT, anchors, blocks, inline_code, name, prose

from atb_fast import errors
from atb_fast.cli.main import cli
from atb_fast.config import CANDLE_COLUMNS, MODEL_TYPES
from atb_fast.features.signatures import FUNCTIONS
from atb_fast.features.specs import INDEX_COLUMNS, SCALERS
from atb_fast.recipes.keys import keys
from atb_fast.recipes.networks import NETWORKS
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.targets import TARGETS

#: Words that sound translated or private, and what to write instead.
PRIVATE_WORDS = {
    r"mend(s|ed|ing)?": "fix, repair",
    r"anew": "again, from scratch",
    r"stands?": "is, can be set",
    r"(bears?|bore|borne) out": "supports",
    r"say `--": "pass `--",
    r"(goes|going|go|went) on with": "continues",
    r"behind": "after",
    r"beside": "next to",
    r"holes?": "gap",
    r"all the same": "anyway",
    r"likewise": "in the same way",
    r"fore(sees?|seen|saw)": "predict",
    r"tell apart": "distinguish",
    r"nobody knows": "cannot be determined",
    r"is none": "is not a ...",
}


def walk(command: click.Command, path: str = "atb-fast") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            yield from walk(inner, f"{path} {word}")


COMMANDS = dict(walk(cli))
DOCUMENTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY"))]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page_has_one_title(page: Path) -> None:
    assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def test_every_page_is_linked_from_the_index() -> None:
    index = prose(ROOT / "docs" / "index.md")
    missing = [page.name for page in PAGES if f"({page.name})" not in index]
    assert missing == ["README.md", "index.md"]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of all tables, without their headers."""
    tables = re.findall(r"^\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    lines = (line for table in tables for line in table.splitlines())
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_figures_of_the_readme_name_their_command() -> None:
    section = (
        (ROOT / "README.md").read_text("utf-8").partition("## How fast")[2].partition("\n## ")[0]
    )
    assert rows(section)
    assert [cells for cells in rows(section) if not cells[-1].startswith("`make bench")] == []


def test_tables_of_benchmarks_name_their_command() -> None:
    _, *sections = (ROOT / "docs" / "benchmarks.md").read_text("utf-8").split("\n## ")
    command = re.compile(r"make bench|python benches/\w+\.py|atb-fast evaluate")
    assert [
        text.splitlines()[0] for text in sections if rows(text) and not command.search(text)
    ] == []


def test_rows_of_benchmarks_are_printed_by_a_benchmark() -> None:
    """Otherwise, a figure can no longer be reproduced: its benchmark was renamed or removed."""
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "benches").glob("*.py"))
    timed, _, _ = (ROOT / "docs" / "benchmarks.md").read_text("utf-8").partition("## Walk-forward")
    labels = {cells[0].strip("*") for cells in rows(timed)}
    assert len(labels) > 20
    # Ways have underscores, the size follows groups, and steps are named after numbers.
    words = {label: "[ _]".join(map(re.escape, label.split(" "))) for label in labels}
    printed = {label for label, word in words.items() if re.search(rf'["(]{word}[",) ]', sources)}
    assert labels - printed == set()


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_plain_english(page: Path) -> None:
    for number, line in enumerate(prose(page).splitlines(), 1):
        for word, better in PRIVATE_WORDS.items():
            found = re.search(rf"(?<!\w){word}(?!\w)", line, re.IGNORECASE)
            assert not found, f"{name(page)}:{number}: {found and found[0]!r}: write {better!r}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_commands_in_the_text_exist(page: Path) -> None:
    not_run = (b.code.replace("\\\n", " ") for b in blocks(page) if b.tag.startswith("no-run"))
    for text in (*inline_code(page), *"\n".join(not_run).splitlines()):
        if text == "atb-fast" or not text.startswith("atb-fast "):
            continue
        words = shlex.split(text)
        length = max(n for n in range(len(words) + 1) if " ".join(words[:n]) in COMMANDS or n == 0)
        command = COMMANDS[" ".join(words[:length])]
        known = {
            flag for option in command.params for flag in (*option.opts, *option.secondary_opts)
        }
        given = {word.partition("=")[0] for word in words[length:] if word.startswith("--")}
        assert length > 1 or given, f"{text}: no such command"
        assert given <= known | {"--help", "--version"}, f"{text}: {given - known}"


def test_every_command_is_in_the_reference() -> None:
    shown = set(inline_code(ROOT / "docs" / "cli.md"))
    assert [path for path, command in COMMANDS.items() if path not in shown] == ["atb-fast"]


def test_every_function_and_column_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8").replace("\\|", "|")
    signatures = [str(function) for name, function in FUNCTIONS.items() if name != "lead"]
    assert [each for each in signatures if f"| `{each}` |" not in text] == []
    words = [*INDEX_COLUMNS, *CANDLE_COLUMNS, *SCALERS, *TARGETS, *NETWORKS]
    words += [item.name for item in fields(Recipe)]
    assert [word for word in words if f"`{word}`" not in text and f"[{word}]" not in text] == []


def test_every_key_of_a_target_or_a_network_is_in_the_reference_with_its_default() -> None:
    described = {
        cells[0].strip("`"): set(cells[2].split(", "))
        for cells in rows((ROOT / "docs" / "recipes.md").read_text("utf-8"))
        if len(cells) == 4
    }
    for kind, made in {**TARGETS, **NETWORKS}.items():
        defaults = {
            each.name: "none" if each.default == () else each.default for each in keys(made)
        }
        expected = {f"`{name}` {default}" for name, default in defaults.items()} or {""}
        assert described[kind] == expected


def test_every_extra_is_in_the_table() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    page = (ROOT / "docs" / "getting-started.md").read_text("utf-8")
    assert [each for each in project["optional-dependencies"] if f"| `{each}` |" not in page] == []


def test_every_type_of_models_is_named() -> None:
    page = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    types = page.partition("**Type**")[2].partition("\n\n")[0]
    assert [each for each in MODEL_TYPES if f"`{each}`" not in types] == []


def test_every_command_that_works_offline_is_named() -> None:
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    named = page.partition("`--offline` opens no connection.")[2].partition(" have it.")[0]
    offline = {
        path.removeprefix("atb-fast ")
        .replace("train model", "train")
        .replace("train price", "train")
        for path, command in COMMANDS.items()
        if any("--offline" in each.opts for each in command.params)
    }
    assert offline == set(re.findall("`([^`]+)`", named))


def test_every_exit_code_is_in_the_reference() -> None:
    table = prose(ROOT / "docs" / "exit-codes.md")
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.AtbFastError)}
    assert shown == codes | {0, errors.INTERRUPTED, errors.PIPE_CLOSED}


def test_every_variable_is_in_the_reference() -> None:
    sources = [*(ROOT / "python").rglob("*.py"), *(ROOT / "rust" / "src").rglob("*.rs")]
    named = {
        variable
        for path in sources
        for variable in re.findall(r"\b(?<!_)ATB_FAST_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))
    }
    assert (
        named - set(re.findall(r"ATB_FAST_[A-Z_]*[A-Z]", prose(ROOT / "docs/environment.md")))
        == set()
    )
