"""Which start-up messages reach the terminal, with a fake TensorFlow."""

from __future__ import annotations

import gc
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atb_fast.training.startup import quick_startup

NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795527477.220431   21228 port.cc:153] oneDNN custom operations are on.
W0000 00:00:1795527477.220431   21228 computation_placer.cc:177] already registered
2026-11-24 13:00:00.000001: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
To enable the following instructions: AVX2 FMA, rebuild TensorFlow.
E0000 00:00:1795552241.200465   11338 text_format.cc:378] Error parsing text-format \
tensorflow.XlaSerializedCacheEntry: 2:1: Expected identifier, got: 4
E0000 00:00:1795552241.202200   11338 cpu_aot_loader.cc:220] Loading XLA:CPU AOT result. Target \
machine feature +prefer-no-scatter is not  supported on the host machine.
"""
ERROR = """\
E0000 00:00:1795527477.220431   21228 cuda_driver.cc:152] failed call to cuInit
E0000 00:00:1795552241.202200   11338 cpu_aot_loader.cc:220] Loading XLA:CPU AOT result. Target \
machine feature +avx512f is not  supported on the host machine.
"""


def doctor(folder: Path, tensorflow: str) -> subprocess.CompletedProcess[str]:
    """Run `atb-fast doctor` with this source code in place of TensorFlow."""
    (folder / "tensorflow.py").write_text(tensorflow)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "atb_fast", "doctor"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_only_noise_is_dropped_when_the_import_fails(tmp_path: Path) -> None:
    written = f"import os; os.write(2, {NOISE + ERROR + NOISE!r}.encode() + b'no newline')"
    done = doctor(tmp_path, f"{written}; raise ImportError('libfoo.so is missing')")
    assert done.stderr.startswith(ERROR + "no newline")
    assert "oneDNN" not in done.stderr
    assert "absl" not in done.stderr
    assert "libfoo.so is missing" in done.stdout
    assert done.returncode == 7


def test_the_messages_of_a_crash_are_shown(tmp_path: Path) -> None:
    fatal = f"F{ERROR[1:]}"
    done = doctor(tmp_path, f"import os; os.write(2, {NOISE + fatal!r}.encode()); os.abort()")
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == fatal


def test_the_user_can_ask_for_the_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    done = doctor(tmp_path, f"import os; os.write(2, {NOISE!r}.encode()); raise ImportError")
    assert done.stderr.startswith(NOISE)


def test_other_threads_still_write_to_the_terminal() -> None:
    """A log line of exactly the form that is dropped from C++ code arrives, on a terminal."""
    code = f"""if True:
        import logging, os, sys, threading
        from atb_fast.training.startup import quiet, separate_stderr
        separate_stderr()
        logging.basicConfig(format="%(message)s")
        with quiet():
            os.write(2, {NOISE!r}.encode())
            line = "I0000 00:00:00.0 1 a.cc:1] on a terminal: %s"
            logger = threading.Thread(target=logging.error, args=(line, sys.stderr.isatty()))
            logger.start()
            logger.join()
        os.write(2, b"afterwards")
    """
    terminal, end = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stderr=end, check=True)
        os.set_blocking(terminal, False)
        shown = os.read(terminal, 10_000).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert shown == "I0000 00:00:00.0 1 a.cc:1] on a terminal: True\r\nafterwards"


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_is_collected_again_after_the_import(fails: bool) -> None:
    code = f"""if True:
        import gc, sys
        from contextlib import suppress
        from atb_fast.training.startup import quick_startup, separate_stderr
        separate_stderr()
        class Ring:
            pass
        with suppress(ImportError), quick_startup():
            assert not gc.isenabled()
            assert sys.modules["sklearn"] is None
            if {fails}:
                raise ImportError
        assert gc.isenabled()
        assert "sklearn" not in sys.modules
        ring = Ring()
        ring.itself = ring
        del ring
        assert gc.collect() >= 1
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_program_keeps_its_garbage_collection() -> None:
    with quick_startup():  # pytest writes to stderr
        assert gc.isenabled()
        assert sys.modules.get("scipy", sys) is not None


PROGRAM = """
import os, sys
if "before" in sys.argv:
    import tensorflow
from atb_fast.training.device import import_tensorflow
import_tensorflow()
print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"), import_tensorflow().level)
"""
TENSORFLOW = f"""
import os, sys
os.write(2, {NOISE + ERROR!r}.encode())
level = "INFO"
class get_logger:
    def setLevel(self, name):
        sys.modules["tensorflow"].level = name
"""
KERAS = "class backend:\n    backend = staticmethod(lambda: 'tensorflow')\n"


@pytest.mark.parametrize(
    ("given", "before", "shown", "left"),
    [
        (None, [], ERROR, "2 ERROR"),
        ("0", [], NOISE + ERROR, "0 ERROR"),
        (None, ["before"], NOISE + ERROR, "None INFO"),
    ],
)
def test_another_program_is_quiet_unless_it_imports_tensorflow_itself(
    given: str | None, before: list[str], shown: str, left: str, tmp_path: Path
) -> None:
    (tmp_path / "tensorflow.py").write_text(TENSORFLOW)
    (tmp_path / "keras.py").write_text(KERAS)
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", *before],
        env=environment | ({"TF_CPP_MIN_LOG_LEVEL": given} if given else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stderr, done.stdout) == (shown, f"{left}\n")
