"""The command line: options from TrainingConfig, progress and results for people or programs."""

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
from typing import TYPE_CHECKING, Any, NoReturn

import click

from atb_fast import settings
from atb_fast.config import BASIC_TIMEFRAME, OPTIONS, TrainingConfig
from atb_fast.data_commands import data
from atb_fast.errors import ArgumentError, AtbFastError, StorageError, message_and_code
from atb_fast.models_commands import models

if TYPE_CHECKING:
    from rich.console import Console

    from atb_fast.parallel import Failure
    from atb_fast.runner import TrainingResult

_INTERRUPTED = 130

_EXIT_CODES = """\b
Exit codes: 0 done, 1 an error in atb-fast itself, 2 wrong options, 3 candles or sentiment that
cannot be used, 4 training failed, 5 ONNX failed (the model is kept), 6 the registry or the store
cannot be read or written, or is damaged, 7 a part is not installed, 8 candles or sentiment cannot
be fetched, 9 a bundle is missing, damaged or must not be live, 130 interrupted."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXIT_CODES)
@click.version_option(package_name="atb-fast", message="%(prog)s %(version)s")
def cli() -> None:
    """Train price and sentiment models on candles."""


cli.add_command(data)
cli.add_command(models)


@cli.group()
def train() -> None:
    """Train a model and put its bundle into the registry."""


def _options(*leave_out: str, **defaults: Any) -> list[click.Parameter]:
    """Return one option for each of TrainingConfig, named after it, with these defaults."""
    parameters: list[click.Parameter] = [
        click.Argument(["symbols"], nargs=-1, required=True, metavar="SYMBOL...")
    ]
    for name, item in OPTIONS.items():
        if name in ("recipe", *leave_out):
            continue
        flag = name.replace("_", "-")
        kind = str(item.type)
        switch = kind == "bool"
        default = defaults.get(name, item.default)
        has_default = default is not dataclasses.MISSING and default is not None
        parameters.append(
            click.Option(
                # What the settings file switches on, a flag must be able to switch off.
                [f"--{flag}/--no-{flag}" if switch else f"--{flag}", name],
                type=None if switch else _type(kind, item.metadata),
                default=default if has_default else None,
                show_default=has_default and default is not False,
                help=item.metadata["help"],
            )
        )
    return parameters


def _type(kind: str, metadata: Any) -> click.ParamType[Any]:
    """Return the click type of a field annotated with `kind`."""
    if "choices" in metadata:
        return click.Choice(metadata["choices"])
    types: dict[str, click.ParamType[Any]] = {
        "date": click.DateTime(["%Y-%m-%d"]),
        "Path": click.Path(path_type=Path),
        "int": click.IntRange(min=metadata.get("minimum")),
    }
    return types[kind.removesuffix(" | None")]


def _train_model(**options: Any) -> None:
    """Train a price or sentiment model for each SYMBOL, for example BTCUSDT.

    Without --force-price-only the model also sees the Fear & Greed index.
    """
    _train(**options)


def _train_price(**options: Any) -> None:
    """Train the basic model of live strategies for each SYMBOL, for example BTCUSDT.

    It sees prices and volume only, each window scaled by its own values. `basic/latest` moves to it
    if its timeframe is 1h, as strategies expect.

    In a settings file, [train] holds for it, too, but for what is different here: timeframe, the
    sentiment, --sequence-length and --onnx-input. Its timeframe can stand in [train.price].
    """
    _train(recipe="basic", **options)


@click.pass_context
def _train(
    context: click.Context,
    /,
    symbols: tuple[str, ...],
    jobs: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    given: dict[str, Any] = {
        name: value.date() if isinstance(value, datetime) else value
        for name, value in options.items()
        if value is not None
    }
    names = [symbol.upper() for symbol in symbols]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ArgumentError(f"{twice} is given twice; name each symbol once")
    if len(names) > 1 and "candles" in given and "{symbol}" not in str(given["candles"]):
        raise ArgumentError(
            f"--candles {given['candles']} are of one symbol and {len(names)} are given; write "
            "{symbol} where the name has the symbol, for example data/{symbol}_1d.csv"
        )
    try:
        configs = [TrainingConfig(symbol=name, **given) for name in names]
    except ArgumentError as error:
        raise ArgumentError(settings.explained(context, str(error))) from error
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if len(configs) > 1:
        _train_several(configs, jobs, as_json, console)
        return
    result = _with_progress(configs[0], console)
    try:
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(result), allow_nan=False, indent=2))
        else:
            _print_result(result, Console(highlight=False))
        sys.stdout.flush()
    except OSError as error:
        raise StorageError(
            f"the result cannot be printed ({error.strerror}); the bundle is complete: "
            f"{result.paths['bundle']}"
        ) from error


#: Engines define the basic model: it has no sentiment, and windows of one kind.
_NOT_FOR_PRICE = (
    *("sentiment", "force_sentiment", "force_price_only", "freshness_days", "skip_robustness"),
    *("onnx_input", "sequence_length"),
)
_SETTINGS_HELP = """\b
Settings: options can stand in a file, by default ./atb-fast.toml:
    [train]                # for train model and train price
    epochs = 50
    registry = "models"    # paths are relative to the file
    [train.price]          # above [train]; there is [train.model], too
    timeframe = "4h"
or in the environment, ATB_FAST_EPOCHS=60, which is above the file. Options of
the command line are above both. atb-fast config show says what counts."""
#: The tables of a settings file, and what each may hold.
_TABLES = {
    "train": (options := [name for name in OPTIONS if name != "recipe"]),
    "train.model": options,
    "train.price": [name for name in options if name not in _NOT_FOR_PRICE],
}
for _name, _callback, _parameters, _apart in (
    ("model", _train_model, _options(), ()),
    (
        "price",
        _train_price,
        _options(*_NOT_FOR_PRICE, timeframe=BASIC_TIMEFRAME),
        ("timeframe", *_NOT_FOR_PRICE),
    ),
):
    _jobs = click.Option(
        ["--jobs"],
        type=click.IntRange(min=1),
        envvar="ATB_FAST_JOBS",
        help="Symbols trained at a time, each in a process of its own; they divide the cores. "
        "Default: one for two cores.",
    )
    _as_json = click.Option(
        ["--json", "as_json"],
        is_flag=True,
        help="Print the result as one JSON document on stdout, a list if there are several "
        "symbols; all else goes to stderr.",
    )
    train.add_command(
        click.Command(
            _name,
            callback=_callback,
            params=[*_parameters, _jobs, _as_json],
            help=_callback.__doc__,
            epilog=f"{_SETTINGS_HELP}\n\n{_EXIT_CODES}",
        )
    )
    settings.attach(train.commands[_name], _TABLES, table=f"train.{_name}", apart=_apart)
for _command in (*data.commands.values(), *models.commands.values()):
    settings.attach(_command, _TABLES)


@cli.group("config")
def config_group() -> None:
    """Show the options of training and where they come from."""


@config_group.command()
@click.argument("command", type=click.Choice(sorted(train.commands)), default="model")
@click.option("--config", "path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def show(command: str, path: Path | None, as_json: bool) -> None:
    """Show what `train model` or `train price` would use: values, and what set them."""
    arguments = ["SYMBOL", *(["--config", str(path)] if path else [])]
    context = train.commands[command].make_context(command, arguments)
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


def _effective(name: str, value: Any) -> bool | int | str | None:
    """Return what TrainingConfig makes of an option that stands alone."""
    default = OPTIONS[name].default_factory
    if value is None and default is not dataclasses.MISSING:
        value = default()
    if isinstance(value, datetime):
        value = value.date()
    return value if isinstance(value, bool | int | None) else str(value)


def _with_progress(config: TrainingConfig, console: Console) -> TrainingResult:
    """Run the pipeline; on a terminal with bars that move with every page and epoch."""
    from atb_fast.progress import bars, training_callbacks
    from atb_fast.runner import run_training_pipeline

    with bars(console) as shown:
        return run_training_pipeline(config, **training_callbacks(config, shown.update))


def _train_several(
    configs: list[TrainingConfig], jobs: int | None, as_json: bool, console: Console
) -> None:
    """Train each of `configs`; print all results, then fail if one failed."""
    from atb_fast.parallel import Failure, default_jobs, train_all
    from atb_fast.progress import bars

    with bars(console) as shown:
        outcomes = train_all(configs, jobs=jobs or default_jobs(), on_progress=shown.update)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(o) for o in outcomes], allow_nan=False, indent=2))
    else:
        _print_outcomes(outcomes)
    sys.stdout.flush()
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if failures:
        error = AtbFastError(
            f"{len(failures)} of {len(outcomes)} symbols failed: "
            f"{', '.join(failure.symbol for failure in failures)}"
        )
        error.exit_code = failures[0].exit_code
        raise error


def _print_outcomes(outcomes: list[TrainingResult | Failure]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from atb_fast.parallel import Failure

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("symbol", "test RMSE", "persistence", "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "symbol" else "right", no_wrap=True)
    table.add_column("bundle", overflow="fold")
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            table.add_row(outcome.symbol, "", "", "", "", Text(f"failed: {outcome.error}"))
            continue
        unseen = "" if outcome.published else "not published, kept in "
        table.add_row(
            outcome.symbol,
            f"{outcome.test_rmse:,.2f}",
            f"{outcome.persistence_rmse:,.2f}",
            str(outcome.epochs),
            f"{outcome.total_seconds:.1f}",
            Text(unseen + outcome.paths["bundle"]),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # programs and files get whole paths
    console.print(table)


def _print_result(result: TrainingResult, console: Console) -> None:
    from rich.table import Table

    table = Table(title=f"{result.symbol} {result.timeframe}, {result.model_type} model")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage, seconds in result.stages.items():
        table.add_row(stage, f"{seconds:.2f}")
    other = result.total_seconds - sum(result.stages.values())
    table.add_row("imports and the rest", f"{other:.2f}", end_section=True)
    table.add_row("total", f"{result.total_seconds:.2f}")
    console.print(table)
    worse = result.test_rmse > result.persistence_rmse
    console.print(
        f"test RMSE {result.test_rmse:,.2f} (persistence {result.persistence_rmse:,.2f}"
        + (": the model is worse than no change)" if worse else ")")
        + f", MAPE {result.mape:.2f} %, {result.epochs} {result.engine} epochs "
        f"of {result.seconds_per_epoch:.2f} s (the first {result.first_epoch_seconds:.1f}), "
        f"best {result.best_epoch}"
    )
    where = "bundle" if result.published else "not published, kept in"
    console.print(f"{where}: {result.paths['bundle']}", soft_wrap=True)


def main() -> NoReturn:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("atb_fast").setLevel(logging.INFO)
    # A terminated run cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli.main(prog_name="atb-fast", standalone_mode=False)
    except click.ClickException as error:
        settings.with_origin(error).show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", _INTERRUPTED)
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
