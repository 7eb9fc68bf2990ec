"""Studies: many trials of one space, and whether the best of them is just lucky."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import OPTIONS
from atb_fast.errors import (
    EXIT_CODES,
    ArgumentError,
    AtbFastError,
    MissingExtraError,
    counted,
)
from atb_fast.evaluation.significance import LEVEL
from atb_fast.evaluation.walk_forward import Window
from atb_fast.experiments import folder as folders
from atb_fast.experiments import search as searches
from atb_fast.experiments import space as spaces
from atb_fast.experiments import trial
from atb_fast.experiments import verdict as verdicts
from atb_fast.experiments.command import training_command
from atb_fast.experiments.driver import Driver
from atb_fast.experiments.executors import Executor, Local
from atb_fast.experiments.markets import Markets
from atb_fast.experiments.search import Search
from atb_fast.experiments.verdict import Trial
from atb_fast.options import check_count, check_type
from atb_fast.recipes.config import TrainingConfig
from atb_fast.serving.registry import work_folder
from atb_fast.training.environment import cores

log = logging.getLogger(__name__)

#: Pruning needs some folds for its test, and further folds that it can save.
_FEWEST_STEPS = 6
_PRUNING = {"p_threshold": 0.1, "startup": 4}


@dataclass(frozen=True)
class Study:
    """The trials of a sweep, and the verdict on them.

    Attributes:
        folder: The folder of the results.
        definition: Everything that the trials depend on, as JSON values.
        trials: The trials in the order in which they were proposed, starting with the defaults.
        best: The id of the trial with the lowest mean loss among those that are significantly
            better than the defaults, or among all if none is.
        verdict: Whether to use the best trial instead of the defaults, with the figures of the
            tests; docs/sweeps.md explains them. Also has
            `left_out`, the number of trials by state that could not be judged, and `holdout`, the
            results of the defaults and the best trial there.
        importance: The share of the variance of the values that each key of the space explains by
            itself; may be empty.
        command: The command that trains the recommended trial.
    """

    folder: Path
    definition: Mapping[str, Any]
    trials: Sequence[Trial]
    best: str
    verdict: Mapping[str, Any]
    importance: Mapping[str, float]
    command: str

    @property
    def id(self) -> str:
        """The id, 16 hexadecimal digits: a hash of the definition."""
        return trial.identity(self.definition)

    @cached_property
    def states(self) -> dict[str, int]:
        """The number of trials by state: complete, pruned and failed."""
        found = Counter(each.result["state"] for each in self.trials)
        return {state: found[state] for state in folders.STATES}

    @property
    def report(self) -> Path:
        """The path of the report, a self-contained page."""
        return self.folder / folders.REPORT

    def to_dict(self) -> dict[str, Any]:
        """Return the study as JSON values."""
        defaults, plan = self.definition["defaults"], self.definition["defaults"]["folds"]
        scoring = next((verdicts.scoring_names(each) for each in self.trials if each.complete), {})
        return {
            "study": {
                "id": self.id,
                "folder": str(self.folder),
                "report": str(self.report),
                "symbols": [market["symbol"] for market in defaults["markets"]],
                "timeframe": defaults["options"]["timeframe"],
                "recipe": defaults["recipe"].get("name", defaults["recipe"].get("python")),
                "folds": plan["number"],
                "window": plan["window"],
                "holdout": plan["until"],
                **scoring,
                **{key: self.definition[key] for key in ("search", "search_seed", "round")},
                "space": self.definition["space"],
                "synthetic": self.definition["synthetic"],
                **self.states,
            },
            "trials": [each.to_dict() for each in self.trials],
            "best": self.best,
            "verdict": dict(self.verdict),
            "importance": dict(self.importance),
            "command": self.command,
        }


def sweep(
    config: TrainingConfig | Sequence[TrainingConfig],
    space: Path | str | Mapping[str, Any],
    *,
    trials: int = 50,
    folds: int = 6,
    window: Window = "expanding",
    embargo: int | None = None,
    holdout: float = 0.15,
    search: searches.Kind = "tpe",
    search_seed: int = 0,
    round_size: int = 4,
    prune: bool = True,
    study: Path | str | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    listener: Listener = SILENT,
) -> Study:
    """Evaluate candidates walk-forward, and test whether the best one is just lucky.

    The first trial is always `config` itself. A trial that has a result in the folder of the study
    is not repeated, so the same call resumes an interrupted study, and more `trials` extend it. A
    study has the same trials in the same order for any number of jobs and on any executor.

    Args:
        config: The defaults; one for each symbol. They may differ only in the symbol and its files.
        space: The values that candidates can have: a TOML file, or its contents; see
            docs/sweeps.md.
        trials: Number of trials, including the defaults. A small space may have fewer.
        folds: Number of test periods of each symbol; see `walk_forward`.
        window: `expanding` or `rolling`; see `walk_forward`.
        embargo: Bars dropped between the parts. Default: `config.embargo`, else 1% of the bars.
        holdout: Newest share of the bars, which no trial sees. The best trial and the defaults are
            compared on them once. 0 for no holdout.
        search: `tpe`, which learns from results, `random`, or `grid`.
        search_seed: Seed of the search.
        round_size: Number of candidates that are proposed at once, before their results are known.
        prune: Whether a trial stops early if it is significantly worse than the best one. Needs at
            least 6 folds, counting those of all symbols.
        study: Folder of the results. Default: a folder next to the registry.
        jobs: Number of trials in parallel. Default: as many as there are cores.
        executor: What runs the trials. Default: processes on this machine.
        listener: Receives the progress of downloads, and each finished trial.

    Raises:
        ArgumentError: An argument or the space is invalid.
        DataError: Candles or sentiment are unusable.
        StorageError: The folder cannot be used, has another study, or has a damaged file.
        MissingExtraError: A package is not installed.
        AtbFastError: All trials failed. The message and the exit code are the most common ones.
        KeyboardInterrupt: Finished trials are kept.
    """
    configs = _checked(config)
    check_type("listener", listener, Listener)
    counts = {"trials": trials, "folds": folds, "round_size": round_size}
    for name, count in counts.items():
        check_count(name, count)
    if jobs is not None:
        check_count("jobs", jobs)
    _check_shares(holdout, search_seed, window)
    embargo = configs[0].embargo if embargo is None else OPTIONS["embargo"].check(embargo)
    found = spaces.read(Path(space) if isinstance(space, str) else space, configs[0])
    searching = searches.search_of(search, found, search_seed)
    for package in ("arch", "scipy"):  # fail now, not after hours of training
        if find_spec(package) is None:
            raise MissingExtraError(f"a study needs {package}; run pip install 'atb-fast[sweep]'")
    markets = Markets(configs, listener)
    until = markets.split(holdout)
    plan = {"number": folds, "window": window, "embargo": embargo, "until": until}
    defaults = trial.document(configs, markets.described(configs), folds=plan)
    trial.check_candles(configs, defaults, markets.contents)
    if until is not None:
        tested = {"holdout": until, "embargo": embargo}
        held_out = trial.document(configs, markets.described(configs), folds=tested)
        trial.check_candles(configs, held_out, markets.contents)
    definition = {
        "defaults": defaults,
        "space": found.to_dict(),
        "search": search,
        "search_seed": search_seed,
        "round": round_size,
        "prune": _PRUNING if prune and folds * len(configs) >= _FEWEST_STEPS else None,
        "synthetic": configs[0].source == "sample",
    }
    default = work_folder(configs[0].registry) / "studies" / trial.identity(definition)
    folder = Path(study) if study else default
    own = nullcontext(executor) if executor else Local(jobs or cores(), threads=1, reuse=True)
    with folders.opened(folder, definition), own as running:
        assert running is not None
        driver = Driver(
            configs,
            found,
            definition,
            folder=folder,
            executor=running,
            markets=markets,
            listener=listener,
        )
        try:
            made = driver.search(searching, trials)
            done = _judged(driver, made, searching)
        except KeyboardInterrupt as stop:
            stop.add_note(
                f"saved {counted(len(driver.finished), 'finished trial')} in {folder}; run the "
                "same command to resume"
            )
            raise
    _report(done)
    return done


def _checked(config: TrainingConfig | Sequence[TrainingConfig]) -> tuple[TrainingConfig, ...]:
    given = config if isinstance(config, list | tuple) else (config,)
    for each in given:
        check_type("config", each, TrainingConfig)
    configs: tuple[TrainingConfig, ...] = tuple(given)
    symbols = [each.symbol for each in configs]
    if not symbols or len(set(symbols)) < len(symbols):
        raise ArgumentError(
            "config is empty or has a symbol twice; pass one config for each symbol"
        )
    return configs


def _check_shares(holdout: float, seed: int, window: str) -> None:
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not 0 <= holdout <= 0.5:
        raise ArgumentError(
            f"--holdout is {holdout!r:.80}, expected a share from 0 to 0.5", ["holdout"]
        )
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ArgumentError(
            f"--search-seed is {seed!r:.80}, expected an integer from 0 to {2**32 - 1}",
            ["search_seed"],
        )
    if window not in get_args(Window):
        expected = " or ".join(get_args(Window))
        raise ArgumentError(f"window is {window!r:.80}, expected {expected}", ["window"])


def _judged(driver: Driver, made: Sequence[Trial], search: Search) -> Study:
    """Return the study of these trials.

    Raises:
        AtbFastError: None of them is complete.
    """
    best = verdicts.lowest(made)
    if best is None:
        raise _all_failed(made, driver.folder)
    verdict = verdicts.judged(made)
    searched = [each.trial_id for each in made]
    significant = (verdict["spa_defaults"] is not None) and verdict["spa_defaults"] < LEVEL
    if significant and any(each.result["state"] == "pruned" for each in made):
        made = driver.without_pruning(made)
        best, verdict = verdicts.lowest(made) or best, verdicts.judged(made)
    # By the tests. Ratios of RMSE can have another order, and a lower one can be due to luck.
    best = next((each for each in made if each.trial_id == verdict.get("best")), best)
    left_out = Counter(each.result["state"] for each in made if not each.complete)
    verdict["left_out"] = dict(sorted(left_out.items()))
    verdict["left_out_sentence"] = verdicts.left_out(left_out)
    verdict["targets_sentence"] = verdicts.on_targets(made)
    verdict["holdout"] = found = driver.holdout(made[0], best)
    verdict["holdout_sentence"] = found and verdicts.on_holdout(
        found, verdicts.scoring_names(best)["reference"]
    )
    chosen = best if verdict["keep"] == "best" else made[0]
    return Study(
        folder=driver.folder,
        definition=driver.definition,
        trials=made,
        best=best.trial_id,
        verdict=verdict,
        importance=searches.importance(
            search, dict(zip(searched, (each.value for each in made), strict=True))
        ),
        command=training_command(
            chosen.configs,
            embargo=driver.definition["defaults"]["folds"]["embargo"],
            folder=driver.folder,
        ),
    )


def _all_failed(made: Sequence[Trial], folder: Path) -> AtbFastError:
    """Return an error with the message and the exit code that most trials have."""
    errors = Counter((each.result["error"], each.result["exit_code"]) for each in made)
    (message, code), count = errors.most_common(1)[0]
    how = "all trials failed" if count == len(made) else f"all {len(made)} trials failed"
    error = AtbFastError(
        f"{how}, {count} of them with this error: {message}. The results are in {folder}; delete "
        "this folder to retry"
    )
    error.exit_code = code if code in EXIT_CODES else AtbFastError.exit_code
    return error


def _report(study: Study) -> None:
    """Write the report. If that fails, only warn: the result must not be lost."""
    from atb_fast.reports.sweep import write_sweep

    try:
        write_sweep(study.report, study.to_dict())
    except (OSError, ImportError) as error:
        log.warning("the study is complete, but %s could not be written: %s", study.report, error)
