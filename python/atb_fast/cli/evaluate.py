"""`atb-fast evaluate` and `atb-fast check`: walk-forward evaluation and the leak check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli import settings
from atb_fast.cli.figures import number
from atb_fast.cli.options import (
    EXIT_CODES,
    OF_THE_MACHINE,
    TABLES,
    GroupedCommand,
    as_json,
    click_option,
    count_option,
    fail_if_any,
    failure_document,
    print_json,
    training_config,
    training_configs,
    training_options,
    window_option,
)
from atb_fast.cli.tables import Column, echo, print_table, print_text
from atb_fast.config import (
    FitOptions,
    MarketOptions,
    NetworkOptions,
    RecipeOptions,
    TargetOptions,
    names,
)
from atb_fast.errors import LeakError, MissingExtraError, counted
from atb_fast.reports.rows import fewer_text

if TYPE_CHECKING:
    from atb_fast.evaluation.leak import LeakReport
    from atb_fast.evaluation.walk_forward import WalkForward, Window
    from atb_fast.experiments.executors import Failure
    from atb_fast.recipes.config import TrainingConfig
    from atb_fast.runs.evaluation import Evaluated

_DATA = names(MarketOptions, RecipeOptions, TargetOptions, NetworkOptions)
#: Neither command writes results, so the options of output do not apply.
_FITTING = tuple(
    name for name in names(FitOptions) if name not in OF_THE_MACHINE or name == "compile_cache"
)


@click.command(
    cls=GroupedCommand,
    params=[
        click.Argument(["symbols"], nargs=-1, required=True, metavar="SYMBOL..."),
        count_option("folds", 5, "Number of test periods."),
        window_option(),
        click.Option(
            ["--predictions"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write the out-of-sample predictions of all folds to this Parquet, Feather or CSV "
            "file.",
        ),
        click.Option(
            ["--report"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write a self-contained report about the evaluation to this HTML file.",
        ),
        *training_options(
            (*_DATA, *_FITTING, "registry"),
            embargo={
                "help": "Bars dropped between training, validation and test, in addition to "
                "purging. Default: 1% of the bars."
            },
            registry={
                "help": "Directory of the model registry. The evaluation is recorded in the ledger "
                "next to it. Default: $MODEL_REGISTRY_PATH, else src/ml/models."
            },
        ),
        click_option(
            replace(
                settings.JOBS,
                help="Number of symbols to evaluate in parallel, each in its own process; they "
                "share the cores. Default: one per two cores.",
            )
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
    symbols: tuple[str, ...],
    predictions: Path | None,
    report: Path | None,
    jobs: int | None,
    as_json: bool,
    folds: int,
    window: Window,
    embargo: int | None,
    **options: Any,
) -> None:
    """Evaluate a recipe walk-forward on each SYMBOL.

    The newer half of the windows is split into --folds test periods. For each, a model is trained
    on the windows before it, of which the newest 15% are the validation part; windows that share a
    bar with the next part are purged. Each fold is compared with baselines that depend on the
    target, such as persistence, a linear model on the last bar, a reversal of the last return, the
    class shares of the training windows, or HAR. No bundle is written; the figures are recorded in
    the ledger, see atb-fast runs. With several symbols, --json prints a list.
    """
    from atb_fast.evaluation import predictions as out_of_fold
    from atb_fast.experiments.executors import Failure

    _check_files(predictions, report)
    configs = training_configs(context, symbols, options)
    if predictions is not None:
        for config in configs:
            out_of_fold.check_not_read(predictions, _inputs(config, options["recipe"]))
    plan = {"folds": folds, "window": window, "embargo": embargo}
    outcomes = _evaluated(configs, plan, jobs)
    made = [None if isinstance(each, Failure) else each.made for each in outcomes]
    documents = [
        failure_document(outcome)
        if isinstance(outcome, Failure)
        else _document(config, plan, outcome.made)
        for config, outcome in zip(configs, outcomes, strict=True)
    ]
    try:
        _write(predictions, report, configs, documents, made)
    finally:  # print the figures even if a file cannot be written: they took long to compute
        if as_json:
            print_json(documents if len(configs) > 1 else documents[0])
        else:
            _print(configs, outcomes)
    fail_if_any(outcomes)


def _check_files(predictions: Path | None, report: Path | None) -> None:
    """Raise an error before hours of training if their results could not be written."""
    from atb_fast.evaluation.predictions import check_creatable, check_path

    if predictions is not None:
        check_path(predictions)
    if report is not None:
        from atb_fast.reports import evaluation as page

        page.check_name(report)
        check_creatable(report, "report")
        missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
        if missing:
            raise MissingExtraError(
                f"--report needs {' and '.join(missing)}; install with pip install "
                "'atb-fast[train]', or omit --report"
            )


def _evaluated(
    configs: list[TrainingConfig], plan: Mapping[str, Any], jobs: int | None
) -> list[Evaluated | Failure]:
    """Evaluate each of `configs`, and record each result in the ledger as soon as it is known."""
    from rich.console import Console

    from atb_fast.cli.progress import bars
    from atb_fast.experiments.executors import Failure, evaluate_all
    from atb_fast.runs import ledger
    from atb_fast.runs.evaluation import evaluation_run
    from atb_fast.training.environment import default_jobs

    found: dict[str, Evaluated | Failure] = {}
    with bars(Console(stderr=True, highlight=False)) as shown:
        results: Iterable[tuple[TrainingConfig, Evaluated | Failure]]
        if len(configs) == 1:
            (config,) = configs
            listener = shown.for_folds(config, plan["folds"])
            results = [(config, evaluation_run(config, **plan, listener=listener))]
        else:
            results = evaluate_all(
                configs,
                jobs=jobs or default_jobs(),
                listen=lambda config: shown.for_folds(config, plan["folds"], several=True),
                **plan,
            )
        for config, outcome in results:
            found[config.symbol] = outcome
            if not isinstance(outcome, Failure):
                ledger.append(config.registry, outcome.record)
    return [found[config.symbol] for config in configs]


def _document(config: TrainingConfig, plan: Mapping[str, Any], made: WalkForward) -> dict[str, Any]:
    """Return what --json prints about an evaluation."""
    return {
        "symbol": config.symbol,
        "config": config.to_dict() | {"embargo": plan["embargo"]},
        "window": plan["window"],
        "error": made.scoring.name,
        "unit": made.scoring.unit,
        "reference": made.reference,
        "verdict": made.verdict,
        "caveat": made.caveat,
        "folds": [fold.to_dict() for fold in made.folds],
        "pooled": made.pooled,
    }


def _write(
    predictions: Path | None,
    report: Path | None,
    configs: list[TrainingConfig],
    documents: list[dict[str, Any]],
    made: list[WalkForward | None],
) -> None:
    """Write the predictions and the page."""
    import polars as pl

    from atb_fast.evaluation import predictions as out_of_fold

    done = [each.predictions for each in made if each is not None]
    if predictions is not None and done:
        out_of_fold.write(predictions, pl.concat(done))
    if report is not None:
        from atb_fast.reports import evaluation as page

        pages = [
            (
                {"config": config.to_dict(), "title": config.title, "failure": document["failure"]},
                None,
            )
            if each is None
            else (document | {"title": config.title, "notes": _notes(config)}, each)
            for config, document, each in zip(configs, documents, made, strict=True)
        ]
        page.write_evaluation(report, pages)


def _inputs(config: TrainingConfig, recipe: str | None) -> dict[str, Path]:
    """Return the files that an evaluation reads, by option. `recipe` is as it was given."""
    found = {"--candles": config.candles, "--sentiment": config.sentiment}
    found |= {f"--extra {name}": path for name, path in (config.extra or {}).items()}
    if recipe is not None and recipe.lower().endswith(".toml"):
        found["--recipe"] = Path(recipe).expanduser()
    return {name: path for name, path in found.items() if path is not None}


@click.group()
def check() -> None:
    """Check a recipe for look-ahead bias."""


@check.command(
    cls=GroupedCommand,
    params=[
        click.Argument(["symbol"]),
        count_option(
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


def _print(configs: Sequence[TrainingConfig], outcomes: Sequence[Evaluated | Failure]) -> None:
    """Print a table of folds for each symbol, and a summary if there are several."""
    from atb_fast.experiments.executors import Failure

    made = []
    for config, outcome in zip(configs, outcomes, strict=True):
        if not isinstance(outcome, Failure):
            _print_folds(config, outcome.made)
            made.append((config.symbol, outcome.made))
        if len(configs) > 1:
            echo()
    if len(configs) > 1:
        _print_symbols(made, [each for each in outcomes if isinstance(each, Failure)])


def _print_symbols(made: Sequence[tuple[str, WalkForward]], failures: Sequence[Failure]) -> None:
    """Print one line for each symbol and, if their errors have the same unit, one for all."""
    from atb_fast.evaluation.walk_forward import mean_errors

    rows: list[tuple[Any, ...]] = []

    def add(name: str, *evaluations: WalkForward) -> None:
        ratios = [ratio for each in evaluations for ratio in each.ratios]
        own, other = mean_errors(evaluations)
        worse = sum(ratio > 1.0 for ratio in ratios)
        rows.append(
            (
                name,
                f"{sum(len(each.tested.times) for each in evaluations):,}",
                number(own),
                number(other),
                f"{own / other:.3f}" if other else None,
                f"{worse} of {counted(len(ratios), 'fold')}",
            )
        )

    for symbol, each in made:
        add(symbol, each)
    if len(made) > 1 and made[0][1].scoring.kind != "prices":
        add("all symbols", *(each for _, each in made))
    error, reference = ("RMSE", "persistence")
    if made:  # all have the same recipe
        error, reference = made[0][1].scoring.name, made[0][1].reference.removeprefix("the ")
    rows += [(failure.name, "failed", None, None, None, None) for failure in failures]
    print_table(
        [
            Column("symbol"),
            *(
                Column(name, right=True)
                for name in ("bars", error, reference, f"/ {reference}", "worse in")
            ),
        ],
        rows,
    )
    for failure in failures:
        echo(f"{failure.name}: {failure.error}".replace("\n", "\n  "))


def _print_folds(config: TrainingConfig, made: WalkForward) -> None:
    ratios, other = made.ratios, made.reference
    shrunk = sum(fold.shrinkage == 0.0 for fold in made.folds)
    print_text(
        f"{config.symbol} {config.timeframe}, {config.title}: {made.scoring.name} is "
        f"{min(ratios):.3f} to {max(ratios):.3f} times that of {other}, worse than {other} "
        f"in {sum(ratio > 1.0 for ratio in ratios)} of {counted(len(ratios), 'fold')}"
        + (f", a shrinkage factor of 0 in {shrunk}" if shrunk else "")
    )
    columns, legend = _COLUMNS[made.scoring.kind]
    rows: list[tuple[str, int | None, dict[str, Any]]] = [
        (f"{datetime.fromisoformat(fold.first):%Y-%m-%d}", fold.train, fold.figures)
        for fold in made.folds
    ]
    if len(rows) > 1:
        rows.append(("all folds", None, made.pooled))
    print_table(
        [
            Column("tested"),
            Column("train", right=True),
            *(Column(name, right=True, optional=True) for name in columns),
        ],
        [
            (first, train, *(cell(found) for cell in columns.values()))
            for first, train, found in rows
        ],
    )
    for figure, text in _SOMETIMES.items():
        legend = legend if figure in made.pooled else legend.replace(text, "")
    bars = made.pooled.get("directional_bars", made.pooled["test"])
    fewer = fewer_text(made.pooled.get("accuracy_bars", bars), bars)
    error = made.scoring.name
    weighted = f"log loss: {error}; " if error.startswith("weighted") else ""
    print_text(legend.format(weighted=weighted, error=error, bars=f"{bars:,} bars", fewer=fewer))
    statistic = abs(made.pooled["diebold_mariano"])
    print_text(
        f"On all {len(made.tested.times):,} bars, the model is {made.verdict} (Diebold-Mariano "
        f"{statistic:.1f}).{f' {made.caveat}' if made.caveat else ''}"
        f"{_mcnemar(made.pooled, made.tested.horizon)}"
    )
    for note in _notes(config):
        print_text(note)


def _notes(config: TrainingConfig) -> list[str]:
    """Return what limits an evaluation, in sentences."""
    if config.definition.fit_scalers_on != "all":
        return []
    return ["This recipe has look-ahead bias: its scalers were fitted on the test bars too."]


def _mcnemar(found: Mapping[str, Any], horizon: int) -> str:
    """Return the test of accuracies in a sentence; empty if the model has no classes."""
    from atb_fast.evaluation.significance import LEVEL

    test = found.get("mcnemar")
    if test is None:
        return ""
    other = "the majority class" if test["other"] == "majority" else "contrarian"
    often = "about as often as"
    if test["p_value"] < LEVEL:
        often = "more often than" if test["better"] > test["worse"] else "less often than"
    of = f"of {found['accuracy_bars']:,} bars whose horizons do not overlap, " * (horizon > 1)
    return (
        f" It is right {often} {other}: {of}alone on {test['better']:,} bars, {other} alone on "
        f"{test['worse']:,} (McNemar, p = {test['p_value']:.2g})."
    )


_Cell = Callable[[Mapping[str, Any]], str]


def _of(key: str, form: str) -> _Cell:
    """Return what formats a figure; a figure that does not exist is an empty cell."""
    return lambda found: format(found[key], form) if key in found else ""


def _right(key: str) -> _Cell:
    """Return what formats an accuracy with its interval."""

    def cell(found: Mapping[str, Any]) -> str:
        if found.get("directional_bars") == 0:
            return "-"  # persistence has no direction
        low, high = 100 * found[f"{key}_low"], 100 * found[f"{key}_high"]
        return f"{found[key]:.0%} ({low:.0f}-{high:.0f})"

    return cell


_RATIO = _of("ratio", ".3f")
_LINEAR = {"linear": _of("linear_ratio", ".3f")}
_DIRECTIONS = {
    "right": _right("directional_accuracy"),
    "up": _of("up_share", ".0%"),
    "rev.": _of("contrarian_accuracy", ".0%"),
}
_OF_DIRECTIONS = (
    "pers.: RMSE of persistence; / pers.: RMSE divided by that; linear: the same for "
    "least squares on the last bar; right: directional accuracy on {bars} in total, with its 95% "
    "interval; up: share of all bars that rose; rev.: accuracy of a reversal of the last return "
    "(contrarian)."
)
#: The part of a legend about a column that is missing without this figure.
_SOMETIMES = {
    "contrarian_accuracy": "; rev.: of a reversal of the last return (contrarian)",
    "coverage": "; band: share of the returns between the lowest and the highest quantile",
}
#: The columns of each kind of forecasts, and what they mean. They fit into 80 characters.
_COLUMNS: dict[str, tuple[dict[str, _Cell], str]] = {
    "prices": (
        {
            "RMSE": _of("rmse", ",.2f"),
            "pers.": _of("persistence_rmse", ",.2f"),
            "/ pers.": _RATIO,
            **_LINEAR,
            **_DIRECTIONS,
        },
        f"RMSE in quote currency; {_OF_DIRECTIONS}",
    ),
    "returns": (
        {
            "RMSE": _of("rmse", ".5f"),
            "pers.": _of("persistence_rmse", ".5f"),
            "/ pers.": _RATIO,
            **_LINEAR,
            **_DIRECTIONS,
        },
        f"RMSE of returns, 0.01 for 1%; {_OF_DIRECTIONS}",
    ),
    "classes": (
        {
            "log loss": _of("log_loss", ".4f"),
            "shares": _of("class_shares_log_loss", ".4f"),
            "/ shares": _RATIO,
            **_LINEAR,
            "right": _right("accuracy"),
            "maj.": _of("majority_accuracy", ".0%"),
            "rev.": _of("contrarian_accuracy", ".0%"),
        },
        "{weighted}shares: {error} of the class shares of the training bars; / shares: {error} "
        "divided by that; linear: the same for logistic regression on the last bar; right: "
        "accuracy on {bars} in total, with its 95% interval{fewer}; maj.: accuracy of the majority "
        f"class{_SOMETIMES['contrarian_accuracy']}.",
    ),
    "volatility": (
        {
            "RMSE": _of("rmse", ".3f"),
            "/ pers.": _RATIO,
            "HAR": _of("har_ratio", ".3f"),
            "EWMA": _of("ewma_ratio", ".3f"),
            **_LINEAR,
            "R²": _of("r2", ".3f"),
            "QLIKE": _of("qlike_ratio", ".3f"),
            "band": _of("coverage", ".1%"),
        },
        "RMSE of the logarithm of volatility. / pers.: RMSE divided by that of persistence; HAR, "
        "EWMA, linear: the same for these baselines; QLIKE: divided by that of HAR"
        f"{_SOMETIMES['coverage']}.",
    ),
}


def _print_leaks(config: TrainingConfig, report: LeakReport) -> None:
    title = f"{config.symbol} {config.timeframe}, {config.title}, "
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
