"""What all benchmarks need: the machine line, the data, Markdown, and runs of the program.

python benches/common.py    # prints the machine line
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from atb_fast.ingestion import sample

HERE = Path(__file__).parent
#: The folder with real candles.
SHARED = Path(os.environ.get("ATB_FAST_SHARED", HERE.parents[1] / "shared")) / "data"


def machine() -> str:
    """Return the processor, cores, memory, load and versions that figures depend on, one line."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "?")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    vectors = next((name for name in ("avx512f", "avx2") if name in flags), "no AVX2")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = [f"Python {sys.version.split()[0]}"]
    for package in ("tensorflow-cpu", "tensorflow", "keras", "pandas", "polars", "onnxruntime"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return (
        f"Machine: {len(os.sched_getaffinity(0))} cores of {model} ({vectors}), {memory:.0f} GiB, "
        f"load {os.getloadavg()[0]:.1f}; {', '.join(found)}; {time.strftime('%B %Y')}."
    )


def duration(seconds: float) -> str:
    """Return a duration with its unit; "-" for none."""
    if not seconds:
        return "-"
    scale, unit = next(
        (pair for pair in ((1.0, "s"), (1e-3, "ms")) if seconds >= pair[0]), (1e-6, "us")
    )
    value = seconds / scale
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def row(*cells: str) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def header(*cells: str) -> str:
    """Return the first two rows of a Markdown table."""
    return f"{row(*cells)}\n|{'---|' * len(cells)}"


def inputs(scratch: Path) -> tuple[list[str], str]:
    """Return the options that name daily candles and sentiment, and a description of them.

    Files of synthetic data are written to `scratch`.
    """
    candles = SHARED / "BTCUSDT_1d_2017-08-17_2024-12-31.parquet"
    sentiment = SHARED / "fear_greed_1d_2018-02-01_2025-05-02.parquet"
    what = "real candles"
    if not candles.exists():
        what = "the synthetic sample market; for real candles, set ATB_FAST_SHARED"
        candles, sentiment = scratch / "candles.parquet", scratch / "sentiment.parquet"
        market = {candles: sample.candles("BTCUSDT", "1d"), sentiment: sample.sentiment()}
        for path, frame in market.items():
            timestamps = pl.col("timestamp").cast(pl.Datetime("ms", "UTC"))
            frame.with_columns(timestamps).write_parquet(path)
    return ["--candles", str(candles), "--sentiment", str(sentiment)], what


def timed(command: list[str], *, checkout: Path | None = None) -> tuple[float, dict[str, Any]]:
    """Run a Python program that prints JSON; return its seconds and what it printed.

    Args:
        command: The arguments of Python.
        checkout: Another checkout of atb-fast to import, with its extension built.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if checkout:
        if not list((checkout / "python" / "atb_fast").glob("_core.*")):
            sys.exit(f"{checkout} is not a checkout of atb-fast whose extension is built")
        environment["PYTHONPATH"] = str(checkout.resolve() / "python")
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, env=environment
    )
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds, json.loads(done.stdout)


if __name__ == "__main__":
    print(machine())
