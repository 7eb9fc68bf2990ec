"""Maintenance of the store by the library, without the command line."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from exchange import Answer, Exchange

from atb_fast.errors import ArgumentError, DataError, FetchError
from atb_fast.ingestion import maintenance
from atb_fast.ingestion.exchange.errors import UnreachableError
from atb_fast.ingestion.fetch import Fetcher
from atb_fast.ingestion.store.candles import CandleStore

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
    (root / "compiled").mkdir()
    (root / "compiled" / "x.pb").write_bytes(bytes(9))
    daily, hourly, index, features, compiled = maintenance.stored(root)
    assert (daily["rows"], hourly["rows"]) == (30, 720)
    assert (daily["first"], daily["last"]) == ("2024-11-01 00:00", "2024-11-30 00:00")
    assert daily["state"] == index["state"] == "ok"
    assert features == {"series": "features", "files": 1, "bytes": 7}
    assert compiled == {"series": "compiled", "files": 1, "bytes": 9}
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
    assert [type(error) for error in errors] == [UnreachableError]
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
    november = {"from": "2024-11-01T00:00", "to": "2024-12-01T00:00"}
    assert rows == [
        {"series": "BTCUSDT 1d", **november, "result": "replaced"},
        {"series": "sentiment", "from": None, "to": None, "result": "replaced"},
    ]
    assert not any(finding.problems for finding in maintenance.verify(root))
    exchange.requests.clear()
    assert fetcher.candles("BTCUSDT", "1d", FIRST, LAST).equals(before)
    assert exchange.requests == []


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*.*") if path.is_file()}


def withdraw(exchange: Exchange, how: str) -> None:
    """Let the exchange have fewer candles, none, or not even the symbol."""
    times, values = exchange.candles["BTCUSDT", "1d"]
    if how == "fewer":
        day = times.index(1731283200000)  # 2024-11-11
        del times[day], values[day]
    elif how == "none":
        del times[:], values[:]
    elif how == "delisted":
        exchange.candles.clear()


@pytest.mark.parametrize("how", ["offline", "unreachable", "fewer", "none", "delisted"])
def test_a_repair_that_cannot_download_changes_nothing(
    root: Path, fetcher: Fetcher, exchange: Exchange, how: str
) -> None:
    damage(root, "candles/BTCUSDT/1d/*.parquet")
    damage(root, "sentiment/*.parquet")
    before = contents(root)
    withdraw(exchange, how)
    if how == "unreachable":
        exchange.fault("klines", Answer(403, b"<html>"), times=9)
    exchange.fault("fng", Answer(403, b"<html>"), times=9)
    exchange.requests.clear()
    rows, errors = maintenance.repair(root, None if how == "offline" else fetcher)
    assert [(row["series"], row["result"]) for row in rows] == [
        ("BTCUSDT 1d", "not replaced"),
        ("sentiment", "not replaced"),
    ]
    assert all(isinstance(error, FetchError) for error in errors)
    assert "damaged data was not replaced" in str(errors[0])
    assert "stays where it is: BTCUSDT 1d, sentiment" in str(errors[0])
    assert (exchange.requests == []) == (how == "offline")
    assert contents(root) == before
    assert [len(finding.problems) for finding in maintenance.verify(root)] == [1, 0, 1]


@pytest.mark.parametrize("how", ["fewer", "none", "delisted"])
def test_a_series_that_cannot_be_replaced_does_not_stop_the_others(
    root: Path, fetcher: Fetcher, exchange: Exchange, how: str
) -> None:
    damage(root, "candles/BTCUSDT/1d/*.parquet")
    damage(root, "sentiment/*.parquet")
    withdraw(exchange, how)
    rows, errors = maintenance.repair(root, fetcher)
    assert [(row["series"], row["result"]) for row in rows] == [
        ("BTCUSDT 1d", "not replaced"),
        ("sentiment", "replaced"),
    ]
    assert "stays where it is: BTCUSDT 1d; run" in str(errors[0])


@pytest.mark.parametrize("how", ["deleted", "empty", "cut", "of nothing"])
def test_manifests_are_rebuilt_without_a_network(
    root: Path, fetcher: Fetcher, exchange: Exchange, how: str
) -> None:
    offline = replace(fetcher, offline=True)
    before = [offline.candles("BTCUSDT", timeframe, FIRST, LAST) for timeframe in ("1d", "1h")]
    index = offline.sentiment(LAST)
    for path in root.rglob("manifest.json"):
        data = path.read_bytes()
        path.unlink()
        if how != "deleted":
            path.write_bytes({"empty": b"", "cut": data[:-9], "of nothing": b"{}"}[how])
    exchange.requests.clear()
    assert [row["state"] for row in maintenance.stored(root)] == ["damaged"] * 3
    assert all(len(finding.problems) == 1 for finding in maintenance.verify(root))
    rows, errors = maintenance.repair(root, None)
    assert errors == []
    assert [(row["series"], row["result"]) for row in rows] == [
        ("BTCUSDT 1d", "rebuilt"),
        ("BTCUSDT 1h", "rebuilt"),
        ("sentiment", "rebuilt"),
    ]
    assert [row["state"] for row in maintenance.stored(root)] == ["ok"] * 3
    for timeframe, candles in zip(("1d", "1h"), before, strict=True):
        assert offline.candles("BTCUSDT", timeframe, FIRST, LAST).equals(candles)
    assert offline.sentiment(LAST).equals(index)
    assert exchange.requests == []
    assert maintenance.repair(root, None) == ([], [])


def test_files_that_the_manifest_does_not_list_are_seen_and_used(
    root: Path, fetcher: Fetcher, exchange: Exchange
) -> None:
    manifest = root / "candles/BTCUSDT/1d/manifest.json"
    older = manifest.read_bytes()
    whole = fetcher.candles("BTCUSDT", "1d", FIRST, date(2024, 12, 20))
    manifest.write_bytes(older)  # restored from a backup
    assert maintenance.stored(root)[0]["state"] == "damaged"  # its own file was replaced
    manifest.unlink()
    fetcher.candles("BTCUSDT", "1h", FIRST, LAST)
    assert maintenance.repair(root, None).errors == []
    # Files of a killed download are used by the next one, even without a network.
    store = CandleStore(root, "ETHUSDT", "1d")
    with store.lock():
        store.commit([], [])
    for path in manifest.parent.glob("*.parquet"):
        (store.directory / path.name).write_bytes(path.read_bytes())
    states = {row["series"]: row["state"] for row in maintenance.stored(root)}
    assert states["ETHUSDT 1d"] == "unlisted files"
    assert {f.name: f.unlisted for f in maintenance.verify(root)}["ETHUSDT 1d"] == 1
    exchange.requests.clear()
    offline = replace(fetcher, offline=True)
    assert offline.candles("ETHUSDT", "1d", FIRST, date(2024, 12, 20)).equals(whole)
    assert exchange.requests == []


@pytest.mark.parametrize("days", [math.nan, math.inf, -math.inf, -1.0])
def test_an_invalid_number_of_days_is_an_error(root: Path, days: float) -> None:
    before = contents(root)
    with pytest.raises(
        ArgumentError, match=r"--older-than is .*, expected a finite number of days"
    ):
        maintenance.prune(root, days)
    assert contents(root) == before


def test_a_file_of_the_index_is_verified(
    tmp_path: Path, daily: pl.DataFrame, true_index: pl.DataFrame
) -> None:
    true_index.write_csv(tmp_path / "index.csv")
    assert maintenance.verify_file(tmp_path / "index.csv").problems == ()
    true_index.with_columns(pl.col("value") + 200).write_parquet(tmp_path / "large.parquet")
    (problem,) = maintenance.verify_file(tmp_path / "large.parquet").problems
    assert "column value, row 1" in problem
    assert "expected a value from 0 to 100" in problem
    pl.concat([true_index, true_index[:1]]).write_csv(tmp_path / "doubled.csv")
    assert "duplicate" in maintenance.verify_file(tmp_path / "doubled.csv").problems[0]
    # A column named "value" does not make candles an index.
    daily.with_columns(value=pl.lit(500)).write_csv(tmp_path / "candles.csv")
    assert maintenance.verify_file(tmp_path / "candles.csv").quality


def test_only_unused_data_is_pruned(root: Path) -> None:
    manifest = root / "candles/BTCUSDT/1h/manifest.json"
    old = manifest.stat().st_mtime - 3 * 86_400
    os.utime(manifest, (old, old))
    assert names(maintenance.prune(root, 2, dry_run=True)) == ["BTCUSDT 1h"]
    assert names(maintenance.prune(root, 4)) == []
    assert names(maintenance.prune(root, 2)) == ["BTCUSDT 1h"]
    assert names(maintenance.stored(root)) == ["BTCUSDT 1d", "sentiment"]


def test_only_named_data_is_cleared(root: Path) -> None:
    for path in ("features/x.npz", "checkpoints/x.npz", "compiled/x.pb"):
        (root / path).parent.mkdir()
        (root / path).touch()
    everything = ["BTCUSDT 1d", "BTCUSDT 1h", "sentiment", "features", "checkpoints", "compiled"]
    assert names(maintenance.clear(root)) == []
    assert names(maintenance.clear(root, symbols=["ETHUSDT"], timeframes=["1d"])) == []
    assert names(maintenance.clear(root, everything=True, dry_run=True)) == everything
    assert names(maintenance.stored(root)) == everything
    assert names(maintenance.clear(root, timeframes=["1h"], features=True)) == [
        "BTCUSDT 1h",
        "features",
    ]
    assert names(maintenance.clear(root, compiled=True)) == ["compiled"]
    (root / "compiled/x.pb").touch()
    assert names(maintenance.clear(root, everything=True)) == [
        "BTCUSDT 1d",
        "sentiment",
        "checkpoints",
        "compiled",
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
