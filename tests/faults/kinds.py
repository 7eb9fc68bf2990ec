"""The faults: kinds, and for each kind the places and moments where it strikes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import injecting
from answers import ANSWERS
from oracle import EXPECTED, Case, check, check_whole_store, remove, understandable
from worlds import (
    CACHE,
    EVALUATE,
    FETCH,
    REGISTRY,
    RESUME,
    STUDY,
    SWEEP,
    TRAIN,
    WORK,
    Done,
    Lost,
    Measured,
    contents,
    figures,
    predicted,
)

from atb_fast.errors import AtbFastError
from atb_fast.runs import ledger
from atb_fast.serving.registry import live_version, versions


@dataclass(frozen=True)
class Job:
    """A command that faults are injected into.

    Attributes:
        arguments: Of the program.
        prepare: Changes the home folder first; returns the path of a file that it damages, or "".
        match: Only operations on paths with this text count; see `injecting.arm`.
        in_workers: Whether a process that the command starts is struck.
        vanishing: What it removes; see `oracle.check`.
        right: Whether what it printed is right.
    """

    arguments: Sequence[str]
    prepare: Callable[[Case], str] = lambda _: ""
    match: str = ""
    in_workers: bool = False
    vanishing: str = ""
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
        _flip(path, case)
    return str(path.relative_to(case.home))


def _same_study(case: Case, done: Done) -> bool:
    return bool(json.loads(done.stdout) == case.world.swept)


def _same_evaluation(case: Case, done: Done) -> bool:
    return figures(done) == case.world.evaluated


def _same_training(case: Case, done: Done) -> bool:
    return figures(done) == case.world.resumed


#: Stands for the oldest version, whose name is not known before.
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
    "rollback": Job(["models", "rollback", "BTCUSDT:1d:tiny", "--registry", REGISTRY]),
    "prune": Job(["models", "prune", "--keep", "1", "--registry", REGISTRY], vanishing="versions"),
    "reindex": Job(["runs", "reindex", "--registry", REGISTRY]),
    "sweep": Job(SWEEP, FRESH_SWEEP, right=_same_study),
    "sweep, worker": Job(SWEEP, FRESH_SWEEP, in_workers=True, right=_same_study),
}


def _run(case: Case, job: Job, **how: Any) -> Done:
    return case.run(*_arguments(case, job), **how)


def _arguments(case: Case, job: Job) -> list[str]:
    return [_oldest(case) if word == OLDEST else word for word in job.arguments]


def _measured(case: Case, name: str, *, reads: bool = False) -> Measured:
    """Run a job without a fault, once."""
    job = JOBS[name]

    def measure() -> Measured:
        folder = case.home.with_name(f"{case.home.name}-measured")
        other = Case(case.world, case.world.copy(folder), case.tools, case.rng, case.story)
        state = case.rng.getstate()
        job.prepare(other)
        case.rng.setstate(state)
        remove(other.report)
        before = contents(other.home)
        done = _run(other, job, **_fault(other, job, "EIO" if reads else None, 0))
        if done.returncode:
            raise Lost(f"without a fault, exit code {done.returncode}: {done.stderr[-1500:]}")
        after = contents(other.home)
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        sizes = [path.stat().st_size for name in changed if (path := other.home / name).is_file()]
        number = injecting.counts(other.report)[0]
        shutil.rmtree(folder)
        return Measured(number, max(sizes, default=0), sorted(changed))

    return case.world.measured(f"{name} {reads}", measure)


def _fault(case: Case, job: Job, act: str | None, at: int) -> dict[str, Any]:
    fault = {"act": act, "at": at, "root": str(case.home), "match": job.match}
    return {**fault, "report": str(case.report), "in_workers": job.in_workers}


def _aftermath(case: Case, job: Job, done: Done, damaged: str = "") -> None:
    """Check the home folder after a fault, and the same command without it."""
    if done.returncode == 0 and not job.in_workers and not job.right(case, done):
        raise Lost(f"the result is wrong: {done.stdout[-1500:]}")
    check(case, vanishing=job.vanishing, damaged=damaged)
    again = case.succeed(*_arguments(case, job))
    if not job.right(case, again):
        raise Lost(f"the result of the same command is wrong: {again.stdout[-1500:]}")
    check(case, vanishing=job.vanishing)
    if job.arguments[0] == "data":
        check_whole_store(case)


def _struck(case: Case, name: str, acts: Sequence[str]) -> bool:
    """Strike at a file operation of a job."""
    job, act = JOBS[name], case.rng.choice(acts)
    moment = case.rng.random()
    operations = _measured(case, name, reads=act == "EIO").operations
    damaged = job.prepare(case)
    at = 1 + int(moment * operations)
    done = _run(case, job, **_fault(case, job, act, at))
    codes = {"SIGKILL": {0, -9}, "SIGTERM": {0, 130}, "SIGINT": {0, 130}}.get(act, EXPECTED)
    understandable(done, codes)
    _aftermath(case, job, done, damaged)
    return injecting.counts(case.report)[1]


def _killed_in_a_write(case: Case, name: str) -> bool:
    job, moment = JOBS[name], case.rng.random()
    largest = _measured(case, name).largest
    damaged = job.prepare(case)
    done = _run(case, job, killed_at_size=int(moment * largest))
    understandable(done, {0, -signal.SIGXFSZ})
    _aftermath(case, job, done, damaged)
    return done.returncode < 0


def _too_large(case: Case, name: str) -> bool:
    """Fail each write beyond a size, as on a full disk."""
    job, moment = JOBS[name], case.rng.random()
    largest = _measured(case, name).largest
    damaged = job.prepare(case)
    limit = int(moment * largest)
    done = _run(case, job, file_size=limit)
    cut = len(done.stderr.encode()) == limit  # stderr is a file too
    understandable(done, EXPECTED, silent=cut)
    _aftermath(case, job, done, damaged)
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
    largest = _measured(case, name).largest
    with _mounted(case.home) as remount:
        case.world.copy(case.home)
        damaged = job.prepare(case)
        space = os.statvfs(case.home)
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        remount(f"size={used + int(moment * 2 * largest)}")
        done = _run(case, job)
        understandable(done, EXPECTED)
        remount("size=64m")
        _aftermath(case, job, done, damaged)
    return "No space left" in done.stderr


def _read_only(case: Case, name: str) -> bool:
    job = JOBS[name]
    with _mounted(case.home) as remount:
        case.world.copy(case.home)
        damaged = job.prepare(case)
        before = contents(case.home)
        remount("ro")
        done = _run(case, job)
        understandable(done, EXPECTED)
        remount("rw")
        if contents(case.home) != before:
            raise Lost("a read-only file system has changed")
        _aftermath(case, job, done, damaged)
    return done.returncode > 0 or "Read-only file system" in done.stderr


def _forbidden(case: Case, name: str) -> bool:
    """Take away the permissions of a file that the job changes, or of a folder around it."""
    job = JOBS[name]
    changed = [case.home / each for each in _measured(case, name).changed]
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
        done = _run(case, job, unprivileged=True)
    finally:
        if path.exists():
            path.chmod(mode)
    understandable(done, EXPECTED)
    _aftermath(case, job, done, damaged)
    return done.returncode > 0 or "ermission" in done.stderr


def _at_once(case: Case, name: str) -> bool:
    """Run a job several times at once; one of the processes may be killed."""
    job = JOBS[name]
    number, kill, moment = case.rng.randint(2, 8), case.rng.random() < 0.5, case.rng.random()
    operations = _measured(case, name).operations if kill else 0
    damaged = job.prepare(case)
    fault = _fault(case, job, "SIGKILL", 1 + int(moment * operations)) if kill else {}
    arguments = _arguments(case, job)
    done = case.tools.line.run_at_once([arguments] * number, cwd=case.home, faults=[fault])
    case.story += done
    for place, each in enumerate(done):
        understandable(each, _codes(name) | ({-9} if kill and place == 0 else set()))
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
    _aftermath(case, job, done[-1], damaged)
    return True


def _codes(name: str) -> set[int]:
    """Return how processes that do the same at once may end."""
    if name == "sweep":  # one of them runs the study
        return {0, 6}
    if name == "rollback":  # until there is no older version
        return {0, 9}
    return {0}


def _answered(case: Case, name: str) -> bool:
    """Let the exchange send wrong answers."""
    wrong = ANSWERS[name]
    job = JOBS[wrong.job]
    answer, times = wrong.made(case.rng), 1 if wrong.once else case.rng.choice((1, 2, 1000))
    exchange = case.tools.exchange
    exchange.requests.clear()
    exchange.fault(wrong.path, answer, times)
    try:
        done = _run(case, job)
        struck = exchange.faults_left(wrong.path) < times
    finally:
        exchange.forget_faults()
        exchange.forget_weight()
    understandable(done, {0, 2, 3, 8})
    _aftermath(case, job, done)
    return struck


def _flip(path: Path, case: Case) -> None:
    content = bytearray(path.read_bytes())
    content[case.rng.randrange(len(content))] ^= 1 << case.rng.randrange(8)
    path.write_bytes(content)


def _truncate(path: Path, case: Case) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: case.rng.randrange(len(content))])


def _zero(path: Path, case: Case) -> None:
    """Replace a part by zeros, as a lost sector."""
    content = bytearray(path.read_bytes())
    start = case.rng.randrange(len(content))
    end = min(len(content), start + 512)
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


@dataclass(frozen=True)
class File:
    """A kind of stored file.

    Attributes:
        pattern: Where it is.
        job: The next command that uses it.
        remedy: What the error message says to do; returns after it is done.
        before: Makes sure that the command reads it.
    """

    pattern: str
    job: str
    remedy: Callable[[Case, Path], None] | None = None
    before: Callable[[Case], None] = lambda _: None


def _repair(case: Case, _path: Path) -> None:
    case.succeed("data", "repair")


def _move(case: Case, path: Path) -> None:
    path.rename(case.home.with_name(f"{case.home.name}-moved"))


def _lose_a_trial(case: Case) -> None:
    """Remove a trial, so that the sweep starts a worker."""
    trial = case.rng.choice(sorted((case.home / STUDY).glob("[0-9a-f]*[0-9a-f].json")))
    trial.unlink()


FILES = {
    "candles": File(f"{CACHE}/candles/BTCUSDT/1h/*.parquet", "fetch", _repair),
    "manifest of candles": File(f"{CACHE}/candles/BTCUSDT/1h/manifest.json", "fetch", _repair),
    "sentiment": File(f"{CACHE}/sentiment/feargreed.parquet", "fetch", _repair),
    "manifest of sentiment": File(f"{CACHE}/sentiment/manifest.json", "fetch", _repair),
    "study.json": File(f"{STUDY}/study.json", "sweep", _move),
    "trial": File(f"{STUDY}/[0-9a-f]*[0-9a-f].json", "sweep", _move),
    "recipe of a study": File(f"{STUDY}/tiny.toml", "sweep", _move),
    "checkpoint": File(f"{CACHE}/checkpoints/*.npz", "resume"),
    "feature cache": File(f"{CACHE}/features/*.npz", "evaluate"),
    "compile cache": File(f"{CACHE}/compiled/*.pb", "sweep", before=_lose_a_trial),
}
BUNDLE = (
    *("model.onnx", "metadata.json", "feature_schema.json", "SHA256SUMS"),
    *("curves.json", "samples.npz", "model.keras"),
)
LEDGER, LATEST, LOCKS = "ledger.jsonl", "latest", "lock files"


def _damaged(case: Case, name: str, damage: Callable[[Path, Case], None]) -> bool:
    """Damage a stored file, run the next command, and do what it says."""
    if name in BUNDLE:
        return _damaged_bundle(case, name, damage)
    if name == LEDGER:
        return _damaged_ledger(case, damage)
    if name == LATEST:
        return _damaged_latest(case)
    if name == LOCKS:
        return _damaged_locks(case)
    file = FILES[name]
    job = JOBS[file.job]
    file.before(case)
    path = case.rng.choice(sorted(case.home.glob(file.pattern)))
    content = path.read_bytes()
    damage(path, case)
    struck = path.read_bytes() != content
    done = _run(case, job)
    understandable(done, EXPECTED)
    if done.returncode:
        if path.name not in done.stderr or file.remedy is None:
            raise Lost(f"the message does not say what is damaged: {done.stderr[-1500:]}")
        file.remedy(case, path)
        done = case.succeed(*_arguments(case, job))
    if not job.right(case, done):
        raise Lost(f"the result is wrong: {done.stdout[-1500:]}")
    if file.job == "fetch":
        check_whole_store(case)
    check(case)
    return struck


def _damaged_bundle(case: Case, name: str, damage: Callable[[Path, Case], None]) -> bool:
    """A damaged bundle is noticed, serves nothing wrong, does not go live, and can be replaced."""
    bundle = case.rng.choice(versions(case.home / REGISTRY))
    path = bundle / name
    content = path.read_bytes()
    damage(path, case)
    if path.read_bytes() == content:
        return False
    reference = str(bundle.relative_to(case.home))
    understandable(case.run("models", "verify", reference, "--registry", REGISTRY), {9})
    with suppress(AtbFastError):
        if predicted(bundle) != case.world.predictions[bundle.name]:
            raise Lost("the damaged bundle serves wrong predictions")
    understandable(case.run("models", "promote", reference, "--registry", REGISTRY), {9})
    case.succeed("models", "ls", "--registry", REGISTRY)
    if live_version(bundle.parent) == bundle.name:
        case.succeed("models", "rollback", "BTCUSDT:1d:tiny", "--registry", REGISTRY)
        if live_version(bundle.parent) in (None, bundle.name):
            raise Lost("rollback left the damaged bundle live")
    else:
        case.succeed(*TRAIN)
    check(case, damaged=str(path.relative_to(case.home)))
    return True


def _damaged_ledger(case: Case, damage: Callable[[Path, Case], None]) -> bool:
    path = case.home / WORK / LEDGER
    before = path.read_bytes()
    damage(path, case)
    understandable(case.run("runs", "ls", "--registry", REGISTRY), {0})
    kept = set(before.splitlines()) & set(path.read_bytes().splitlines())
    case.succeed("runs", "reindex", "--registry", REGISTRY)
    found = ledger.read(case.home / REGISTRY)
    records = {each["id"]: each for each in found.records}
    wanted = {
        name: record
        for name, record in case.world.records.items()
        if json.dumps(record).encode() in kept or record["bundle"]
    }
    if found.problems or any(records.get(name) != each for name, each in wanted.items()):
        lost = [name for name, each in wanted.items() if records.get(name) != each]
        raise Lost(f"records of undamaged lines or bundles are lost: {lost} {found.problems}")
    case.succeed(*EVALUATE)
    return path.read_bytes() != before


def _damaged_latest(case: Case) -> bool:
    home = case.home / REGISTRY / "BTCUSDT" / "tiny"
    latest = home / LATEST
    before = latest.readlink()
    latest.unlink()
    target = case.rng.choice(("gone", "latest", "..", str(home / before), None, "file"))
    if target == "file":
        latest.write_text(str(before))
    elif target is not None:
        latest.symlink_to(target)
    understandable(case.run("models", "ls", "--registry", REGISTRY), EXPECTED)
    understandable(
        case.run("models", "rollback", "BTCUSDT:1d:tiny", "--registry", REGISTRY), EXPECTED
    )
    case.succeed("models", "prune", "--keep", "3", "--registry", REGISTRY)
    case.succeed("models", "promote", str(home / before), "--registry", REGISTRY)
    if latest.readlink() != before:
        raise Lost(f"latest points to {latest.readlink()}")
    check(case)
    return True


def _damaged_locks(case: Case) -> bool:
    for path in case.home.rglob("*lock"):
        path.write_bytes(case.rng.randbytes(case.rng.randrange(100)))
    for name in ("fetch", "evaluate", "promote"):
        case.succeed(*_arguments(case, JOBS[name]))
    check(case)
    return True


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: Its name in the table.
        places: Where it strikes.
        strike: Injects it and checks what follows; returns whether it took effect.
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
    Kind("bit flip", _DAMAGED, functools.partial(_damaged, damage=_flip)),
    Kind("truncated file", _DAMAGED, functools.partial(_damaged, damage=_truncate)),
    Kind("lost sector", [*_DAMAGED, LATEST, LOCKS], functools.partial(_damaged, damage=_zero)),
    Kind(
        "2 to 8 processes at once",
        [
            *("fetch", "fetch again", "repair", "clear", "train", "evaluate", "promote"),
            *("rollback", "prune", "reindex", "sweep"),
        ],
        _at_once,
    ),
]
