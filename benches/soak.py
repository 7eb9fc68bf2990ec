"""Runs everything that changes or reads a registry at once, and looks for leaks and bad reads.

python benches/soak.py --minutes 60

One process runs sweeps, each with two jobs and in a new study. A second one trains models. A third
one publishes copies of bundles, promotes them, rolls back and prunes. A fourth one downloads
candles from a local server. At the same time, two readers score bundles: one loads the live version
each time, and one keeps the first version that it loaded. Each forecast is compared with the one
that the same version made before it was published.

After an operation, a process records its memory, open files, threads and children, at most once
every ten seconds. The first sixth of the run is the warm-up. The program fails if a process later
grows by more than `--growth`, if it has more open files, threads or children at the end, if a read
was bad, or if files or processes are left. It needs Linux.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl
from common import header, machine, row

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from atb_fast import Bundle, TrainingConfig

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

#: Seconds between two samples of a process.
EVERY = 10.0
#: Seconds that readers wait after a read, so that they leave the cores to the others.
PAUSE = 0.05
#: Number of different models that are published.
MODELS = 3
LIVE = "BTCUSDT:1d:volatility"
#: Folders whose size is recorded, and the ledger.
FOLDERS = (
    *("published", "trained", "cache", "store", "tmp"),
    *(".models-work/studies", ".models-work/ledger.jsonl"),
)
#: All processes inherit this variable.
_MARK = "STARTED_BY_SOAK"


def config(folder: Path, registry: str, **options: Any) -> TrainingConfig:
    """Return the options of a small training on the sample market."""
    from atb_fast import TrainingConfig

    small: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "recipe": "volatility"}
    small |= {"network": "linear", "start_date": "2022-01-01", "timeframe": "1d", "epochs": 2}
    small |= {"cache_dir": folder / "cache", "registry": folder / registry}
    return TrainingConfig(**small | options)


def prepare(folder: Path, _: Event) -> None:
    """Train the models that `publish` copies, and keep their forecasts."""
    from atb_fast import load_bundle, load_market, run_training_pipeline

    candles = load_market(config(folder, "templates")).candles.tail(200)
    candles.write_parquet(folder / "candles.parquet")
    for number in range(MODELS):
        options = config(
            folder,
            f"template{number}",
            end_date=f"2024-{number + 1:02}-01",
            promote="always",
        )
        bundle = run_training_pipeline(options).paths["bundle"]
        Path(bundle).rename(folder / f"model{number}")
        made = load_bundle(folder / f"model{number}")
        made.predict(candles).write_parquet(folder / f"forecasts{number}.parquet")
        last = json.dumps(made.predict_last(candles))
        (folder / f"last{number}.json").write_text(last)
    paths = [folder / f"last{number}.json" for number in range(MODELS)]
    assert len({path.read_text() for path in paths}) == MODELS, "models have the same forecasts"


def sweeps(folder: Path) -> Iterator[str]:
    """Run small studies in one registry, each with different trials."""
    from atb_fast import sweep

    space = {"network": {"kind": ["linear", "mlp"]}, "sequence_length": {"low": 10, "high": 15}}
    for seed in count():
        options = config(folder, "models")
        study = sweep(options, space, trials=8, folds=3, search_seed=seed, jobs=2)
        yield "" if study.states["complete"] == 8 else f"{study.folder}: {study.states}"


def trainings(folder: Path) -> Iterator[str]:
    """Train models in this process and keep the newest two."""
    from atb_fast import run_training_pipeline
    from atb_fast.bundles import releases

    for seed in count():
        options = config(folder, "trained", seed=seed, network=("linear", "mlp")[seed % 2])
        done = run_training_pipeline(options)
        releases.prune(options.registry, 2, dry_run=False)
        yield "" if done.published else f"{done.version_id} was not published"


def publishing(folder: Path) -> Iterator[str]:
    """Publish, promote, roll back and prune; the seconds in a version's name identify its model."""
    from churning import publish

    from atb_fast.bundles import releases
    from atb_fast.serving.registry import versions

    registry = folder / "published"
    for turn in count():
        created = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=turn)
        publish(folder / f"model{turn % MODELS}", registry, created, live=turn % 2 == 0)
        if turn % 4 == 1:
            releases.promote(versions(registry)[0], registry, force=False)
        if turn % 4 == 3:
            releases.promote(versions(registry)[-1], registry, force=False)
            releases.rollback(LIVE, registry, force=False)
        releases.prune(registry, 4, dry_run=False)
        yield ""


def downloads(folder: Path) -> Iterator[str]:
    """Download candles from a local server, and read them from the store."""
    from exchange import Exchange

    from atb_fast.ingestion import sample
    from atb_fast.ingestion.fetch import Fetcher

    now = datetime(2024, 12, 31, tzinfo=UTC)
    candles = sample.candles("BTCUSDT", "1d")
    candles = candles.with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")))
    first, last = date(2022, 1, 1), date(2024, 12, 1)
    expected = candles.filter(pl.col("timestamp").dt.date().is_between(first, last))
    stamp = int(now.timestamp()) * 1000
    with Exchange({("BTCUSDT", "1d"): candles}, sample.sentiment(), stamp) as server:
        os.environ |= server.environment
        for turn in count():
            fetcher = Fetcher(
                cache_dir=folder / "store", force_refresh=turn % 4 == 0, now=lambda: stamp
            )
            found = fetcher.candles("BTCUSDT", "1d", first, last)
            fetcher.sentiment(last)
            server.requests.clear()
            yield "" if found.equals(expected) else "the candles differ from those of the server"
            time.sleep(PAUSE)


def reads(folder: Path) -> Iterator[str]:
    """Load the live version and score it."""
    return _scored(folder, lambda _: True)


def one_bundle(folder: Path) -> Iterator[str]:
    """Score the version that was live at the start, even after it was deleted."""
    return _scored(folder, lambda turn: turn == 0)


def _scored(folder: Path, reload: Callable[[int], bool]) -> Iterator[str]:
    from atb_fast import InSampleWarning, load_bundle

    warnings.simplefilter("ignore", InSampleWarning)
    candles = pl.read_parquet(folder / "candles.parquet")
    forecasts = [pl.read_parquet(folder / f"forecasts{each}.parquet") for each in range(MODELS)]
    lasts = [json.loads((folder / f"last{each}.json").read_text()) for each in range(MODELS)]
    while not (folder / "published" / "BTCUSDT" / "volatility" / "latest").exists():
        time.sleep(PAUSE)

    def problem(bundle: Bundle) -> str:
        name = bundle.path.name
        model = int(name.partition("s_v")[0][-2:]) % MODELS
        if bundle.metadata["version_id"] != name:
            return f"{name} has the metadata of {bundle.metadata['version_id']}"
        if not bundle.predict(candles).equals(forecasts[model]):
            return f"{name} does not give the forecasts of model {model}"
        last = bundle.predict_last(candles)
        return "" if last == lasts[model] else f"{name} gives {last}, expected {lasts[model]}"

    for turn in count():
        try:
            if reload(turn):
                bundle = load_bundle(LIVE, registry=folder / "published")
            found = problem(bundle)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        yield found
        time.sleep(PAUSE)


ROLES = (sweeps, trainings, publishing, downloads, reads, one_bundle)


def work(role: Callable[[Path], Iterator[str]], folder: Path, stop: Event) -> None:
    """Run operations until `stop` is set, and record the state of this process."""
    logging.basicConfig(filename=folder / "log" / f"{role.__name__}.txt", level=logging.WARNING)
    written, bad = 0.0, 0
    with (folder / "log" / f"{role.__name__}.jsonl").open("w", buffering=1) as file:
        for number, problem in enumerate(role(folder), 1):
            ended = stop.is_set()
            bad += bool(problem)
            if problem or ended or time.monotonic() - written >= EVERY:
                written = time.monotonic()
                made = {"time": written, "operations": number, "bad": bad, "problem": problem}
                file.write(json.dumps(made | resources()) + "\n")
            if ended:
                return


def resources(process: int | str = "self") -> dict[str, float]:
    """Return the memory of a process in MiB, and its numbers of files, threads and children."""
    home = Path("/proc", str(process))
    pages = int((home / "statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "files": len(os.listdir(home / "fd")),  # noqa: PTH208
        "threads": len(os.listdir(home / "task")),  # noqa: PTH208
        "children": len(children(process)),
    }


def children(process: int | str) -> list[str]:
    """Return the ids of the processes that a process has started and not yet waited for."""
    tasks = Path("/proc", str(process), "task").glob("*/children")
    return [each for task in tasks for each in task.read_text().split()]


def size(path: Path) -> float:
    """Return the size of a file or of the files in a folder, MiB."""
    total = 0
    for each in (path, *path.rglob("*")):
        with suppress(OSError):
            total += each.lstat().st_size
    return total / 2**20


def samples(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what a process has recorded."""
    path = folder / "log" / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    """Run all processes, print a table, and fail if there is a leak or a bad read."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--growth", type=float, default=32.0, help="MiB that a process may grow.")
    parser.add_argument("--log", type=Path, help="Keep the samples in this folder.")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="atb-fast-soak-") as scratch:
        folder = Path(scratch)
        for name in ("log", "tmp"):
            (folder / name).mkdir()
        if given.log:
            (folder / "log").rmdir()
            given.log.mkdir(parents=True, exist_ok=True)
            (folder / "log").symlink_to(given.log.resolve())
        os.environ |= {_MARK: uuid.uuid4().hex, "TMPDIR": str(folder / "tmp")}
        os.environ |= {"ATB_FAST_CACHE": str(folder / "cache"), "NO_PROXY": "127.0.0.1"}
        print(f"{machine()}\n", flush=True)
        before = shared_memory()
        problems = run(folder, given.minutes * 60)
        problems += table(folder, given.growth) + left(folder, before)
    print("\n" + "\n".join(problems or ["no leak, no bad read, nothing left"]))
    sys.exit(1 if problems else 0)


def run(folder: Path, seconds: float) -> list[str]:
    """Run all processes for `seconds`; return what went wrong."""
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    first = spawn.Process(target=prepare, args=[folder, stop])
    first.start()
    first.join()
    if first.exitcode:
        return [f"the models cannot be trained: code {first.exitcode}"]
    running = {
        role.__name__: spawn.Process(target=work, args=[role, folder, stop]) for role in ROLES
    }
    for process in running.values():
        process.start()
    begin = time.monotonic()
    minute = 0
    with (
        (folder / "log" / "workers.jsonl").open("w", buffering=1) as workers,
        (folder / "log" / "disk.jsonl").open("w", buffering=1) as disk,
    ):
        while (passed := time.monotonic() - begin) < seconds:
            if any(process.exitcode for process in running.values()):
                break
            with suppress(OSError):  # a worker has ended in the meantime
                found = [resources(each) for each in children(running["sweeps"].pid or 0)]
                most = max((each["memory"] for each in found), default=0.0)
                sample = {"time": time.monotonic(), "memory": most, "children": len(found)}
                workers.write(json.dumps(sample) + "\n")
            sizes = {name: size(folder / name) for name in FOLDERS}
            disk.write(json.dumps({"time": time.monotonic(), **sizes}) + "\n")
            if sys.stdout.isatty() and passed // 60 > minute:
                minute = int(passed // 60)
                print(f"{minute} min: {progress(folder)}", flush=True)
            stop.wait(min(EVERY, max(0.0, seconds - passed)))
        stop.set()
        for process in running.values():
            process.join()
    return [f"{name} ended: {each.exitcode}" for name, each in running.items() if each.exitcode]


def progress(folder: Path) -> str:
    """Return the number of operations and the memory of each process."""
    last = {role.__name__: samples(folder, role.__name__)[-1:] for role in ROLES}
    return ", ".join(
        f"{name} {each['operations']} ({each['memory']:.0f} MiB, {each['bad']} bad)"
        for name, found in last.items()
        for each in found
    )


def table(folder: Path, growth: float) -> list[str]:
    """Print the first and the last tenth of each process after the warm-up; return the leaks."""
    problems = []
    keys = ("memory", "files", "threads", "children")
    print(header("process", "operations", "bad", "memory", "files", "threads", "children"))
    for role in ROLES:
        name, found = role.__name__, samples(folder, role.__name__)
        problems += [f"{name}: {each['problem']}" for each in found if each["problem"]][:5]
        ends = [{key: median(each[key] for each in part) for key in keys} for part in tenths(found)]
        if not ends:
            problems.append(f"{name} has too few samples; run for more --minutes")
            continue
        first, last = ends
        cells = [f"{first['memory']:.0f}, {last['memory']:.0f} MiB"]
        cells += [f"{first[key]:.0f}, {last[key]:.0f}" for key in keys[1:]]
        print(row(name, f"{found[-1]['operations']:,}", str(found[-1]["bad"]), *cells))
        if last["memory"] - first["memory"] > growth:
            problems.append(f"the memory of {name} grew by more than {growth:g} MiB")
        problems += [f"{name} has more {key}" for key in keys[1:] if last[key] > first[key]]
    parts = tenths(samples(folder, "workers"))
    most = [f"{max(each['memory'] for each in part):.0f}" for part in parts]
    print(f"\nLargest worker of the sweeps: {', '.join(most)} MiB.\n")
    parts = tenths(samples(folder, "disk"))
    print(header("files", "first tenth", "last tenth"))
    for name in FOLDERS:
        print(row(name, *(f"{median(each[name] for each in part):.1f} MiB" for part in parts)))
    return problems


def tenths(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the samples of the first and the last tenth of the time after the warm-up.

    A tenth without samples gets the nearest one. Empty if both would have the same samples.
    """
    if not found:
        return []
    first, last = found[0]["time"], found[-1]["time"]
    first += (last - first) / 6
    tenth = (last - first) / 10
    warm = [each for each in found if each["time"] >= first]
    begin = [each for each in warm if each["time"] <= first + tenth] or warm[:1]
    end = [each for each in warm if each["time"] >= last - tenth]
    return [begin, end] if begin[0]["time"] < end[0]["time"] else []


def shared_memory() -> set[Path]:
    """Return the shared memory and semaphores of all Python programs on this machine."""
    return {path for name in ("psm_*", "sem.*") for path in Path("/dev/shm").glob(name)}


def left(folder: Path, before: set[Path]) -> list[str]:
    """Return the temporary files, shared memory and processes that were not there before."""
    paths = [*(folder / "tmp").iterdir(), *folder.rglob(".*.tmp")]
    paths += [*folder.glob(".*-work/staging/*"), *(shared_memory() - before)]
    found = [f"left: {path}" for path in paths[:10]]
    known = {str(os.getpid()), *children("self")}  # the resource tracker of this process
    wanted = f"{_MARK}={os.environ[_MARK]}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            if wanted in path.read_bytes() and path.parent.name not in known:
                found.append(f"left: process {path.parent.name}")
    return found


if __name__ == "__main__":
    main()
