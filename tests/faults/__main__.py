"""Injects faults, and prints how many of each kind were survived; see docs/reliability.md.

    python tests/faults --number 60 --seed 7
    python tests/faults --seed 7 --only 12

Exits with 1 if a fault was not survived, or if fewer than half of them took effect.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

#: Set in the process that may mount file systems, because it has its own namespace.
_INSIDE = "FAULTS_INSIDE"


def _enter_namespace() -> None:
    """Start this program again in a namespace where it may mount file systems, if possible."""
    unshare = shutil.which("unshare")
    tried = unshare and subprocess.run(
        [unshare, "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"],
        capture_output=True,
        check=False,
    )
    inside = bool(tried and tried.returncode == 0)
    os.environ[_INSIDE] = str(int(inside))
    start = [unshare, "--map-root-user", "--mount"] if unshare and inside else []
    command = [*start, sys.executable, *sys.orig_argv[1:]]
    os.execvp(command[0], command)


if __name__ == "__main__" and _INSIDE not in os.environ:
    _enter_namespace()
sys.path[:0] = [str(Path(__file__).parents[1] / "support")]
from seeds import seed_of_today  # noqa: E402 - before the next line removes the variable

for _name in [name for name in os.environ if name.startswith("ATB_FAST_")]:
    del os.environ[_name]  # the user's settings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import worlds  # noqa: E402
from kinds import KINDS, Kind  # noqa: E402
from oracle import Case  # noqa: E402

WORKERS = 2


@dataclass(frozen=True)
class Result:
    """The result of a fault; `problem` is empty if the fault was survived."""

    number: int
    kind: str
    place: str
    struck: bool
    problem: str
    seconds: float


def plan(seed: int) -> Iterator[tuple[int, Kind, str]]:
    """Yield the number, the kind and the place of each fault: all kinds in turn."""
    places = {kind.name: _places(seed, kind) for kind in KINDS}
    for number, kind in enumerate(itertools.cycle(KINDS), 1):
        yield number, kind, next(places[kind.name])


def _places(seed: int, kind: Kind) -> Iterator[str]:
    """Yield all places in random order, repeatedly."""
    for turn in itertools.count():
        places = list(kind.places)
        random.Random(f"{seed} {kind.name} {turn}").shuffle(places)
        yield from places


class Workers:
    """Injects faults, each worker with its own command line, exchange and folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._own = threading.local()
        self._tools: list[worlds.Tools] = []
        self.world = worlds.World(folder / "world" / "home")

    def build(self) -> None:
        """Build the world."""
        self.world.build(self._mine()[0])
        _ = self.world.contents, self.world.records, self.world.predictions

    def _mine(self) -> tuple[worlds.Tools, Path]:
        if not hasattr(self._own, "tools"):
            self._own.tools = worlds.tools(self.world.truth, self.world.index)
            self._tools.append(self._own.tools)
            self._own.folder = self._folder / f"worker{len(self._tools)}" / "home"
        return self._own.tools, self._own.folder

    def inject(self, number: int, kind: Kind, place: str, *, tell: bool) -> Result:
        """Inject a fault and return the result."""
        tools, folder = self._mine()
        began = time.perf_counter()
        rng = random.Random(f"{self._seed} {number}")
        case = Case(self.world, self.world.copy(folder), tools, rng, [])
        case.report.unlink(missing_ok=True)
        struck, problem = True, ""
        try:
            struck = kind.strike(case, place)
        except worlds.Lost as lost:
            problem = str(lost)
        except Exception:
            problem = traceback.format_exc()
        if problem or tell:
            for done in case.story:
                print(f"$ {' '.join(done.args)}\n[{done.returncode}] {done.stderr.strip()[-2000:]}")
        return Result(number, kind.name, place, struck, problem, time.perf_counter() - began)

    def close(self) -> None:
        """Stop everything."""
        for tools in self._tools:
            tools.close()


def table(results: Sequence[Result], *, by_place: bool) -> Iterator[str]:
    """Yield the lines of a table with a row for each kind, or for each place of a kind."""
    rows: dict[str, Counter[str]] = {}
    for each in results:
        for name in (f"{each.kind}, {each.place}" if by_place else each.kind, "all"):
            row = rows.setdefault(name, Counter())
            row.update(tried=1, struck=each.struck)
            row.update(survived=not each.problem, lost=bool(each.problem))
    width = max(map(len, rows), default=0)
    yield f"{'fault':{width}}  tried  took effect  survived  lost"
    for name in sorted(rows, key=lambda name: (name == "all", name)):
        counts = (rows[name][key] for key in ("tried", "struck", "survived", "lost"))
        yield "{:{}}  {:5}  {:11}  {:8}  {:4}".format(name, width, *counts)


def main() -> int:
    """Run the command."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, nargs="*", default=[], help="numbers of faults")
    given = parser.parse_args()
    seed = seed_of_today() if given.seed is None else given.seed
    chosen = list(itertools.islice(plan(seed), max([given.number, *given.only])))
    chosen = [each for each in chosen if not given.only or each[0] in given.only]
    if os.environ.pop(_INSIDE) != "1":
        left_out = sorted({kind.name for _, kind, _ in chosen if kind.mounts})
        print(f"not run, because unshare --map-root-user --mount failed: {', '.join(left_out)}")
        chosen = [each for each in chosen if not each[1].mounts]
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    workers = Workers(folder, seed)
    results: list[Result] = []
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            pool.submit(workers.build).result()
            tell = bool(given.only)
            futures = [pool.submit(workers.inject, *each, tell=tell) for each in chosen]
            for future in futures:
                each = future.result()
                results.append(each)
                state = "lost" if each.problem else "survived" if each.struck else "no effect"
                print(f"{each.number:5}  {each.kind}, {each.place}: {state} ({each.seconds:.1f} s)")
                if each.problem:
                    print(each.problem)
                    print(f"to repeat it: make faults SEED={seed} ONLY={each.number}")
    finally:
        workers.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(*table(results, by_place=True), "", *table(results, by_place=False), sep="\n")
    print(f"seed {seed}; to repeat the fault with a number: make faults SEED={seed} ONLY=NUMBER")
    few = not given.only and 2 * sum(each.struck for each in results) < len(results)
    if few:
        print("fewer than half of the faults took effect, so this result means little")
    return int(few or any(each.problem for each in results))


if __name__ == "__main__":
    sys.exit(main())
