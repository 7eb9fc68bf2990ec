"""Counts the instructions of the Rust kernels and compares them with the recorded ones.

Counts do not depend on how busy the machine is, so a few per cent are a change of the code: a
kernel got slower, or faster, and then its counts are to be recorded (--record) and committed. Each
compiler has its own counts, so this runs only with the one that they were recorded with.
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
#: Share by which a kernel may change.
TOLERANCE = 0.03


def count(kernel: str) -> int:
    """Return the instructions of the program that runs `kernel`."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, str(PROGRAM), kernel], check=False, capture_output=True, text=True
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode != 0 or found is None:
        sys.exit(f"counting {kernel} failed:\n{done.stderr}")
    return int(found[1].replace(",", ""))


def main() -> None:
    """Count, compare, and fail if a kernel changed or the counts are of another compiler."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--record", action="store_true", help="Write the counts instead.")
    record = parser.parse_args().record
    if shutil.which("valgrind") is None:
        sys.exit("counting instructions needs valgrind; install it (apt-get install valgrind)")
    build = ["cargo", "build", "--quiet", "--release", "--no-default-features"]
    build += ["--example", "kernels", "--target-dir", "target"]
    subprocess.run(build, check=True, cwd=PROGRAM.parents[3])
    compiler = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True)
    kernels = subprocess.run([PROGRAM], check=True, capture_output=True, text=True).stdout.split()
    # What is not the kernel: making the candles.
    base = count(kernels[0])
    counts = {kernel: count(kernel) - base for kernel in kernels[1:]}
    now = {"compiler": compiler.stdout.strip(), "instructions": counts}
    if record:
        RECORDED.write_text(json.dumps(now, indent=2) + "\n")
        return
    before = json.loads(RECORDED.read_text())
    if before["compiler"] != now["compiler"]:
        sys.exit(
            f"{RECORDED.name} was recorded with {before['compiler']}, this is {now['compiler']}; "
            "run: python benches/instructions.py --record"
        )
    if counts.keys() != before["instructions"].keys():
        sys.exit(f"{RECORDED.name} has other kernels: {', '.join(before['instructions'])}")
    changed = []
    for kernel, instructions in counts.items():
        change = instructions / before["instructions"][kernel] - 1
        print(f"{kernel:8} {instructions:12,d} instructions, {change:+.2%}")
        if abs(change) > TOLERANCE:
            changed.append(kernel)
    if changed:
        sys.exit(f"more than {TOLERANCE:.0%} more or fewer instructions in: {', '.join(changed)}")


if __name__ == "__main__":
    main()
