"""The cache returns the same features as preparing them again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from executed import Executed

from atb_fast import TrainingConfig
from atb_fast.features.hashing import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare
from atb_fast.storage import remove_unused


def config(**changes: object) -> TrainingConfig:
    options: dict[str, object] = {"symbol": "BTCUSDT", "source": "sample"}
    return TrainingConfig(**(options | changes))  # type: ignore[arg-type]


def same(one: PreparedData, other: PreparedData) -> bool:
    assert one.pipeline
    assert other.pipeline
    return (
        np.array_equal(one.matrix.values, other.matrix.values)
        and one.matrix.names == other.matrix.names
        and np.array_equal(one.matrix.rows, other.matrix.rows)
        and np.array_equal(one.close, other.close)
        and one.timestamps.equals(other.timestamps)
        and one.timestamps.dtype == other.timestamps.dtype
        and one.pipeline.scalers == other.pipeline.scalers
        and one.pipeline.features == other.pipeline.features
    )


def test_cached_features_equal_prepared_ones(
    market: Market, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fresh = prepare(market, config())
    first = prepare(market, config(), cache=tmp_path)
    assert "from the cache" not in caplog.text
    again = prepare(market, config(epochs=7), cache=tmp_path)
    assert "from the cache" in caplog.text
    assert same(fresh, first)
    assert same(fresh, again)
    frame = market.candles.with_columns(sentiment_momentum=pl.lit(0.5))
    assert again.pipeline
    assert fresh.pipeline
    assert np.array_equal(
        again.pipeline.transform(frame).values, fresh.pipeline.transform(frame).values
    )


def test_a_pickle_in_the_cache_is_not_loaded(
    market: Market, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = prepare(market, config(), cache=tmp_path / "cache")
    (cached,) = (tmp_path / "cache").glob("*.npz")
    array = np.array([Executed(tmp_path / "executed")], dtype=object)
    np.savez(cached, matrix=array, rows=array, scalers=array)
    assert same(prepare(market, config(), cache=tmp_path / "cache"), fresh)
    assert f"{cached} cannot be read (Object arrays cannot be loaded" in caplog.text
    assert not (tmp_path / "executed").exists()


def test_other_inputs_have_other_features(
    market: Market, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    prepare(market, config(), cache=tmp_path)
    dearer = Market(market.candles.with_columns(pl.col("close") * 1.001), market.sentiment)
    assert market.sentiment is not None
    calmer = Market(market.candles, market.sentiment.with_columns(pl.col("value") * 0.5 + 25))
    for other, changes in (
        (dearer, {}),
        (calmer, {}),
        (market, {"force_price_only": True}),
        (market, {"force_refresh": True}),
    ):
        got = prepare(other, config(**changes), cache=tmp_path)
        assert same(got, prepare(other, config(**changes)))
    assert "from the cache" not in caplog.text


@pytest.mark.parametrize("how", ["cut", "flipped", "text"])
def test_a_damaged_file_is_replaced(
    market: Market, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    fresh = prepare(market, config(), cache=tmp_path)
    (path,) = tmp_path.glob("*.npz")
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[-1000:]
    elif how == "flipped":
        data[len(data) // 3] ^= 1
    path.write_bytes(b"text" if how == "text" else bytes(data))
    assert same(prepare(market, config(), cache=tmp_path), fresh)
    assert "preparing the features again" in caplog.text
    caplog.clear()
    assert same(prepare(market, config(), cache=tmp_path), fresh)
    assert caplog.text == ""


def test_a_failed_write_is_not_an_error(
    market: Market, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert len(prepare(market, config(), cache=tmp_path / "file" / "features").matrix) > 2000
    assert "features not cached" in caplog.text


def test_unused_files_are_removed(tmp_path: Path) -> None:
    files = [("old.npz", 31), ("new.npz", 29), ("old.pb", 31), (".a.tmp", 2), (".b.tmp", 0)]
    for name, days in (*files, ("x", 99)):
        (tmp_path / name).write_bytes(b"12345")
        then = (tmp_path / name).stat().st_mtime - days * 86_400
        os.utime(tmp_path / name, (then, then))
    (tmp_path / "folder").mkdir()
    old = [(tmp_path / "old.npz", 5), (tmp_path / "old.pb", 5)]
    assert remove_unused(tmp_path, 30, dry_run=True) == old
    assert remove_unused(tmp_path, 30) == old
    remove_unused(tmp_path, 0)
    assert {path.name for path in tmp_path.iterdir()} == {".b.tmp", "x", "folder"}


def test_hashes_do_not_depend_on_chunks(daily: pl.DataFrame) -> None:
    whole = content_hash(daily)
    parts = pl.concat([daily[:10], daily[10:]], rechunk=False)
    assert content_hash(parts) == whole
    assert content_hash(daily[:-1]) != whole
    assert content_hash(daily.rename({"open": "low", "low": "open"})) != whole
