"""`atb-fast config`: the options of training, and where each comes from."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from atb_fast.cli import settings
from atb_fast.cli.options import PROGRAM, as_json, print_json
from atb_fast.cli.tables import Column, print_table
from atb_fast.cli.train import train
from atb_fast.config import OPTIONS

settings_file = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=settings.FILE_HELP,
)


@click.group()
def config() -> None:
    """Show the options of training, and where they come from."""


@config.command()
@click.argument("command", type=click.Choice(sorted(train.commands)), default="model")
@settings_file
@as_json
def show(command: str, path: Path | None, as_json: bool) -> None:
    """Show the value of every option of `train`, and where it comes from."""
    context = training_context(command, path)
    own = _defaults_of_recipe(context)
    rows = [
        {
            "option": option.name,
            "value": _effective(str(option.name), context.params[str(option.name)], own),
            "from": settings.origin(context, option),
        }
        for option in context.command.params
        if option.name in settings.KNOWN
    ]
    if as_json:
        print_json(rows)
        return
    columns = [Column("option"), Column("value"), Column("from")]
    print_table(
        columns,
        [["-" if cell is None else str(cell) for cell in row.values()] for row in rows],
    )


def training_context(command: str, path: Path | None) -> click.Context:
    """Return the context of a training command, with options from the file and the environment.

    Raises:
        ArgumentError: The settings file cannot be used.
        click.BadParameter: A variable has an invalid value.
    """
    arguments = ["SYMBOL", *(["--config", str(path)] if path else [])]
    return train.commands[command].make_context(f"{PROGRAM} train {command}", arguments)


def _defaults_of_recipe(context: click.Context) -> dict[str, Any]:
    """Return the defaults of options that a recipe may have, by name.

    Raises:
        ArgumentError: The recipe cannot be used.
    """
    from atb_fast.recipes import library
    from atb_fast.recipes.applied import applied, values

    known = {name: item.default for name, item in settings.KNOWN.items() if item.from_recipe}
    recipe = library.find(context.params.get("recipe", "basic"))
    recipe = applied(recipe, dict.fromkeys(OPTIONS) | context.params)
    return known | recipe.defaults | values(recipe)


def _effective(name: str, value: Any, own: dict[str, Any]) -> bool | int | float | str | None:
    """Return the value of an option as a JSON value; its computed default if it has none."""
    compute_default = settings.KNOWN[name].factory
    if value is None:
        value = compute_default() if compute_default else own.get(name)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value)) or None
    if isinstance(value, datetime):
        value = value.date()
    return value if isinstance(value, bool | int | float | None) else str(value)
