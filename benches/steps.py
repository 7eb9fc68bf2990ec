"""Times a training step: the compiled engine next to Keras' `fit` on an array of the same windows.

Both train the same network on the same windows of daily BTCUSDT, alternately in one process. A
process has one number of threads, so this program runs itself once for each case.

    python benches/steps.py [cases] [networks]
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
#: The same for the table of networks.
NETWORK_CASE = (2, 120, 32)
TABLES = ("cases", "networks")
ROUNDS = 2
EPOCHS = {"compiled": 7, "keras": 4}
#: Windows that onnxruntime is timed on.
LATENCIES = 300


def measure(
    data_options: dict[str, Any], length: int, batch_size: int, network: str
) -> dict[str, list[float]]:
    """Return the seconds of a step, of an epoch with its evaluation, and of the compilation.

    They are those of both ways, but Keras compiles nothing. `onnx` has the seconds that onnxruntime
    needs for one window, with one thread.
    """
    import keras
    import onnxruntime

    from atb_fast import TrainingConfig, load_market, recipes
    from atb_fast.bundles.onnx_export import convert
    from atb_fast.recipes.networks import NETWORKS
    from atb_fast.training.device import configure
    from atb_fast.training.engine import fit

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        """Times the training part of each epoch, and the whole of it."""

        def __init__(self, steps: list[float], epochs: list[float], first: list[float]) -> None:
            super().__init__()
            self.steps, self.epochs, self.first = steps, epochs, first
            self.made = time.perf_counter()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            self.began = time.perf_counter()

        def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
            self.trained = time.perf_counter() - self.began

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            if epoch:
                self.steps.append(self.trained / -(-len(data.train) // batch_size))
                self.epochs.append(time.perf_counter() - self.began)
            else:  # it compiles
                self.first.append(time.perf_counter() - self.made)

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
    found: dict[str, tuple[list[float], ...]] = {way: ([], [], []) for way in EPOCHS}
    for _ in range(ROUNDS):
        for way, times in found.items():
            model = NETWORKS[network]().build(length, x.shape[2])
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(convert(model, properties={}), options)
    latencies = []
    for start in range(LATENCIES):
        window = {"features": x[start % len(x)][None]}
        began = time.perf_counter()
        session.run(None, window)
        latencies.append(time.perf_counter() - began)
    return {"onnx": [statistics.median(latencies)]} | {
        way: [statistics.median(steps), statistics.median(epochs), max(first)]
        for way, (steps, epochs, first) in found.items()
    }


def main() -> None:
    """Time all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tables", nargs="*", help=f"{' or '.join(TABLES)}; by default both")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, for the process that times it
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(**json.loads(given.one))))
        return
    scratch = tempfile.TemporaryDirectory(prefix="atb-fast-bench-")
    options, what = inputs(Path(scratch.name))
    paths = {"candles": options[1], "sentiment": options[3]}

    def timed_case(case: tuple[int, int, int], network: str) -> Any:
        threads, length, batch_size = case
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = str(threads)
        one = {"data_options": paths, "length": length, "batch_size": batch_size}
        return timed([str(HERE / "steps.py"), "--one", json.dumps(one | {"network": network})])[1]

    print(machine())
    if "cases" in (given.tables or TABLES):
        print(f"\nBTCUSDT 1d, legacy network, {what}, medians:\n")
        ways = ["step, compiled", "step, Keras", "epoch, compiled", "epoch, Keras"]
        print(header("threads, bars of a window, batch", *ways), flush=True)
        for case in CASES:
            found = timed_case(case, "cnn_lstm")
            cells = []
            for ours, theirs in list(zip(found["compiled"], found["keras"], strict=True))[:2]:
                cells += [duration(ours), f"{duration(theirs)}, {theirs / ours:.1f}x"]
            print(row(", ".join(map(str, case)), *cells), flush=True)
    if "networks" in (given.tables or TABLES):
        named = "{} threads, {} bars of a window, batches of {}".format(*NETWORK_CASE)
        print(f"\nEvery network with its default sizes, {named}, {what}, medians:\n")
        ways = ["step, compiled", "step, Keras", "first", "epoch", "ONNX"]
        print(header("network", *ways), flush=True)
        for network in ("linear", "dlinear", "mlp", "tcn", "lstm", "cnn_lstm"):
            found = timed_case(NETWORK_CASE, network)
            ours, epoch, first = found["compiled"]
            theirs = found["keras"][0]
            ratio = f"{duration(theirs)}, {theirs / ours:.1f}x"
            further = map(duration, (first, epoch, *found["onnx"]))
            print(row(network, duration(ours), ratio, *further), flush=True)


if __name__ == "__main__":
    main()
