"""Output on a real terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from exchange import Exchange


def test_one_progress_bar_above_which_log_lines_appear(exchange: Exchange, tmp_path: Path) -> None:
    """The bar is redrawn in place and removed at the end."""
    command = [sys.executable, "-m", "atb_fast", "data", "fetch", "BTCUSDT", "--skip-sentiment"]
    command += ["--start-date", "2019-01-01", "--end-date", "2024-12-01"]
    command += ["--cache-dir", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    terminal, end = pty.openpty()
    shown = b""
    # All candles but the first 1000 are held back until the bar has appeared.
    with exchange.holding(r"klines.*startTime=(?!1546300800000)", requests=2):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=end, stdin=end
        )
        os.close(end)
        while shown.count(b"1000/2162") < 2:
            shown += os.read(terminal, 4096)
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # Linux reports the end of a terminal this way
            break
    os.close(terminal)
    assert process.wait() == 0
    lines = shown.decode().split("\n")
    final = [line.split("\x1b[2K")[-1].strip() for line in lines]  # what stays visible
    assert not [line for line in final if "2162" in line]
    (logged,) = [line for line in final if "2,162" in line]
    assert logged.startswith("BTCUSDT 1d: downloaded 2,162 candles with 3 requests")
