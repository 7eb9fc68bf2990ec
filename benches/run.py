"""Compares whole training runs of the old trainer and of atb-fast on the same candles.

Runs alternate between both. Each is a separate process, timed from outside. With --results, results
are appended to a file, one JSON document per line, and runs that are already in it are skipped.
Therefore an interrupted comparison can be continued, and seeds can be added.

    python benches/run.py --seeds 1 2 3 --results runs.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from scipy import stats

from atb_fast.ingestion import sample

HERE = Path(__file__).parent
SIDES = ("old", "new")
#: For each case: the timeframe, the flags of both trainers, and whether sentiment is used.
CASES: dict[str, tuple[str, list[str], bool]] = {
    "canonical": ("1d", [], True),
    "batch-256": ("1d", ["--batch-size", "256"], True),
    "length-60": ("1d", ["--sequence-length", "60"], True),
    "price-only": ("1d", [], False),
    "hourly": ("1h", [], True),
}


def inputs(timeframe: str, scratch: Path) -> tuple[Path, Path, str]:
    """Return files of candles and sentiment, and a description. Synthetic ones are in `scratch`."""
    shared = Path(os.environ.get("ATB_FAST_SHARED", HERE.parents[1] / "shared")) / "data"
    candles = shared / f"BTCUSDT_{timeframe}_2017-08-17_2024-12-31.parquet"
    if candles.exists():
        return candles, shared / "fear_greed_1d_2018-02-01_2025-05-02.parquet", "real candles"
    made = scratch / "candles.parquet", scratch / "sentiment.parquet"
    for frame, path in zip(
        (sample.candles("BTCUSDT", timeframe), sample.sentiment()), made, strict=True
    ):
        frame.with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC"))).write_parquet(path)
    return *made, "the synthetic sample market; for real candles, set ATB_FAST_SHARED"


def run(side: str, seed: int, case: str, epochs: int, files: tuple[Path, Path]) -> dict[str, Any]:
    """Run one side once, and return its seconds by stage, its epochs and its errors."""
    timeframe, flags, with_sentiment = CASES[case]
    with tempfile.TemporaryDirectory() as out:
        given = ["--candles", str(files[0]), "--timeframe", timeframe, "--seed", str(seed)]
        given += ["--start-date", "2019-01-01", "--end-date", "2024-12-01"]
        given += ["--epochs", str(epochs), *flags]
        if with_sentiment:
            given += ["--sentiment", str(files[1])]
        if side == "old":
            command = [sys.executable, str(HERE / "legacy_trainer.py"), *given, "--out", out]
        else:
            command = [sys.executable, "-m", "atb_fast", "train", "model", "BTCUSDT", *given]
            command += ["--registry", out, "--json"]
            command += [] if with_sentiment else ["--force-price-only"]
        begin = time.perf_counter()
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=quiet)
        seconds = time.perf_counter() - begin
    if done.returncode != 0:
        sys.exit(f"{side} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    result = json.loads(done.stdout)
    names = ("epochs", "seconds_per_epoch", "test_rmse", "persistence_rmse", "stages")
    kept = {name: result[name] for name in names}
    if side == "new" and result["engine"] != "compiled":
        sys.exit(f"atb-fast trained with the engine {result['engine']}, expected compiled")
    return (
        {"side": side, "seed": seed, "case": case, "max_epochs": epochs}
        | kept
        | {"seconds": seconds}
    )


def table(runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Print a table of both sides, and return the ratios of whole runs and of epochs."""
    old, new = ([r for r in runs if r["side"] == side] for side in SIDES)

    def line(name: str, value: Callable[[dict[str, Any]], float]) -> float:
        a, b = (statistics.median(value(r) for r in side) for side in (old, new))
        print(f"{name:20} {a:10.2f} {b:10.2f} {a / b:8.2f}")
        return a / b

    print(f"{'medians':20} {f'old, {len(old)}':>10} {f'new, {len(new)}':>10} {'ratio':>8}")
    for stage in dict.fromkeys(name for r in runs for name in r["stages"]):
        took = ([r["stages"].get(stage, 0.0) for r in side] for side in (old, new))
        print(f"  {stage + ', s':18}", *(f"{statistics.median(seconds):10.2f}" for seconds in took))
    line("all but training, s", lambda r: r["seconds"] - r["stages"]["training"])
    line("epochs", lambda r: r["epochs"])
    by_epoch = line("one epoch, s", lambda r: r["seconds_per_epoch"])
    whole = line("whole run, s", lambda r: r["seconds"])
    line("test RMSE", lambda r: r["test_rmse"])
    line("persistence RMSE", lambda r: r["persistence_rmse"])

    seconds = [{r["seed"]: r["seconds"] for r in side} for side in (old, new)]
    paired = [
        seconds[0][seed] / seconds[1][seed] for seed in sorted(seconds[0].keys() & seconds[1])
    ]
    print("whole run by seed, old / new:", ", ".join(f"{ratio:.2f}" for ratio in paired))
    errors = [[r["test_rmse"] for r in side] for side in (old, new)]
    for side, values in zip(SIDES, errors, strict=True):
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        print(f"test RMSE, {side}: mean {statistics.mean(values):,.0f}, deviation {spread:,.0f}")
    if min(map(len, errors)) > 1:
        # Welch's interval for the difference between the means of the logarithms.
        logs = [[math.log(value) for value in values] for values in reversed(errors)]
        low, high = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
        ratio = math.exp(statistics.mean(logs[0]) - statistics.mean(logs[1]))
        interval = f"{math.exp(low):.3f} to {math.exp(high):.3f}"
        print(f"test RMSE, new / old: {ratio:.3f}, 95% interval {interval}")
    return whole, by_epoch


def main() -> None:
    """Do the missing runs, print the table, and fail if a ratio is below its floor."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--case", choices=tuple(CASES), default="canonical")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--results", type=Path, help="File for the results. Default: none.")
    parser.add_argument(
        "--min-run", type=float, default=0.0, help="Fail if the ratio of whole runs is lower."
    )
    parser.add_argument(
        "--min-epoch", type=float, default=0.0, help="Fail if the ratio of epochs is lower."
    )
    parser.add_argument(
        "--max-error", type=float, default=math.inf, help="Fail if RMSE, new / old, is higher."
    )
    given = parser.parse_args()
    scratch = tempfile.TemporaryDirectory(prefix="atb-fast-bench-")
    *files, what = inputs(CASES[given.case][0], Path(scratch.name))
    print(f"{given.case}: {what}")
    runs: list[dict[str, Any]] = []
    if given.results and given.results.exists():
        runs = [json.loads(line) for line in given.results.read_text().splitlines()]
    key = (given.case, given.epochs)
    for number, seed in enumerate(given.seeds):
        # The order alternates, so that a machine that gets slower favors neither side.
        for side in given.sides[:: 1 if number % 2 == 0 else -1]:
            if any(
                (r["side"], r["seed"], r["case"], r["max_epochs"]) == (side, seed, *key)
                for r in runs
            ):
                continue
            result = run(side, seed, given.case, given.epochs, (files[0], files[1]))
            runs.append(result)
            print(
                f"  {side}, seed {seed}: {result['seconds']:.0f} s, {result['epochs']} epochs, "
                f"test RMSE {result['test_rmse']:,.0f}",
                flush=True,
            )
            if given.results:
                with given.results.open("a") as out:
                    out.write(json.dumps(result) + "\n")
    chosen = [r for r in runs if (r["case"], r["max_epochs"]) == key and r["seed"] in given.seeds]
    if {r["side"] for r in chosen} != set(SIDES):
        sys.exit("only one side has results, so there is nothing to compare; run both --sides")
    unchanged = [r["persistence_rmse"] for r in chosen]
    if not math.isclose(min(unchanged), max(unchanged), rel_tol=1e-9):
        sys.exit(
            "the test rows differ between runs: the RMSE of persistence is from "
            f"{min(unchanged)} to {max(unchanged)}; delete old --results"
        )
    whole, by_epoch = table(chosen)
    means = [statistics.mean(r["test_rmse"] for r in chosen if r["side"] == s) for s in SIDES]
    for name, ratio, floor in (
        ("whole run, old / new", whole, given.min_run),
        ("one epoch, old / new", by_epoch, given.min_epoch),
        ("mean test RMSE, old / new", means[0] / means[1], 1 / given.max_error),
    ):
        if not ratio >= floor:
            sys.exit(f"{name} is {ratio:.3f}, expected at least {floor:.3f}")


if __name__ == "__main__":
    main()
