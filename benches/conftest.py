"""The data of the benchmarks: real candles if there are any, else the sample market."""

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
#: Minimum speedup of atb-fast over each alternative at 64k rows, by group. About half of what was
#: measured, because timings are noisy and people turn off a gate that gives false alarms.
FLOORS = {
    "features": {"pandas_sklearn": 5.0, "polars": 1.1},
    "scaling": {"sklearn": 2.0},
    "window view": {"numpy": 5.0},
    "batch gather": {"numpy_indices": 3.5, "numpy_take": 1.4, "python_loop": 3.5},
}
_TIMEFRAMES = {"2k": "1d", "64k": "1h", "1.3M": "1m"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gate", action="store_true", help="fail if a speedup is below its floor; needs -k 64k"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --gate, compare the speedups of this run with the floors."""
    if not session.config.getoption("--gate"):
        return
    medians = {
        (bench.group, bench.params["way"]): bench.stats.median
        for bench in session.config._benchmarksession.benchmarks  # type: ignore[attr-defined]
    }
    print("\nspeedups at 64k rows:")
    for name, floors in FLOORS.items():
        for way, floor in floors.items():
            ratio = medians[f"{name} 64k", way] / medians[f"{name} 64k", "atb_fast"]
            fast = ratio >= floor
            print(f"  {name}, {way}: {ratio:.1f}, floor {floor}{'' if fast else ': TOO SLOW'}")
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
    hint = "the sample market; for real candles, set ATB_FAST_SHARED"
    print(f"\n{size}: {'real candles' if real else hint}")
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
    """A matrix of ten random columns with as many rows as candles."""
    rng = np.random.default_rng(0)
    values = rng.random((len(case.candles), 10), dtype=np.float32)
    return _core.FeatureMatrix(values, [f"feature_{i}" for i in range(10)])
