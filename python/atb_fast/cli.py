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

from atb_fast.config import BASIC_TIMEFRAME, TrainingConfig
from atb_fast.data_commands import data
from atb_fast.errors import AtbFastError, StorageError
from atb_fast.models_commands import models

if TYPE_CHECKING:
    from rich.console import Console

    from atb_fast.repeat import RecordedRun
    from atb_fast.runner import TrainingResult

_INTERRUPTED = 130
#: Windows of an epoch that takes more than a few seconds.
_LONG_EPOCH = 20_000
_STORAGE = StorageError.exit_code

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


def _options(*leave_out: str, **defaults: Any) -> list[click.Parameter]:
    """Return one option for each field of TrainingConfig, named after it, with these defaults."""
    parameters: list[click.Parameter] = [click.Argument(["symbol"])]
    for item in dataclasses.fields(TrainingConfig):
        if item.name in ("symbol", "recipe", *leave_out):
            continue
        flag = "--" + item.name.replace("_", "-")
        help_text = item.metadata["help"]
        kind = str(item.type)
        if kind == "bool":
            declaration = "--no-" + flag[2:] if item.default else flag
            parameters.append(
                click.Option(
                    [declaration, item.name],
                    is_flag=True,
                    flag_value=not item.default,
                    default=item.default,
                    help=help_text,
                )
            )
            continue
        default = defaults.get(item.name, item.default)
        has_default = default is not dataclasses.MISSING and default is not None
        parameters.append(
            click.Option(
                [flag, item.name],
                type=_type(kind, item.metadata),
                default=default if has_default else None,
                show_default=has_default,
                help=help_text,
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


def _train_model(as_json: bool, symbol: str, **values: Any) -> None:
    """Train a price or sentiment model for SYMBOL, for example BTCUSDT.

    Without --force-price-only the model also sees the Fear & Greed index.
    """
    _train(as_json, symbol, **values)


def _train_price(as_json: bool, symbol: str, **values: Any) -> None:
    """Train the basic model of live strategies for SYMBOL, for example BTCUSDT.

    It sees prices and volume only, each window scaled by its own values. `basic/latest` moves to it
    if its timeframe is 1h, as strategies expect.
    """
    _train(as_json, symbol, recipe="basic", **values)


def _train(as_json: bool, symbol: str, **values: Any) -> None:
    given: dict[str, Any] = {
        name: value.date() if isinstance(value, datetime) else value
        for name, value in values.items()
        if value is not None
    }
    _run(as_json, TrainingConfig(symbol=symbol.upper(), **given))


def _run(as_json: bool, config: TrainingConfig, recorded: RecordedRun | None = None) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
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


_as_json = click.Option(
    ["--json", "as_json"],
    is_flag=True,
    help="Print the result as one JSON document on stdout; all else goes to stderr.",
)
#: Options that a repeated run does not take from the metadata, or may have others of.
_REPEATED = ("registry", "cache_dir", "candles", "sentiment", "offline", "resume")


def _train_again(as_json: bool, recorded: str | None, **options: Any) -> None:
    """Train a model and put its bundle into the registry.

    With --from, the model that metadata tell of: symbol, range, engine, seed and every other option
    are taken from there, and so is the number of threads. The data must be the same. Only where
    things are kept (--registry, --cache-dir) is that of this machine. At the end it is said whether
    model.onnx is the same.
    """
    context = click.get_current_context()
    given = {name: value for name, value in options.items() if value}
    if context.invoked_subcommand:
        if recorded or given or as_json:
            raise click.UsageError(
                f"options stand behind {context.invoked_subcommand}; --from needs no command"
            )
        return
    if not recorded:
        raise click.UsageError("give a command, model or price, or --from METADATA")
    from atb_fast.repeat import read

    run = read(recorded, **given)
    _run(as_json, run.config, run)


train = click.Group(
    "train",
    callback=_train_again,
    invoke_without_command=True,
    no_args_is_help=True,
    params=[
        click.Option(
            ["--from", "recorded"],
            metavar="METADATA",
            help="A metadata.json, the directory of a bundle, or SYMBOL:TIMEFRAME:TYPE[:VERSION].",
        ),
        *(option for option in _options() if option.name in _REPEATED),
        _as_json,
    ],
    help=_train_again.__doc__,
    epilog=_EXIT_CODES,
)
cli.add_command(train)

#: Engines define the basic model: it has no sentiment, and windows of one kind.
_NOT_FOR_PRICE = (
    *("sentiment", "force_sentiment", "force_price_only", "freshness_days", "skip_robustness"),
    *("onnx_input", "sequence_length"),
)
for _name, _callback, _parameters in (
    ("model", _train_model, _options()),
    ("price", _train_price, _options(*_NOT_FOR_PRICE, timeframe=BASIC_TIMEFRAME)),
):
    train.add_command(
        click.Command(
            _name,
            callback=_callback,
            params=[*_parameters, _as_json],
            help=_callback.__doc__,
            epilog=_EXIT_CODES,
        )
    )


def _with_progress(
    config: TrainingConfig, console: Console, recorded: RecordedRun | None
) -> TrainingResult:
    """Run the pipeline; on a terminal with bars that move with every page and epoch."""
    from atb_fast.progress import bars
    from atb_fast.runner import run_training_pipeline

    with bars(console) as shown:

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            # Prices have thousands; what is scaled window by window, about 1.
            note = f"RMSE {logs['rmse']:,.4g}, test {logs['val_rmse']:,.4g}"
            shown.update("training", epoch, config.epochs, unit="epochs", note=note)

        def on_windows(done: int, windows: int) -> None:
            # Short epochs would only flicker.
            if windows > _LONG_EPOCH:
                shown.update("epoch", done, windows, unit="windows")

        return run_training_pipeline(
            config,
            recorded=recorded,
            on_epoch=on_epoch,
            on_windows=on_windows,
            on_fetch=shown.rows,
        )


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
        error.show()
        sys.exit(error.exit_code)
    except AtbFastError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", _INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; see that it can be read and written", _STORAGE)
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
