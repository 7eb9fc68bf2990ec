"""Fixtures: the shared data if there is any, a small market, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from atb_fast.ingestion import sample
from atb_fast.ingestion.sources import Market

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real candles and golden files: `$ATB_FAST_SHARED`, or `shared` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared"
    path = Path(os.environ.get("ATB_FAST_SHARED", beside))
    if not (path / "data").is_dir():
        message = f"no real candles in {path}; set ATB_FAST_SHARED to the folder that has them"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


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
