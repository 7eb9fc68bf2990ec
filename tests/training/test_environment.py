"""The machine and the working directory in the metadata."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from atb_fast.training.device import import_tensorflow
from atb_fast.training.environment import environment, git_state


def test_threads_equal_those_of_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = import_tensorflow()
    for name in ("INTRAOP", "INTEROP"):
        monkeypatch.delenv(f"TF_NUM_{name}_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert environment()["intra_op_threads"] == environment()["inter_op_threads"] == cores
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert environment()["intra_op_threads"] == 3
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 5)
    assert environment()["intra_op_threads"] == 5
    assert environment()["cpu"]


def test_the_commit_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() == {}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert git_state() == {}  # no commit yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--message", "x")
    commit = git("rev-parse", "HEAD")
    assert git_state() == {"git": {"commit": commit, "dirty": False}}
    (tmp_path / "untracked").touch()
    assert git_state() == {"git": {"commit": commit, "dirty": False}}
    (tmp_path / "file").write_text("2")
    assert git_state() == {"git": {"commit": commit, "dirty": True}}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == {}
