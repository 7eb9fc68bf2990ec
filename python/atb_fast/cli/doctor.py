"""`atb-fast doctor`: checks whether training works here, and says how to fix what does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atb_fast.cli import settings
from atb_fast.cli.config import settings_file, training_context
from atb_fast.cli.options import as_json, print_json, training_config
from atb_fast.cli.tables import Column, print_table
from atb_fast.config import OPTIONS
from atb_fast.errors import ArgumentError, AtbFastError

if TYPE_CHECKING:
    from atb_fast.recipes.config import TrainingConfig
    from atb_fast.runs.installation import Check

#: A placeholder: no check depends on the symbol.
_SYMBOL = "BTCUSDT"


@click.command()
@settings_file
@as_json
def doctor(path: Path | None, as_json: bool) -> None:
    """Check the installation and the settings, and print fixes.

    Opens no connection. The exit code is 0 if training works. Otherwise it is the highest of those
    that apply: 2 if the settings are invalid, 6 if the cache directory or the registry cannot be
    used, 7 if a package is not installed, 8 if an address to download from cannot be used.
    """
    from atb_fast.runs.installation import examine

    first, config = _settings(path)
    checks = [first, *examine(config)]
    if as_json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        columns = [Column("state"), Column("check"), Column("found, and how to fix it")]
        print_table(
            columns,
            [(check.state, check.name, f"{check.found}\n{check.fix}".strip()) for check in checks],
        )
    stops = [check for check in checks if check.exit_code]
    if stops:
        failure = AtbFastError(
            f"training does not work: {', '.join(check.name for check in stops)}; apply the fixes "
            "listed above"
        )
        failure.exit_code = max(check.exit_code for check in stops)
        raise failure
    if not as_json:
        click.echo("training works")


def _settings(path: Path | None) -> tuple[Check, TrainingConfig]:
    """Return the check of the settings, and the options of `train`: the defaults if it fails."""
    from atb_fast.recipes.config import TrainingConfig
    from atb_fast.runs.installation import Check

    try:
        context = training_context("model", path)
        given = {name: context.params[name] for name in context.params.keys() & OPTIONS.keys()}
        config = training_config(context, _SYMBOL, given)
    except click.BadParameter as error:
        problem = settings.explained(error).format_message()
    except ArgumentError as error:
        problem = str(error)
    else:
        found = ", ".join(settings.sources(context))
        found = found or f"defaults: no variable is set and there is no {settings.FILE}"
        return Check("settings", "ok", found), config
    check = Check("settings", "problem", problem, exit_code=ArgumentError.exit_code)
    return check, TrainingConfig(symbol=_SYMBOL)
