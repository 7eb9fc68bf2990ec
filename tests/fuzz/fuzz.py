"""Runs fuzz targets with libFuzzer: `python tests/fuzz/fuzz.py [--seconds N] [TARGET...]`.

Each target runs in its own process and prints one row: executions, covered edges of the program,
and findings, whose inputs are in build/fuzz. Linux on x86-64 only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "fuzz"
#: The targets of `rust/tests/targets.rs`.
RUST = ("zip", "csv", "columns", "merge", "evaluator")
#: Coverage of edges and comparisons, for libFuzzer. Only the sanitizer is unstable; the variable
#: RUSTC_BOOTSTRAP lets the stable compiler accept it.
_RUST_FLAGS = (
    "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
    " -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
    " -Cllvm-args=-sanitizer-coverage-pc-table"
    " -Cllvm-args=-sanitizer-coverage-trace-compares"
    " -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
    " -Zsanitizer=address -Ccodegen-units=1"
)
_TRIPLE = "x86_64-unknown-linux-gnu"
#: Seconds that one input may take, and memory in MB.
_LIMITS = ("-timeout=30", "-report_slow_units=30", "-rss_limit_mb=3000", "-max_len=32768")
#: Replacements for a value of a JSON document.
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 1e308, 2**31, 2**53, 2**63, 10**400),
    *(float("nan"), float("inf"), "", "x", "1", "2024-01-31T00:00:00+00:00", "0001-01-01", "\0"),
    *("é\ud800", "../x", "a" * 5000, [], {}, [[]], [0], [None], {"": {}}, {"kind": "x"}, [1, "a"]),
)


def main() -> int:
    """Run targets one after the other; return 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    python = sorted(path.name for path in (HERE / "corpus").iterdir() if path.name not in RUST)
    chosen = given.targets or [*RUST, *python]
    if set(chosen) & set(RUST):
        binary = _built()
    print(f"{'target':<12} {'executions':>12} {'edges':>7} {'findings':>9}", flush=True)
    failed = False
    for name in chosen:
        command = [str(binary)] if name in RUST else [sys.executable, __file__, "--inside", name]
        runs, edges, findings, ok = _run(name, command, given.seconds)
        failed |= not ok
        print(f"{name:<12} {runs:>12,} {edges:>7,} {len(findings):>9}", flush=True)
        for path in findings:
            print(f"  {path.relative_to(ROOT)}", flush=True)
        if not ok:
            print(f"  {(BUILD / name / 'log').relative_to(ROOT)} says what happened", flush=True)
    return failed


def _built() -> Path:
    target = BUILD / "target"
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--target", _TRIPLE],
        cwd=ROOT / "rust" / "fuzz",
        env=os.environ
        | {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": _RUST_FLAGS, "CARGO_TARGET_DIR": str(target)},
        check=True,
    )
    return target / _TRIPLE / "release" / "fuzz"


def _run(name: str, command: list[str], seconds: int) -> tuple[int, int, list[Path], bool]:
    """Return executions, edges, the inputs that are findings, and whether there is none."""
    folder = BUILD / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm")
    with (
        (folder / "log").open("wb") as log,
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as files,
    ):
        done = subprocess.run(
            [
                *command,
                *_LIMITS,
                f"-max_total_time={seconds}",
                "-print_final_stats=1",
                f"-artifact_prefix={folder}/",
                *(folder / "corpus", HERE / "corpus" / name),
            ],
            stdout=log,
            stderr=log,
            check=False,
            env=os.environ | {"ATB_FAST_FUZZ": name, "ATB_FAST_CACHE": files, "TMPDIR": files},
        )
    text = (folder / "log").read_text(errors="replace")
    runs = re.findall(r"^(?:#|stat::number_of_executed_units: )(\d+)", text, re.MULTILINE)
    edges = re.findall(r"cov: (\d+)", text)
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "log"]
    return int(runs[-1]) if runs else 0, int(edges[-1]) if edges else 0, found, not done.returncode


def _inside(name: str, arguments: list[str]) -> None:
    """Run one target in this process; never returns."""
    import atheris

    sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
    with atheris.instrument_imports(include=["atb_fast", "fuzz_targets"]):
        from fuzz_targets import TARGETS

    target = TARGETS[name]
    logging.disable()

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        found = changed(data, random) if random.random() < 0.7 else None
        return found if found and len(found) <= most else bytes(atheris.Mutate(data, most))

    further = {"custom_mutator": mutated} if target.json else {}
    target(b"")  # what it prepares once may take longer than an input
    atheris.Setup([name, *arguments], target, **further)
    atheris.Fuzz()


def changed(data: bytes, random: Random) -> bytes | None:
    """Return JSON, or lines of JSON, with one value changed; None if it is not JSON."""
    lines = data.split(b"\n") if data.count(b'{"id"') > 1 else [data]
    at = random.randrange(len(lines))
    head = b"" if lines[at][:1] in b"{[" else lines[at][:1]
    try:
        document = json.loads(lines[at][len(head) :])
        values = list(_values(document))
        parent, key = random.choice(values)
        other, place = random.choice(values)
        match random.randrange(8):
            case 0:
                del parent[key]
            case 1:
                parent[key] = json.loads(json.dumps(other[place]))
            case 2 if isinstance(parent, dict):
                parent[random.choice(["kind", "x", str(place)])] = parent.pop(key)
            case 3 if type(parent[key]) in (int, float):
                parent[key] = parent[key] * random.choice([-1, 2, 1000, 0.001]) + random.choice(
                    [0, 1]
                )
            case _:
                parent[key] = random.choice(_ODD)
        lines[at] = head + json.dumps(document).encode()
    except (ValueError, IndexError, RecursionError, OverflowError):
        return None
    return b"\n".join(lines)


def _values(document: Any) -> Any:
    """Yield each value of a document as the object or list that has it, and its key."""
    if isinstance(document, dict | list):
        for key in document if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _values(document[key])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        _inside(sys.argv[2], sys.argv[3:])
    sys.exit(main())
