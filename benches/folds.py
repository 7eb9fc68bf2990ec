"""Times a walk-forward evaluation: `atb-fast evaluate --recipe causal` on daily BTCUSDT.

Only the first folds of a process, one for each core, should have to trace and compile. To show
this, each fold is first trained for one epoch, without and with stored programs; then the whole
evaluation is timed.

    python benches/folds.py
    python benches/folds.py --before ../another-checkout
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import duration, header, inputs, machine, row, timed


def main() -> None:
    """Time the evaluation, print a table, and fail if the last fold is slow."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="Compare with this checkout.")
    parser.add_argument(
        "--min-last",
        type=float,
        help="Only train one epoch of each fold, and fail if the ratio of the first fold to the "
        "last is lower.",
    )
    given = parser.parse_args()
    checkouts = {"before": given.before} if given.before else {}
    checkouts |= {"new": None}
    scratch = tempfile.TemporaryDirectory(prefix="atb-fast-bench-")
    data, what = inputs(Path(scratch.name))
    print(machine())
    print(f"\nBTCUSDT 1d, --end-date 2024-12-31, causal recipe, {what}:\n", flush=True)
    command = ["-m", "atb_fast", "evaluate", "BTCUSDT", *data, "--recipe", "causal", "--json"]
    command += ["--end-date", "2024-12-31"]
    # As many folds as there are cores are trained at the same time.
    short = ["--epochs", "1", "--folds", str(max(given.folds, len(os.sched_getaffinity(0)) + 1))]
    shown: dict[str, list[str]] = {}
    base: dict[str, float] = {}

    def note(name: str, seconds: float, what: str = "") -> None:
        first = base.setdefault(name, seconds)
        ratio = f", {first / seconds:.2f}x" if shown.get(name) else ""
        shown.setdefault(name, []).append(f"{duration(seconds)}{what}{ratio}")

    def evaluate(side: str, *options: str) -> tuple[float, list[dict[str, Any]]]:
        cache = ["--cache-dir", str(Path(scratch.name) / side)]
        seconds, result = timed([*command, *cache, *options], checkout=checkouts[side])
        return seconds, result["folds"]

    for side in checkouts:
        _, (one, *_, last) = evaluate(side, *short)
        note("first fold of one epoch, nothing stored", one["seconds"])
        note("last fold of one epoch", last["seconds"])
    if given.min_last is None:
        for side in checkouts:
            _, (warm, *_) = evaluate(side, *short)
            note("first fold of one epoch, warm cache", warm["seconds"])
        for side in checkouts:
            seconds, folds = evaluate(side, "--folds", str(given.folds))
            epochs = sum(fold["epochs"] for fold in folds)
            what = f" ({given.folds} folds, {epochs} epochs)"
            note("whole evaluation, warm cache", seconds, what)
            ratios = ", ".join(f"{fold['ratio']:.4f}" for fold in folds)
            shown.setdefault("RMSE / RMSE of persistence by fold", []).append(ratios)
    print(header("", *checkouts))
    for name, cells in shown.items():
        print(row(name, *cells))
    ratio = one["seconds"] / last["seconds"]
    if given.min_last and ratio < given.min_last:
        sys.exit(
            f"the first fold took {ratio:.1f} times as long as the last, expected at "
            f"least {given.min_last}: later folds trace or compile again"
        )


if __name__ == "__main__":
    main()
