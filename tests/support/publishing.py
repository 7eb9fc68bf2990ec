"""Forks a process for each line on stdin that trains, promotes or prunes, so that it can be killed.

Prints the process ID and, when the process has ended, its exit code or minus the signal. TensorFlow
is imported once, before the forks, and not used here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from atb_fast import TrainingConfig, run_training_pipeline
from atb_fast.bundles import publishing, releases
from atb_fast.serving.registry import versions
from atb_fast.serving.verification import verify


def train(root: Path) -> None:
    """Train a model for one epoch on a few candles, in this process."""
    quick: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "epochs": 1}
    quick |= {"engine": "keras", "skip_plots": True, "skip_robustness": True, "patience": 1}
    quick |= {"start_date": "2024-06-01", "sequence_length": 12, "force_price_only": True}
    run_training_pipeline(TrainingConfig(**quick, registry=root))


def promote(root: Path) -> None:
    """Verify the oldest and the newest version and make them live, one after the other."""
    found = [path for path in versions(root) if path.parent.name == "price"]
    for path in (found[0], found[-1]):
        if not verify(path).problems:
            publishing.promote(path)


def prune(root: Path) -> None:
    """Delete all versions but the newest and the live one."""
    releases.prune(root, 1, dry_run=False)


def main() -> None:
    """Answer until stdin ends."""
    import tensorflow  # noqa: F401

    root = Path(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            {"train": train, "promote": promote, "prune": prune}[line.strip()](root)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
