"""`atb-fast sweep`: many trials of one space, and whether the best of them is just lucky."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli import settings
from atb_fast.cli.options import (
    EXIT_CODES,
    TABLES,
    GroupedCommand,
    Whole,
    as_json,
    click_option,
    count_option,
    print_json,
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
from atb_fast.errors import ArgumentError, counted

if TYPE_CHECKING:
    from atb_fast.experiments.executors import Executor
    from atb_fast.experiments.study import Study

#: A trial writes no bundle, so the options of output do not apply; the ledger is in the registry.
_OPTIONS = (
    *names(MarketOptions, RecipeOptions, TargetOptions, NetworkOptions),
    *(name for name in names(FitOptions) if name not in ("tensorboard", "resume")),
    "registry",
)
#: Complete trials in the table.
_SHOWN = 10


@click.command(
    cls=GroupedCommand,
    params=[
        click.Argument(["symbols"], nargs=-1, required=True, metavar="SYMBOL..."),
        click.Option(
            ["--space"],
            required=True,
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TOML file with the values to try for each option, for example epochs = [20, 50] "
            "or seed = {low = 1, high = 9}.",
        ),
        count_option(
            "trials",
            50,
            "Number of trials. The first one is the defaults: the options of this command.",
        ),
        count_option("folds", 6, "Number of test periods of each trial and symbol."),
        window_option(),
        click.Option(
            ["--holdout"],
            type=click.FLOAT,
            default=0.15,
            show_default=True,
            metavar="SHARE",
            help="Newest share of the bars, which no trial sees. The best trial and the defaults "
            "are compared on them once. 0 for no holdout.",
        ),
        click.Option(
            ["--search"],
            type=click.Choice(["tpe", "random", "grid"]),
            default="tpe",
            show_default=True,
            help="How trials are chosen. tpe: learns from finished trials (Optuna); random: "
            "independent values; grid: every combination, in order.",
        ),
        click.Option(
            ["--search-seed"],
            type=Whole(min=0, max=2**32 - 1),
            default=0,
            show_default=True,
            help="Random seed of the search.",
        ),
        click.Option(
            ["--round"],
            type=Whole(min=1),
            default=4,
            show_default=True,
            help="Number of trials that are chosen at once, before their results are known. A "
            "different number gives a different study. At most this many trials run in parallel.",
        ),
        click.Option(
            ["--prune/--no-prune"],
            default=True,
            show_default=True,
            help="Stop a trial early if it is significantly worse than the best one after at least "
            "4 folds. Needs at least 6 folds, counting those of all symbols.",
        ),
        click.Option(
            ["--study"],
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder for the results. A study that is already there is resumed. Default: a "
            "folder next to the registry, named after a hash of everything that affects the "
            "results.",
        ),
        click_option(
            replace(
                settings.JOBS,
                help="Number of trials in parallel. Default: one per core, or as many as the Ray "
                "cluster has room for.",
            )
        ),
        click.Option(
            ["--executor"],
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Where trials run: in processes on this machine, or on a Ray cluster.",
        ),
        click.Option(
            ["--ray-address"],
            metavar="ADDRESS",
            help="Address of a Ray cluster: auto, or HOST:PORT. Default: start a cluster on this "
            "machine for this study.",
        ),
        *training_options(
            _OPTIONS,
            embargo={
                "help": "Bars dropped between training, validation, test and holdout, in addition "
                "to purging. Default: 1% of the bars."
            },
        ),
    ],
    epilog=EXIT_CODES,
)
@as_json
@click.pass_context
def sweep(
    context: click.Context,
    /,
    *,
    symbols: tuple[str, ...],
    space: Path,
    executor: str,
    ray_address: str | None,
    jobs: int | None,
    as_json: bool,
    embargo: int | None,
    **options: Any,
) -> None:
    """Compare many candidates and test whether the best is lucky.

    Each trial uses other values of the options in --space, and is evaluated walk-forward on the
    same folds of every SYMBOL. Finished trials are saved in the folder of the study, so the same
    command resumes an interrupted study. The results do not depend on --jobs.

    The best of many trials looks better than it is. The verdict says whether to use it instead of
    the defaults. No bundle is written; the output ends with the command that trains one.
    """
    from rich.console import Console

    from atb_fast.cli.progress import bars
    from atb_fast.experiments import study as studies

    own = ("trials", "folds", "window", "holdout", "search", "search_seed", "prune", "study")
    arguments = {name: options.pop(name) for name in own}
    arguments["round_size"] = options.pop("round")
    configs = training_configs(context, symbols, options)
    console = Console(stderr=True, highlight=False)
    with bars(console) as shown, _executor(executor, ray_address, jobs) as running:
        made = studies.sweep(
            configs,
            space,
            embargo=embargo,
            jobs=jobs,
            executor=running,
            listener=shown.for_study(arguments["trials"]),
            **arguments,
        )
    if as_json:
        print_json(made.to_dict())
    else:
        _print(made)


def _executor(
    name: str, address: str | None, jobs: int | None
) -> AbstractContextManager[Executor | None]:
    """Return what runs the trials; None for processes on this machine."""
    if name == "local":
        if address:
            raise ArgumentError(
                "--ray-address needs --executor ray; add it, or remove --ray-address"
            )
        return nullcontext()
    from atb_fast.experiments.ray import Ray
    from atb_fast.experiments.trial import THREADS

    return Ray(address, jobs=jobs, threads=THREADS)


def _print(made: Study) -> None:
    verdict = made.verdict
    print_text(verdict["sentence"])
    for name in ("targets", "baseline", "left_out", "holdout"):
        if sentence := verdict.get(f"{name}_sentence"):
            print_text(sentence)
    complete = sorted((each for each in made.trials if each.complete), key=lambda t: t.value or 0.0)
    first = made.trials[0].trial_id
    marks = {first: "defaults", made.best: "defaults, best" if made.best == first else "best"}
    rows = [each for place, each in enumerate(complete) if place < _SHOWN or each.trial_id in marks]
    title = f"{len(complete)} of {counted(len(made.trials), 'trial')} complete"
    if len(rows) < len(complete):
        title += f", {len(rows)} of them below, all in the report"
    columns = [Column("trial", whole=True), Column("", optional=True), Column("value", right=True)]
    columns += [Column(key, right=True) for key in made.definition["space"]]
    print_table(
        columns,
        [
            (
                each.trial_id,
                marks.get(each.trial_id, ""),
                f"{each.value:.4f}",
                *("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v)
                  for v in map(each.params.get, made.definition["space"])),
            )
            for each in rows
        ],
        title + "; value: error divided by that of the baseline, mean of all folds",
    )  # fmt: skip
    errors = Counter(each.result["error"] for each in made.trials if each.result["error"])
    for message, count in errors.most_common(3):
        print_text(f"{counted(count, 'trial')} failed: {message}")
    echo(f"study: {made.folder}")
    if made.report.exists():
        echo(f"report: {made.report}")
    kept = "the defaults" if verdict["keep"] == "defaults" else "the best trial"
    echo(f"train {kept}: {made.command}")


settings.attach(sweep, TABLES, table="train.model")
