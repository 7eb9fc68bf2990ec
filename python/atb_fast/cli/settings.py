"""Options from `atb-fast.toml` and the environment, below what the command line says.

click does the layering; here is what the file may hold, and where a value came from.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from atb_fast.config import OPTIONS, check_option, variable_set, variables
from atb_fast.errors import ArgumentError

log = logging.getLogger(__name__)

FILE = Path("atb-fast.toml")
FILE_HELP = f"Settings file. Default: $ATB_FAST_CONFIG, else {FILE} if it is there."
_META = "atb_fast.cli.settings"
#: Addresses of the sources, and what tests and benchmarks read.
_NOT_OF_OPTIONS = (
    *(f"ATB_FAST_{name}_URL" for name in ("BINANCE", "BINANCE_FALLBACK", "ARCHIVE", "FNG")),
    *("ATB_FAST_THREADS", "ATB_FAST_SHARED", "ATB_FAST_KILLS", "ATB_FAST_FAULTS"),
)

#: A table of the file by name, with the options it may hold.
Tables = Mapping[str, Sequence[str]]


def load(path: Path, tables: Tables) -> dict[str, dict[str, bool | int | str]]:
    """Return the options in each table of the file at `path`, as click takes them.

    Paths are relative to the directory of the file. `[train.price]` is the table `train.price`.

    Raises:
        ArgumentError: The file cannot be read, is no TOML, or has a key or a value that cannot be.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ArgumentError(f"{path}: not TOML: {error}") from error
    found: dict[str, dict[str, bool | int | str]] = {}

    def read(name: str, table: Mapping[str, Any]) -> None:
        options = found.setdefault(name, {})
        inner = [known.removeprefix(f"{name}.") for known in tables if known.startswith(f"{name}.")]
        for key, value in table.items():
            where = f"{path}: key {key} in [{name}]"
            if isinstance(value, dict) and key in inner:
                read(f"{name}.{key}", value)
                continue
            option = key.replace("-", "_")
            _check_name(where, option, [*tables[name], *inner])
            if option in inner:
                raise ArgumentError(f"{where} is {value!r}, expected a table, [{name}.{key}]")
            if option in options:
                raise ArgumentError(f"{where} is there twice, with dashes and with underscores")
            options[option] = _plain(where, option, value, path.parent)

    for key, value in document.items():
        option = key.replace("-", "_")
        if any(option in names for names in tables.values()):
            raise ArgumentError(f"{path}: key {key} stands alone; write it below [train]")
        _check_name(f"{path}: [{key}]", key, tables)
        if not isinstance(value, dict):
            raise ArgumentError(f"{path}: {key} is {value!r}, expected a table, [{key}]")
        read(key, value)
    return found


def _plain(where: str, option: str, value: Any, directory: Path) -> bool | int | str:
    try:
        checked = check_option(option, value)
    except ArgumentError as error:
        raise ArgumentError(f"{where}: {error}") from error
    if isinstance(checked, Path):
        return str(directory / checked)
    return checked.isoformat() if isinstance(checked, date) else checked


def _check_name(where: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "atb-fast train model --help has the options"
        raise ArgumentError(f"{where} is not known; {hint}")


def attach(
    command: click.Command,
    tables: Tables,
    *,
    table: str = "",
    apart: Collection[str] = (),
    shared: Collection[str] = ("cache_dir", "registry"),
) -> None:
    """Let options of `command` come from the environment and the settings file, below its flags.

    Args:
        command: It gets --config, too.
        tables: What the file may hold.
        table: The table of the command's own, above `[train]`.
        apart: Options that the command takes from no table but its own.
        shared: What a command without a table takes from `[train]`; by default it looks where
            training stores.
    """
    options = {
        name: option
        for option in command.params
        if (name := option.opts[0].lstrip("-").replace("-", "_")) in OPTIONS
        and (table or name in shared)
    }
    for name, option in options.items():
        option.envvar = variables(name)

    def use(context: click.Context, _: click.Parameter, given: Path | None) -> None:
        if context.resilient_parsing:
            return
        left_out = (variable_set(name) for name in apart if name not in options)
        if idle := [variable for variable in left_out if variable]:
            log.info("%s not used: no option of %s", ", ".join(idle), table.replace(".", " "))
        path = given or (FILE if FILE.exists() else None)
        if path is None:
            return
        found = load(path, tables)
        shared, own = found.get("train", {}), found.get(table, {})
        unused = [name for name in shared if name in apart and name not in own]
        if unused:
            log.info("%s: %s in [train] not used: only [%s] counts", path, ", ".join(unused), table)
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
            help=FILE_HELP if table else f"{FILE_HELP} Its cache_dir and registry count here.",
        )
    )


def warn_of_unknown_variables(program: click.Command) -> None:
    """Log each `ATB_FAST_` variable that nothing reads, as one with a slip of the pen."""
    given = [name for name in os.environ if name.startswith("ATB_FAST_") and os.environ[name]]
    known = {*_variables_of(program), *_NOT_OF_OPTIONS} if given else set()
    for name in sorted(set(given) - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        log.warning("%s is set, but not known, and does nothing%s", name, hint)


def _variables_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        names = parameter.envvar or ()
        yield from [names] if isinstance(names, str) else names
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _variables_of(inner)


def origin(context: click.Context, parameter: click.Parameter) -> str:
    """Return what gave a parameter its value: a variable, a file, `command line` or `default`."""
    source = context.get_parameter_source(str(parameter.name))
    if source is ParameterSource.ENVIRONMENT:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
        return next(name for name in names if os.environ.get(name))
    if source is ParameterSource.DEFAULT_MAP:
        return str(context.meta[_META])
    return "default" if source is ParameterSource.DEFAULT else "command line"


def sources(context: click.Context) -> list[str]:
    """Return the file and the variables that options come from."""
    found = {origin(context, parameter) for parameter in context.command.params}
    return sorted(found - {"default", "command line"})


def explained(context: click.Context, message: str) -> str:
    """Return `message` with the origin of each option it names that no flag gave."""
    words = {word.replace("-", "_") for word in re.findall(r"[a-z]+(?:[-_][a-z]+)*", message)}
    elsewhere = [
        f"{parameter.name} is from {where}"
        for parameter in context.command.params
        if parameter.name in words
        and (where := origin(context, parameter)) not in ("default", "command line")
    ]
    return f"{message} ({', '.join(elsewhere)})" if elsewhere else message


def with_origin(error: click.ClickException) -> click.ClickException:
    """Return `error` with the origin of the value that click could not convert."""
    if type(error) is not click.BadParameter or not (error.ctx and error.param):
        return error
    where = origin(error.ctx, error.param)
    if where in ("default", "command line"):
        return error
    message = f"{error.message.rstrip('.')} ({error.param.name} is from {where})"
    return click.BadParameter(message, error.ctx, error.param)
