"""`atb-fast train`: options from TrainingConfig, progress and results for people or programs."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from atb_fast.cli import settings
from atb_fast.cli.options import (
    EXIT_CODES,
    NOT_FOR_PRICE,
    TABLES,
    as_json,
    training_config,
    training_options,
)
from atb_fast.config import BASIC_TIMEFRAME, TrainingConfig
from atb_fast.errors import ArgumentError, AtbFastError, StorageError

if TYPE_CHECKING:
    from rich.console import Console

    from atb_fast.runs.parallel import Failure
    from atb_fast.runs.pipeline import TrainingResult
    from atb_fast.runs.repeat import RecordedRun

log = logging.getLogger(__name__)

_SETTINGS_HELP = """\b
Settings: options can stand in a file, by default ./atb-fast.toml:
    [train]                # for train model and train price
    epochs = 50
    registry = "models"    # paths are relative to the file
    [train.price]          # above [train]; there is [train.model], too
    timeframe = "4h"
or in the environment, ATB_FAST_EPOCHS=60, which is above the file. Options of
the command line are above both. atb-fast config show says what counts."""
#: Options that a repeated run does not take from the metadata, or may have others of.
_REPEATED = ("registry", "cache_dir", "candles", "sentiment", "offline", "resume")


@click.group(
    invoke_without_command=True,
    no_args_is_help=True,
    params=[
        click.Option(
            ["--from", "recorded"],
            metavar="METADATA",
            help="A metadata.json, the directory of a bundle, or SYMBOL:TIMEFRAME:TYPE[:VERSION].",
        ),
        *(option for option in training_options() if option.name in _REPEATED),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def train(context: click.Context, /, as_json: bool, recorded: str | None, **options: Any) -> None:
    """Train a model and put its bundle into the registry.

    With --from, the model that metadata tell of: symbol, range, engine, seed and every other option
    are taken from there, and so is the number of threads. The data must be the same. Only where
    things are kept (--registry, --cache-dir) is that of this machine. At the end it is said whether
    model.onnx is the same.
    """
    if context.invoked_subcommand:
        given = (context.get_parameter_source(str(p.name)) for p in context.command.params)
        if ParameterSource.COMMANDLINE in given:
            raise click.UsageError(
                f"options stand behind {context.invoked_subcommand}; --from needs no command"
            )
        return
    if not recorded:
        raise click.UsageError("give a command, model or price, or --from METADATA")
    from rich.console import Console

    from atb_fast.runs.repeat import read

    run = read(recorded, **{name: value for name, value in options.items() if value})
    _train_one(run.config, as_json, Console(stderr=True, highlight=False), run)


def _command(name: str, *apart: str, **changed: dict[str, Any]) -> Callable[[Any], click.Command]:
    """Return the decorator that makes a command of `train`, with options of TrainingConfig.

    Args:
        name: Of the command, and of its table in the settings file.
        apart: Options that it does not have, or takes from no table but its own.
        changed: As in `training_options`.
    """
    params: list[click.Parameter] = [
        click.Argument(["symbols"], nargs=-1, required=True, metavar="SYMBOL..."),
        *training_options(*(option for option in apart if option not in changed), **changed),
        click.Option(
            ["--jobs"],
            type=click.IntRange(min=1),
            envvar="ATB_FAST_JOBS",
            help="Symbols trained at a time, each in a process of its own; they divide the cores. "
            "Default: one for two cores.",
        ),
    ]

    def decorate(function: Any) -> click.Command:
        made = train.command(name, params=params, epilog=f"{_SETTINGS_HELP}\n\n{EXIT_CODES}")
        command: click.Command = made(as_json(function))
        settings.attach(command, TABLES, table=f"train.{name}", apart=apart)
        return command

    return decorate


@_command("model", recipe={"choices": ("legacy", "causal")})
def _model(**options: Any) -> None:
    """Train price or sentiment models, one for each SYMBOL.

    Without --force-price-only the model also sees the Fear & Greed index. With several symbols
    --json prints a list.
    """
    _train(**options)


@_command("price", "timeframe", *NOT_FOR_PRICE, timeframe={"default": BASIC_TIMEFRAME})
def _price(**options: Any) -> None:
    """Train basic models, as live strategies load them.

    It sees prices and volume only, each window scaled by its own values. `basic/latest` moves to it
    if its timeframe is 1h, as strategies expect. With several symbols --json prints a list.

    In a settings file, [train] holds for it, too, but for what is different here: timeframe, the
    sentiment, the recipe, --sequence-length and --onnx-input. Its timeframe can stand in
    [train.price].
    """
    _train(recipe="basic", **options)


settings.attach(train, TABLES, shared=("cache_dir", "registry", "offline"))


@click.pass_context
def _train(
    context: click.Context,
    /,
    symbols: tuple[str, ...],
    jobs: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    candles = options["candles"]
    names = [symbol.upper() for symbol in symbols]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ArgumentError(f"{twice} is given twice; name each symbol once")
    if len(names) > 1 and candles and "{symbol}" not in str(candles):
        raise ArgumentError(
            f"--candles {candles} are of one symbol and {len(names)} are given; write "
            "{symbol} where the name has the symbol, for example data/{symbol}_1d.csv"
        )
    configs = [training_config(context, name, options) for name in names]
    if where := settings.sources(context):
        log.info("settings: %s", ", ".join(where))
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if len(configs) > 1:
        _train_several(configs, jobs, as_json, console)
        return
    _train_one(configs[0], as_json, console)


def _train_one(
    config: TrainingConfig, as_json: bool, console: Console, recorded: RecordedRun | None = None
) -> None:
    from rich.console import Console

    result = _with_progress(config, console, recorded)
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


def _with_progress(
    config: TrainingConfig, console: Console, recorded: RecordedRun | None
) -> TrainingResult:
    """Run the pipeline; on a terminal with bars that move with every page and epoch."""
    from atb_fast.cli.progress import bars
    from atb_fast.runs.pipeline import run_training_pipeline
    from atb_fast.runs.progress import training_callbacks

    with bars(console) as shown:
        return run_training_pipeline(
            config, recorded=recorded, **training_callbacks(config, shown.update)
        )


def _train_several(
    configs: list[TrainingConfig], jobs: int | None, as_json: bool, console: Console
) -> None:
    """Train each of `configs`; print all results, then fail if one failed."""
    from atb_fast.cli.progress import bars
    from atb_fast.runs.parallel import Failure, default_jobs, train_all

    with bars(console) as shown:
        try:
            outcomes = train_all(configs, jobs=jobs or default_jobs(), on_progress=shown.update)
        except KeyboardInterrupt as stop:
            stop.add_note("the same command with --resume goes on where each symbol stopped")
            raise
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

    from atb_fast.runs.parallel import Failure

    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("symbol", "test RMSE", "persistence", "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "symbol" else "right", no_wrap=True)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            table.add_row(outcome.symbol, "failed")
            continue
        table.add_row(
            outcome.symbol,
            f"{outcome.test_rmse:,.2f}",
            f"{outcome.persistence_rmse:,.2f}",
            str(outcome.epochs),
            f"{outcome.total_seconds:.1f}",
        )
    console.print(table)
    for outcome in outcomes:
        what = outcome.error if isinstance(outcome, Failure) else _where(outcome)
        console.print(Text(f"{outcome.symbol}: {what}"), soft_wrap=True)


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
    console.print(
        f"test RMSE {result.test_rmse:,.2f} (persistence {result.persistence_rmse:,.2f}: the model "
        f"is {result.verdict}), MAPE {result.mape:.2f} %, {result.epochs} {result.engine} epochs "
        f"of {result.seconds_per_epoch:.2f} s (the first {result.first_epoch_seconds:.1f}), "
        f"best {result.best_epoch}"
    )
    console.print(_where(result), soft_wrap=True)


def _where(result: TrainingResult) -> str:
    """Return where the model is, and whether engines see it there."""
    where = "bundle" if result.published else "not published, kept in"
    return f"{where}: {result.paths['bundle']}"
