"""Compares whole training runs: those of the old trainer and of atb-fast, on the same candles.

Each run is a separate process, timed from outside. The sides alternate. With --results, results are
appended to a file, one JSON document per line, and runs that are already in it are skipped.
Therefore an interrupted comparison can be continued, and seeds can be added. With a limit, such as
--min-run, the next seed only runs if the limits do not hold for those before: other work on the
machine can slow down one run, but not all of them.

    python benches/run.py --seeds 1 2 3 --results runs.jsonl
    python benches/run.py --epochs 3 --sides uncached cold new
    python benches/run.py --epochs 12 --sides before new --before ../another-checkout

The sides: `old` is the trainer that atb-fast replaces. `new` is atb-fast as it runs all day, with
the compiled programs of an earlier run; `cold` starts with an empty cache directory; `uncached`
keeps no compiled programs; `before` is another checkout, with its extension built.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import HERE, duration, header, inputs, machine, row, timed
from scipy import stats

SIDES = ("old", "new", "cold", "uncached", "before")
CANONICAL = ["--timeframe", "1d", "--start-date", "2019-01-01", "--end-date", "2024-12-01"]
KEPT = ("epochs", "first_epoch_seconds", "seconds_per_epoch", "test_rmse", "persistence_rmse")

Run = dict[str, Any]


def run(side: str, options: list[str], scratch: Path, before: Path | None) -> Run:
    """Run one side once, and return its seconds by stage, its epochs and its errors."""
    with tempfile.TemporaryDirectory() as out:
        if side == "old":
            command = [str(HERE / "legacy_trainer.py"), *options, "--out", out]
            seconds, result = timed(command)
        else:
            command = ["-m", "atb_fast", "train", "model", "BTCUSDT", *options, "--json"]
            cache = Path(out) / "cache" if side == "cold" else scratch / side
            command += ["--registry", out, "--cache-dir", str(cache)]
            command += ["--no-compile-cache"] if side == "uncached" else []
            checkout = before if side == "before" else None
            if side in {"new", "before"} and not cache.exists():
                warm_up = [*command, "--epochs", "1", "--registry", str(scratch / "warm-up")]
                timed(warm_up, checkout=checkout)
            seconds, result = timed(command, checkout=checkout)
            if result["engine"] != "compiled":
                sys.exit(f"atb-fast used the engine {result['engine']}, expected compiled")
    return {name: result[name] for name in (*KEPT, "stages")} | {"seconds": seconds}


def exceeded(runs: list[Run], sides: list[str], given: argparse.Namespace) -> list[str]:
    """Return a sentence for each limit that does not hold for the first and the last side."""
    first, last = ([r for r in runs if r["side"] == side] for side in (sides[0], sides[-1]))

    def ratio(name: str) -> float:
        before, after = (statistics.median(r[name] for r in side) for side in (first, last))
        return float(before / after)

    forward, backward = f"{sides[0]} / {sides[-1]}", f"{sides[-1]} / {sides[0]}"
    sentences = [
        f"{what}, {forward}, is {found:.3f}, expected at least {floor:.3f}"
        for what, found, floor in (
            ("whole run", ratio("seconds"), given.min_run),
            ("one epoch", ratio("seconds_per_epoch"), given.min_epoch),
        )
        if floor and not found >= floor
    ]
    error = 1 / ratio("test_rmse")
    if not error <= given.max_error:
        sentences.append(
            f"test RMSE, {backward}, is {error:.3f}, expected at most {given.max_error:.3f}"
        )
    return sentences


def table(runs: list[Run], sides: list[str]) -> None:
    """Print a table of all sides, which compares the others with the first."""
    by_side = {side: [r for r in runs if r["side"] == side] for side in sides}

    def line(name: str, value: Callable[[Run], float]) -> None:
        base, *others = (statistics.median(map(value, by_side[side])) for side in sides)
        cells = (f"{duration(v)}, {base / v:.2f}x" if v and base else duration(v) for v in others)
        print(row(name, duration(base), *cells))

    print(header("medians", *(f"{side}, {len(by_side[side])} runs" for side in sides)))
    line("whole run", lambda r: r["seconds"])
    line("first epoch", lambda r: r["first_epoch_seconds"])
    line("one epoch", lambda r: r["seconds_per_epoch"])
    line("all but training", lambda r: r["seconds"] - r["stages"]["training"])
    # The old trainer lacks some stages. Those that are short in every run are left out.
    for stage in dict.fromkeys(n for r in runs for n, took in r["stages"].items() if took > 0.05):
        line(f"stage: {stage}", partial(_stage, stage))
    epochs = (statistics.median(r["epochs"] for r in by_side[side]) for side in sides)
    print(row("epochs", *(f"{count:.0f}" for count in epochs)))
    errors = [[float(r["test_rmse"]) for r in by_side[side]] for side in sides]
    print(row("test RMSE, mean (deviation)", *(_errors(errors[0], values) for values in errors)))
    persistence = (f"{by_side[side][0]['persistence_rmse']:,.0f}" for side in sides)
    print(row("RMSE of persistence", *persistence))
    first, last = (
        {r["seed"]: r["seconds"] for r in by_side[side]} for side in sides[:: len(sides) - 1]
    )
    paired = ", ".join(f"{first[seed] / last[seed]:.2f}" for seed in sorted(first))
    print(f"\nWhole run by seed, {sides[0]} / {sides[-1]}: {paired}")


def _stage(name: str, run: Run) -> float:
    seconds: dict[str, float] = run["stages"]
    return seconds.get(name, 0.0)


def _errors(base: list[float], values: list[float]) -> str:
    """Return the mean and the deviation of errors, and how they compare with those of `base`."""
    mean = f"{statistics.mean(values):,.0f}"
    if len(values) == 1:
        return mean
    mean += f" ({statistics.stdev(values):,.0f})"
    if values is base:
        return mean
    # Welch's interval for the difference between the means of the logarithms.
    logs = [[math.log(value) for value in side] for side in (values, base)]
    low, high = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    ratio = math.exp(statistics.mean(logs[0]) - statistics.mean(logs[1]))
    return f"{mean}, {ratio:.3f}x, 95% interval {math.exp(low):.3f} to {math.exp(high):.3f}"


def main() -> None:
    """Do the missing runs, print the table, and fail if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["old", "new"])
    parser.add_argument("--before", type=Path, help="The other checkout, for the side `before`.")
    parser.add_argument("--results", type=Path, help="File for the results. Default: none.")
    parser.add_argument(
        "--min-run",
        type=float,
        default=0.0,
        help="Fail if the whole run, first side / last, is lower.",
    )
    parser.add_argument(
        "--min-epoch",
        type=float,
        default=0.0,
        help="Fail if an epoch, first side / last, is lower.",
    )
    parser.add_argument(
        "--max-error",
        type=float,
        default=math.inf,
        help="Fail if the test RMSE, last / first, is higher.",
    )
    given = parser.parse_args()
    if len(set(given.sides)) < 2 or ("before" in given.sides) != bool(given.before):
        parser.error("expected at least two --sides, and --before PATH for the side `before` only")
    scratch = tempfile.TemporaryDirectory(prefix="atb-fast-bench-")
    data, what = inputs(Path(scratch.name))
    print(machine())
    print(f"\nBTCUSDT 1d, {' '.join(CANONICAL[2:])} --epochs {given.epochs}, {what}:", flush=True)
    done: list[Run] = []
    if given.results and given.results.exists():
        done = [json.loads(line) for line in given.results.read_text().splitlines()]
    chosen: list[Run] = []
    limited = given.min_run or given.min_epoch or given.max_error < math.inf
    for number, seed in enumerate(given.seeds):
        # The order alternates, so that a machine that gets slower favors no side.
        for side in given.sides[:: 1 if number % 2 == 0 else -1]:
            key = {"side": side, "seed": seed, "max_epochs": given.epochs}
            result = next((r for r in done if key.items() <= r.items()), None)
            if result is None:
                options = [*data, *CANONICAL, "--seed", str(seed), "--epochs", str(given.epochs)]
                result = key | run(side, options, Path(scratch.name), given.before)
                print(
                    f"- {side}, seed {seed}: {duration(result['seconds'])}, "
                    f"{result['epochs']} epochs, test RMSE {result['test_rmse']:,.0f}",
                    flush=True,
                )
                if given.results:
                    with given.results.open("a") as out:
                        out.write(json.dumps(result) + "\n")
            chosen.append(result)
        if limited and not exceeded(chosen, given.sides, given):
            break
    unchanged = [r["persistence_rmse"] for r in chosen]
    if not math.isclose(min(unchanged), max(unchanged), rel_tol=1e-9):
        sys.exit(
            "the test rows differ between runs: the RMSE of persistence is from "
            f"{min(unchanged)} to {max(unchanged)}; delete old --results"
        )
    print()
    table(chosen, given.sides)
    if failures := exceeded(chosen, given.sides, given):
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    main()
