"""The command line: its commands, what they say about errors, and what is set up."""

from __future__ import annotations

import dataclasses
import json
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
from atb_fast.cli.options import EXIT_CODES, TABLES, as_json, training_config
from atb_fast.cli.train import train
from atb_fast.config import OPTIONS, TrainingConfig
from atb_fast.errors import ArgumentError, AtbFastError, message_and_code
from atb_fast.training.startup import separate_stderr

_PROGRAM = "atb-fast"
#: Set by the completion script to ask for completions.
_COMPLETE = "_ATB_FAST_COMPLETE"
_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="atb-fast", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train price and sentiment models on candles."""
    settings.warn_of_unknown_variables(context.command)


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
    """Show the options of training and where they come from."""


@config_group.command()
@click.argument("command", type=click.Choice(sorted(train.commands)), default="model")
@_settings_file
@as_json
def show(command: str, path: Path | None, as_json: bool) -> None:
    """Show every option of `train`, and what set it."""
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
        click.echo(json.dumps(rows, indent=2))
        return
    texts = [["-" if cell is None else str(cell) for cell in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for text in texts:
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(text, widths, strict=True))
        click.echo(line.rstrip())


def _training(command: str, path: Path | None) -> click.Context:
    """Return the context of a command of training, with its options from file and environment."""
    arguments = ["SYMBOL", *(["--config", str(path)] if path else [])]
    return train.commands[command].make_context(f"{_PROGRAM} train {command}", arguments)


def _effective(name: str, value: Any) -> bool | int | str | None:
    """Return what TrainingConfig makes of an option that stands alone."""
    default = OPTIONS[name].default_factory
    if value is None and default is not dataclasses.MISSING:
        value = default()
    if isinstance(value, datetime):
        value = value.date()
    return value if isinstance(value, bool | int | None) else str(value)


@cli.command()
@_settings_file
@as_json
def doctor(path: Path | None, as_json: bool) -> None:
    """Say what is set up, and what keeps training from working.

    Opens no connection. Exit code 0 if training works, 7 if a part of it is not installed, 2 or 6
    if the settings, the cache directory or the registry must be mended first.
    """
    from atb_fast.cli.doctor import Check, examine

    options = dataclasses.asdict(TrainingConfig(symbol="BTCUSDT"))
    try:
        context = _training("model", path)
        given = {name: context.params[name] for name in context.params.keys() & OPTIONS.keys()}
        training_config(context, "BTCUSDT", given)  # they may contradict each other
    except (ArgumentError, click.BadParameter) as error:
        text = (
            settings.with_origin(error).format_message()
            if isinstance(error, click.BadParameter)
            else str(error)
        )
        first = Check("settings", "problem", text, exit_code=ArgumentError.exit_code)
    else:
        found = ", ".join(settings.sources(context))
        first = Check("settings", "ok", found or f"none: no variable and no {settings.FILE}")
        options |= {name: _effective(name, value) for name, value in given.items()}
    checks = [first, *examine(options)]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            click.echo(f"{check.state:7}  {check.name:16}  {check.found}")
            if check.fix:
                click.echo(f"{'':27}{check.fix}")
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
    """Print the script that completes commands and options in SHELL.

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
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    separate_stderr()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)
    # A terminated run cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(prog_name=_PROGRAM, complete_var=_COMPLETE, standalone_mode=False)
    except click.ClickException as error:
        settings.with_origin(error).show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        # click raises an Abort from the interrupt.
        notes = getattr(error.__cause__ or error, "__notes__", [])
        _fail("; ".join(["interrupted", *notes]), _INTERRUPTED)
    except (AtbFastError, OSError) as error:
        _fail(*message_and_code(error))
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        click.echo(f"error: {message}", err=True)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # All is cleaned up. A thread that waits for an answer of a server must not keep the program.
    os._exit(code)


if __name__ == "__main__":
    main()
