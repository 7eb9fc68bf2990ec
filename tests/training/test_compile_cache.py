"""Programs that XLA compiled are found by the next process, and only sound ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Compiles one program, and prints its result and whether XLA found a stored one.
CODE = """if True:
    import logging, os, sys
    from pathlib import Path
    from atb_fast.training import compile_cache
    from atb_fast.training.device import import_tensorflow
    from atb_fast.training.startup import quiet, separate_stderr
    separate_stderr()
    logging.basicConfig(format="%(message)s")
    cache, threads = Path(sys.argv[1]), int(sys.argv[2])
    compile_cache.open_cache(cache, threads=threads)
    own, = cache.glob(f"compiled/.{os.getpid()}-*")
    before = {path: path.stat().st_ino for path in own.glob("*.pb")}
    tf = import_tensorflow()
    with quiet():
        square = tf.function(lambda x: tf.reduce_sum(x @ x), jit_compile=True)
        print(float(square(tf.ones((30, 30)))))
    compile_cache.store()
    after = {path: path.stat().st_ino for path in own.glob("*.pb")}
    print("found" if after and after == before else "compiled")
    if len(sys.argv) > 3:
        os.kill(os.getpid(), 9)
"""


def compile_once(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run CODE in a process of its own."""
    command = [sys.executable, "-c", CODE, str(cache), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("compiled/[!.]*/*.pb"))


def test_the_next_process_finds_a_program(tmp_path: Path) -> None:
    first = compile_once(tmp_path, 1, "killed at the end")
    assert first.stdout == "27000.0\ncompiled\n"
    assert first.stderr == ""
    (program,) = stored(tmp_path)
    abandoned = list(tmp_path.glob("compiled/.*-*/"))
    assert len(abandoned) == 1

    second = compile_once(tmp_path, 1)
    assert second.stdout == "27000.0\nfound\n"
    assert second.stderr == ""  # XLA's false alarms are not shown
    assert stored(tmp_path) == [program]
    assert not abandoned[0].exists()

    content = bytearray(program.read_bytes())
    content[len(content) // 2] ^= 1
    program.write_bytes(content)
    damaged = compile_once(tmp_path, 1)
    assert damaged.stdout == "27000.0\ncompiled\n"
    assert damaged.stderr == f"{program} is damaged and was removed\n"
    assert stored(tmp_path) == [program]  # compiled again


def test_programs_for_another_number_of_threads_are_not_used(tmp_path: Path) -> None:
    assert compile_once(tmp_path, 1).stdout.endswith("compiled\n")
    assert compile_once(tmp_path, 2).stdout.endswith("compiled\n")
    assert len({path.parent for path in stored(tmp_path)}) == 2


def test_the_least_recently_used_programs_are_removed(tmp_path: Path) -> None:
    other = tmp_path / "compiled" / "another machine"
    other.mkdir(parents=True)
    for age in range(5):
        path = other / f"{age}.pb"
        with path.open("wb") as file:
            file.truncate(20 << 20)
        os.utime(path, (1e9 - age, 1e9 - age))
    assert compile_once(tmp_path, 1).returncode == 0
    assert [path.name for path in stored(tmp_path) if path.parent == other] == [
        "0.pb",
        "1.pb",
        "2.pb",
    ]
    assert len(stored(tmp_path)) == 4


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "compiled").write_text("a file")
    done = subprocess.run(
        [sys.executable, "-c", CODE.partition("    own,")[0], str(tmp_path), "1"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("compiled programs are not stored: ")
