"""Sixty faults, with a new seed every day; `make faults N=1000` injects more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from seeds import seed_of_today


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and mounts file systems")
@pytest.mark.timeout(3600)
def test_every_fault_is_survived() -> None:
    command = [sys.executable, str(Path(__file__).parent), "--number", "60"]
    done = subprocess.run(
        [*command, "--seed", str(seed_of_today())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0
