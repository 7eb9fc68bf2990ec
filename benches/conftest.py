"""The data of the benchmarks, and their results as Markdown tables.

The data are real candles if there are any, else the sample market.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from common import SHARED, duration, header, machine, row
from incumbents import Case

from atb_fast import _core
from atb_fast.ingestion import files, sample

_FILES = {
    "2k": "BTCUSDT_1d_2017-08-17_2024-12-31.parquet",
    "64k": "BTCUSDT_1h_2017-08-17_2024-12-31.parquet",
    "1.3M": "BTCUSDT_1m_2022-01-01_2024-06-25.parquet",
}
#: Minimum speedup of atb-fast over each alternative, by group. Well below what was measured,
#: because timings are noisy and people turn off a gate that gives false alarms.
FLOORS = {
    "features 64k": {"pandas_sklearn": 5.0, "polars": 1.1},
    "features 1.3M": {"polars": 2.0},
    "158 features 64k": {"polars": 2.5, "polars_streaming": 2.0, "pandas": 4.0},
    "causal features 64k": {"polars": 1.1, "pandas": 1.3},
    "scaling 64k": {"sklearn": 2.0},
    "window view 64k": {"numpy": 5.0},
    "batch gather 64k": {"numpy_indices": 3.5, "numpy_take": 1.4, "python_loop": 3.5},
}
_TIMEFRAMES = {"2k": "1d", "64k": "1h", "1.3M": "1m"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--gate", action="store_true", help="fail if a speedup is below its floor; see make gate"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Print a table for each module; with --gate, compare the speedups with the floors."""
    benches = session.config._benchmarksession.benchmarks  # type: ignore[attr-defined]
    # Unlike print, this also writes while pytest captures the output.
    show = session.config.get_terminal_writer().line
    show(f"\n\n{machine()}")
    for module in dict.fromkeys(bench.fullname.partition("::")[0] for bench in benches):
        show(f"\n{module}:\n")
        for line in table([bench for bench in benches if bench.fullname.startswith(module)]):
            show(line)
    if not session.config.getoption("--gate"):
        return
    # Other programs on the machine slow down some rounds, so the fastest one says most.
    fastest = {(bench.group, _way(bench)): bench.stats.min for bench in benches}
    show("\nspeedups:")
    for group, floors in FLOORS.items():
        for way, floor in floors.items():
            ratio = fastest[group, way] / fastest[group, "atb_fast"]
            fast = ratio >= floor
            show(f"  {group}, {way}: {ratio:.1f}, floor {floor}{'' if fast else ': TOO SLOW'}")
            if not fast:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


def table(benches: list[Any]) -> Iterator[str]:
    """Yield a table of medians. The first way of a group comes first; ratios are to its time.

    After each group come the durations in `benchmark.extra_info`.
    """
    sizes = [size for size in _FILES if any(bench.params["case"] == size for bench in benches)]
    samples = {size for size in sizes if not (SHARED / _FILES[size]).exists()}
    yield header("rows of candles", *(f"{s}, sample" if s in samples else s for s in sizes))
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for bench in benches:
        size = bench.params["case"]
        ways = groups.setdefault(re.sub(rf",? {re.escape(size)}\b", "", bench.group), {})
        ways.setdefault(_way(bench), {})[size] = bench.stats.median
        for name, seconds in bench.extra_info.items():
            ways.setdefault(name, {})[size] = seconds
    for group in sorted(groups):
        (_, base), *others = groups[group].items()
        yield row(f"**{group}**", *(duration(base[s]) if s in base else "" for s in sizes))
        for way, times in others:
            cells = (
                f"{duration(times[s])}, {times[s] / base[s]:.1f}x" if s in times else ""
                for s in sizes
            )
            yield row(way.replace("_", " "), *cells)


def _way(bench: Any) -> str:
    """Return how a benchmark does it: its parameters without the data."""
    return ", ".join(str(value) for name, value in bench.params.items() if name != "case")


def pytest_sessionstart() -> None:
    """Refuse to time a debug build."""
    if _core.build_info()["profile"] != "release":
        pytest.exit("the extension is a debug build; run: make build", returncode=3)


@pytest.fixture(scope="session", params=["2k", "64k", "1.3M"])
def case(request: pytest.FixtureRequest) -> Case:
    size: str = request.param
    path = SHARED / _FILES[size]
    timeframe = _TIMEFRAMES[size]
    if path.exists():
        candles = files.read_candles(path)
        sentiment = files.read_sentiment(SHARED / "fear_greed_1d_2018-02-01_2025-05-02.parquet")
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
