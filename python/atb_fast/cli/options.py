"""Shared by several commands: the options of a training run, --json, and the exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli import settings
from atb_fast.config import (
    GROUPS,
    OPTIONS,
    TargetOptions,
    default_registry,
    names,
    variables,
)
from atb_fast.errors import EXIT_CODES as _MEANINGS
from atb_fast.errors import ArgumentError, AtbFastError
from atb_fast.options import Option

if TYPE_CHECKING:
    from atb_fast.experiments.executors import Failure
    from atb_fast.recipes.config import TrainingConfig

PROGRAM = "atb-fast"
EXIT_CODES = f"Exit codes: {', '.join(f'{code} {text}' for code, text in _MEANINGS.items())}."

#: Options that concern only this machine and this run, not the model.
OF_THE_MACHINE = tuple(name for name, item in OPTIONS.items() if item.machine)
#: Options that affect a basic model; the engines fix everything else about it.
FOR_BASIC = tuple(
    name
    for name, item in OPTIONS.items()
    if not item.needs and name not in ("recipe", *names(TargetOptions))
)
#: The tables of a settings file, and the options that each may contain.
TABLES = {
    "train": tuple(settings.KNOWN),
    "train.model": tuple(settings.KNOWN),
    "train.price": (*FOR_BASIC, settings.JOBS.name, settings.MLFLOW.name),
}

as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document to stdout; log to stderr."
)

registry_option = click.option(
    "--registry",
    type=click.Path(),
    default=default_registry,
    callback=lambda _context, _option, given: OPTIONS["registry"].check(given),
    help="Directory of the model registry. Default: $MODEL_REGISTRY_PATH, else src/ml/models.",
)


def print_json(document: Any) -> None:
    """Print `document` as JSON on stdout."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


class Day(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no generic types
    """A date, such as 2024-01-31."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Return the date that a text contains."""
        if isinstance(value, date):  # from the settings file
            return value
        try:
            return date(*time.strptime(value, "%Y-%m-%d")[:3])
        except ValueError:
            problem = f"{value!r} is not a date; expected YYYY-MM-DD, for example 2024-01-31"
            self.fail(problem, param, ctx)


class Whole(click.IntRange):
    """An integer in a range; an error calls it so, and not an "integer range"."""

    name = "integer"


class _Texts(click.types.StringParamType):
    """The texts of an option that can be repeated. In a variable, commas separate them."""

    envvar_list_splitter = ","


class GroupedCommand(click.Command):
    """A command whose help lists the options of a training run by group."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group, and the options of the command itself at the end."""
        headings = {name: title for title, group in GROUPS.items() for name in names(group)}
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in [*GROUPS, "Options"]}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record and isinstance(parameter, click.Option):
                sections[headings.get(str(parameter.name), "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def training_options(
    wanted: Collection[str] = tuple(OPTIONS), **changed: dict[str, Any]
) -> list[click.Parameter]:
    """Return click options for the options of `TrainingConfig` with these names.

    Args:
        wanted: Names of options.
        changed: Attributes of an `Option` that differ for this command, by name of the option.
    """
    return [
        click_option(replace(item, **changed.get(name, {})))
        for name, item in OPTIONS.items()
        if name in wanted
    ]


def click_option(item: Option) -> click.Option:
    """Return the option of a command that is declared by `item`."""
    switch = item.kind is bool
    types: dict[type, click.ParamType[Any]] = {
        date: Day(),
        # Text, because an empty path would become the working directory.
        Path: click.Path(),
        int: click.INT if item.minimum is None else Whole(min=item.minimum),
        float: click.FLOAT,
        dict: _Texts(),
    }
    return click.Option(
        # The command line must be able to turn off a switch that the settings file turns on.
        [f"{item.flag}/--no-{item.flag[2:]}" if switch else item.flag, item.name],
        type=click.Choice(item.choices) if item.choices else types.get(item.kind),
        default=None if item.from_recipe else item.default,
        show_default=_shown_default(item),
        help=item.help,
        metavar=item.metavar,
        multiple=item.kind is dict,
    )


def count_option(name: str, default: int, help_text: str) -> click.Option:
    """Return an option that counts something: an integer of at least 1."""
    return click.Option(
        [f"--{name}"],
        envvar=variables(name),
        type=Whole(min=1),
        default=default,
        show_default=True,
        help=help_text,
    )


def window_option() -> click.Option:
    """Return the option --window of a walk-forward evaluation."""
    return click.Option(
        ["--window"],
        envvar=variables("window"),
        type=click.Choice(["expanding", "rolling"]),
        default="expanding",
        show_default=True,
        help="Train on all windows before a test period (expanding), or on a fixed number of "
        "the newest (rolling).",
    )


def _shown_default(item: Option) -> bool | str:
    """Return what help says about the default of an option."""
    if item.from_recipe:
        return f"{item.default} or the recipe's own"
    return item.default is not None and item.default is not False


def training_config(context: click.Context, symbol: str, options: dict[str, Any]) -> TrainingConfig:
    """Return the configuration of a command from its parameters.

    Raises:
        ArgumentError: An invalid option, or options that contradict each other. The message says
            which of them come from the settings file or the environment.
    """
    from atb_fast.recipes.config import TrainingConfig

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return TrainingConfig(symbol=symbol, **given)
    except ArgumentError as error:
        raise settings.with_origins(context, error) from error


def training_configs(
    context: click.Context, symbols: Sequence[str], options: dict[str, Any]
) -> list[TrainingConfig]:
    """Return the configuration of a command for each symbol.

    Raises:
        ArgumentError: See `training_config`; or a symbol is given twice, or several symbols share
            one file of candles.
    """
    found, candles = [symbol.upper() for symbol in symbols], options["candles"]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice:
        raise ArgumentError(f"{twice} is given twice; pass each symbol once")
    if len(found) > 1 and candles and "{symbol}" not in str(candles):
        error = ArgumentError(
            f"--candles {candles} is one file, but {len(found)} symbols are given; write "
            "{symbol} in place of the symbol, for example data/{symbol}_1d.csv",
            options=["candles"],
        )
        raise settings.with_origins(context, error)
    return [training_config(context, name, options) for name in found]


def failure_document(failure: Failure) -> dict[str, Any]:
    """Return what --json prints about a symbol that failed."""
    return {"symbol": failure.name, "failure": failure.error, "exit_code": failure.exit_code}


def fail_if_any(outcomes: Sequence[object]) -> None:
    """Raise an error with the exit code of the first `Failure` in `outcomes`, if there is any."""
    from atb_fast.experiments.executors import Failure

    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if failures:
        error = AtbFastError(
            f"{len(failures)} of {len(outcomes)} symbols failed: "
            f"{', '.join(failure.name for failure in failures)}"
        )
        error.exit_code = failures[0].exit_code
        raise error
