"""Damage to each kind of stored file, and the remedies that the program names."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from damage import Damage
from jobs import JOBS, arguments, run
from oracle import EXPECTED, Case, check, check_whole_store, understandable
from worlds import CACHE, EVALUATE, REGISTRY, STUDY, TRAIN, WORK, Lost, predicted

from atb_fast.errors import AtbFastError
from atb_fast.runs import ledger
from atb_fast.serving.registry import live_version, versions


@dataclass(frozen=True)
class File:
    """A kind of stored file.

    Attributes:
        pattern: Where it is.
        job: The next command that uses it.
        remedy: Does what the error message says.
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


def damaged_file(case: Case, name: str, damage: Damage) -> bool:
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
    damage(path, case.rng)
    struck = path.read_bytes() != content
    done = run(case, job)
    understandable(done, EXPECTED)
    if done.returncode:
        if path.name not in done.stderr or file.remedy is None:
            raise Lost(f"the message does not say what is damaged: {done.stderr[-1500:]}")
        file.remedy(case, path)
        done = case.succeed(*arguments(case, job))
    if not job.right(case, done):
        raise Lost(f"the result is wrong: {done.stdout[-1500:]}")
    if file.job == "fetch":
        check_whole_store(case)
    check(case)
    return struck


def _damaged_bundle(case: Case, name: str, damage: Damage) -> bool:
    """A damaged bundle is reported, serves nothing wrong, does not go live, and can be replaced."""
    bundle = case.rng.choice(versions(case.home / REGISTRY))
    path = bundle / name
    content = path.read_bytes()
    damage(path, case.rng)
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


def _damaged_ledger(case: Case, damage: Damage) -> bool:
    path = case.home / WORK / LEDGER
    before = path.read_bytes()
    damage(path, case.rng)
    struck = path.read_bytes() != before
    understandable(case.run("runs", "ls", "--registry", REGISTRY), {0})
    kept = {
        json.loads(line)["id"]
        for line in {*before.splitlines()} & {*path.read_bytes().splitlines()}
    }
    read = ledger.read(case.home / REGISTRY).records
    if any(each != case.world.records.get(each["id"]) for each in read):
        raise Lost("a record has changed, and this was not reported")
    case.succeed("runs", "reindex", "--registry", REGISTRY)
    found = ledger.read(case.home / REGISTRY)
    records = {each["id"]: each for each in found.records}
    for name, record in case.world.records.items():
        own = {} if name in kept else {"seconds": None}  # bundles do not record the duration
        after = records.get(name, {})
        if (name in kept or record["bundle"]) and {**after, **own} != {**record, **own}:
            raise Lost(f"the record {name} of a sound line or bundle is {after}")
    if found.problems:
        raise Lost(f"reindex left problems: {found.problems}")
    case.succeed(*EVALUATE)
    return struck


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
        case.succeed(*arguments(case, JOBS[name]))
    check(case)
    return True
