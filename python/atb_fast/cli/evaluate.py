"""`atb-fast evaluate` and `atb-fast check`: how far a recipe can be trusted."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from atb_fast.cli import settings
from atb_fast.cli.options import EXIT_CODES, TABLES, as_json, training_config, training_options
from atb_fast.config import TrainingConfig, variables
from atb_fast.errors import LeakError

if TYPE_CHECKING:
    from atb_fast.evaluation.leak import LeakReport
    from atb_fast.evaluation.walk_forward import Fold

#: Of a bundle, and neither command makes one.
_OF_BUNDLES = (
    *("registry", "onnx_input", "skip_onnx", "skip_plots", "skip_robustness", "tensorboard"),
    "resume",
)
_OF_FITTING = ("epochs", "batch_size", "patience", "seed", "engine", "mixed_precision")


def _count(name: str, default: int, help_text: str) -> click.Option:
    return click.Option(
        [f"--{name}"],
        envvar=variables(name),
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help=help_text,
    )


@click.command(
    params=[
        click.Argument(["symbol"]),
        _count("folds", 5, "Stretches that are tested."),
        click.Option(
            ["--window"],
            envvar="ATB_FAST_WINDOW",
            type=click.Choice(["expanding", "rolling"]),
            default="expanding",
            show_default=True,
            help="Whether training windows add up, or the oldest ones are dropped.",
        ),
        *training_options(*_OF_BUNDLES),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    symbol: str,
    folds: int,
    window: Literal["expanding", "rolling"],
    as_json: bool,
    **options: Any,
) -> None:
    """Train a recipe on ever newer stretches of SYMBOL, each time tested on what comes next.

    The newer half of the windows is tested, in --folds stretches; before each, the windows are
    trained (the newest 15 % choose the epoch), without those that share a bar with the next part.
    Each fold stands beside "no change" and least squares on the last bar. Nothing is stored.
    """
    from rich.console import Console

    from atb_fast.cli.progress import bars
    from atb_fast.evaluation import walk_forward as evaluation
    from atb_fast.runs.progress import long_epoch

    config = training_config(context, symbol.upper(), options)
    with bars(Console(stderr=True, highlight=False)) as shown:
        done = 0

        def on_fold(fold: Fold) -> None:
            nonlocal done
            done = fold.number
            note = f"{fold.ratio:.3f} of no change"
            shown.update("walk-forward", done, folds, unit="folds", note=note)
            # It may have ended early.
            shown.update(f"fold {done}", config.epochs, config.epochs, unit="epochs")

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            note = f"loss {logs['loss']:.4g}, validation {logs['val_loss']:.4g}"
            shown.update(f"fold {done + 1}", epoch, config.epochs, unit="epochs", note=note)

        made = evaluation.evaluate(
            config,
            folds=folds,
            window=window,
            on_fold=on_fold,
            on_epoch=on_epoch,
            on_windows=long_epoch(shown.update),
            on_fetch=shown.rows,
        )
    if as_json:
        document = {
            "config": config.to_dict(),
            "window": window,
            "folds": [dataclasses.asdict(fold) for fold in made],
        }
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        _print_folds(config, made)


@click.group()
def check() -> None:
    """Check a recipe."""


@check.command(
    params=[
        click.Argument(["symbol"]),
        _count("cuts", 20, "Evenly spaced, beside those where parts begin."),
        *training_options(*_OF_BUNDLES, *_OF_FITTING),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def leak(context: click.Context, /, symbol: str, cuts: int, as_json: bool, **options: Any) -> None:
    """Take the future of SYMBOL away at many cuts: nothing before them may change.

    Compares features, targets and which windows are trained, and names what had seen the future.
    Exit code 10 if something had.
    """
    from atb_fast.evaluation.leak import find_leaks
    from atb_fast.ingestion.market import load_market

    config = training_config(context, symbol.upper(), options)
    config.check_embargo()
    report = find_leaks(load_market(config), config, cuts=cuts)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print_leaks(config, report)
    if report.leaks:
        names = dict.fromkeys(leak.what for leak in report.leaks)
        raise LeakError(f"the {config.recipe} recipe sees the future: {', '.join(names)}")


def _print_folds(config: TrainingConfig, folds: list[Fold]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    title = f"{config.symbol} {config.timeframe}, {config.recipe} recipe"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("tested from", "trained", "RMSE", "no change", "ratio", "linear", "right", "up"):
        # Folded on a narrow terminal: no digit is dropped.
        left = name == "tested from"
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for fold in folds:
        low, high = fold.directional_accuracy_low, fold.directional_accuracy_high
        right = f"{fold.directional_accuracy:.0%} ({100 * low:.0f}-{100 * high:.0f})"
        table.add_row(
            f"{datetime.fromisoformat(fold.first):%Y-%m-%d}",
            f"{fold.train:,}",
            f"{fold.rmse:,.2f}",
            f"{fold.persistence_rmse:,.2f}",
            f"{fold.ratio:.3f}",
            f"{fold.linear_ratio:.3f}",
            right if fold.directional_bars else "-",  # a model shrunk to no change says neither
            f"{fold.up_share:.0%}",
        )
    ratios = [fold.ratio for fold in folds]
    same = sum(fold.shrinkage == 0.0 for fold in folds)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(
        f"{title}: RMSE {min(ratios):.3f} to {max(ratios):.3f} of that of no change, above it in "
        f"{sum(ratio > 1.0 for ratio in ratios)} of {len(folds)} folds"
        + (f", shrunk to it in {same}" if same else ""),
        soft_wrap=True,
    )
    console.print(table)
    console.print(
        "RMSE in quote currency; ratio, and that of least squares on the last bar (linear, shrunk "
        "likewise), to no change; right: share of moves foreseen, with its 95 % interval; up: of "
        "moves upwards",
        soft_wrap=True,
    )
    if config.recipe == "legacy":
        console.print("The scalers of this recipe have seen the tested bars.")


def _print_leaks(config: TrainingConfig, report: LeakReport) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{config.symbol} {config.timeframe}, {config.recipe} recipe, {report.cuts} cuts"
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    if not report.leaks:
        console.print(f"{title}: no feature, target or part sees the future", soft_wrap=True)
        return
    table = Table(title=title)
    table.add_column("what", no_wrap=True)
    table.add_column("how")
    table.add_column("cuts", justify="right")
    table.add_column("first cut", no_wrap=True)
    for found in report.leaks:
        first = datetime.fromisoformat(found.first_cut)
        table.add_row(found.what, found.reason, str(found.cuts), f"{first:%Y-%m-%d %H:%M}")
    console.print(table)


for _command in (evaluate, leak):
    settings.attach(_command, TABLES, table="train.model")
