"""Times a training step: the compiled engine next to Keras' `fit` on an array of the same windows.

Both train the same network on the same windows of daily BTCUSDT, alternately in one process. A
process has one number of threads, so this program runs itself once for each.

    python benches/steps.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from common import HERE, duration, header, inputs, machine, row, timed

#: Threads, bars of a window and windows of a batch.
CASES = [(2, 120, 32), (1, 120, 32), (2, 120, 256)]
ROUNDS = 2
EPOCHS = {"compiled": 7, "keras": 4}


def measure(data_options: dict[str, Any], length: int, batch_size: int) -> dict[str, list[float]]:
    """Return the seconds of a step and of an epoch with its evaluation, for both ways."""
    import keras

    from atb_fast import TrainingConfig, load_market, recipes
    from atb_fast.training.device import configure
    from atb_fast.training.engine import fit

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        """Times the training part of each epoch, and the whole of it."""

        def __init__(self, steps: list[float], epochs: list[float]) -> None:
            super().__init__()
            self.steps, self.epochs = steps, epochs

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.began = time.perf_counter()

        def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
            self.trained = time.perf_counter() - self.began

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            if epoch:  # the first one compiles
                self.steps.append(self.trained / -(-len(data.train) // batch_size))
                self.epochs.append(time.perf_counter() - self.began)

    config = TrainingConfig(
        symbol="BTCUSDT",
        start_date=date(2019, 1, 1),
        end_date=date(2024, 12, 1),
        sequence_length=length,
        batch_size=batch_size,
        epochs=EPOCHS["compiled"],
        engine="compiled",
        **data_options,
    )
    recipe = config.definition
    configure(config)
    prepared = recipes.prepare(load_market(config), config)
    data = recipe.windows(prepared, config, recipe.parts(prepared, config))
    (x, y), test = (
        (data.windows(part), data.fitted(part)) for part in (data.train, data.validation)
    )
    found: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in EPOCHS}
    for _ in range(ROUNDS):
        for way, times in found.items():
            model = recipe.build(length, x.shape[2])
            clock = Clock(*times)
            if way == "compiled":
                fit(model, data, config, callbacks=[clock])
                continue
            model.compile("adam", loss="mse")
            model.fit(
                x,
                y,
                validation_data=test,
                batch_size=batch_size,
                epochs=EPOCHS[way],
                verbose=0,
                callbacks=[clock],
            )
    return {way: [statistics.median(times) for times in both] for way, both in found.items()}


def main() -> None:
    """Time all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, for the process that times it
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(**json.loads(given.one))))
        return
    scratch = tempfile.TemporaryDirectory(prefix="atb-fast-bench-")
    options, what = inputs(Path(scratch.name))
    print(machine())
    print(f"\nBTCUSDT 1d, legacy network, {what}, medians:\n")
    ways = ["step, compiled", "step, Keras", "epoch, compiled", "epoch, Keras"]
    print(header("threads, bars of a window, batch", *ways), flush=True)
    for threads, length, batch_size in CASES:
        paths = {"candles": options[1], "sentiment": options[3]}
        case = {"data_options": paths, "length": length, "batch_size": batch_size}
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = str(threads)
        _, found = timed([str(HERE / "steps.py"), "--one", json.dumps(case)])
        cells = []
        for ours, theirs in zip(found["compiled"], found["keras"], strict=True):
            cells += [duration(ours), f"{duration(theirs)}, {theirs / ours:.1f}x"]
        print(row(f"{threads}, {length}, {batch_size}", *cells), flush=True)


if __name__ == "__main__":
    main()
