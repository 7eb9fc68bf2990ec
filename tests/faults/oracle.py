"""What it means to survive a fault; docs/reliability.md describes it in words."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout
from worlds import (
    CACHE,
    EARLIER,
    FETCH,
    NOW,
    REGISTRY,
    STUDY,
    WORK,
    Done,
    Lost,
    Tools,
    World,
    contents,
)

from atb_fast.errors import EXIT_CODES, StorageError
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.sentiment import SentimentStore
from atb_fast.runs import ledger
from atb_fast.serving.registry import is_version, live_version
from atb_fast.serving.verification import verify

#: Workers may be in the middle of a compilation.
_ENDING_SECONDS = 100.0
#: Exit codes that are allowed if something went wrong; 1 would be an internal error.
EXPECTED = set(EXIT_CODES) - {1}


@dataclass
class Case:
    """One fault.

    Attributes:
        world: What the home folder was copied from.
        home: The copy.
        tools: The tools of this worker.
        rng: All choices come from it.
        story: The commands so far, for the message if the fault is not survived.
    """

    world: World
    home: Path
    tools: Tools
    rng: random.Random
    story: list[Done]

    def run(self, *arguments: str, file_size: int | None = None, **fault: Any) -> Done:
        """Run a command in the home folder."""
        done = self.tools.line.run(*arguments, cwd=self.home, file_size=file_size, **fault)
        self.story.append(done)
        return done

    def succeed(self, *arguments: str) -> Done:
        """Run a command that must succeed."""
        done = self.run(*arguments)
        understandable(done, {0})
        return done

    def candles(self, timeframe: str) -> CandleStore:
        """Return the store of candles."""
        return CandleStore(self.home / CACHE, "BTCUSDT", timeframe)

    @property
    def report(self) -> Path:
        """Where a process with a fault writes its report."""
        return self.home.with_name(f"{self.home.name}-report")


def understandable(done: Done, codes: Collection[int], *, silent: bool = False) -> None:
    """Raise Lost unless a command ended as documented; `silent` if it had no way to print why."""
    if "Traceback" in done.stderr + done.stdout:
        raise Lost(f"a traceback:\n{done.stderr[-3000:]}")
    if done.returncode not in codes:
        raise Lost(f"exit code {done.returncode}: {done.stderr[-1500:]}")
    lines = done.stderr.strip().splitlines()
    said = bool(lines) and lines[-1].lower().startswith("error: ")
    if done.returncode > 0 and not said and not silent:
        raise Lost(f"exit code {done.returncode} without an error message: {done.stderr[-1500:]}")


def check(case: Case, *, vanishing: str = "", damaged: str = "") -> None:
    """Raise Lost unless everything in the home folder is sound and nothing is missing.

    Args:
        case: The fault.
        vanishing: What the command removes: `candles` or `versions`.
        damaged: Path of the damaged file that is not repaired yet.
    """
    _wait_for_processes(case)
    before, now = case.world.contents, contents(case.home)
    changed = {name for name in {**before, **now} if before.get(name) != now.get(name)}

    def any_in(folder: str) -> bool:
        return any(name.startswith(f"{folder}/") for name in changed)

    if any_in(f"{CACHE}/candles"):
        _check_candles(case, vanishing=vanishing == "candles", damaged=damaged)
    if any_in(f"{CACHE}/sentiment") and not damaged.startswith(f"{CACHE}/sentiment"):
        _check_sentiment(case)
    if any_in(REGISTRY):
        _check_registry(case, now, vanishing=vanishing == "versions", damaged=damaged)
    if f"{WORK}/ledger.jsonl" in changed:
        _check_ledger(case)
    if any_in(STUDY) and not damaged.startswith(STUDY):
        _check_study(case)
    _check_locks(case)


def _check_candles(case: Case, *, vanishing: bool, damaged: str) -> None:
    for timeframe in ("1h", "5m"):
        store = case.candles(timeframe)
        finding = store.verify()
        if finding.problems and not damaged:
            raise Lost(f"damaged candles: {finding.problems}")
        try:
            manifest = store.manifest()
        except StorageError:
            if damaged.endswith("manifest.json"):
                continue
            raise
        for item in manifest.ranges:
            if damaged.endswith(item.file):
                continue
            if not store.read(item.start, item.end).equals(
                case.world.candles(timeframe, item.start, item.end)
            ):
                raise Lost(f"wrong candles in {item.file}")
        whole = CandleStore(case.world.home / CACHE, "BTCUSDT", timeframe).manifest()
        for item in () if vanishing else whole.ranges:
            missing = manifest.missing((item.start, item.end))
            if missing and not damaged:
                raise Lost(f"stored candles of {timeframe} are missing: {missing}")


def _check_sentiment(case: Case) -> None:
    store = SentimentStore(case.home / CACHE)
    if problems := store.verify().problems:
        raise Lost(f"damaged sentiment: {problems}")
    index = store.read()
    times = case.world.index["timestamp"].dt.epoch("ms")
    if not any(index.equals(case.world.index.filter(times <= now)) for now in (NOW, EARLIER)):
        raise Lost("wrong sentiment")


def _check_registry(case: Case, now: dict[str, str], *, vanishing: bool, damaged: str) -> None:
    registry = case.home / REGISTRY
    for path in (*registry.iterdir(), *registry.glob("*/*"), *registry.glob("*/*/*")):
        depth = len(path.relative_to(registry).parts)
        if path.name[0] == "." or (depth == 3 and path.name != "latest" and not is_version(path)):
            raise Lost(f"{path} is in the registry")
    for path in registry.glob("BTCUSDT/tiny/*_v*"):
        name = str(path.relative_to(case.home))
        if not damaged.startswith(name) and (problems := verify(path).problems):
            raise Lost(f"a damaged bundle is in the registry: {problems}")
    for name, content in case.world.contents.items():
        path = case.home / name
        gone = not path.parent.is_dir()
        changed = now.get(name) != content and not (vanishing and gone)
        if name.startswith(REGISTRY) and path.name != "latest" and name != damaged and changed:
            raise Lost(f"{name} is missing or has changed")
    if not damaged.endswith("latest") and live_version(registry / "BTCUSDT" / "tiny") is None:
        raise Lost("no version is live")


def _check_ledger(case: Case) -> None:
    registry = case.home / REGISTRY
    if ledger.read(registry).problems:  # such as a line that a kill truncated
        case.succeed("runs", "reindex", "--registry", REGISTRY)
    found = ledger.read(registry)
    if found.problems:
        raise Lost(f"the ledger is damaged: {found.problems}")
    records = {each["id"]: each for each in found.records}
    for name, record in case.world.records.items():
        if records.get(name) != record:
            raise Lost(f"the record {name} is missing or has changed: {records.get(name)}")


def _check_study(case: Case) -> None:
    for path in (case.home / STUDY).glob("*.json"):
        original = case.world.home / STUDY / path.name
        if not original.exists():
            raise Lost(f"{path.name} is not a trial of the study")
        first, second = (json.loads(each.read_text()) for each in (path, original))
        own = {"run": None, "sha256": None}
        if {**first, **own} != {**second, **own}:
            raise Lost(f"{path.name} differs from the trial without a fault")


def _check_locks(case: Case) -> None:
    for path in case.home.rglob("*lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            raise Lost(f"{path} is still locked") from None


def _wait_for_processes(case: Case) -> None:
    """Wait until no process runs in the home folder: workers end soon after their parent."""
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if path.readlink() == case.home:
                process = os.pidfd_open(int(path.parent.name))
                try:
                    if not select.select([process], [], [], _ENDING_SECONDS)[0]:
                        raise Lost(f"process {path.parent.name} is still running")
                finally:
                    os.close(process)


def check_whole_store(case: Case) -> None:
    """Fetch everything as usual, and compare it with the truth."""
    case.succeed(*FETCH, "--start-date", "2024-03-01", "--end-date", "2024-06-20")
    store = case.candles("1h")
    start, end = 1_709_251_200_000, 1_718_928_000_000
    found, expected = store.read(start, end), case.world.candles("1h", start, end)
    if store.missing(start, end) or not found.equals(expected):
        raise Lost(f"the store has {len(found)} candles, or wrong ones; expected {len(expected)}")
    if (
        SentimentStore(case.home / CACHE).read()["timestamp"].max()
        != pl.Series([NOW], dtype=pl.Datetime("ms", "UTC")).dt.truncate("1d").item()
    ):
        raise Lost("the sentiment is too old")
    check(case)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
