"""The store returns what was written, or raises an error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import StorageError
from atb_fast.ingestion.spans import Span
from atb_fast.ingestion.store import candles as module
from atb_fast.ingestion.store import disk
from atb_fast.ingestion.store import sentiment as sentiment_store
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.disk import DamagedError
from atb_fast.ingestion.store.manifest import Piece
from atb_fast.ingestion.store.sentiment import SentimentStore
from atb_fast.storage import write_atomic

DAY = TIMEFRAMES["1d"]
START = 1_546_300_800_000  # 2019-01-01
WHEN = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def stored(tmp_path: Path) -> CandleStore:
    store = CandleStore(tmp_path, "BTCUSDT", "1d")
    store.directory.mkdir(parents=True)
    return store


def days(first: int, behind: int) -> Span:
    return START + first * DAY, START + behind * DAY


def piece(daily: pl.DataFrame, first: int, behind: int, source: str = "here") -> Piece:
    span = days(first, behind)
    times = daily["timestamp"].dt.epoch("ms")
    return Piece(*span, daily.filter((times >= span[0]) & (times < span[1])), source, WHEN)


def test_written_candles_are_read(stored: CandleStore, daily: pl.DataFrame) -> None:
    assert stored.missing(*days(0, 9)) == [days(0, 9)]
    stored.commit([piece(daily, 2, 5), piece(daily, 7, 8)], [])
    assert stored.missing(*days(0, 9)) == [days(0, 2), days(5, 7), days(8, 9)]
    assert stored.missing(*days(3, 5)) == []
    got = stored.read(*days(3, 8))
    assert got.equals(pl.concat([piece(daily, 3, 5).candles, piece(daily, 7, 8).candles]))
    assert stored.read(*days(20, 30)).is_empty()


def test_adjacent_ranges_become_one_file(
    stored: CandleStore, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_ROWS", 100)
    stored.commit([piece(daily, 10, 50, "rest")], [])
    stored.commit([piece(daily, 0, 10, "archive")], [])
    stored.commit([piece(daily, 50, 51, "rest")], [])
    (single,) = stored.manifest().ranges
    assert (single.start, single.end, single.rows) == (*days(0, 51), 51)
    assert single.source == "archive, rest"
    assert (single.first, single.last) == (START, START + 50 * DAY)
    stored.commit([piece(daily, 51, 111)], [])  # too many for one file
    assert [item.rows for item in stored.manifest().ranges] == [51, 60]
    assert stored.read(*days(0, 111)).equals(piece(daily, 0, 111).candles)
    names = {path.name for path in stored.directory.iterdir()}
    assert names == {"manifest.json"} | {item.file for item in stored.manifest().ranges}


def test_the_manifest_lists_every_range(stored: CandleStore, daily: pl.DataFrame) -> None:
    stored.commit([piece(daily, 0, 3)], [days(1, 2)])
    document = json.loads((stored.directory / "manifest.json").read_text())
    (entry,) = document["ranges"]
    data = (stored.directory / entry["file"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert entry["start"] == "2019-01-01T00:00:00.000+00:00"
    assert entry["last"] == "2019-01-03T00:00:00.000+00:00"
    assert (entry["rows"], entry["source"], entry["fetched_at"]) == (3, "here", WHEN)
    assert document["outages"] == [
        ["2019-01-02T00:00:00.000+00:00", "2019-01-03T00:00:00.000+00:00"]
    ]
    assert pl.read_parquet(stored.directory / entry["file"]).equals(piece(daily, 0, 3).candles)


def test_overwriting_replaces_a_part(stored: CandleStore, daily: pl.DataFrame) -> None:
    stored.commit([piece(daily, 0, 10)], [days(4, 5), days(8, 9)])
    doubled = daily.with_columns(pl.col(pl.Float64) * 2)
    stored.commit([piece(doubled, 3, 6)], [], overwrite=True)
    got = stored.read(*days(0, 10))
    expected = [piece(daily, 0, 3), piece(doubled, 3, 6), piece(daily, 6, 10)]
    assert got.equals(pl.concat([part.candles for part in expected]))
    assert stored.manifest().outages == (days(8, 9),)


def test_a_commit_that_fails_changes_nothing(
    stored: CandleStore, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.commit([piece(daily, 0, 10)], [])
    before = (stored.directory / "manifest.json").read_bytes()

    def full(path: Path, data: bytes) -> None:
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(module, "write_atomic", full)
    monkeypatch.setattr(disk, "write_atomic", full)
    with pytest.raises(StorageError, match=r"No space left on device.*another --cache-dir"):
        stored.commit([piece(daily, 10, 12)], [])
    assert (stored.directory / "manifest.json").read_bytes() == before
    assert stored.read(*days(0, 12)).equals(piece(daily, 0, 10).candles)
    assert stored.verify().problems == ()


def edit(stored: CandleStore, change: Callable[[Any], object], *, sign: bool = False) -> None:
    """Change the manifest as by hand or, with `sign`, as by a faulty writer."""
    path = stored.directory / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    if sign:
        del document["sha256"], document["format"]
        disk.write_manifest(path, document)
    else:
        path.write_text(json.dumps(document))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how", ["flip", "remove", "swap", "outage", "cut", "start", "twice", "empty", "gone", "partial"]
)
def test_damage_is_found_and_nothing_sound_is_lost(
    stored: CandleStore, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "FILE_ROWS", 10)
    hollow = daily.filter(daily["timestamp"].dt.epoch("ms") != START + 4 * DAY)
    stored.commit([piece(hollow, 0, 10)], [days(4, 5)])
    stored.commit([piece(daily, 10, 20)], [])
    assert stored.verify().problems == ()
    first, second = (stored.directory / item.file for item in stored.manifest().ranges)
    manifest = stored.directory / "manifest.json"
    damages: dict[str, Callable[[], object]] = {
        "flip": lambda: flip(first),
        "remove": first.unlink,
        "swap": lambda: first.write_bytes(second.read_bytes()),
        "outage": lambda: edit(stored, lambda text: text["outages"].clear(), sign=True),
        "cut": lambda: manifest.write_bytes(manifest.read_bytes()[:-40]),
        "start": lambda: edit(stored, lambda text: text["ranges"][0].update(start=None)),
        "twice": lambda: edit(stored, lambda text: text["ranges"].append(text["ranges"][0])),
        "empty": lambda: manifest.write_bytes(b""),
        "gone": manifest.unlink,
        "partial": lambda: edit(stored, lambda text: text["ranges"].pop(0), sign=True),
    }
    damages[how]()
    in_manifest = how in ("cut", "start", "twice", "empty", "gone")
    in_file = how in ("flip", "remove", "swap")
    if in_manifest or in_file:
        with pytest.raises(DamagedError, match="run: atb-fast data repair --cache-dir"):
            stored.read(*days(0, 20))
    finding = stored.verify()
    assert (len(finding.problems), finding.unlisted) == (how != "partial", how == "partial")
    (stored.directory / ".x.tmp").touch()
    for name in ("notes.txt", "notes.parquet"):  # not ours
        (stored.directory / name).touch()
    (stored.directory / "folder").mkdir()
    before = {path: path.read_bytes() for path in stored.directory.glob("*.parquet")}
    assert stored.rebuild() == (in_manifest or how == "partial")
    assert {path: path.read_bytes() for path in stored.directory.glob("*.parquet")} == before
    assert stored.verify().damaged == (() if in_manifest or how == "partial" else (days(0, 10),))
    if in_file:
        stored.commit([piece(hollow, 0, 10)], [days(4, 5)], overwrite=True)
    if how == "outage":  # the file itself is sound
        assert stored.verify().problems == finding.problems
    else:
        assert stored.verify().problems == ()
        assert stored.manifest().outages == (days(4, 5),)
    assert stored.read(*days(0, 20)).equals(piece(hollow, 0, 20).candles)
    names = {path.name for path in stored.directory.iterdir()}
    assert {"notes.txt", "notes.parquet", "folder"} <= names
    stored.commit([piece(daily, 20, 30)], [])
    assert ".x.tmp" not in {path.name for path in stored.directory.iterdir()}


def test_damaged_files_stay_until_they_are_replaced(
    stored: CandleStore, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_ROWS", 10)
    stored.commit([piece(daily, 0, 10), piece(daily, 10, 20)], [])
    first = stored.directory / stored.manifest().ranges[0].file
    flip(first)
    (stored.directory / "manifest.json").unlink()
    assert stored.rebuild()
    assert stored.missing(*days(0, 20)) == [days(0, 10)]
    stored.commit([piece(daily, 20, 30)], [])
    assert first.exists()
    finding = stored.verify()
    assert (len(finding.problems), finding.damaged) == (1, (days(0, 10),))
    assert "its hash does not match its name" in finding.problems[0]
    stored.commit([piece(daily, 0, 5)], [])
    assert first.exists()
    assert stored.verify().damaged == (days(5, 10),)
    stored.commit([piece(daily, 5, 10)], [])
    assert stored.verify().problems == ()
    assert stored.read(*days(0, 30)).equals(piece(daily, 0, 30).candles)
    assert len(list(stored.directory.glob("*.parquet"))) == len(stored.manifest().ranges)


def test_files_of_a_killed_writer_are_used(
    stored: CandleStore, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if an older manifest is there, whose file was replaced."""
    stored.commit([piece(daily, 0, 10)], [])
    before = (stored.directory / "manifest.json").read_bytes()
    doubled = daily.with_columns(pl.col(pl.Float64) * 2)
    stored.commit([piece(doubled, 8, 20)], [], overwrite=True)
    stored.commit([piece(doubled, 30, 40)], [days(33, 34)])
    (stored.directory / "manifest.json").write_bytes(before)  # as if killed before publishing
    assert stored.verify().unlisted == 2
    with pytest.raises(DamagedError):  # the file of the old manifest was replaced
        stored.read(*days(0, 10))
    assert stored.rebuild()
    expected = [piece(daily, 0, 8), piece(doubled, 8, 20), piece(doubled, 30, 40)]
    assert stored.read(*days(0, 40)).equals(pl.concat([part.candles for part in expected]))
    assert stored.verify().problems == ()
    assert not stored.rebuild()


def test_files_whose_names_are_not_a_span_are_ignored(
    stored: CandleStore, daily: pl.DataFrame
) -> None:
    stored.commit([piece(daily, 0, 10)], [])
    path = stored.directory / "20241399T000000_20250101T000000_0123456789ab.parquet"
    path.touch()
    (stored.directory / "20240101T000000_20250101T000000_0123456789ab.parquet").mkdir()
    assert stored.verify().problems == ()
    assert not stored.rebuild()
    stored.commit([piece(daily, 10, 20)], [])
    assert path.exists()


def test_spans_that_end_within_a_second(
    stored: CandleStore, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File names have no milliseconds, and no candle is lost because of that."""
    monkeypatch.setattr(module, "FILE_ROWS", 10)
    border = START + 9 * DAY + 500  # the candle of day 9 belongs to the first file
    ten, rest = piece(daily, 0, 10), piece(daily, 10, 20)
    stored.commit([Piece(START, border, ten.candles, "here", WHEN)], [])
    stored.commit([Piece(border, rest.end, rest.candles, "here", WHEN)], [])
    (stored.directory / "manifest.json").unlink()
    assert stored.rebuild()
    assert stored.missing(*days(0, 20)) == []
    assert stored.manifest().outages == ()
    assert stored.read(*days(0, 20)).equals(piece(daily, 0, 20).candles)


def test_other_format_versions_are_left_alone(stored: CandleStore, daily: pl.DataFrame) -> None:
    stored.commit([piece(daily, 0, 10)], [])
    edit(stored, lambda text: text.update(format=2))
    before = {path: path.read_bytes() for path in stored.directory.iterdir()}
    for use in (stored.manifest, stored.verify, stored.rebuild):
        with pytest.raises(StorageError, match="has format 2, expected 1"):
            use()
    assert {path: path.read_bytes() for path in stored.directory.iterdir()} == before


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1, "ranges": 5}', "[" * 9999, "\x00"])
def test_files_that_are_not_a_manifest(stored: CandleStore, text: str) -> None:
    (stored.directory / "manifest.json").write_text(text)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        stored.read(*days(0, 9))
    assert len(stored.verify().problems) == 1
    assert stored.rebuild()
    assert stored.verify().problems == ()


def test_a_manifest_cannot_name_other_files(stored: CandleStore, daily: pl.DataFrame) -> None:
    stored.commit([piece(daily, 0, 10)], [])
    edit(stored, lambda text: text["ranges"][0].update(file="../../../a.parquet"), sign=True)
    with pytest.raises(DamagedError, match="it names a file that cannot contain candles"):
        stored.read(*days(0, 9))


def test_a_second_writer_that_overlaps_is_rejected(
    stored: CandleStore, daily: pl.DataFrame
) -> None:
    stored.commit([piece(daily, 0, 10)], [])
    with pytest.raises(StorageError, match="another process stored 2019-01-01T00:00"):
        stored.commit([piece(daily, 5, 15)], [])
    assert stored.read(*days(0, 20)).equals(piece(daily, 0, 10).candles)


def test_a_reader_does_not_return_fewer_candles(stored: CandleStore, daily: pl.DataFrame) -> None:
    stored.commit([piece(daily, 0, 10)], [])
    assert len(stored.read(*days(0, 10), lacking=())) == 10
    with pytest.raises(StorageError, match="another process removed"):
        stored.read(*days(0, 12), lacking=())
    assert len(stored.read(*days(0, 12), lacking=[days(10, 12)])) == 10


def test_a_reader_follows_a_writer(stored: CandleStore, daily: pl.DataFrame) -> None:
    stored.commit([piece(daily, 0, 10)], [])
    old = stored.manifest()
    stored.commit([piece(daily, 10, 20)], [])  # the file of the old manifest is gone
    late = CandleStore(stored.directory.parents[2], "BTCUSDT", "1d")
    manifests = iter([old, stored.manifest()])
    late.manifest = lambda: next(manifests)  # type: ignore[method-assign]
    assert late.read(*days(0, 10)).equals(piece(daily, 0, 10).candles)


def test_sentiment_is_old_or_new_after_any_failure(
    tmp_path: Path, true_index: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SentimentStore(tmp_path)
    store.directory.mkdir()
    assert store.entry() is None
    store.replace(true_index[:100], "there", WHEN)
    assert store.read().equals(true_index[:100])

    def killed(path: Path, data: bytes) -> None:
        if path.suffix == ".parquet":
            raise KeyboardInterrupt
        write_atomic(path, data)

    monkeypatch.setattr(sentiment_store, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        store.replace(true_index[:101], "there", WHEN)
    assert store.read().equals(true_index[:100])  # the manifest knows both
    entry = store.entry()
    assert entry
    assert entry["rows"] == 100
    monkeypatch.undo()
    store.replace(true_index[:102], "there", WHEN)
    assert store.read().equals(true_index[:102])
    flip(store.path)
    with pytest.raises(StorageError, match="data repair"):
        store.read()
    assert len(store.verify().problems) == 1
    assert not store.rebuild()  # needs a download
    assert len(store.verify().problems) == 1
    store.replace(true_index[:102], "there", WHEN)
    assert store.verify().problems == ()


@pytest.mark.parametrize("manifest", [None, "", "{}", '{"format": 1}', "[]", "signed"])
def test_the_manifest_of_a_sound_index_is_written_again(
    tmp_path: Path, true_index: pl.DataFrame, manifest: str | None
) -> None:
    store = SentimentStore(tmp_path)
    store.directory.mkdir()
    store.replace(true_index, "there", WHEN)
    path = store.directory / "manifest.json"
    path.unlink()
    if manifest == "signed":
        disk.write_manifest(path, {"index": []})
    elif manifest is not None:
        path.write_text(manifest)
    with pytest.raises(DamagedError, match="data repair"):
        store.read()
    assert store.rebuild()
    assert store.read().equals(true_index)
    path.unlink()
    broken = true_index.with_columns(pl.col("value") + 200)
    broken.write_parquet(store.path)
    assert not store.rebuild()
    assert store.path.exists()
