"""Options from `atb-fast.toml` and the environment, which the command line overrides.

click combines the layers. This module defines what the file may contain, and finds out where a
value came from.
"""

from __future__ import annotations

import difflib
import logging
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from atb_fast.config import OPTIONS, variable_set, variables
from atb_fast.errors import ArgumentError
from atb_fast.options import Option

log = logging.getLogger(__name__)

FILE = Path("atb-fast.toml")
FILE_HELP = f"Settings file. Default: $ATB_FAST_CONFIG, else {FILE} if it exists."
_META = "atb_fast.cli.settings"
#: Variables that are not options: threads, addresses of the sources, and those of tests.
_OTHER_VARIABLES = (
    *(f"ATB_FAST_{name}_URL" for name in ("BINANCE", "BINANCE_FALLBACK", "ARCHIVE", "FNG")),
    *("ATB_FAST_THREADS", "ATB_FAST_SHARED"),
)

#: The number of parallel runs; it is not an option of a single run.
JOBS = Option(
    "jobs",
    int,
    optional=True,
    minimum=1,
    help="Number of symbols to train in parallel, each in its own process; they share the cores. "
    "Default: one per two cores.",
)
#: Where finished runs are logged; it does not change a run.
MLFLOW = Option(
    "mlflow",
    str,
    optional=True,
    metavar="URI",
    help="Log the finished run to this MLflow server, for example http://127.0.0.1:5000. If the "
    "server does not answer, the run is not affected. Needs pip install mlflow-skinny.",
)
#: Every option that a settings file may contain.
KNOWN = {**OPTIONS, JOBS.name: JOBS, MLFLOW.name: MLFLOW}

#: The directories that training writes to and that other commands read.
_DIRECTORIES = tuple(name for name, item in OPTIONS.items() if item.factory)

#: The tables of the file by name, with the options each may contain.
Tables = Mapping[str, Sequence[str]]
#: The value of an option in the file, as click expects it.
Value = bool | int | float | str | list[str]


def load(path: Path, tables: Tables) -> dict[str, dict[str, Value]]:
    """Return the options of each table of the file at `path`, as types that click expects.

    Paths are relative to the directory of the file. The table `[train.price]` has the key
    `train.price`.

    Raises:
        ArgumentError: The file cannot be read, is not TOML, or has an invalid key or value.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ArgumentError(
            f"{path} cannot be read: {error.strerror}; pass a settings file as --config"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ArgumentError(f"{path} is not valid TOML: {reason}; correct the file") from error
    found: dict[str, dict[str, Value]] = {}

    def read(name: str, table: Mapping[str, Any]) -> None:
        options = found.setdefault(name, {})
        inner = [known.removeprefix(f"{name}.") for known in tables if known.startswith(f"{name}.")]
        for key, value in table.items():
            where = f"{path}: key {key:.80} in [{name}]"
            if isinstance(value, dict) and key in inner:
                read(f"{name}.{key}", value)
                continue
            option = key.replace("-", "_")
            _check_name(where, option, [*tables[name], *inner])
            if option in inner:
                raise ArgumentError(f"{where} is {value!r:.80}, expected a table, [{name}.{key}]")
            if option in options:
                raise ArgumentError(
                    f"{where} is given twice, with dashes and with underscores; remove one"
                )
            options[option] = _plain(where, option, value, path.parent)

    for key, value in document.items():
        option = key.replace("-", "_")
        if any(option in names for names in tables.values()):
            raise ArgumentError(f"{path}: key {key:.80} is not in a table; move it below [train]")
        _check_name(f"{path}: [{key:.80}]", key, tables)
        if not isinstance(value, dict):
            raise ArgumentError(f"{path}: {key} is {value!r:.80}, expected a table, [{key}]")
        read(key, value)
    return found


def _plain(where: str, option: str, value: Any, directory: Path) -> Value:
    try:
        checked = KNOWN[option].check(value)
    except ArgumentError as error:
        raise ArgumentError(f"{where}: {error}") from error
    if KNOWN[option].kind is str and not isinstance(checked, str):
        raise ArgumentError(f"{where} is {checked!r:.80}, expected a quoted string")
    if isinstance(checked, Path) or (option == "recipe" and checked.endswith(".toml")):
        return str(directory / Path(checked).expanduser())
    if isinstance(checked, dict):
        return [
            f"{name}={directory / item if isinstance(item, Path) else item}"
            for name, item in checked.items()
        ]
    if isinstance(checked, tuple):
        return ",".join(map(str, checked))
    return checked.isoformat() if isinstance(checked, date) else checked


def _check_name(where: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see atb-fast train model --help"
        raise ArgumentError(f"{where} is unknown; {hint}")


def attach(
    command: click.Command,
    tables: Tables,
    *,
    table: str = "",
    apart: Collection[str] = (),
    shared: Collection[str] = _DIRECTORIES,
) -> None:
    """Add --config to `command`, and read its options from the file and the environment.

    Args:
        command: Any command.
        tables: The tables of the file.
        table: The command's own table, which overrides `[train]`.
        apart: Options that the command takes from its own table only.
        shared: Options that a command without a table of its own takes from `[train]`.
    """
    options = {
        name: option
        for option in command.params
        if (name := option.opts[0].lstrip("-").replace("-", "_")) in KNOWN
        and (table or name in shared)
    }
    for name, option in options.items():
        option.envvar = variables(name)

    def use(context: click.Context, _: click.Parameter, given: Path | None) -> None:
        # Completing an option must not log. Completing the name of a bundle needs the registry.
        if context.resilient_parsing and table:
            return
        left_out = (variable_set(name) for name in apart if name not in options)
        if idle := [variable for variable in left_out if variable]:
            log.info("%s ignores %s", table.replace(".", " "), ", ".join(idle))
        path = given or (FILE if FILE.exists() else None)
        if path is None:
            return
        found = load(path, tables)
        shared, own = found.get("train", {}), found.get(table, {})
        unused = [name for name in shared if name in apart and name not in own]
        if unused:
            log.info(
                "%s: %s ignores %s in [train]; its own table is [%s]",
                path,
                table.replace(".", " "),
                ", ".join(unused),
                table,
            )
        values = {name: value for name, value in shared.items() if name not in apart} | own
        context.meta[_META] = path
        context.default_map = {
            str(option.name): values[name] for name, option in options.items() if name in values
        }

    command.params.append(
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            envvar="ATB_FAST_CONFIG",
            is_eager=True,
            expose_value=False,
            callback=use,
            metavar="FILE",
            help=FILE_HELP if table else f"{FILE_HELP} Options read from it: {', '.join(options)}.",
        )
    )


def warn_of_unknown_variables(program: click.Command) -> None:
    """Warn of each `ATB_FAST_` variable that nothing reads: it may be misspelled."""
    given = [name for name in os.environ if name.startswith("ATB_FAST_") and os.environ[name]]
    known = {*_variables_of(program), *_OTHER_VARIABLES} if given else set()
    for name in sorted(set(given) - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        log.warning("ignoring the unknown variable %s%s", name, hint)


def _variables_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        names = parameter.envvar or ()
        yield from [names] if isinstance(names, str) else names
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _variables_of(inner)


def origin(context: click.Context, parameter: click.Parameter) -> str:
    """Return where a value came from: a variable, a file, `command line`, or `default`."""
    source = context.get_parameter_source(str(parameter.name))
    if source is ParameterSource.ENVIRONMENT:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
        return next(name for name in names if os.environ.get(name))
    if source is ParameterSource.DEFAULT_MAP:
        return str(context.meta[_META])
    return "default" if source is ParameterSource.DEFAULT else "command line"


def sources(context: click.Context) -> list[str]:
    """Return the file and the variables that options came from."""
    found = {origin(context, parameter) for parameter in context.command.params}
    return sorted(found - {"default", "command line"})


def with_origins(context: click.Context, error: ArgumentError) -> ArgumentError:
    """Return `error`, naming the source of each of its options that was not given as a flag."""
    named = [item for item in context.command.params if item.name in error.options]
    return ArgumentError(_with_origins(context, str(error), named), error.options)


def explained(error: click.ClickException) -> click.ClickException:
    """Return `error`, naming what click leaves out: the source of a value, or the commands."""
    context = getattr(error, "ctx", None)
    if context and isinstance(context.command, click.Group):
        text = error.format_message()
        if text.startswith("No such command") and text.endswith("."):  # no similar one is named
            known = ", ".join(context.command.list_commands(context))
            return click.UsageError(f"{text} Expected one of: {known}", context)
    if type(error) is not click.BadParameter or not (error.ctx and error.param):
        return error
    message = _with_origins(error.ctx, error.message.rstrip("."), [error.param])
    return click.BadParameter(message, error.ctx, error.param)


def _with_origins(
    context: click.Context, message: str, parameters: Sequence[click.Parameter]
) -> str:
    elsewhere = [
        f"{parameter.opts[0]} is from {where}"
        for parameter in parameters
        if (where := origin(context, parameter)) not in ("default", "command line")
    ]
    return f"{message} ({', '.join(elsewhere)})" if elsewhere else message
