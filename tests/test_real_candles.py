"""Where tests with real candles are expected to run, they are never skipped by accident."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS_CANDLES = "tests/ingestion/test_files.py::test_real_candles_pass"


@pytest.mark.parametrize(
    ("ci", "shared", "outcome"),
    [("true", "nowhere", "1 error"), ("true", "none", "1 skipped"), ("", "nowhere", "1 skipped")],
)
def test_without_real_candles(ci: str, shared: str, outcome: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", NEEDS_CANDLES],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "CI": ci, "ATB_FAST_SHARED": shared},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout, done.stdout
    assert f"no real candles in {shared}; set ATB_FAST_SHARED to the folder" in done.stdout
