"""How the program ends: at once, with everything written and the exit code of the command."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: The program, with buffered output, and a thread that a regular exit would wait for.
CODE = """
import sys, threading
from atb_fast.cli.main import main
threading.Thread(target=threading.Event().wait).start()
sys.stdout.write("first line\\n")
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "written"),
    [
        (["completion", "bash"], 0, ("_ATB_FAST_COMPLETE", "")),
        (["--version"], 0, ("atb-fast", "")),
        (["completion", "csh"], 2, ("", "csh")),
        (["models", "show", "BTCUSDT"], 9, ("", "error: ")),
    ],
)
def test_the_program_ends_without_its_threads(
    arguments: list[str], code: int, written: tuple[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith("first line\n")
    for output, text in zip((done.stdout, done.stderr), written, strict=True):
        assert text in output
