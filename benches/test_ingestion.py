"""Minute candles from zips of the archive to the store, and the features of a cached run."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from incumbents import Case

from atb_fast import TrainingConfig
from atb_fast.ingestion.exchange.binance import Binance
from atb_fast.ingestion.fetch import Fetcher
from atb_fast.ingestion.market import load_market
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.manifest import Piece
from atb_fast.ingestion.store.sentiment import SentimentStore
from atb_fast.recipes import prepare

DAY = 86_400_000
NAMES = ["timestamp", "open", "high", "low", "close", "volume"]


@pytest.fixture(scope="module")
def mirror(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local copy of the archive with the minute candles, one zip and one checksum per day."""
    root = tmp_path_factory.mktemp("mirror")
    folder = root / "data/spot/daily/klines/BTCUSDT/1m"
    folder.mkdir(parents=True)
    milliseconds = pl.col("timestamp").dt.epoch("ms")
    rows = case.candles.select(
        milliseconds,
        *NAMES[1:],
        close_time=milliseconds + 59_999,
        quote=pl.col("close") * pl.col("volume"),
        trades=pl.lit(1234),
        taker=pl.col("volume") * 0.4837,
        taker_quote=pl.col("open") * pl.col("volume") * 0.4837,
        ignore=pl.lit(0),
    )
    rows = rows.with_columns(day=pl.col("timestamp") // DAY)
    for part in rows.partition_by("day", maintain_order=True, include_key=False):
        day = date.fromtimestamp(part["timestamp"][0] / 1000)
        path = folder / f"BTCUSDT-1m-{day}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(
                f"{path.stem}.csv", part.write_csv(include_header=False, float_precision=8)
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return root


@pytest.mark.parametrize("case", ["1.3M"], indirect=True, scope="module")
@pytest.mark.parametrize("way", ["atb_fast", "polars", "pandas"])
def test_archive(
    benchmark: Any,
    case: Case,
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """Read, verify and parse 900 zips, and write the candles to disk."""
    benchmark.group = f"archive to disk {case}"
    monkeypatch.setenv("ATB_FAST_ARCHIVE_URL", mirror.as_uri())
    zips = sorted(mirror.rglob("*.zip"))
    first, last = (date.fromisoformat(zips[end].stem[-10:]) for end in (0, -1))
    number = itertools.count()
    # The only requests to the REST API would be for the first candle and for gaps.
    monkeypatch.setattr(Binance, "first_open", lambda *query: query[3])
    monkeypatch.setattr(Binance, "confirm_holes", lambda *query: (query[1], []))

    def ours() -> pl.DataFrame:
        fetcher = Fetcher(cache_dir=tmp_path / str(next(number)))
        return fetcher.candles("BTCUSDT", "1m", first, last)

    def verified(path: Path) -> bytes:
        data = path.read_bytes()
        said = path.with_name(f"{path.name}.CHECKSUM").read_text()[:64]
        assert said == hashlib.sha256(data).hexdigest()
        with zipfile.ZipFile(path) as file:
            return file.read(file.namelist()[0])

    def with_polars() -> pl.DataFrame:
        frames = [pl.read_csv(verified(path), has_header=False, columns=range(6)) for path in zips]
        frame = pl.concat(frames)
        frame.columns = NAMES
        frame.write_parquet(tmp_path / "polars.parquet")
        return frame

    def with_pandas() -> pl.DataFrame:
        frames = [
            pd.read_csv(io.BytesIO(verified(path)), header=None, usecols=range(6), names=NAMES)
            for path in zips
        ]
        frame = pd.concat(frames)
        frame.to_parquet(tmp_path / "pandas.parquet")
        return pl.DataFrame(frame)

    ways = {"atb_fast": ours, "polars": with_polars, "pandas": with_pandas}
    result = benchmark.pedantic(ways[way], rounds=3, warmup_rounds=1)
    assert result.select(NAMES[1:]).equals(case.candles.select(NAMES[1:]))


def test_cached_run(benchmark: Any, case: Case, tmp_path: Path) -> None:
    """From the options to the feature matrix, with everything stored."""
    benchmark.group = f"cached ingestion and features {case}"
    times = case.candles["timestamp"]
    store = CandleStore(tmp_path, "BTCUSDT", case.timeframe)
    store.directory.mkdir(parents=True)
    first, last = times.dt.date()[0], times.dt.date()[-1]
    span = int(times.dt.truncate("1d").dt.epoch("ms")[0]), int(times.dt.epoch("ms")[-1]) + DAY
    store.commit([Piece(*span, case.candles, "here", "now")], [])
    sentiment = SentimentStore(tmp_path)
    sentiment.directory.mkdir()
    sentiment.replace(case.sentiment, "here", "now")
    config = TrainingConfig(
        symbol="BTCUSDT",
        timeframe=case.timeframe,
        start_date=first,
        end_date=last,
        cache_dir=tmp_path,
        offline=True,
    )

    def run() -> int:
        return len(prepare(load_market(config), config, cache=tmp_path / "features").matrix)

    assert benchmark.pedantic(run, rounds=9, warmup_rounds=2) > 2000
