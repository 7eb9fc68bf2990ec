"""The command line: its commands, and how errors become messages and exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

import click

from atb_fast.cli import settings
from atb_fast.cli.config import config
from atb_fast.cli.data import data
from atb_fast.cli.doctor import doctor
from atb_fast.cli.evaluate import check, evaluate
from atb_fast.cli.models import models
from atb_fast.cli.options import EXIT_CODES, PROGRAM, TABLES
from atb_fast.cli.train import train
from atb_fast.errors import INTERRUPTED, AtbFastError, message_and_code
from atb_fast.training.startup import separate_stderr

#: The completion scripts set this variable to request completions.
_COMPLETE = "_ATB_FAST_COMPLETE"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="atb-fast", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Train crypto price models on candles and sentiment."""
    settings.warn_of_unknown_variables(context.command)


_command: click.Command
for _command in (train, evaluate, check, data, models, config, doctor):
    cli.add_command(_command)
for _command in (*data.commands.values(), *models.commands.values()):
    settings.attach(_command, TABLES)


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
    click.echo(made(cli, {}, PROGRAM, _COMPLETE).source())


def main() -> NoReturn:
    """Run the command line. An expected error becomes one line on stderr and an exit code."""
    separate_stderr()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)
    # SIGTERM cleans up like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(prog_name=PROGRAM, complete_var=_COMPLETE, standalone_mode=False)
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
    # Cleanup is done by now. A thread that waits for a server must not keep the program alive.
    os._exit(code)


if __name__ == "__main__":
    main()
