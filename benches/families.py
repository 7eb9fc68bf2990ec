"""Time of each family of the 158 features, and memory of all of them.

python benches/families.py             # nanoseconds per value by family, at 1.3M rows
python benches/families.py --memory    # peak memory of each library, without the matrix
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import alpha
import polars as pl
from common import SHARED, header, machine, row, timed

from atb_fast import _core
from atb_fast.features.parser import parse
from atb_fast.ingestion import files, sample

ROWS = 1_306_000
WAYS = ("atb_fast", "polars", "polars_streaming", "pandas")


def candles(rows: int) -> pl.DataFrame:
    """Return minute candles: real ones if they are available."""
    path = SHARED / "BTCUSDT_1m_2022-01-01_2024-06-25.parquet"
    frame = files.read_candles(path) if path.exists() else sample.candles("BTCUSDT", "1m")
    return frame.head(rows)


def pipeline(names: list[str]) -> _core.FeaturePipeline:
    """Return an unscaled pipeline of these features."""
    texts = alpha.texts()
    features = [_core.Feature(name, parse(texts[name]).nodes(60_000)) for name in names]
    return _core.FeaturePipeline(features, scalers=[_core.MinMaxScaler(0.0, 1.0)] * len(names))


def best(work: Callable[[], Any], rounds: int) -> float:
    """Return the duration of the fastest round in seconds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def print_costs(frame: pl.DataFrame, rounds: int) -> None:
    """Print nanoseconds per value by family, with one thread and with all."""
    print(header("family", "atb fast, one thread", "atb fast", "polars"))
    families: dict[str, list[str]] = {}
    for name, family in alpha.FAMILIES.items():
        families.setdefault(family, []).append(name)
    families["all"] = [*alpha.FAMILIES]
    expressions = alpha.polars_expressions()
    rows = frame.lazy().with_columns(row=pl.int_range(pl.len()))
    for family, names in families.items():
        query = rows.select(expressions[name].cast(pl.Float32).alias(name) for name in names)
        transform = pipeline(names).transform
        ways = (partial(transform, frame, threads=1), partial(transform, frame), query.collect)
        scale = 1e9 / len(frame) / len(names)
        costs = (best(way, rounds) * scale for way in ways)
        print(row(family, *(f"{cost:.2f}" for cost in costs)), flush=True)


def peak(way: str, frame: pl.DataFrame) -> dict[str, float]:
    """Return the growth of peak memory while the matrix is computed, in megabytes.

    Memory that was freed after the file was read is reused, so this can be less than the matrix.
    """
    from incumbents import to_pandas

    converted = to_pandas(frame) if way == "pandas" else None
    ways: dict[str, Callable[[], Any]] = {
        "atb_fast": lambda: pipeline([*alpha.FAMILIES]).transform(frame).values,
        "polars": lambda: alpha.polars_query(frame).collect().to_numpy(order="c"),
        "polars_streaming": lambda: (
            alpha.polars_query(frame).collect(engine="streaming").to_numpy(order="c")
        ),
        "pandas": lambda: alpha.pandas_matrix(converted),
    }
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    matrix = ways[way]()
    return {"peak": _status("VmHWM") - before, "matrix": matrix.nbytes / 1e6}


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--memory", action="store_true", help="Measure the memory.")
    parser.add_argument("--rows", type=int, default=ROWS, help="Use the first so many rows.")
    parser.add_argument("--rounds", type=int, default=2, help="Print the fastest of so many.")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(peak(arguments.peak, candles(arguments.rows))))
        return
    print(machine() + "\n")
    if not arguments.memory:
        print_costs(candles(arguments.rows), arguments.rounds)
        return
    print(header("158 features", "peak memory without the matrix"))
    for way in WAYS:
        _, found = timed([__file__, "--peak", way, "--rows", str(arguments.rows)])
        cells = f"{max(0, found['peak'] - found['matrix']):,.0f} MB"
        print(row(way.replace("_", " "), cells), flush=True)


if __name__ == "__main__":
    main()
