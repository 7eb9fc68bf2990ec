"""The faults: kinds, and for each kind the places where it strikes."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import injecting
from answers import ANSWERS
from damage import flip, lose_sector, truncate
from jobs import JOBS, aftermath, arguments, fault, measured, run
from oracle import EXPECTED, Case, remove, understandable
from stored import BUNDLE, FILES, LATEST, LEDGER, LOCKS, damaged_file
from worlds import REGISTRY, Lost, contents

from atb_fast.runs import ledger


def _struck(case: Case, name: str, acts: Sequence[str]) -> bool:
    """Strike at a file operation of a job."""
    job, act = JOBS[name], case.rng.choice(acts)
    moment = case.rng.random()
    operations = measured(case, name, reads=act == "EIO").operations
    damaged = job.prepare(case)
    at = 1 + int(moment * operations)
    done = run(case, job, **fault(case, job, act, at))
    codes = {"SIGKILL": {0, -9}, "SIGTERM": {0, 130}, "SIGINT": {0, 130}}.get(act, EXPECTED)
    understandable(done, codes)
    aftermath(case, job, done, damaged)
    return injecting.counts(case.report)[1]


def _killed_in_a_write(case: Case, name: str) -> bool:
    job, moment = JOBS[name], case.rng.random()
    largest = measured(case, name).largest
    damaged = job.prepare(case)
    done = run(case, job, killed_at_size=int(moment * largest))
    understandable(done, {0, -signal.SIGXFSZ})
    aftermath(case, job, done, damaged)
    return done.returncode < 0


def _too_large(case: Case, name: str) -> bool:
    """Make writes beyond a size fail, as on a full disk."""
    job, moment = JOBS[name], case.rng.random()
    largest = measured(case, name).largest
    damaged = job.prepare(case)
    limit = int(moment * largest)
    done = run(case, job, file_size=limit)
    cut = len(done.stderr.encode()) == limit  # stderr is a file too
    understandable(done, EXPECTED, silent=cut)
    aftermath(case, job, done, damaged)
    return "File too large" in done.stderr


@contextmanager
def _mounted(folder: Path) -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory; yield a function that mounts it again with other options."""
    remove(folder)
    folder.mkdir(parents=True)

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

    mount("size=64m")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        # Lazily: a worker that ends may still use it.
        subprocess.run(["umount", "--lazy", folder], check=True)


def _full(case: Case, name: str) -> bool:
    """Run a job on a file system with little space left."""
    job, moment = JOBS[name], case.rng.random()
    largest = measured(case, name).largest
    with _mounted(case.home) as remount:
        case.world.copy(case.home)
        damaged = job.prepare(case)
        space = os.statvfs(case.home)
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        remount(f"size={used + int(moment * 2 * largest)}")
        done = run(case, job)
        understandable(done, EXPECTED)
        remount("size=64m")
        aftermath(case, job, done, damaged)
    return "No space left" in done.stderr


def _read_only(case: Case, name: str) -> bool:
    job = JOBS[name]
    with _mounted(case.home) as remount:
        case.world.copy(case.home)
        damaged = job.prepare(case)
        before = contents(case.home)
        remount("ro")
        done = run(case, job)
        understandable(done, EXPECTED)
        remount("rw")
        if contents(case.home) != before:
            raise Lost("a read-only file system has changed")
        aftermath(case, job, done, damaged)
    return done.returncode > 0 or "Read-only file system" in done.stderr


def _forbidden(case: Case, name: str) -> bool:
    """Remove the permissions of a file that the job changes, or of a folder that contains it."""
    job = JOBS[name]
    changed = [case.home / each for each in measured(case, name).changed]
    damaged = job.prepare(case)
    around = [parent for path in changed for parent in (path, *path.parents)]
    around += [] if changed else sorted(case.home.rglob("*"))
    paths = {
        path
        for path in around
        if case.home in path.parents and path.exists() and not path.is_symlink()
    }
    path = case.rng.choice(sorted(paths))
    mode = path.stat().st_mode & 0o777
    path.chmod(case.rng.choice((0o000, 0o555 if path.is_dir() else 0o444)))
    try:
        done = run(case, job, unprivileged=True)
    finally:
        if path.exists():
            path.chmod(mode)
    understandable(done, EXPECTED)
    aftermath(case, job, done, damaged)
    return done.returncode > 0 or "ermission" in done.stderr


def _at_once(case: Case, name: str) -> bool:
    """Run a job several times at once; one of the processes may be killed."""
    job = JOBS[name]
    number, kill, moment = case.rng.randint(2, 8), case.rng.random() < 0.5, case.rng.random()
    operations = measured(case, name).operations if kill else 0
    damaged = job.prepare(case)
    killed = fault(case, job, "SIGKILL", 1 + int(moment * operations)) if kill else {}
    command = arguments(case, job)
    done = case.tools.line.run_at_once([command] * number, cwd=case.home, faults=[killed])
    case.story += done
    for place, each in enumerate(done):
        codes = {
            *job.again,
            *({6} if name == "sweep" else ()),
            *({-9} if kill and place == 0 else ()),
        }
        understandable(each, codes)  # a sweep fails while another process runs it
        if each.returncode == 0 and not job.right(case, each):
            raise Lost(f"a result is wrong: {each.stdout[-1500:]}")
    ended = [each for each in done if each.returncode == 0]
    if not ended and not (kill and name == "sweep"):
        raise Lost("all of them failed")
    kind = {"evaluate": "evaluate", "train": "train"}.get(name)
    if kind:
        new = [
            each
            for each in ledger.read(case.home / REGISTRY).records
            if each["kind"] == kind and each["id"] not in case.world.records
        ]
        if not len(ended) <= len(new) <= len(ended) + kill:
            raise Lost(f"{len(new)} new records of {len(ended)} runs")
    aftermath(case, job, done[-1], damaged)
    return True


def _answered(case: Case, name: str) -> bool:
    """Make the exchange send wrong answers."""
    wrong = ANSWERS[name]
    job = JOBS[wrong.job]
    answer, times = wrong.made(case.rng), 1 if wrong.once else case.rng.choice((1, 2, 1000))
    exchange = case.tools.exchange
    exchange.requests.clear()
    exchange.fault(wrong.path, answer, times)
    try:
        done = run(case, job)
        struck = exchange.faults_left(wrong.path) < times
    finally:
        exchange.forget_faults()
        exchange.forget_weight()
    understandable(done, {0, 2, 3, 8})
    aftermath(case, job, done)
    return struck


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: Its name in the table.
        places: Where it strikes.
        strike: Injects it and checks the outcome; returns whether it took effect.
        mounts: Whether it needs the right to mount file systems.
    """

    name: str
    places: Sequence[str]
    strike: Callable[[Case, str], bool]
    mounts: bool = False


_CHANGING = [name for name in JOBS if name != "fetch up to now"]
_WRITING = ["fetch", "fetch again", "train", "checkpoint", "ledger", "reindex", "sweep"]
_DISK = [*_WRITING, "evaluate", "promote", "rollback", "prune", "publish", "repair"]
_FILLING = [*_WRITING, "repair", "publish", "feature cache", "evaluate"]
_DAMAGED = [*FILES, *BUNDLE, LEDGER]

KINDS = [
    Kind("kill -9", _CHANGING, functools.partial(_struck, acts=["SIGKILL"])),
    Kind("Ctrl-C or SIGTERM", _CHANGING, functools.partial(_struck, acts=["SIGINT", "SIGTERM"])),
    Kind("killed in a write", _WRITING, _killed_in_a_write),
    Kind("failed read or write", _DISK, functools.partial(_struck, acts=["EIO"])),
    Kind("full disk, from an operation on", _DISK, functools.partial(_struck, acts=["ENOSPC"])),
    Kind("full disk, at a byte", _FILLING, _full, mounts=True),
    Kind("file size limit", _WRITING, _too_large),
    Kind("read-only disk", _DISK, _read_only, mounts=True),
    Kind("no permission", _DISK, _forbidden),
    Kind("wrong answer", list(ANSWERS), _answered),
    Kind("bit flip", _DAMAGED, functools.partial(damaged_file, damage=flip)),
    Kind("truncated file", _DAMAGED, functools.partial(damaged_file, damage=truncate)),
    Kind(
        "lost sector",
        [*_DAMAGED, LATEST, LOCKS],
        functools.partial(damaged_file, damage=lose_sector),
    ),
    Kind(
        "2 to 8 processes at once",
        [
            *("fetch", "fetch again", "repair", "clear", "train", "evaluate", "promote"),
            *("rollback", "prune", "reindex", "sweep"),
        ],
        _at_once,
    ),
]
