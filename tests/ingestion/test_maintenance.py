"""Maintenance of the store by the library, without the command line."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from exchange import Answer, Exchange

from atb_fast.errors import DataError, FetchError
from atb_fast.ingestion import maintenance
from atb_fast.ingestion.fetch import Fetcher

FIRST, LAST = date(2024, 11, 1), date(2024, 11, 30)


@pytest.fixture
def fetcher(tmp_path: Path, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    monkeypatch.chdir(tmp_path)  # old files are looked for in the working directory
    return Fetcher(cache_dir=tmp_path / "store", now=lambda: exchange.now)


@pytest.fixture
def root(fetcher: Fetcher) -> Path:
    """A store with two timeframes and the sentiment."""
    rows, errors = maintenance.fetch(fetcher, ["BTCUSDT"], ["1d", "1h"], FIRST, LAST)
    assert errors == []
    assert [row["series"] for row in rows] == ["BTCUSDT 1d", "BTCUSDT 1h", "sentiment"]
    return fetcher.cache_dir


def names(rows: list[maintenance.Row]) -> list[str]:
    return [row["series"] for row in rows]


def damage(root: Path, pattern: str) -> None:
    (path,) = root.glob(pattern)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_stored_data_is_listed(root: Path) -> None:
    (root / "features").mkdir()
    (root / "features" / "x.npz").write_bytes(bytes(7))
    daily, hourly, index, features = maintenance.stored(root)
    assert (daily["rows"], hourly["rows"]) == (30, 720)
    assert (daily["first"], daily["last"]) == ("2024-11-01 00:00", "2024-11-30 00:00")
    assert daily["state"] == index["state"] == "ok"
    assert features == {"series": "features", "files": 1, "bytes": 7}
    (root / "candles/BTCUSDT/1d/manifest.json").write_text("{")
    assert maintenance.stored(root)[0] == {"series": "BTCUSDT 1d", "state": "damaged"}


def test_a_failed_series_does_not_stop_the_others(fetcher: Fetcher) -> None:
    early = date(1990, 1, 1)
    symbols = ["NOPEUSDT", "BTCUSDT"]
    rows, errors = maintenance.fetch(fetcher, symbols, ["1d"], FIRST, LAST, sentiment=False)
    assert names(rows) == ["BTCUSDT 1d"]
    assert ["NOPEUSDT" in str(error) for error in errors] == [True]
    rows, (error,) = maintenance.fetch(fetcher, ["BTCUSDT"], ["1h"], early, early, sentiment=False)
    assert rows == []
    assert isinstance(error, DataError)
    assert "no closed candle from 1990-01-01 to 1990-01-01" in str(error)


def test_an_unreachable_exchange_is_tried_once(fetcher: Fetcher, exchange: Exchange) -> None:
    exchange.fault("klines", Answer(403, b"<html>"))
    rows, errors = maintenance.fetch(fetcher, ["BTCUSDT", "ETHUSDT"], ["1d", "1h"], FIRST, LAST)
    assert rows == []
    assert [type(error) for error in errors] == [FetchError]
    # With `offline`, every series is tried, because some may be stored.
    _, errors = maintenance.fetch(
        replace(fetcher, offline=True), ["BTCUSDT", "ETHUSDT"], ["1d", "1h"], FIRST, LAST
    )
    assert len(errors) == 5


def test_damage_is_found_and_repaired(root: Path, fetcher: Fetcher, exchange: Exchange) -> None:
    before = fetcher.candles("BTCUSDT", "1d", FIRST, LAST)
    damage(root, "candles/BTCUSDT/1d/*.parquet")
    damage(root, "sentiment/*.parquet")
    findings = {finding.name: finding.problems for finding in maintenance.verify(root)}
    assert [len(problems) for problems in findings.values()] == [1, 0, 1]
    rows, errors = maintenance.repair(root, fetcher)
    assert errors == []
    assert rows == [
        {"series": "BTCUSDT 1d", "from": "2024-11-01T00:00", "to": "2024-12-01T00:00"},
        {"series": "sentiment", "from": None, "to": None},
    ]
    assert not any(finding.problems for finding in maintenance.verify(root))
    exchange.requests.clear()
    assert fetcher.candles("BTCUSDT", "1d", FIRST, LAST).equals(before)
    assert exchange.requests == []


def test_repair_without_a_fetcher_only_drops(root: Path, exchange: Exchange) -> None:
    damage(root, "candles/BTCUSDT/1d/*.parquet")
    exchange.requests.clear()
    assert names(maintenance.repair(root, None).rows) == ["BTCUSDT 1d"]
    assert exchange.requests == []
    assert maintenance.stored(root)[0]["rows"] == 0


def test_only_unused_data_is_pruned(root: Path) -> None:
    manifest = root / "candles/BTCUSDT/1h/manifest.json"
    old = manifest.stat().st_mtime - 3 * 86_400
    os.utime(manifest, (old, old))
    assert names(maintenance.prune(root, 2, dry_run=True)) == ["BTCUSDT 1h"]
    assert names(maintenance.prune(root, 4)) == []
    assert names(maintenance.prune(root, 2)) == ["BTCUSDT 1h"]
    assert names(maintenance.stored(root)) == ["BTCUSDT 1d", "sentiment"]


def test_only_named_data_is_cleared(root: Path) -> None:
    for name in ("features", "checkpoints"):
        (root / name).mkdir()
        (root / name / "x.npz").touch()
    everything = ["BTCUSDT 1d", "BTCUSDT 1h", "sentiment", "features", "checkpoints"]
    assert names(maintenance.clear(root)) == []
    assert names(maintenance.clear(root, symbols=["ETHUSDT"], timeframes=["1d"])) == []
    assert names(maintenance.clear(root, everything=True, dry_run=True)) == everything
    assert names(maintenance.stored(root)) == everything
    assert names(maintenance.clear(root, timeframes=["1h"], features=True)) == [
        "BTCUSDT 1h",
        "features",
    ]
    assert names(maintenance.clear(root, everything=True)) == [
        "BTCUSDT 1d",
        "sentiment",
        "checkpoints",
    ]
    assert maintenance.stored(root) == []


def test_a_file_of_candles_is_verified(tmp_path: Path, daily: pl.DataFrame) -> None:
    daily.write_csv(tmp_path / "sound.csv")
    sound = maintenance.verify_file(tmp_path / "sound.csv")
    assert sound.problems == ()
    assert sound.quality is not None
    assert sound.quality.rows == len(daily)
    daily.with_columns(high=pl.col("low")).write_csv(tmp_path / "bad.csv")
    assert "bars are impossible" in maintenance.verify_file(tmp_path / "bad.csv").problems[0]
