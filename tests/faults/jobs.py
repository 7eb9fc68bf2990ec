"""The commands that faults are injected into, and what follows a fault."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import injecting
from damage import flip
from oracle import Case, check, check_whole_store, remove, understandable
from worlds import (
    CACHE,
    EVALUATE,
    FETCH,
    REGISTRY,
    RESUME,
    STUDY,
    SWEEP,
    TRAIN,
    Done,
    Lost,
    Measured,
    contents,
    figures,
)

from atb_fast.serving.registry import versions


@dataclass(frozen=True)
class Job:
    """A command that faults are injected into.

    Attributes:
        arguments: Its arguments, without the name of the program.
        prepare: Changes the home folder first; returns the path of a file that it damages, or "".
        match: Only operations on paths with this text count; see `injecting.arm`.
        in_workers: Whether the fault strikes a process that the command starts.
        vanishing: What it removes; see `oracle.check`.
        again: Exit codes that are allowed when it runs again after the fault.
        right: Returns whether its output is right.
    """

    arguments: Sequence[str]
    prepare: Callable[[Case], str] = lambda _: ""
    match: str = ""
    in_workers: bool = False
    vanishing: str = ""
    again: Collection[int] = (0,)
    right: Callable[[Case, Done], bool] = lambda _case, _done: True


def _without(*folders: str) -> Callable[[Case], str]:
    def prepare(case: Case) -> str:
        for folder in folders:
            remove(case.home / folder)
        return ""

    return prepare


def _damaged_candles(case: Case) -> str:
    """Damage a file of candles, or the manifest, or remove the manifest."""
    path = case.rng.choice(sorted((case.home / CACHE / "candles/BTCUSDT/1h").glob("[!.]*")))
    if path.suffix == ".json" and case.rng.random() < 0.5:
        path.unlink()
    else:
        flip(path, case.rng)
    return str(path.relative_to(case.home))


def _same_study(case: Case, done: Done) -> bool:
    return bool(json.loads(done.stdout) == case.world.swept)


def _same_evaluation(case: Case, done: Done) -> bool:
    return figures(done) == case.world.evaluated


def _same_training(case: Case, done: Done) -> bool:
    return figures(done) == case.world.resumed


#: A placeholder for the oldest version, whose name is not known in advance.
OLDEST = "OLDEST"


def _oldest(case: Case) -> str:
    return str(versions(case.world.home / REGISTRY)[0].relative_to(case.world.home))


FRESH_SWEEP = _without(STUDY, f"{CACHE}/compiled")
JOBS = {
    "fetch": Job([*FETCH, "--start-date", "2024-03-20", "--end-date", "2024-06-10"]),
    "fetch from the archive": Job(
        [
            *("data", "fetch", "BTCUSDT", "--timeframe", "5m", "--skip-sentiment"),
            *("--start-date", "2024-05-01", "--end-date", "2024-05-06"),
        ]
    ),
    "fetch up to now": Job([*FETCH, "--start-date", "2024-08-01"]),
    "fetch again": Job(
        [*FETCH, "--start-date", "2024-03-01", "--end-date", "2024-04-10", "--force-refresh"]
    ),
    "repair": Job(["data", "repair"], _damaged_candles),
    "clear": Job(["data", "clear", "BTCUSDT", "--timeframe", "1h"], vanishing="candles"),
    "train": Job(TRAIN, _without(f"{CACHE}/features")),
    "publish": Job(TRAIN, match=REGISTRY),
    "feature cache": Job(TRAIN, _without(f"{CACHE}/features"), match="/features"),
    "checkpoint": Job(
        RESUME, _without(f"{CACHE}/checkpoints"), match="/checkpoints", right=_same_training
    ),
    "resume": Job(RESUME, right=_same_training),
    "evaluate": Job(EVALUATE, right=_same_evaluation),
    "ledger": Job(EVALUATE, match="ledger", right=_same_evaluation),
    "promote": Job(["models", "promote", OLDEST, "--registry", REGISTRY]),
    "rollback": Job(
        ["models", "rollback", "BTCUSDT:1d:tiny", "--registry", REGISTRY],
        again={0, 9},  # there may be no older version by then
    ),
    "prune": Job(["models", "prune", "--keep", "1", "--registry", REGISTRY], vanishing="versions"),
    "reindex": Job(["runs", "reindex", "--registry", REGISTRY]),
    "sweep": Job(SWEEP, FRESH_SWEEP, right=_same_study),
    "sweep, worker": Job(SWEEP, FRESH_SWEEP, in_workers=True, right=_same_study),
}


def run(case: Case, job: Job, **how: Any) -> Done:
    return case.run(*arguments(case, job), **how)


def arguments(case: Case, job: Job) -> list[str]:
    return [_oldest(case) if word == OLDEST else word for word in job.arguments]


def measured(case: Case, name: str, *, reads: bool = False) -> Measured:
    """Run a job without a fault, once."""
    job = JOBS[name]

    def measure() -> Measured:
        folder = case.home.with_name(f"{case.home.name}-measured")
        # Always the same choices, so that a repeated fault strikes at the same moment.
        other = Case(case.world, case.world.copy(folder), case.tools, random.Random(name), [])
        job.prepare(other)
        remove(other.report)
        before = contents(other.home)
        done = run(other, job, **fault(other, job, "EIO" if reads else None, 0))
        if done.returncode:
            raise Lost(f"without a fault, exit code {done.returncode}: {done.stderr[-1500:]}")
        after = contents(other.home)
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        sizes = [path.stat().st_size for name in changed if (path := other.home / name).is_file()]
        number = injecting.counts(other.report)[0]
        shutil.rmtree(folder)
        return Measured(number, max(sizes, default=0), sorted(changed))

    return case.world.measured(f"{name} {reads}", measure)


def fault(case: Case, job: Job, act: str | None, at: int) -> dict[str, Any]:
    fault = {"act": act, "at": at, "root": str(case.home), "match": job.match}
    return {**fault, "report": str(case.report), "in_workers": job.in_workers}


def aftermath(case: Case, job: Job, done: Done, damaged: str = "") -> None:
    """Check the home folder after a fault, then run the same command without the fault."""
    if done.returncode == 0 and not job.in_workers and not job.right(case, done):
        raise Lost(f"the result is wrong: {done.stdout[-1500:]}")
    check(case, vanishing=job.vanishing, damaged=damaged)
    again = run(case, job)
    understandable(again, job.again)
    if not job.right(case, again):
        raise Lost(f"the result of the same command is wrong: {again.stdout[-1500:]}")
    check(case, vanishing=job.vanishing)
    if job.arguments[0] == "data":
        check_whole_store(case)
