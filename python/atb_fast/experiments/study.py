"""Studies: many trials of one space, and whether the best of them is just lucky."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import OPTIONS, RECIPES, default_registry
from atb_fast.errors import (
    EXIT_CODES,
    ArgumentError,
    AtbFastError,
    MissingExtraError,
    counted,
)
from atb_fast.evaluation.walk_forward import Window
from atb_fast.experiments import folder as folders
from atb_fast.experiments import search as searches
from atb_fast.experiments import space as spaces
from atb_fast.experiments import trial
from atb_fast.experiments import verdict as verdicts
from atb_fast.experiments.executors import Executor, Failure, Local
from atb_fast.experiments.search import Search
from atb_fast.experiments.space import Space
from atb_fast.experiments.verdict import Trial
from atb_fast.features.frames import epoch_ms
from atb_fast.ingestion.market import Market, load_market
from atb_fast.options import check_count, check_type
from atb_fast.recipes import library
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.documents import to_document, to_toml
from atb_fast.runs import ledger
from atb_fast.serving.registry import work_folder
from atb_fast.training.environment import cores

log = logging.getLogger(__name__)

#: Pruning needs some folds for its test, and further folds that it can save.
_FEWEST_STEPS = 6
_PRUNING = {"p_threshold": 0.1, "startup": 4}
#: Below this p-value of SPA against the defaults, the best trial may be kept; see `luck.judge`.
_ALPHA = 0.05
#: A search ends after this many candidates in a row that are already known.
_MOST_REPEATED = 100


@dataclass(frozen=True)
class Study:
    """The trials of a sweep, and the verdict on them.

    Attributes:
        folder: The folder of the results.
        definition: Everything that the trials depend on, as JSON values.
        trials: The trials in the order in which they were proposed, starting with the defaults.
        best: The id of the trial with the lowest mean loss.
        verdict: Whether to use the best trial instead of the defaults, with the figures of the
            tests; docs/sweeps.md explains them. Also has
            `left_out`, the number of trials by state that could not be judged, and `holdout`, the
            results of the defaults and the best trial there.
        importance: How much each key of the space mattered, as shares of 1; may be empty.
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
        return _id(self.definition)

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
    data = _Data(configs, listener)
    until = data.split(holdout)
    plan = {"number": folds, "window": window, "embargo": embargo, "until": until}
    defaults = trial.document(configs, data.described(configs), folds=plan)
    definition = {
        "defaults": defaults,
        "space": found.to_dict(),
        "search": search,
        "search_seed": search_seed,
        "round": round_size,
        "prune": _PRUNING if prune and folds * len(configs) >= _FEWEST_STEPS else None,
        "synthetic": configs[0].source == "sample",
    }
    folder = Path(study) if study else _default_folder(configs[0].registry, _id(definition))
    own = nullcontext(executor) if executor else Local(jobs or cores(), threads=1, reuse=True)
    with folders.opened(folder, definition), own as running:
        assert running is not None
        driver = _Driver(
            configs,
            found,
            definition,
            folder=folder,
            executor=running,
            data=data,
            listener=listener,
        )
        try:
            made = driver.search(searching, trials)
            done = driver.judged(made, searches.importance(searching))
        except KeyboardInterrupt as stop:
            stop.add_note(
                f"saved {counted(len(driver.finished), 'finished trial')} in {folder}; run the "
                "same command to resume"
            )
            raise
    _report(done)
    return done


def _report(study: Study) -> None:
    """Write the report. If that fails, only warn: the result must not be lost."""
    from atb_fast.reports.sweep import write_sweep

    try:
        write_sweep(study.report, study.to_dict())
    except (OSError, ImportError) as error:
        log.warning("the study is complete, but %s could not be written: %s", study.report, error)


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


def _id(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(trial.canonical(document)).hexdigest()[:16]


class _Data:
    """The markets of a study, loaded once."""

    def __init__(self, configs: Sequence[TrainingConfig], listener: Listener) -> None:
        self._listener = listener
        self._described: dict[tuple[str, bool], dict[str, Any]] = {}
        #: Contents of the markets by their sha256.
        self.contents: dict[str, bytes] = {}
        self._times = [epoch_ms(self._load(each).candles["timestamp"]) for each in configs]

    def _load(self, config: TrainingConfig) -> Market:
        market = load_market(config, listener=self._listener)
        described, contents = trial.pack(market)
        self._described[config.symbol, config.force_price_only] = described
        self.contents |= contents
        return market

    def described(self, configs: Sequence[TrainingConfig]) -> list[dict[str, Any]]:
        """Return the description of the market of each configuration."""
        for config in configs:
            if (config.symbol, config.force_price_only) not in self._described:
                self._load(config)
        return [self._described[each.symbol, each.force_price_only] for each in configs]

    def split(self, share: float) -> str | None:
        """Return the time at which the newest `share` of all bars begins, ISO 8601, UTC."""
        if not share:
            return None
        times = np.sort(np.concatenate(self._times))
        first = int(times[min(len(times) - 1, int(len(times) * (1.0 - share)))])
        return datetime.fromtimestamp(first / 1000, UTC).isoformat()


def _default_folder(registry: Path, identity: str) -> Path:
    return work_folder(registry) / "studies" / identity


@dataclass(frozen=True)
class _Candidate:
    """A candidate.

    Attributes:
        params: Its values, as JSON values.
        key: Identifies the candidate; it does not depend on pruning.
        configs: Its configuration for each symbol.
        document: Its document without pruning; None if the values contradict each other.
        error: Why there is no document.
    """

    params: dict[str, Any]
    key: str
    configs: tuple[TrainingConfig, ...] = ()
    document: dict[str, Any] | None = None
    error: ArgumentError | None = None


class _Driver:
    """Runs the trials of a study, and keeps their results in its folder and in the ledger."""

    def __init__(
        self,
        configs: tuple[TrainingConfig, ...],
        space: Space,
        definition: Mapping[str, Any],
        *,
        folder: Path,
        executor: Executor,
        data: _Data,
        listener: Listener,
    ) -> None:
        self._configs, self._space, self._definition = configs, space, definition
        self._folder, self._executor, self._data = folder, executor, data
        self._listener = listener
        self._registry = configs[0].registry
        self._ledger = ledger.read(self._registry).records
        self._known = {record["id"] for record in self._ledger}
        self._plan = definition["defaults"]["folds"]
        self._machine = {
            "compile_cache": configs[0].compile_cache,
            "cache_dir": str(configs[0].cache_dir.absolute()),
        }
        self._total = 0
        #: Ids of the trials whose process has ended without a result.
        self._lost: set[str] = set()
        #: Ids of the trials that have a result.
        self.finished: set[str] = set()

    def search(self, search: Search, total: int) -> list[Trial]:
        """Return the trials, in the order in which they were proposed.

        There are at most `total`, or more if the folder has the results of more.
        """
        made: list[Trial] = []
        by_key: dict[str, Trial] = {}
        while True:
            asked, fresh = self._round(search, by_key, first=not made)
            prune = self._pruning(made)
            chosen = self._chosen(fresh, total - len(made), prune)
            if not chosen:
                return made
            self._total = max(total, len(made) + len(chosen))
            first = not made
            done = self._run(chosen, len(made), prune)
            by_key |= {each.key: trial for each, trial in zip(chosen, done, strict=True)}
            made += done
            if first:
                search.start(made[0].params, made[0].result)
            for candidate in asked:
                if candidate.key not in by_key:
                    break
                search.tell(by_key[candidate.key].result)
            if len(fresh) < self._definition["round"]:
                log.info("the search found only %s", counted(len(made), "different candidate"))
                return made

    def _chosen(
        self, fresh: Sequence[_Candidate], left: int, prune: Mapping[str, Any] | None
    ) -> Sequence[_Candidate]:
        """Return the candidates to run: `left` of them, and those after them that have a result.

        A smaller number of trials than before must not hide some of them from the verdict.
        """
        count = max(0, left)
        while count < len(fresh) and (document := fresh[count].document):
            name = trial.trial_id(document | {"prune": prune})
            if not (self._folder / f"{name}.json").exists():
                break
            count += 1
        return fresh[:count]

    def _round(
        self, search: Search, known: Mapping[str, Trial], *, first: bool
    ) -> tuple[list[_Candidate], list[_Candidate]]:
        """Return the candidates that the search proposes, and those to run: the new ones.

        It is always a full round, even if fewer trials are left to run, so that a longer study
        begins with the same trials as a shorter one. The first round includes the defaults.
        """
        fresh: list[_Candidate] = []
        if first:
            own = self._space.params(self._configs[0])
            fresh.append(self._described(own, self._configs))
        keys = {*known, *(each.key for each in fresh)}
        asked: list[_Candidate] = []
        repeated = 0
        while len(fresh) < self._definition["round"] and repeated < _MOST_REPEATED:
            params = search.ask()
            if params is None:
                break
            candidate = self._candidate(params)
            asked.append(candidate)
            if candidate.key in keys:
                repeated += 1
            else:
                repeated = 0
                keys.add(candidate.key)
                fresh.append(candidate)
        return asked, fresh

    def _candidate(self, params: dict[str, Any]) -> _Candidate:
        try:
            params = self._space.applicable(self._configs[0], params)
            configs = tuple(self._space.config(each, params) for each in self._configs)
        except ArgumentError as error:
            shown = _plain(params)
            key = _id({"study": self._id, "params": shown})
            return _Candidate(shown, key, error=error)
        shown = _plain(params)
        if shown == self._space.params(self._configs[0]):  # the defaults, written out in the space
            configs = self._configs
        return self._described(shown, configs)

    def _described(self, params: dict[str, Any], configs: tuple[TrainingConfig, ...]) -> _Candidate:
        found = self._data.described(configs)
        document = trial.document(configs, found, folds=self._plan)
        return _Candidate(params, trial.trial_id(document), configs, document)

    def _pruning(self, made: Sequence[Trial]) -> dict[str, Any] | None:
        """Return how the trials of a round are pruned: compared with the best trial so far."""
        best = verdicts.lowest(made)
        if self._definition["prune"] is None or best is None:
            return None
        return {**self._definition["prune"], "losses": searches.steps_of(best.result)}

    def _run(
        self, candidates: Sequence[_Candidate], first: int, prune: Mapping[str, Any] | None
    ) -> list[Trial]:
        """Return the trials of candidates; `first` is the number of the first one."""
        documents = {
            each.key: each.document | {"prune": prune} for each in candidates if each.document
        }
        results = self._results(documents.values())
        made = []
        for number, each in enumerate(candidates, first):
            if each.error is None:
                result = results[trial.trial_id(documents[each.key])]
            else:
                result = folders.failed(each.key, None, str(each.error), each.error.exit_code)
                self._finish(result)
            made.append(_trial(number, each.params, result, each.configs))
            if each.error is None:
                self._record("trial", made[-1], identity=made[-1].trial_id)
        return made

    def _results(
        self, documents: Iterable[Mapping[str, Any]], *, report: bool = True
    ) -> dict[str, dict[str, Any]]:
        """Return the results of documents by id: those in the folder, and new ones."""
        finish = self._finish if report else lambda _: None
        found: dict[str, dict[str, Any]] = {}
        missing: dict[str, Mapping[str, Any]] = {}
        for document in documents:
            name = trial.trial_id(document)
            path = self._folder / f"{name}.json"
            if path.exists():
                found[name] = folders.read_result(path, document)
                finish(found[name])
            else:
                missing[name] = document
        for key, content in self._data.contents.items():
            self._executor.share(key, content)
        tasks = [trial.task(document, self._machine) for document in missing.values()]
        with closing(self._executor.run(tasks)) as outcomes:
            for task, outcome in outcomes:
                result: dict[str, Any]
                if isinstance(outcome, Failure):
                    # The process was killed, or its machine was lost. That says nothing about the
                    # trial, so it is not saved, and the same command tries again.
                    self._lost.add(task.name)
                    document = missing[task.name]
                    result = folders.failed(task.name, document, outcome.error, outcome.exit_code)
                else:
                    result = outcome
                    folders.write_result(self._folder / f"{task.name}.json", result)
                found[task.name] = result
                finish(result)
        return found

    def _finish(self, result: Mapping[str, Any]) -> None:
        self.finished.add(result["trial_id"])
        self._listener.trial(result, len(self.finished), self._total)

    def _record(self, kind: str, made: Trial, *, identity: str, **further: Any) -> None:
        """Add a trial to the ledger, unless it is already there or has no result."""
        if identity in self._known or made.result["trial_id"] in self._lost:
            return
        self._known.add(identity)
        result, symbols = made.result, [config.symbol for config in made.configs]
        # The `ratio` of pooled figures has all bars together, and can have another baseline.
        metrics: dict[str, Any] = {"value": made.value, "folds": len(result["folds"])}
        if len(symbols) == 1:
            metrics |= result["pooled"].get(symbols[0], {})
        else:
            metrics["ratio"] = made.value
            for symbol in symbols:
                ratios = searches.steps_of(
                    {"folds": [each for each in result["folds"] if each["symbol"] == symbol]}
                )
                metrics[f"{symbol} ratio"] = float(np.mean(ratios)) if ratios else None
        plan = {key: value for key, value in self._plan.items() if value is not None}
        record = ledger.of_config(
            kind,
            made.configs[0],
            data=_hashes(result["trial"]["markets"]),
            metrics=metrics,
            seconds=result["run"].get("seconds"),
            machine=result["run"].get("machine", {}),
            symbols=symbols,
            study=self._id,
            identity=identity,
            **(further or {"folds": plan.pop("number"), **plan}),
        )
        self._ledger.append(record)
        ledger.append(self._registry, record)

    @property
    def _id(self) -> str:
        return _id(self._definition)

    def judged(self, made: Sequence[Trial], importance: Mapping[str, float]) -> Study:
        """Return the study of these trials.

        Raises:
            AtbFastError: None of them is complete.
        """
        best = verdicts.lowest(made)
        if best is None:
            raise self._all_failed(made)
        verdict = verdicts.judged(made)
        significant = (verdict["spa_defaults"] is not None) and verdict["spa_defaults"] < _ALPHA
        if significant and any(each.result["state"] == "pruned" for each in made):
            made = self._without_pruning(made)
            best, verdict = verdicts.lowest(made) or best, verdicts.judged(made)
        # By mean loss, as in the tests. Ratios of RMSE can have another order if trials are close.
        best = next((each for each in made if each.trial_id == verdict.get("best")), best)
        left_out = Counter(each.result["state"] for each in made if not each.complete)
        verdict["left_out"] = dict(sorted(left_out.items()))
        verdict["left_out_sentence"] = verdicts.left_out(left_out)
        verdict["targets_sentence"] = verdicts.on_targets(made)
        verdict["holdout"] = found = self._holdout(made[0], best)
        verdict["holdout_sentence"] = found and verdicts.on_holdout(
            found, verdicts.scoring_names(best)["reference"]
        )
        chosen = best if verdict["keep"] == "best" else made[0]
        return Study(
            folder=self._folder,
            definition=self._definition,
            trials=made,
            best=best.trial_id,
            verdict=verdict,
            importance=importance,
            command=self._command(chosen.configs),
        )

    def _without_pruning(self, made: Sequence[Trial]) -> list[Trial]:
        """Return the trials, with all folds of those that were pruned.

        Without them, SPA counts fewer trials than were tried, so its p-value is too low. PBO is
        too high, because the best trial is just one of many good ones.
        """
        pruned = [each for each in made if each.result["state"] == "pruned"]
        log.info(
            "the best trial is significantly better than the defaults; finishing %s to judge it",
            counted(len(pruned), "pruned trial"),
        )
        documents = {
            each.number: trial.document(
                each.configs, self._data.described(each.configs), folds=self._plan
            )
            for each in pruned
        }
        results = self._results(documents.values(), report=False)
        found = list(made)
        for each in pruned:
            result = results[trial.trial_id(documents[each.number])]
            found[each.number] = _trial(each.number, each.params, result, each.configs)
            self._record("trial", found[each.number], identity=result["trial_id"])
        return found

    def _all_failed(self, made: Sequence[Trial]) -> AtbFastError:
        """Return an error with the message and the exit code that most trials have."""
        errors = Counter((each.result["error"], each.result["exit_code"]) for each in made)
        (message, code), count = errors.most_common(1)[0]
        how = "all trials failed" if count == len(made) else f"all {len(made)} trials failed"
        error = AtbFastError(
            f"{how}, {count} of them with this error: {message}. The results are in "
            f"{self._folder}; delete this folder to retry"
        )
        error.exit_code = code if code in EXIT_CODES else AtbFastError.exit_code
        return error

    def _holdout(self, defaults: Trial, best: Trial) -> dict[str, Any] | None:
        """Return the results of the defaults and the best trial on bars that no trial has seen."""
        first = self._plan["until"]
        if first is None:
            return None
        plan = {"holdout": first, "embargo": self._plan["embargo"]}
        documents = {
            each.trial_id: trial.document(
                each.configs, self._data.described(each.configs), folds=plan
            )
            for each in (defaults, best)
        }
        results = self._results(documents.values(), report=False)
        scored = {
            name: _trial(each.number, each.params, results[trial.trial_id(document)], each.configs)
            for name, each in (("defaults", defaults), ("best", best))
            for document in [documents[each.trial_id]]
        }
        last = max((each["last"] for each in scored["best"].result["folds"]), default=first)
        identity = _id({"study": self._id, "holdout": best.trial_id})
        self._record("holdout", scored["best"], identity=identity, holdout=first, last=last)
        # Other studies may have looked since this one began.
        recorded = ledger.read(self._registry).records or self._ledger
        looks = [each for each in recorded if _looks_at(each, best.configs, first, last)]
        return {
            "first": first,
            "last": last,
            "looks": len(looks),
            **{
                name: {key: each.result[key] for key in ("trial_id", "value", "error", "folds")}
                for name, each in scored.items()
            },
        }

    def _command(self, configs: Sequence[TrainingConfig]) -> str:
        """Return the command that trains a trial; writes its recipe if it is not a built-in one."""
        config = configs[0]
        recipe = config.definition.original or config.definition
        words = ["atb-fast", "train", "price" if recipe.name == "basic" else "model"]
        words += [each.symbol for each in configs]
        document = to_document(recipe)
        if recipe.name not in RECIPES or document != to_document(library.get(recipe.name)):
            words += ["--recipe", document.get("python") or self._written(document)]
        elif recipe.name not in ("basic", OPTIONS["recipe"].default):
            words += ["--recipe", recipe.name]
        for name, item in OPTIONS.items():
            value, default = getattr(config, name), recipe.defaults.get(name, item.default)
            if name == "embargo" and item.needs in recipe.traits:
                value = self._plan["embargo"]  # can be an argument of the study
            ignored = item.ignored and item.needs not in recipe.traits
            if not (item.machine or ignored or name == "recipe" or value in (default, None)):
                words += _flags(name, value, [each.symbol for each in configs])
        if config.registry != default_registry():
            words += ["--registry", str(config.registry)]
        return shlex.join(words)

    def _written(self, document: Mapping[str, Any]) -> str:
        """Write a recipe file next to the results, and return its path."""
        name = document["name"]
        if name in RECIPES:
            name += "_of_study"
        path = self._folder / f"{name}.toml"
        folders.write(path, to_toml({**document, "name": name}).encode())
        return str(path)


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return params as JSON values."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in params.items()}


def _flags(name: str, value: Any, symbols: Sequence[str]) -> list[str]:
    """Return an option of a training as words of the command line."""
    flag = OPTIONS[name].flag
    if name == "source" and value != "sample":  # follows from the files
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, tuple):
        return [flag, ",".join(map(str, value)) or "none"]
    texts = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
    if OPTIONS[name].input_file and len(symbols) > 1:
        texts = [text.replace(symbols[0], "{symbol}") for text in texts]
    return [word for text in texts for word in (flag, text)]


def _trial(
    number: int,
    params: Mapping[str, Any],
    result: Mapping[str, Any],
    configs: tuple[TrainingConfig, ...],
) -> Trial:
    losses = trial.losses(result) if result["state"] == "complete" else None
    kept = {key: value for key, value in result.items() if key != "losses"}
    return Trial(number, params, kept, losses, configs)


def _hashes(markets: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the sha256 of each input by symbol."""
    return {
        market["symbol"]: {
            **{name: market[name] for name in ("candles", "sentiment") if market[name]},
            **{extra["name"]: extra["sha256"] for extra in market["extras"]},
        }
        for market in markets
    }


def _looks_at(
    record: Mapping[str, Any], configs: Sequence[TrainingConfig], first: str, last: str
) -> bool:
    """Return whether a record of the ledger is a look at bars of a holdout.

    Args:
        record: Any record.
        configs: Those of the holdout.
        first: When the holdout begins, ISO 8601, UTC.
        last: When its last bar opens.
    """
    options = record["options"]
    symbols = {config.symbol for config in configs}
    return (
        record["kind"] == "holdout"
        and record["timeframe"] == configs[0].timeframe
        and (options.get("source") == "sample") == (configs[0].source == "sample")
        and not symbols.isdisjoint(record["symbols"])
        and str(options.get("holdout", "")) <= last
        and first <= str(options.get("last", ""))
    )
