"""Counts the instructions of the Rust kernels and compares them with recorded counts.

Counts do not depend on the load of the machine, so a difference of a few percent is a change of the
code. If it is intended, record the new counts with --record and commit them. Counts depend on the
compiler, so they can only be compared with those of the same compiler.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

RECORDED = Path(__file__).with_suffix(".json")
PROGRAM = Path(__file__).parents[1] / "target/release/examples/kernels"
#: Largest accepted relative change of a count.
TOLERANCE = 0.03


def count(kernel: str) -> int:
    """Return the number of instructions of a program that runs `kernel`."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, str(PROGRAM), kernel], check=False, capture_output=True, text=True
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode != 0 or found is None:
        sys.exit(f"the instructions of {kernel} could not be counted:\n{done.stderr}")
    return int(found[1].replace(",", ""))


def main() -> None:
    """Fail if the count of a kernel changed, or if counts of another compiler were recorded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--record", action="store_true", help="Record the counts instead of comparing them."
    )
    record = parser.parse_args().record
    if shutil.which("valgrind") is None:
        sys.exit("counting instructions needs valgrind; install it (apt-get install valgrind)")
    build = ["cargo", "build", "--quiet", "--release", "--no-default-features"]
    build += ["--example", "kernels", "--target-dir", "target"]
    subprocess.run(build, check=True, cwd=PROGRAM.parents[3])
    compiler = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True)
    kernels = subprocess.run([PROGRAM], check=True, capture_output=True, text=True).stdout.split()
    # The kernel `none` only makes the candles; its instructions are not part of any kernel.
    base = count(kernels[0])
    counts = {kernel: count(kernel) - base for kernel in kernels[1:]}
    now = {"compiler": compiler.stdout.strip(), "instructions": counts}
    if record:
        RECORDED.write_text(json.dumps(now, indent=2) + "\n")
        return
    before = json.loads(RECORDED.read_text())
    if before["compiler"] != now["compiler"]:
        sys.exit(
            f"found {now['compiler']}, but {RECORDED.name} was recorded with "
            f"{before['compiler']}; use that compiler, or run python benches/instructions.py "
            "--record"
        )
    if counts.keys() != before["instructions"].keys():
        sys.exit(
            f"found the kernels {', '.join(counts)}, but {RECORDED.name} has "
            f"{', '.join(before['instructions'])}; run python benches/instructions.py --record"
        )
    changed = []
    for kernel, instructions in counts.items():
        change = instructions / before["instructions"][kernel] - 1
        print(f"{kernel:8} {instructions:12,d} instructions, {change:+.2%}")
        if abs(change) > TOLERANCE:
            changed.append(kernel)
    if changed:
        sys.exit(
            f"instructions changed by more than {TOLERANCE:.0%} in: {', '.join(changed)}; if this "
            "is intended, run python benches/instructions.py --record"
        )


if __name__ == "__main__":
    main()
