"""Output on a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exchange import Exchange

#: Makes SIGUSR1 write to file descriptor 2, as C++ code does.
_NATIVE = """
import os, signal
def write(*_):
    os.write(2, b"a native message\\n")
    {then}
signal.signal(signal.SIGUSR1, write)
"""


def fetch(
    exchange: Exchange, folder: Path, during: Callable[[int, Callable[[bytes, int], None]], None]
) -> tuple[int, list[str], list[str]]:
    """Fetch candles on a terminal, and call `during` while the bar is shown.

    `during` is called with the process ID, and with a function that waits for a text to be shown a
    number of times.

    Returns:
        The exit code, everything that was shown, and what stays visible, by line.
    """
    command = [sys.executable, "-m", "atb_fast", "data", "fetch", "BTCUSDT", "--skip-sentiment"]
    command += ["--start-date", "2019-01-01", "--end-date", "2024-12-01"]
    command += ["--cache-dir", str(folder / "cache")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    terminal, end = pty.openpty()
    shown = b""

    def wait_for(text: bytes, times: int) -> None:
        nonlocal shown
        while shown.count(text) < times:
            shown += os.read(terminal, 4096)

    # All candles but the first 1000 are held back until the bar has appeared.
    with exchange.holding(r"klines.*startTime=(?!1546300800000)", requests=2):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=end, stdin=end
        )
        os.close(end)
        wait_for(b"1000/2162", 2)
        during(process.pid, wait_for)
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # Linux reports the end of a terminal this way
            break
    os.close(terminal)
    lines = shown.decode().split("\n")
    return process.wait(), lines, [line.split("\x1b[2K")[-1].strip() for line in lines]


def test_one_progress_bar_above_which_log_lines_appear(exchange: Exchange, tmp_path: Path) -> None:
    """The bar is redrawn in place and removed at the end."""
    code, _, visible = fetch(exchange, tmp_path, lambda *_: None)
    assert code == 0
    assert not [line for line in visible if "2162" in line]
    (logged,) = [line for line in visible if "2,162" in line]
    assert logged.startswith("BTCUSDT 1d: downloaded 2,162 candles with 3 requests")


def test_messages_of_native_code_appear_above_the_bar(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NATIVE.format(then=""))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def twice(process: int, wait_for: Callable[[bytes, int], None]) -> None:
        for times in (1, 2):
            os.kill(process, signal.SIGUSR1)
            wait_for(b"a native message", times)

    code, _, visible = fetch(exchange, tmp_path, twice)
    assert code == 0
    assert visible.count("a native message") == 2


def test_the_last_messages_before_a_crash_are_shown(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NATIVE.format(then="os.abort()"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    code, lines, _ = fetch(exchange, tmp_path, lambda process, _: os.kill(process, signal.SIGUSR1))
    assert code == -signal.SIGABRT
    assert "a native message" in "".join(lines)
