"""Measures the overhead of the driver of a large study: thousands of stub trials on Ray.

A stub sleeps instead of training, and returns the result of a real trial. Everything else is real:
the documents of the trials, the executor, the transfer of the results, the result files, and the
ledger. Ray is told that this machine has as many cores as there are jobs, which is fine for
processes that only sleep.

The result is that of the `volatility` recipe on the sample market: 1d, or 1h, which is 20 times as
large. The columns are, for each trial, the wall time in addition to the sleep, the time that the
driver spends writing files, and its CPU time. The last column is the memory of the driver.

    python benches/scale.py
    python benches/scale.py --trials 1000 --timeframe 1h
    python benches/scale.py --trials 40 --jobs 2 --fresh
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

from common import duration, header, machine, row

from atb_fast import TrainingConfig, load_market
from atb_fast.callbacks import Listener
from atb_fast.experiments import trial
from atb_fast.experiments.executors import Failure, Local, Task
from atb_fast.experiments.ray import Ray
from atb_fast.runs import ledger
from atb_fast.runs.records import of_config
from atb_fast.storage import write_atomic

#: Seconds that a stub sleeps.
WORK = 0.05
#: Rows of the table. The trials of a row are given to the executor together.
ROWS = 10


def stub(
    document: Mapping[str, Any],
    *,
    shared: Mapping[str, bytes],
    listener: Listener,  # noqa: ARG001
) -> dict[str, Any]:
    """Return a result of the usual size, after as long as a training would take."""
    time.sleep(WORK)
    (content,) = shared.values()
    return {**json.loads(content), "trial_id": trial.identity(document), "trial": document}


def memory() -> float:
    """Return the memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Run the stub trials and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--timeframe", choices=["1d", "1h"], default="1d")
    parser.add_argument("--fresh", action="store_true", help="A new process for each trial.")
    given = parser.parse_args()
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", recipe="volatility", timeframe=given.timeframe
    )
    described, contents = trial.pack(load_market(config))
    folds = {"number": 5, "window": "expanding", "embargo": None, "until": None}
    document = trial.document([config], [described], folds=folds)
    with Local(1, threads=trial.THREADS) as local:  # keeps TensorFlow out of the driver
        for key, content in contents.items():
            local.share(key, content)
        ((_, result),) = local.run([trial.task(document)])
    if isinstance(result, Failure) or result["state"] != "complete":
        sys.exit(f"the real trial failed: {result}")
    packed = json.dumps(result).encode()
    print(machine())
    print(
        f"\n{given.trials:,} trials of {1000 * WORK:g} ms, {given.jobs} jobs, "
        f"{'a new process each' if given.fresh else 'processes are reused'}; a document has "
        f"{len(trial.canonical(document)) / 1024:.1f} kB, a result {len(packed) / 1024:.0f} kB, "
        f"the candles {sum(map(len, contents.values())) / 1024:.0f} kB:\n",
        flush=True,
    )

    def tasks() -> Iterator[Task]:
        for seed in count():
            each = document | {"options": document["options"] | {"seed": seed}}
            yield Task(trial.identity(each), stub, (each,), ("result",))

    print(header("trials", "overhead", "files and ledger", "CPU of the driver", "its memory"))
    with (
        tempfile.TemporaryDirectory(prefix="atb-fast-bench-") as folder,
        Ray(jobs=given.jobs, reuse=not given.fresh) as executor,
    ):
        executor.share("result", packed)
        registry = Path(folder, "models")
        waiting = tasks()
        for _ in executor.run(list(islice(waiting, given.jobs))):
            pass  # the processes have started
        for number in range(1, ROWS + 1):
            some = list(islice(waiting, given.trials // ROWS))
            begin, used, writing = time.perf_counter(), time.process_time(), 0.0
            for task, outcome in executor.run(some):
                if isinstance(outcome, Failure):
                    sys.exit(f"{outcome.name}: {outcome.error}")
                before = time.perf_counter()
                write_atomic(Path(folder, f"{task.name}.json"), trial.canonical(outcome))
                ledger.append(registry, record(config, outcome))
                writing += time.perf_counter() - before
            wall, cpu = time.perf_counter() - begin, time.process_time() - used
            beyond = wall / len(some) - WORK / given.jobs
            cells = [duration(beyond), duration(writing / len(some)), duration(cpu / len(some))]
            print(row(f"{number * len(some):,}", *cells, f"{memory():.0f} MiB"), flush=True)
        size, before, used = ledger.path_of(registry).stat().st_size, memory(), time.process_time()
        records = ledger.read(registry).records
        print(
            f"\nReading the {len(records):,} records of the ledger, {size / 2**20:.1f} MiB, takes "
            f"{duration(time.process_time() - used)} and {memory() - before:.0f} MiB."
        )


def record(config: TrainingConfig, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a trial for the ledger."""
    return of_config(
        "trial",
        config,
        data={"candles": result["trial"]["markets"][0]["candles"]},
        metrics={"ratio": result["value"]},
        seconds=result["run"]["seconds"],
        machine=result["run"]["machine"],
        study="0123456789abcdef",
        identity=result["trial_id"],
    )


if __name__ == "__main__":
    main()
