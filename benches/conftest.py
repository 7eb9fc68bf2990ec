"""The markets the benchmarks run on: real candles if there are any, else synthetic ones."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from incumbents import Case

from atb_fast import _core
from atb_fast.ingestion import files, sample

_FILES = {
    "2k": "BTCUSDT_1d_2017-08-17_2024-12-31.parquet",
    "64k": "BTCUSDT_1h_2017-08-17_2024-12-31.parquet",
    "1.3M": "BTCUSDT_1m_2022-01-01_2024-06-25.parquet",
}
#: How many times as fast as each other way atb-fast has to be at 64 k rows, by group. About half of
#: what was measured: timings here are noisy, and a gate that cries wolf is switched off.
FLOORS = {
    "features": {"pandas_sklearn": 5.0, "polars": 1.1},
    "scaling": {"sklearn": 2.0},
    "window view": {"numpy": 5.0},
    "batch gather": {"numpy_indices": 3.5, "numpy_take": 1.4, "python_loop": 3.5},
}
_TIMEFRAMES = {"2k": "1d", "64k": "1h", "1.3M": "1m"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gate", action="store_true", help="fail below the floors; needs -k 64k")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare the medians of this run with the floors."""
    if not session.config.getoption("--gate"):
        return
    medians = {
        (bench.group, bench.params["way"]): bench.stats.median
        for bench in session.config._benchmarksession.benchmarks  # type: ignore[attr-defined]
    }
    print("\nas fast as, at 64 k rows:")
    for name, floors in FLOORS.items():
        for way, floor in floors.items():
            ratio = medians[f"{name} 64k", way] / medians[f"{name} 64k", "atb_fast"]
            fast = ratio >= floor
            print(f"  {name}, {way}: {ratio:.1f} times, at least {floor}{'' if fast else ': SLOW'}")
            if not fast:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_sessionstart() -> None:
    """Refuse to time a debug build."""
    if _core.build_info()["profile"] != "release":
        pytest.exit("the extension is a debug build; run: make build", returncode=3)


@pytest.fixture(scope="session", params=["2k", "64k", "1.3M"])
def case(request: pytest.FixtureRequest) -> Case:
    size: str = request.param
    shared = Path(os.environ.get("ATB_FAST_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "data" / _FILES[size]
    timeframe = _TIMEFRAMES[size]
    real = path.exists()
    print(f"\n{size}: {'real candles' if real else 'the sample market; set ATB_FAST_SHARED'}")
    if real:
        candles = files.read_candles(path)
        index = shared / "data" / "fear_greed_1d_2018-02-01_2025-05-02.parquet"
        sentiment = files.read_sentiment(index)
    else:
        candles, sentiment = sample.candles("BTCUSDT", timeframe), sample.sentiment()
        if size == "1.3M":
            candles = candles.filter(
                pl.col("timestamp").is_between(
                    datetime(2022, 1, 1, tzinfo=UTC), datetime(2024, 6, 25, tzinfo=UTC)
                )
            )
    return Case(size, timeframe, candles, sentiment)


@pytest.fixture(scope="session")
def matrix(case: Case) -> _core.FeatureMatrix:
    """Ten columns as long as the candles."""
    rng = np.random.default_rng(0)
    values = rng.random((len(case.candles), 10), dtype=np.float32)
    return _core.FeatureMatrix(values, [f"feature_{i}" for i in range(10)])
