"""Runs the trials of a study."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.callbacks import Listener
from atb_fast.errors import ArgumentError, counted
from atb_fast.experiments import folder as folders
from atb_fast.experiments import search as searches
from atb_fast.experiments import trial
from atb_fast.experiments import verdict as verdicts
from atb_fast.experiments.executors import Executor, Failure
from atb_fast.experiments.markets import Markets
from atb_fast.experiments.search import Search
from atb_fast.experiments.space import Space
from atb_fast.experiments.verdict import Trial
from atb_fast.recipes.config import TrainingConfig
from atb_fast.runs import ledger, records

log = logging.getLogger(__name__)

#: A search ends after this many candidates in a row that are already known.
_MOST_REPEATED = 100


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


class Driver:
    """Runs the trials of a study, and keeps their results in its folder and in the ledger.

    Attributes:
        definition: See `Study`.
        folder: The folder of the results.
        finished: Ids of the trials that have a result.
    """

    def __init__(
        self,
        configs: tuple[TrainingConfig, ...],
        space: Space,
        definition: Mapping[str, Any],
        *,
        folder: Path,
        executor: Executor,
        markets: Markets,
        listener: Listener,
    ) -> None:
        self._configs, self._space, self.definition = configs, space, definition
        self.folder, self._executor, self._markets = folder, executor, markets
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
            if len(fresh) < self.definition["round"]:
                if len(made) < total:
                    log.info(
                        "the search found %s, fewer than --trials %d",
                        counted(len(made), "different candidate"),
                        total,
                    )
                return made

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
        while len(fresh) < self.definition["round"] and repeated < _MOST_REPEATED:
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
            key = trial.identity({"study": self._id, "params": shown})
            return _Candidate(shown, key, error=error)
        shown = _plain(params)
        if shown == self._space.params(self._configs[0]):  # the defaults, written out in the space
            configs = self._configs
        return self._described(shown, configs)

    def _described(self, params: dict[str, Any], configs: tuple[TrainingConfig, ...]) -> _Candidate:
        found = self._markets.described(configs)
        document = trial.document(configs, found, folds=self._plan)
        return _Candidate(params, trial.identity(document), configs, document)

    def _pruning(self, made: Sequence[Trial]) -> dict[str, Any] | None:
        """Return how the trials of a round are pruned: compared with the best trial so far."""
        best = verdicts.lowest(made)
        if self.definition["prune"] is None or best is None:
            return None
        return {**self.definition["prune"], "losses": searches.steps_of(best.result)}

    def _chosen(
        self, fresh: Sequence[_Candidate], left: int, prune: Mapping[str, Any] | None
    ) -> Sequence[_Candidate]:
        """Return the candidates to run: `left` of them, and those after them that have a result.

        A smaller number of trials than before must not hide some of them from the verdict.
        """
        count = max(0, left)
        while count < len(fresh) and (document := fresh[count].document):
            name = trial.identity(document | {"prune": prune})
            if not self._path(name).exists():
                break
            count += 1
        return fresh[:count]

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
                result = results[trial.identity(documents[each.key])]
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
            name = trial.identity(document)
            path = self._path(name)
            if path.exists():
                found[name] = folders.read_result(path, document)
                finish(found[name])
            else:
                missing[name] = document
        for key, content in self._markets.contents.items():
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
                    folders.write_result(self._path(task.name), result)
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
        record = records.of_config(
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

    def _path(self, name: str) -> Path:
        """Return the path of the result of the trial with the id `name`."""
        return self.folder / f"{name}.json"

    @property
    def _id(self) -> str:
        return trial.identity(self.definition)

    def without_pruning(self, made: Sequence[Trial]) -> list[Trial]:
        """Return the trials, with all folds of those that were pruned.

        Without them, SPA counts fewer trials than were tried, so its p-value is too low. PBO is
        too high, because the best trial is just one of many good ones.
        """
        pruned = [each for each in made if each.result["state"] == "pruned"]
        documents = [
            trial.document(each.configs, self._markets.described(each.configs), folds=self._plan)
            for each in pruned
        ]
        names = [trial.identity(document) for document in documents]
        if left := sum(not self._path(name).exists() for name in names):
            log.info(
                "the best trial is significantly better than the defaults; finishing %s to judge "
                "it",
                counted(left, "pruned trial"),
            )
        results = self._results(documents, report=False)
        found = list(made)
        for each, name in zip(pruned, names, strict=True):
            found[each.number] = _trial(each.number, each.params, results[name], each.configs)
            self._record("trial", found[each.number], identity=name)
        return found

    def holdout(self, defaults: Trial, best: Trial) -> dict[str, Any] | None:
        """Return the results of the defaults and the best trial on bars that no trial has seen."""
        first = self._plan["until"]
        if first is None:
            return None
        plan = {"holdout": first, "embargo": self._plan["embargo"]}
        documents = {
            each.trial_id: trial.document(
                each.configs, self._markets.described(each.configs), folds=plan
            )
            for each in (defaults, best)
        }
        results = self._results(documents.values(), report=False)
        scored = {
            name: _trial(each.number, each.params, results[trial.identity(document)], each.configs)
            for name, each in (("defaults", defaults), ("best", best))
            for document in [documents[each.trial_id]]
        }
        last = max((each["last"] for each in scored["best"].result["folds"]), default=first)
        identity = trial.identity({"study": self._id, "holdout": best.trial_id})
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


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return params as JSON values."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in params.items()}


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
