"""The command line: its commands, and how errors become messages and exit codes."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from io import BufferedWriter, RawIOBase, TextIOWrapper
from typing import NoReturn

import click

from atb_fast.callbacks import Formatter
from atb_fast.cli import settings
from atb_fast.cli.config import config
from atb_fast.cli.data import data
from atb_fast.cli.doctor import doctor
from atb_fast.cli.evaluate import check, evaluate
from atb_fast.cli.models import models
from atb_fast.cli.options import EXIT_CODES, PROGRAM, TABLES
from atb_fast.cli.recipes import recipes
from atb_fast.cli.runs import runs
from atb_fast.cli.sweep import sweep
from atb_fast.cli.tables import echo
from atb_fast.cli.train import train
from atb_fast.errors import INTERRUPTED, PIPE_CLOSED, AtbFastError, message_and_code, printable
from atb_fast.runs import interrupts
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
for _command in (train, evaluate, sweep, check, recipes, data, models, runs, config, doctor):
    cli.add_command(_command)
for _command in (*data.commands.values(), *models.commands.values(), *runs.commands.values()):
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
    try:
        interrupts.install()
        _set_up_streams()
        stdout = sys.stdout
        cli.main(prog_name=PROGRAM, complete_var=_COMPLETE, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:
        if sys.stdout is not stdout:  # click replaces it if the reader of a pipe has exited
            _fail("", PIPE_CLOSED)
        raise
    except BaseException as error:
        _end(error)
    interrupts.restore()
    _exit(0)


def _set_up_streams() -> None:
    """Prepare standard streams and the log."""
    _replace_closed_streams()
    _buffer_stdout()
    separate_stderr()
    for stream in (sys.stdout, sys.stderr):  # for paths that the encoding of the terminal lacks
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)


class _Formatter(Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; see `printable`."""
        return printable(super().format(record))


def _replace_closed_streams() -> None:
    """Connect a standard stream that the parent process closed to the null device.

    Its descriptor would be that of the next file, and C++ code that prints would write to the file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _buffer_stdout() -> None:
    """Buffer stdout even with PYTHONUNBUFFERED; click flushes it after each text.

    Without a buffer, Python does not report it if a full disk takes only a part of a text.
    """
    stream = sys.stdout
    if isinstance(stream, TextIOWrapper) and isinstance(stream.buffer, RawIOBase):
        encoding, errors = stream.encoding, stream.errors
        buffered = BufferedWriter(stream.detach())
        sys.stdout = sys.__stdout__ = TextIOWrapper(buffered, encoding, errors)  # type: ignore[misc]


def _end(error: BaseException) -> NoReturn:
    """End with a message and an exit code, or with the traceback of an internal error."""
    if isinstance(error, click.Abort) or interrupts.requested(error):
        what = [str(error)] if isinstance(error, AtbFastError) else []
        _fail("; ".join(["interrupted", *what, *interrupts.notes(error)]), INTERRUPTED)
    if isinstance(error, click.ClickException):
        with suppress(OSError):
            settings.explained(error).show()
        _fail("", error.exit_code)
    if expected := message_and_code(error):
        _fail(*expected)
    raise error


def _fail(message: str, code: int) -> NoReturn:
    interrupts.restore()
    with suppress(OSError):
        if message:
            echo(f"error: {message}", err=True)
    _exit(code)


def _exit(code: int) -> NoReturn:
    """End the process at once; all cleanup is done by now.

    A thread that waits for a server must not keep the program alive, and a regular exit would spend
    a second on freeing what TensorFlow holds.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
