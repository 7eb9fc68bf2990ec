"""Programs that XLA compiled are found by the next process, and only sound ones."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from seeds import seed_of_today

from atb_fast.training import compile_cache

#: Compiles one program and prints its result. The last two arguments are code.
CODE = """if True:
    import logging, os, sys
    from pathlib import Path
    from atb_fast.ingestion import maintenance
    from atb_fast.training.compile_cache import kept_programs, open_cache
    from atb_fast.training.device import import_tensorflow
    from atb_fast.training.startup import quiet, separate_stderr
    separate_stderr()
    logging.basicConfig(format="%(message)s")
    cache, threads, before, inside = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    open_cache(cache, threads=threads)
    tf = import_tensorflow()
    square = tf.function(lambda x: tf.reduce_sum(x @ x), jit_compile=True)
    exec(before)
    with quiet(), kept_programs():
        exec(inside)
        print(float(square(tf.ones((30, 30)))))
"""
#: Makes XLA say on stderr what it loads and what it has compiled.
VERBOSE = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "device_executable_persistor=1"}
LOADED, COMPILED = "Verifying loaded cache entry", "Serializing and saving cache entry"


def compile_once(
    cache: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
    *,
    threads: int = 1,
    before: str = "",
    inside: str = "",
) -> str:
    """Run CODE in a process of its own, and return what it writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(cache), str(threads), before, inside],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "27000.0\n", done.stderr
    assert done.returncode == 0
    return done.stderr


def stored(cache: Path) -> list[Path]:
    return sorted(cache.glob("compiled/*.pb"))


def test_the_next_process_loads_a_program(tmp_path: Path) -> None:
    cache = tmp_path / 'it\'s a "cache"'
    first = compile_once(cache, VERBOSE)
    assert COMPILED in first
    assert LOADED not in first
    (program,) = stored(cache)
    written = program.stat()
    second = compile_once(cache, VERBOSE)
    assert LOADED in second
    assert COMPILED not in second
    assert stored(cache) == [program]
    assert program.stat().st_ino == written.st_ino
    assert program.stat().st_mtime_ns > written.st_mtime_ns  # the last use
    assert compile_once(cache) == ""  # without XLA's false alarms

    # Removed while a process has it in memory: that process stores it again.
    before = "with kept_programs(): assert maintenance.clear(cache, compiled=True)"
    inside = "assert maintenance.stored(cache)"
    assert LOADED in compile_once(cache, VERBOSE, before=before, inside=inside)
    assert stored(cache) == [program]


def test_a_damaged_program_is_not_loaded(tmp_path: Path) -> None:
    compile_once(tmp_path)
    (path,) = stored(tmp_path)
    sound = path.rename(tmp_path / "sound").read_bytes()
    places = [*range(32), *random.Random(seed_of_today()).sample(range(32, len(sound)), 50)]
    before = f"""if True:
        path, sound = Path({str(path)!r}), (cache / "sound").read_bytes()
        def refuse(content, path=path):
            path.write_bytes(content)
            with kept_programs():
                pass
            assert not path.exists()
        for place in {places}:
            damaged = bytearray(sound)
            damaged[place] ^= 1 << place % 8
            refuse(damaged)
        for size in (0, 1, 31, 32, 33, len(sound) - 1):
            refuse(sound[:size])
        refuse(sound + bytes(1))
        refuse(sound, path.with_name(path.name.replace("__", "__1", 1)))  # of another computation
        path.write_bytes(damaged)
    """
    log = compile_once(tmp_path, VERBOSE, before=before)
    assert log.count("is damaged; compiling the program again") == len(places) + 9
    assert LOADED not in log
    assert COMPILED in log
    assert stored(tmp_path) == [path]  # compiled again
    assert LOADED in compile_once(tmp_path, VERBOSE)


@pytest.mark.parametrize("others", ["may write", "have written"])
def test_a_program_that_others_can_write_is_not_loaded(tmp_path: Path, others: str) -> None:
    if others == "have written" and os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    compile_once(tmp_path)
    (path,) = stored(tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    if others == "may write":
        path.chmod(0o620)
    else:
        os.chown(path, 12345, 12345)
    log = compile_once(tmp_path, VERBOSE)
    warning = f"files in {path.parent} can be written by other users; compiling their programs"
    assert log.count(warning) == 1
    assert LOADED not in log
    assert stored(tmp_path) == [path]
    assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (os.geteuid(), 0)
    assert LOADED in compile_once(tmp_path, VERBOSE)


def test_a_program_is_used_only_where_it_was_compiled_for(tmp_path: Path) -> None:
    compile_once(tmp_path)
    compile_once(tmp_path, threads=2)
    compile_once(tmp_path, {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"})
    flags = {"TF_XLA_FLAGS": "--tf_xla_max_cluster_size=99"}
    compile_once(tmp_path, flags)
    assert len(stored(tmp_path)) == 4
    # The environment of a child process has what `open_cache` has added.
    inherited = "print(os.environ['TF_XLA_FLAGS'], file=sys.stderr)"
    added = compile_once(tmp_path, flags, inside=inherited).strip()
    assert added.endswith(" --tf_xla_max_cluster_size=99")
    assert LOADED in compile_once(tmp_path, {"TF_XLA_FLAGS": added, **VERBOSE})
    assert len(stored(tmp_path)) == 4


def test_the_least_recently_used_programs_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    folder.mkdir()
    for age in range(5):
        path = folder / f"{age}.pb"
        with path.open("wb") as file:
            file.truncate(20 << 20)
        written = path.stat().st_mtime - 60 * age - 60
        os.utime(path, (written, written))
    (old := folder / ".old.tmp").touch()  # of a process that was killed
    os.utime(old, (1e9, 1e9))
    compile_once(tmp_path)
    left = {path.name for path in folder.iterdir()}
    assert left > {"0.pb", "1.pb", "2.pb"}
    assert len(left) == 4


@pytest.mark.parametrize("how", ["a file", "a full disk"])
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, how: str) -> None:
    limit = ""
    if how == "a file":
        (tmp_path / "compiled").write_text("")
    else:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    log = compile_once(tmp_path, inside=limit)
    (line,) = log.splitlines()
    assert line.startswith(f"compiled programs not cached: {tmp_path}/compiled cannot be written: ")
    assert not any(path.is_file() for path in tmp_path.glob("compiled/*"))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("TF_XLA_FLAGS", "flags.txt", "TF_XLA_FLAGS is the name of a file"),
        ("XLA_FLAGS", "flags.txt", "XLA_FLAGS is the name of a file"),
        ("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=x", "TF_XLA_FLAGS already sets"),
        ("TF_XLA_FLAGS", " --tf_xla_max_cluster_size=9", ""),
    ],
)
def test_flags_of_the_user_are_respected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    found = compile_cache.obstacle()
    assert found.startswith(why)
    assert bool(found) == bool(why)
