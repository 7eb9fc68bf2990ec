"""Fixtures: real candles if there are any, a synthetic market, models, and the command line."""

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
from commands import CommandLine
from exchange import Exchange
from filelock import FileLock

from atb_fast.ingestion import files, sample
from atb_fast.ingestion.market import Market

_SHARED = Path(os.environ.get("ATB_FAST_SHARED", Path(__file__).parents[2] / "shared"))
#: Value of ATB_FAST_SHARED where the real candles are not available.
_NONE = "none"

Run = Callable[..., "subprocess.CompletedProcess[str]"]

#: Folders with the slowest files, which start first, so that no worker ends long after the other.
_SLOW = ("faults", "parity", "e2e", "training")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest files."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return _SLOW.index(folder) if folder in _SLOW else len(_SLOW)

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real candles and golden files: `$ATB_FAST_SHARED`, or `shared` next to the checkout."""
    if not (_SHARED / "data").is_dir():
        message = f"no real candles in {_SHARED}; set ATB_FAST_SHARED to the folder that has them"
        if os.environ.get("CI") and os.environ.get("ATB_FAST_SHARED") != _NONE:
            pytest.fail(message)
        pytest.skip(message)
    return _SHARED


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep every test away from the user's store, settings and network."""
    path = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATB_FAST_CACHE", str(path))
        for source in ("BINANCE", "BINANCE_FALLBACK", "ARCHIVE", "FNG"):
            patch.setenv(f"ATB_FAST_{source}_URL", "http://127.0.0.1:9")
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("LOADS", "FAULT_SEED"):  # the program would warn of them
            patch.delenv(f"ATB_FAST_{name}", raising=False)
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


@pytest.fixture(scope="session")
def command_line() -> Iterator[CommandLine]:
    """The command line in a forked process that has everything imported already."""
    command_line = CommandLine()
    yield command_line
    command_line.close()


@pytest.fixture
def atb_fast(tmp_path: Path, command_line: CommandLine) -> Run:
    """Run the command line in an empty directory."""
    return functools.partial(command_line.run, cwd=tmp_path)


@pytest.fixture
def new_process(tmp_path: Path) -> Run:
    """Run the command line in a new interpreter, for tests of what is imported."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "atb_fast", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


def _trained_once(root: Path, train: Callable[[Path], None]) -> Path:
    """Return `root`, filled by `train` in the first worker that asks for it."""
    with FileLock(root.with_suffix(".lock")):
        if not root.exists():
            unfinished = root.with_suffix(".unfinished")
            train(unfinished)
            unfinished.rename(root)
    return root


@pytest.fixture(scope="session")
def models(shared_folder: Path) -> Path:
    """A registry with a live bundle of each type, trained for one epoch on the sample market.

    All workers share it: a test that changes something must do so in a copy.
    """
    from atb_fast import TrainingConfig, run_training_pipeline

    def train(root: Path) -> None:
        quick: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "epochs": 1}
        quick |= {"engine": "keras", "registry": root, "skip_plots": True, "skip_robustness": True}
        quick |= {"promote": "always"}
        daily: dict[str, Any] = {"start_date": "2023-01-01", "end_date": "2024-12-01"}
        hourly: dict[str, Any] = {"start_date": "2024-11-01", "timeframe": "1h"}
        run_training_pipeline(TrainingConfig(**quick, **daily))
        run_training_pipeline(TrainingConfig(**quick, **daily, force_price_only=True))
        run_training_pipeline(TrainingConfig(**quick, **hourly, recipe="basic"))

    return _trained_once(shared_folder / "models", train)


@pytest.fixture(scope="session")
def models_of_candles(shared_folder: Path) -> Path:
    """A registry with a sentiment bundle whose model.onnx takes raw candles; see `models`."""
    from atb_fast import TrainingConfig, run_training_pipeline

    def train(root: Path) -> None:
        config: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "epochs": 1}
        config |= {"start_date": "2023-01-01", "engine": "keras", "onnx_input": "ohlcv"}
        config |= {"skip_plots": True, "skip_robustness": True}
        run_training_pipeline(TrainingConfig(**config, registry=root))

    return _trained_once(shared_folder / "models_of_candles", train)
