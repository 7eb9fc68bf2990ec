"""The command line: its commands, and how errors become messages and exit codes."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from atb_fast.cli import settings
from atb_fast.cli.data import data
from atb_fast.cli.evaluate import check, evaluate
from atb_fast.cli.models import models
from atb_fast.cli.options import EXIT_CODES, TABLES, as_json, print_json, training_config
from atb_fast.cli.tables import Column, print_table
from atb_fast.cli.train import train
from atb_fast.config import OPTIONS, TrainingConfig
from atb_fast.errors import INTERRUPTED, ArgumentError, AtbFastError, message_and_code
from atb_fast.training.startup import separate_stderr

_PROGRAM = "atb-fast"
#: The completion script sets this variable to request completions.
_COMPLETE = "_ATB_FAST_COMPLETE"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="atb-fast", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train crypto price models on candles and sentiment."""
    settings.warn_of_unknown_variables(context.command)


_command: click.Command
for _command in (train, evaluate, check, data, models):
    cli.add_command(_command)
for _command in (*data.commands.values(), *models.commands.values()):
    settings.attach(_command, TABLES)


_settings_file = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=settings.FILE_HELP,
)


@cli.group("config")
def config_group() -> None:
    """Show the settings of training."""


@config_group.command()
@click.argument("command", type=click.Choice(sorted(train.commands)), default="model")
@_settings_file
@as_json
def show(command: str, path: Path | None, as_json: bool) -> None:
    """Show the value of every option of `train`, and where it comes from."""
    context = _training(command, path)
    rows = [
        {
            "option": option.name,
            "value": _effective(str(option.name), context.params[str(option.name)]),
            "from": settings.origin(context, option),
        }
        for option in context.command.params
        if option.name in OPTIONS
    ]
    if as_json:
        print_json(rows)
        return
    columns = [Column("option"), Column("value"), Column("from")]
    print_table(
        columns,
        [["-" if cell is None else str(cell) for cell in row.values()] for row in rows],
    )


def _training(command: str, path: Path | None) -> click.Context:
    """Return the context of a training command, with options from the file and the environment."""
    arguments = ["SYMBOL", *(["--config", str(path)] if path else [])]
    return train.commands[command].make_context(f"{_PROGRAM} train {command}", arguments)


def _effective(name: str, value: Any) -> bool | int | str | None:
    """Return the value of an option as JSON has it, with its computed default."""
    compute_default = OPTIONS[name].factory
    if value is None and compute_default:
        value = compute_default()
    if isinstance(value, datetime):
        value = value.date()
    return value if isinstance(value, bool | int | None) else str(value)


@cli.command()
@_settings_file
@as_json
def doctor(path: Path | None, as_json: bool) -> None:
    """Check the installation and the settings, and say what keeps training from working.

    Opens no connection. Exit code 0 if training works, 7 if a dependency is not installed, 2 or 6
    if the settings, the cache directory or the registry must be fixed first.
    """
    from atb_fast.cli.doctor import Check, examine

    options = dataclasses.asdict(TrainingConfig(symbol="BTCUSDT"))
    try:
        context = _training("model", path)
        given = {name: context.params[name] for name in context.params.keys() & OPTIONS.keys()}
        training_config(context, "BTCUSDT", given)  # They may contradict each other.
    except (ArgumentError, click.BadParameter) as error:
        text = (
            settings.with_origin(error).format_message()
            if isinstance(error, click.BadParameter)
            else str(error)
        )
        first = Check("settings", "problem", text, exit_code=ArgumentError.exit_code)
    else:
        found = ", ".join(settings.sources(context))
        first = Check(
            "settings",
            "ok",
            found or f"defaults: no variable is set and there is no {settings.FILE}",
        )
        options |= {name: _effective(name, value) for name, value in given.items()}
    checks = [first, *examine(options)]
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
            f"training does not work: {', '.join(check.name for check in stops)}"
        )
        failure.exit_code = max(check.exit_code for check in stops)
        raise failure
    if not as_json:
        click.echo("training works")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash, in ~/.bashrc:  eval "$(atb-fast completion bash)"
    zsh, in ~/.zshrc:    eval "$(atb-fast completion zsh)"
    fish: atb-fast completion fish > ~/.config/fish/completions/atb-fast.fish
    """  # noqa: D301
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, _PROGRAM, _COMPLETE).source())


def main() -> NoReturn:
    """Run the command line; an expected error is one line on stderr and an exit code."""
    separate_stderr()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)
    # A terminated run cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(prog_name=_PROGRAM, complete_var=_COMPLETE, standalone_mode=False)
    except click.ClickException as error:
        settings.with_origin(error).show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        # click raises Abort from the interrupt.
        notes = getattr(error.__cause__ or error, "__notes__", [])
        _fail("; ".join(["interrupted", *notes]), INTERRUPTED)
    except (AtbFastError, OSError) as error:
        _fail(*message_and_code(error))
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        click.echo(f"error: {message}", err=True)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # Everything is cleaned up. A thread that waits for a server must not keep the program alive.
    os._exit(code)


if __name__ == "__main__":
    main()
