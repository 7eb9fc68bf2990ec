"""`atb-fast evaluate` and `atb-fast check`: walk-forward evaluation and the leak check."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from atb_fast.cli import settings
from atb_fast.cli.options import (
    EXIT_CODES,
    OF_THE_MACHINE,
    TABLES,
    GroupedCommand,
    as_json,
    print_json,
    training_config,
    training_options,
)
from atb_fast.cli.tables import Column, print_table, print_text
from atb_fast.config import FitOptions, MarketOptions, RecipeOptions, names, variables
from atb_fast.errors import LeakError, counted

if TYPE_CHECKING:
    from atb_fast.evaluation.leak import LeakReport
    from atb_fast.evaluation.walk_forward import Fold
    from atb_fast.recipes.config import TrainingConfig

_DATA = names(MarketOptions, RecipeOptions)
#: Neither command writes results, so the options of output do not apply.
_FITTING = tuple(
    name for name in names(FitOptions) if name not in OF_THE_MACHINE or name == "compile_cache"
)


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
    cls=GroupedCommand,
    params=[
        click.Argument(["symbol"]),
        _count("folds", 5, "Number of test periods."),
        click.Option(
            ["--window"],
            envvar="ATB_FAST_WINDOW",
            type=click.Choice(["expanding", "rolling"]),
            default="expanding",
            show_default=True,
            help="Train on all windows before a test period (expanding), or on a fixed number of "
            "the newest (rolling).",
        ),
        *training_options(
            (*_DATA, *_FITTING),
            embargo={
                "help": "Bars dropped between training, validation and test, in addition to "
                "purging. Default: 1% of the bars."
            },
        ),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    *,
    symbol: str,
    folds: int,
    window: Literal["expanding", "rolling"],
    as_json: bool,
    embargo: int | None,
    **options: Any,
) -> None:
    """Evaluate a recipe walk-forward on SYMBOL.

    The newer half of the windows is split into --folds test periods. For each, a model is trained
    on the windows before it, of which the newest 15% are the validation part; windows that share a
    bar with the next part are purged. Each fold is compared with persistence, the forecast "no
    change", and with least squares on the last bar. No bundle is written.
    """
    from rich.console import Console

    from atb_fast.cli.progress import bars
    from atb_fast.evaluation import walk_forward as evaluation

    config = training_config(context, symbol.upper(), options)
    with bars(Console(stderr=True, highlight=False)) as shown:
        made = evaluation.evaluate(
            config,
            folds=folds,
            window=window,
            embargo=embargo,
            listener=shown.for_folds(config, folds),
        )
    if as_json:
        print_json(
            {
                "config": config.to_dict() | {"embargo": embargo},
                "window": window,
                "folds": [dataclasses.asdict(fold) for fold in made],
            }
        )
    else:
        _print_folds(config, made)


@click.group()
def check() -> None:
    """Check a recipe for look-ahead bias."""


@check.command(
    cls=GroupedCommand,
    params=[
        click.Argument(["symbol"]),
        _count(
            "cuts", 20, "Number of evenly spaced cuts, in addition to those where a part begins."
        ),
        *training_options(_DATA),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def leak(context: click.Context, /, symbol: str, cuts: int, as_json: bool, **options: Any) -> None:
    """Check the recipe on SYMBOL for look-ahead bias.

    Removes the future at many cuts in time, and checks that nothing before a cut changes: neither
    features, nor targets, nor the split. Names everything that does. The exit code is then 10.
    """
    from atb_fast.evaluation.leak import find_leaks
    from atb_fast.ingestion.market import load_market

    config = training_config(context, symbol.upper(), options)
    report = find_leaks(load_market(config), config, cuts=cuts)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_leaks(config, report)
    if report.leaks:
        found = dict.fromkeys(leak.what for leak in report.leaks)
        raise LeakError(f"the {config.recipe} recipe has look-ahead bias in {', '.join(found)}")


def _print_folds(config: TrainingConfig, folds: list[Fold]) -> None:
    ratios = [fold.ratio for fold in folds]
    shrunk = sum(fold.shrinkage == 0.0 for fold in folds)
    print_text(
        f"{config.symbol} {config.timeframe}, {config.recipe} recipe: RMSE is {min(ratios):.3f} to "
        f"{max(ratios):.3f} times that of persistence, worse than persistence in "
        f"{sum(ratio > 1.0 for ratio in ratios)} of {counted(len(folds), 'fold')}"
        + (f", a shrinkage factor of 0 in {shrunk}" if shrunk else "")
    )
    columns = [
        Column("tested from"),
        *(
            Column(name, right=True)
            for name in ("trained", "RMSE", "persistence", "ratio", "linear", "right", "up")
        ),
    ]
    print_table(columns, map(_fold_cells, folds))
    print_text(
        "RMSE in quote currency. ratio: RMSE divided by that of persistence; linear: the same for "
        "least squares on the last bar; right: directional accuracy with its 95% interval; up: "
        "share of upward moves."
    )
    if config.definition.fit_scalers_on == "all":
        print_text("This recipe has look-ahead bias: its scalers were fitted on the test bars too.")


def _fold_cells(fold: Fold) -> tuple[str | int, ...]:
    low, high = 100 * fold.directional_accuracy_low, 100 * fold.directional_accuracy_high
    right = f"{fold.directional_accuracy:.0%} ({low:.0f}-{high:.0f})"
    return (
        f"{datetime.fromisoformat(fold.first):%Y-%m-%d}",
        fold.train,
        f"{fold.rmse:,.2f}",
        f"{fold.persistence_rmse:,.2f}",
        f"{fold.ratio:.3f}",
        f"{fold.linear_ratio:.3f}",
        right if fold.directional_bars else "-",  # persistence has no direction
        f"{fold.up_share:.0%}",
    )


def _print_leaks(config: TrainingConfig, report: LeakReport) -> None:
    title = f"{config.symbol} {config.timeframe}, {config.recipe} recipe, "
    title += counted(report.cuts, "cut")
    if not report.leaks:
        print_text(f"{title}: no look-ahead bias in features, target or split")
        if config.extra:
            print_text("The timestamps of extra series and --extra-lag are taken as given.")
        return
    columns = [Column("what"), Column("how"), Column("cuts", right=True), Column("first cut")]
    cells = [
        (
            found.what,
            found.reason,
            found.cuts,
            f"{datetime.fromisoformat(found.first_cut):%Y-%m-%d %H:%M}",
        )
        for found in report.leaks
    ]
    print_table(columns, cells, title)


for _command in (evaluate, leak):
    settings.attach(_command, TABLES, table="train.model")
