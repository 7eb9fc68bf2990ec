"""Fixtures: the shared data if there is any, a small market, and the command line."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from exchange import Exchange

from atb_fast.ingestion import files, sample
from atb_fast.ingestion.market import Market

_SHARED = Path(os.environ.get("ATB_FAST_SHARED", Path(__file__).parents[2] / "shared"))

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real candles and golden files: `$ATB_FAST_SHARED`, or `shared` beside the checkout."""
    if not (_SHARED / "data").is_dir():
        message = f"no real candles in {_SHARED}; set ATB_FAST_SHARED to the folder that has them"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return _SHARED


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test touches the user's store, nor a network."""
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATB_FAST_CACHE", str(path))
        for source in ("BINANCE", "BINANCE_FALLBACK", "ARCHIVE", "FNG"):
            patch.setenv(f"ATB_FAST_{source}_URL", "http://127.0.0.1:9")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield path


@pytest.fixture(scope="session")
def truth() -> Callable[[str, str], pl.DataFrame]:
    """Candles by symbol and timeframe: real ones if there are any, else synthetic ones."""
    return functools.cache(_truth)


def _truth(symbol: str, timeframe: str) -> pl.DataFrame:
    found = sorted((_SHARED / "data").glob(f"{symbol}_{timeframe}_20*.parquet"))
    return files.read_candles(found[0]) if found else sample.candles(symbol, timeframe)


@pytest.fixture(scope="session")
def true_index() -> pl.DataFrame:
    """The real Fear & Greed index, else a synthetic one."""
    found = sorted((_SHARED / "data").glob("fear_greed_1d_*.parquet"))
    return files.read_sentiment(found[0]) if found else sample.sentiment()


@pytest.fixture
def exchange(
    truth: Callable[[str, str], pl.DataFrame],
    true_index: pl.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Exchange]:
    """A local exchange in the middle of 2024-12-31, and the environment that points to it."""
    now = int(datetime(2024, 12, 31, 12, 34, 56, tzinfo=UTC).timestamp()) * 1000
    candles = {("BTCUSDT", timeframe): truth("BTCUSDT", timeframe) for timeframe in ("1d", "1h")}
    with Exchange(candles, true_index, now) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def daily() -> pl.DataFrame:
    """Synthetic daily candles."""
    return sample.candles("BTCUSDT", "1d")


@pytest.fixture(scope="session")
def market(daily: pl.DataFrame) -> Market:
    """Synthetic daily candles and sentiment."""
    return Market(daily, sample.sentiment())


@pytest.fixture
def atb_fast(tmp_path: Path) -> Run:
    """Run the command line in a process of its own, in an empty directory."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "atb_fast", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a live bundle of each type, trained for one epoch on the sample market."""
    from atb_fast import TrainingConfig, run_training_pipeline

    root = tmp_path_factory.mktemp("models")
    quick: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "epochs": 1}
    quick |= {"engine": "keras", "registry": root, "skip_plots": True, "skip_robustness": True}
    daily: dict[str, Any] = {"start_date": "2023-01-01", "end_date": "2024-12-01"}
    hourly: dict[str, Any] = {"start_date": "2024-11-01", "timeframe": "1h"}
    run_training_pipeline(TrainingConfig(**quick, **daily))
    run_training_pipeline(TrainingConfig(**quick, **daily, force_price_only=True))
    run_training_pipeline(TrainingConfig(**quick, **hourly, recipe="basic"))
    return root


@pytest.fixture(scope="session")
def models_of_candles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a sentiment bundle whose model.onnx takes raw candles."""
    from atb_fast import TrainingConfig, run_training_pipeline

    root = tmp_path_factory.mktemp("models_of_candles")
    config: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "start_date": "2023-01-01"}
    config |= {"epochs": 1, "engine": "keras", "skip_plots": True, "skip_robustness": True}
    run_training_pipeline(TrainingConfig(**config, registry=root, onnx_input="ohlcv"))
    return root
