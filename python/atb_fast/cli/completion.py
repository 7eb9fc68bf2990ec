"""Completion of the names of bundles and runs in the shell."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    split_arg_string,
)

from atb_fast.errors import AtbFastError
from atb_fast.serving import registry as layout

_BREAKS = ":="


def bundles(
    context: click.Context, parameter: click.Parameter, typed: str
) -> list[CompletionItem[str]]:
    """Return the bundles whose names begin with `typed`, or let the shell complete a path.

    The names of the live bundles come first, without a version.
    """
    registry = context.params.get("registry")
    names = _names(Path(registry)) if registry else []
    matching = [name for name in names if name.upper().startswith(typed.upper())]
    # A bundle is also a directory, and --from also takes a metadata.json.
    path = "dir" if isinstance(parameter, click.Argument) else "file"
    return [CompletionItem(name) for name in matching] or [CompletionItem(typed, type=path)]


def runs(
    context: click.Context, _parameter: click.Parameter, typed: str
) -> list[CompletionItem[str]]:
    """Return the ids of runs that begin with `typed`, newest first, with what each run is."""
    from atb_fast.runs import ledger

    found: list[CompletionItem[str]] = []
    with suppress(AtbFastError):
        for record in reversed(ledger.read(Path(context.params["registry"])).records):
            if record["id"].startswith(typed):
                what = f"{', '.join(record['symbols'])} {record['recipe']} {record['created']}"
                found.append(CompletionItem(record["id"], help=what))
    return found


def _names(registry: Path) -> list[str]:
    live, every = [], []
    try:
        for path in layout.versions(registry):
            symbol, model_type, version = path.parts[-3:]
            try:
                name = f"{symbol}:{layout.timeframe(path)}:{model_type}"
            except AtbFastError:  # other commands say what is wrong with it
                continue
            if layout.live_version(path.parent) == version:
                live.append(name)
            every.append(f"{name}:{version}")
    except AtbFastError:
        pass
    return live + every


@add_completion_class
class Bash(BashComplete):
    """Completion in bash, which splits words at `:` and `=`, and inserts only what follows these.

    Names of bundles have colons. A user can remove them from COMP_WORDBREAKS; then the words are
    whole.
    """

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words after the program, and the incomplete one."""
        last = int(os.environ["COMP_CWORD"])
        given = split_arg_string(os.environ["COMP_WORDS"])[: last + 1]
        words: list[str] = []
        for word in given:
            if words and (word[:1] in _BREAKS or words[-1][-1:] in _BREAKS):
                words[-1] += word
            else:
                words.append(word)
        incomplete = words.pop() if len(given) > last else ""
        value = incomplete.partition("=")[2] if incomplete.startswith("-") else incomplete
        inserted = given[-1].lstrip(_BREAKS) if incomplete else ""
        self._kept = max(len(value) - len(inserted), 0)
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return the type of a completion, and the part of it that bash inserts."""
        return f"{item.type},{str(item.value)[self._kept :]}"
