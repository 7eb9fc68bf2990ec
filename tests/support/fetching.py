"""Forks a download or a repair for every job on stdin.

It kills the process or limits its file sizes on request.

A separate process, because a process that has used Polars must not fork: this one only imports.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from datetime import date
from pathlib import Path
from typing import Any

import atb_fast.ingestion.exchange.session  # noqa: F401 - once for all forks
from atb_fast.errors import AtbFastError
from atb_fast.ingestion import fetch, maintenance
from atb_fast.ingestion.exchange import http


def work(job: dict[str, Any]) -> int:
    if job["room"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["room"], job["room"]))
    fetcher = fetch.Fetcher(
        cache_dir=Path(job["cache"]), force_refresh=job["refresh"], now=lambda: job["now"]
    )
    try:
        if job["repair"]:
            errors = maintenance.repair(fetcher.cache_dir, fetcher).errors
            return errors[-1].exit_code if errors else 0
        first, last = (date.fromisoformat(job[name]) for name in ("first", "last"))
        fetcher.candles("BTCUSDT", "1h", first, last)
        fetcher.sentiment(last)
    except AtbFastError as error:
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def main() -> None:
    fetch.CHUNK_ROWS = 480
    http.FIRST_PAUSE = 0.005
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(work(job))
        if job["kill_after"] is not None:
            time.sleep(job["kill_after"])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
