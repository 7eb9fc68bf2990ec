"""The report of a real run, and a run without the package that writes it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = [
    *("--source", "sample", "--timeframe", "1d", "--start-date", "2023-01-01"),
    *("--end-date", "2023-12-31", "--sequence-length", "20", "--epochs", "1", "--engine", "keras"),
    *("--skip-onnx", "--skip-robustness", "--registry", "models", "--json"),
]


@pytest.mark.parametrize("broken", [False, True], ids=["installed", "missing"])
def test_a_run_needs_no_jinja2(
    tmp_path: Path, atb_fast: Run, new_process: Run, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    if broken:
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "jinja2.py").write_text("raise ImportError('no jinja2')")
        paths = [str(tmp_path / "broken"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    run = new_process if broken else atb_fast  # which has imported Jinja2 already
    done = run("train", "model", "BTCUSDT", *QUICK)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / json.loads(done.stdout)["paths"]["bundle"]
    assert (bundle / "training.png").is_file()
    assert (bundle / "report.html").exists() != broken
    failures = json.loads((bundle / "metadata.json").read_text())["diagnostic_failures"]
    assert failures == ({"report": "ImportError: no jinja2"} if broken else {})
    assert ("report failed" in done.stderr) == broken
