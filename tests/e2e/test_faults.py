"""The store survives killed processes, full disks and truncated responses.

`ATB_FAST_FAULTS=200 pytest tests/e2e/test_faults.py -o log_cli=true -o log_cli_level=INFO` injects
200 faults instead of the default.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from exchange import Exchange
from seeds import seed_of_today

from atb_fast.ingestion import maintenance
from atb_fast.ingestion.spans import timestamps_ms
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.sentiment import SentimentStore

log = logging.getLogger(__name__)

FAULTS = int(os.environ.get("ATB_FAST_FAULTS", "20"))
FIRST = date(2022, 1, 1)
DAYS = 500


class Forks:
    """A process that forks downloads."""

    def __init__(self, now: int, cache: Path) -> None:
        script = Path(__file__).parents[1] / "support" / "fetching.py"
        self.process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.job = {"now": now, "cache": str(cache), "kill_after": None, "room": None}
        self.job |= {"refresh": False, "repair": False}

    def run(self, first: date = FIRST, last: date = FIRST, **how: Any) -> int:
        assert self.process.stdin
        assert self.process.stdout
        job = self.job | {"first": str(first), "last": str(last)} | how
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture
def forks(exchange: Exchange, tmp_path: Path) -> Iterator[Forks]:
    forks = Forks(exchange.now, tmp_path)
    yield forks
    forks.process.communicate(timeout=60)


def check(cache: Path, truth: pl.DataFrame, index: pl.DataFrame) -> bool:
    """Check everything in the store, and return whether it had to be repaired first."""
    candles = CandleStore(cache, "BTCUSDT", "1h")
    sentiment = SentimentStore(cache)
    damaged = False
    for store in (candles, sentiment):
        if store.verify().problems:
            damaged = True
            with store.lock():
                store.rebuild()
            assert store.verify().problems == ()
    times = timestamps_ms(truth)
    for item in candles.manifest().ranges:
        expected = truth.filter((times >= item.start) & (times < item.end))
        assert candles.read(item.start, item.end).equals(expected)
    if sentiment.path.exists():
        assert sentiment.read().equals(index)
    return damaged


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_no_fault_leaves_a_wrong_bar(
    forks: Forks,
    exchange: Exchange,
    tmp_path: Path,
    truth: Callable[[str, str], pl.DataFrame],
    true_index: pl.DataFrame,
) -> None:
    candles = truth("BTCUSDT", "1h")
    index = true_index.filter(
        pl.col("timestamp") <= datetime.fromtimestamp(exchange.now / 1000, UTC)
    )
    rng = random.Random(seed_of_today())
    began = time.perf_counter()
    whole = FIRST, FIRST + timedelta(days=DAYS)
    assert forks.run(*whole) == 0
    seconds = time.perf_counter() - began
    outcomes: dict[str, list[int]] = {"kill": [], "room": [], "cut": []}
    repairs = 0
    for number in range(FAULTS):
        if number % 6 == 0:
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
        kind = ("kill", "room", "cut")[number % 3]
        begin = rng.randrange(DAYS // 2)
        span = FIRST + timedelta(begin), FIRST + timedelta(rng.randrange(begin + 5, DAYS))
        how: dict[str, Any] = {"refresh": rng.random() < 0.2}
        if kind == "kill":
            how["kill_after"] = rng.uniform(0, seconds * (span[1] - span[0]).days / DAYS)
        elif kind == "room":
            how["room"] = rng.randrange(30_000)
        exchange.cut_at_random(rng.randrange(2**32) if kind == "cut" else None)
        outcomes[kind].append(forks.run(*span, **how))
        exchange.cut_at_random(None)
        exchange.forget_weight()  # otherwise the client would wait for the next minute
        repairs += check(tmp_path, candles, index)
    log.info("exit codes %s, repaired %d times", outcomes, repairs)
    assert set(outcomes["kill"]) <= {0, -9}
    assert set(outcomes["room"]) <= {0, 6}
    assert set(outcomes["cut"]) <= {0, 8}
    assert any(outcomes["room"])  # whether a kill or a truncation takes effect depends on timing
    assert repairs == 0  # the store is sound after every fault
    assert forks.run(*whole) == 0
    store = CandleStore(tmp_path, "BTCUSDT", "1h")
    assert (
        store.missing(
            *(int(datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp()) * 1000 for d in whole)
        )
        == []
    )
    check(tmp_path, candles, index)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_a_killed_repair_loses_nothing_sound(
    forks: Forks, exchange: Exchange, tmp_path: Path, truth: Callable[[str, str], pl.DataFrame]
) -> None:
    candles = truth("BTCUSDT", "1h")
    times = timestamps_ms(candles)
    store = CandleStore(tmp_path, "BTCUSDT", "1h")
    for begin in (0, 200, 400):  # one file each
        assert forks.run(FIRST + timedelta(begin), FIRST + timedelta(begin + 90)) == 0
    ranges = store.manifest().ranges
    assert len(ranges) == 3
    whole = {path.name: path.read_bytes() for path in store.directory.iterdir()}
    rng = random.Random(seed_of_today())
    began = time.perf_counter()
    assert forks.run(repair=True) == 0
    seconds = time.perf_counter() - began
    outcomes = set()
    for _ in range(FAULTS // 4):
        for name, data in whole.items():
            (store.directory / name).write_bytes(data)
        broken = rng.choice([*ranges, None])
        if broken:
            changed = bytearray(whole[broken.file])
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            (store.directory / broken.file).write_bytes(changed)
        if rng.random() < 0.5:
            (store.directory / "manifest.json").unlink()
        outcomes.add(forks.run(repair=True, kill_after=rng.uniform(0, 4 * seconds)))
        maintenance.repair(tmp_path, None)
        for item in ranges:
            if item != broken:
                expected = candles.filter((times >= item.start) & (times < item.end))
                assert store.read(item.start, item.end, lacking=()).equals(expected)
        assert forks.run(repair=True) == 0
        assert store.verify().problems == ()
        assert [(item.start, item.end) for item in store.manifest().ranges] == [
            (item.start, item.end) for item in ranges
        ]
        exchange.forget_weight()
    assert outcomes <= {0, -9}
