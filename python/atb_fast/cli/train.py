"""`atb-fast train`: runs one or several trainings and prints the results."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from atb_fast.cli import completion, settings
from atb_fast.cli.figures import number, sentences
from atb_fast.cli.options import (
    EXIT_CODES,
    FOR_BASIC,
    OF_THE_MACHINE,
    TABLES,
    GroupedCommand,
    as_json,
    click_option,
    fail_if_any,
    failure_document,
    print_json,
    training_configs,
    training_options,
)
from atb_fast.cli.tables import Column, echo, print_table, print_text
from atb_fast.config import (
    BASIC_TIMEFRAME,
    OPTIONS,
    RECIPES,
    NetworkOptions,
    default_registry,
    names,
    recipe_help,
)
from atb_fast.errors import ArgumentError, AtbFastError, StorageError, counted

if TYPE_CHECKING:
    from rich.console import Console

    from atb_fast.experiments.executors import Failure
    from atb_fast.recipes.config import TrainingConfig
    from atb_fast.runs.repeat import RecordedRun
    from atb_fast.runs.result import TrainingResult

log = logging.getLogger(__name__)

_SETTINGS_HELP = """\b
Settings: options can be set in a file, by default ./atb-fast.toml:
    [train]                # for train model and train price
    epochs = 50
    registry = "models"    # paths are relative to the file
    [train.price]          # overrides [train]; so does [train.model]
    timeframe = "4h"
or in the environment, for example ATB_FAST_EPOCHS=60. The environment overrides
the file, and the command line overrides both. See atb-fast config show."""

#: Options that may differ from those in the metadata when a run is repeated.
_REPEATED = (*OF_THE_MACHINE, *(name for name, item in OPTIONS.items() if item.input_file))
#: The recipes of train model; train price has the other one.
_MODEL_RECIPES = tuple(name for name in RECIPES if name != "basic")


@click.group(
    invoke_without_command=True,
    no_args_is_help=True,
    params=[
        click.Option(
            ["--from", "recorded"],
            metavar="METADATA",
            help="Repeat this run: a metadata.json, a bundle directory, or "
            "SYMBOL:TIMEFRAME:TYPE[:VERSION].",
            shell_complete=completion.bundles,
        ),
        click.Option(
            ["--recipe"],
            metavar="MODULE:CLASS",
            help="Confirm that --from may import this Python recipe, which the metadata names. "
            "Other recipes are part of the metadata.",
        ),
        *training_options(_REPEATED),
        click_option(settings.MLFLOW),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def train(
    context: click.Context,
    /,
    as_json: bool,
    recorded: str | None,
    recipe: str | None,
    mlflow: str | None,
    **options: Any,
) -> None:
    """Train a model and publish its bundle to the registry.

    --from repeats a recorded run: symbol, range, engine, seed, number of threads and all other
    options that determine the model are taken from its metadata. The data must be the same; if the
    files were moved, pass --candles, --sentiment and --extra. The options below concern this
    machine and are not taken from the metadata. At the end, the log says whether model.onnx is
    identical. The new bundle goes live only if --promote is given on this command line.
    """
    if context.invoked_subcommand:
        given = [
            parameter.opts[0]
            for parameter in context.command.params
            if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        ]
        if "--from" in given:
            raise click.UsageError(
                f"--from repeats a recorded run as it was; leave out "
                f"{context.invoked_subcommand} and the symbol"
            )
        if given:
            raise click.UsageError(
                f"{', '.join(given)} must come after {context.invoked_subcommand}: atb-fast train "
                f"{context.invoked_subcommand} SYMBOL {given[0]}"
            )
        return
    if not recorded:
        raise click.UsageError("missing command: use train model, train price, or --from METADATA")
    from rich.console import Console

    from atb_fast.runs.repeat import read_run

    _check_mlflow(mlflow)
    changed = {name: value for name, value in options.items() if value not in (None, False, ())}
    run = read_run(recorded, recipe=recipe, **changed)
    result = _train_one(run.config, as_json, Console(stderr=True, highlight=False), run)
    _log_to_mlflow(mlflow, run.config.registry, [result])


def _command(
    name: str, wanted: Collection[str], *, apart: Collection[str] = (), **changed: dict[str, Any]
) -> Callable[[Any], click.Command]:
    """Return the decorator that makes a command of `train`.

    Args:
        name: Name of the command, and of its table in the settings file.
        wanted: Names of its options.
        apart: Options that it takes from its own table only.
        changed: As in `training_options`.
    """
    params: list[click.Parameter] = [
        click.Argument(["symbols"], nargs=-1, required=True, metavar="SYMBOL..."),
        *training_options(wanted, **changed),
        click_option(settings.JOBS),
        click_option(settings.MLFLOW),
    ]

    def decorate(function: Any) -> click.Command:
        made = train.command(
            name, cls=GroupedCommand, params=params, epilog=f"{_SETTINGS_HELP}\n\n{EXIT_CODES}"
        )
        command: click.Command = made(as_json(function))
        settings.attach(command, TABLES, table=f"train.{name}", apart=apart)
        return command

    return decorate


@_command(
    "model",
    tuple(OPTIONS),
    recipe={"help": recipe_help(_MODEL_RECIPES)},
)
def _model(**options: Any) -> None:
    """Train a model for each SYMBOL.

    --recipe selects the features, the target and the network. --force-price-only drops features of
    the Fear & Greed index. With several symbols, --json prints a list.
    """
    if options["recipe"] == "basic":
        raise ArgumentError(
            "train model does not train the basic recipe; use atb-fast train price",
            options=["recipe"],
        )
    _train(**options)


@_command(
    "price",
    FOR_BASIC,
    apart=("timeframe", *names(NetworkOptions), *(n for n in OPTIONS if n not in FOR_BASIC)),
    timeframe={"default": BASIC_TIMEFRAME, "from_recipe": False},
)
def _price(**options: Any) -> None:
    """Train the basic model that live strategies load, for each SYMBOL.

    The model uses prices and volume only; each window is scaled by its own values. If the timeframe
    is 1h, as strategies expect, the new bundle can go live; see --promote. With several symbols,
    --json prints a list.

    The timeframe and the network are read from [train.price] of the settings file only, the other
    options also from [train].
    """
    _train(recipe="basic", **options)


# The model of a repeated run goes live only if the command line itself says so.
_SHARED = [name for name in OF_THE_MACHINE if name != "promote"]
settings.attach(train, TABLES, shared=[*_SHARED, settings.MLFLOW.name])


@click.pass_context
def _train(
    context: click.Context,
    /,
    symbols: tuple[str, ...],
    jobs: int | None,
    mlflow: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    configs = training_configs(context, symbols, options)
    if where := settings.sources(context):
        log.info("settings: %s", ", ".join(where))
    from rich.console import Console

    from atb_fast.experiments.executors import Failure

    _check_mlflow(mlflow)
    console = Console(stderr=True, highlight=False)
    if len(configs) > 1:
        outcomes = _train_several(configs, jobs, as_json, console)
    else:
        outcomes = [_train_one(configs[0], as_json, console)]
    trained = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    _log_to_mlflow(mlflow, configs[0].registry, trained)
    fail_if_any(outcomes)


def _train_one(
    config: TrainingConfig, as_json: bool, console: Console, recorded: RecordedRun | None = None
) -> TrainingResult:
    """Train a model, print the result and return it."""
    from atb_fast.cli.progress import bars
    from atb_fast.runs.pipeline import run_training_pipeline

    with bars(console) as shown:
        listener = shown.for_training(config)
        result = run_training_pipeline(config, recorded=recorded, listener=listener)
    try:
        if as_json:
            print_json(dataclasses.asdict(result))
        else:
            _print_result(result)
        sys.stdout.flush()
    except OSError as error:
        raise StorageError(
            f"the result cannot be printed ({error.strerror}), but the bundle is complete: "
            f"{result.paths['bundle']}"
        ) from error
    return result


def _train_several(
    configs: list[TrainingConfig], jobs: int | None, as_json: bool, console: Console
) -> list[TrainingResult | Failure]:
    """Train each of `configs`, print all results and return them."""
    from atb_fast.cli.progress import bars
    from atb_fast.experiments.executors import Failure, train_all
    from atb_fast.training.environment import default_jobs

    with bars(console) as shown:
        try:
            outcomes = train_all(
                configs,
                jobs=jobs or default_jobs(),
                listen=lambda config: shown.for_training(config, several=True),
            )
        except KeyboardInterrupt as stop:
            stop.add_note("the same command with --resume continues where each symbol stopped")
            raise
    if as_json:
        print_json(
            [
                failure_document(outcome)
                if isinstance(outcome, Failure)
                else dataclasses.asdict(outcome)
                for outcome in outcomes
            ]
        )
    else:
        _print_outcomes(outcomes)
    sys.stdout.flush()
    return outcomes


def _check_mlflow(uri: str | None) -> None:
    """Raise MissingExtraError before the training if MLflow is not installed."""
    if uri is not None:
        from atb_fast.experiments.tracking import check_installed

        check_installed()


def _log_to_mlflow(uri: str | None, registry: Path, results: list[TrainingResult]) -> None:
    """Log finished trainings to MLflow. If that fails, warn and say how to do it later."""
    if uri is None or not results:
        return
    from atb_fast.experiments import tracking
    from atb_fast.runs import records

    try:
        tracking.log_runs(uri, registry, map(records.of_result, results))
    except (AtbFastError, ImportError) as error:
        command = f"atb-fast runs export --mlflow {shlex.quote(uri)}"
        if registry != default_registry():
            command += f" --registry {shlex.quote(str(registry))}"
        log.warning("%s; the models are not affected. To log them later, run %s", error, command)
    else:
        log.info("logged to MLflow at %s", uri)


def _print_outcomes(outcomes: list[TrainingResult | Failure]) -> None:
    from atb_fast.experiments.executors import Failure

    trained = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    error, reference = ("RMSE", "persistence")
    if trained:  # all have the same recipe
        error, reference = trained[0].error, trained[0].reference.removeprefix("the ")
    columns = [
        Column("symbol"),
        *(Column(name, right=True) for name in (f"test {error}", reference, "epochs", "seconds")),
    ]
    print_table(
        columns,
        [
            (outcome.name, "failed", None, None, None)
            if isinstance(outcome, Failure)
            else (
                outcome.symbol,
                number(outcome.test_error),
                number(outcome.reference_error),
                outcome.epochs,
                f"{outcome.total_seconds:.1f}",
            )
            for outcome in outcomes
        ],
    )
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            symbol, what = outcome.name, outcome.error
        else:
            symbol, what = outcome.symbol, _where(outcome)
        echo(f"{symbol}: {what}".replace("\n", "\n  "))
    if trained:
        # The steps of a model that is not live include how to promote it.
        example = next((result for result in trained if result.promote_command), trained[0])
        _print_steps(f"next steps, for example for {example.symbol}:", example)


def _print_result(result: TrainingResult) -> None:
    other = result.total_seconds - sum(result.stages.values())
    seconds = {**result.stages, "imports and the rest": other, "total": result.total_seconds}
    print_table(
        [Column("stage"), Column("seconds", right=True)],
        [(stage, f"{value:.2f}") for stage, value in seconds.items()],
        f"{result.symbol} {result.timeframe}, {result.model_type} model",
    )
    caveat = f". {result.caveat}" if result.caveat else ""
    print_text(f"{_errors(result)}: the model is {result.verdict}{caveat}")
    for line in _further(result):
        print_text(line)
    echo(f"{_fitted(result)}\n{_where(result)}")
    _print_steps("next steps:", result)


def _errors(result: TrainingResult) -> str:
    """Return the error on the test windows, next to those of the reference and of persistence."""
    if result.mape is not None:  # a price
        return f"test RMSE {result.test_rmse:,.2f}, persistence {result.persistence_rmse:,.2f}"
    unit = f" of {result.unit}" if result.unit else ""
    reference = result.reference.removeprefix("the ")
    text = f"test {result.error}{unit} {number(result.test_error)}, {reference} "
    text += number(result.reference_error)
    if reference == "persistence" or result.persistence_rmse is None:
        return text
    return f"{text}, persistence {number(result.persistence_rmse)}"


def _further(result: TrainingResult) -> list[str]:
    """Return the figures that have another unit than the error, one per line."""
    if result.mape is not None:
        return [f"MAPE {result.mape:.2f}%"]
    return [f"{name}: {text}" for name, text in sentences(result.evaluation).items()]


def _fitted(result: TrainingResult) -> str:
    """Return how long the fit took."""
    if result.engine == "exact":
        return f"solved exactly in {result.first_epoch_seconds:.2f} s"
    return (
        f"{counted(result.epochs, f'{result.engine} epoch')} of {result.seconds_per_epoch:.2f} s "
        f"(first: {result.first_epoch_seconds:.2f} s), best: {result.best_epoch}"
    )


def _where(result: TrainingResult) -> str:
    """Return the directory of the model, and whether engines load it."""
    if not result.published:
        return f"not published, kept in: {result.paths['bundle']}"
    live = "live" if result.promoted else "not live"
    return f"bundle: {result.paths['bundle']}\n{live}: {result.promotion}"


def _print_steps(title: str, result: TrainingResult) -> None:
    """Print what to do with a new model."""
    bundle, steps = Path(result.paths["bundle"]), {}
    if "report.html" in result.paths:
        steps["report"] = f"open {shlex.quote(result.paths['report.html'])}"
    if result.published:
        name = f"{result.symbol}:{result.timeframe}:{result.model_type}"
        if not result.promoted:
            name += f":{result.version_id}"
        option = argument = ""
        if (registry := bundle.parents[2]) != default_registry():
            option, argument = (
                f" --registry {shlex.quote(str(registry))}",
                f", registry={str(registry)!r}",
            )
        steps["details"] = f"atb-fast models show {name}{option}"
        steps["score"] = f"in Python: atb_fast.load_bundle({name!r}{argument})"
    else:
        steps["details"] = f"atb-fast models show {shlex.quote(str(bundle))}"
    if result.promote_command:
        steps["go live"] = result.promote_command
    echo("\n".join([title, *(f"  {what:8} {step}" for what, step in steps.items())]))
