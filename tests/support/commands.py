"""Runs the command line in forked processes, which saves the time of imports.

A server imports TensorFlow and everything else once, then forks for each command. A command is
still a process with its own exit code, streams, directory and environment. The server itself only
imports, because a process that has used Polars or TensorFlow must not fork.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn


class CommandLine:
    """Runs commands one at a time; the server is started on first use."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, *arguments: str | Path, cwd: Path, file_size: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `atb-fast` with `arguments` in `cwd` and with the environment of this process.

        Args:
            arguments: Without the name of the program.
            cwd: Where it runs.
            file_size: Limit in bytes; writing beyond it fails as on a full disk.
        """
        command = list(map(str, arguments))
        with tempfile.TemporaryDirectory() as folder:
            streams = [Path(folder, name) for name in ("stdout", "stderr")]
            code = self._ask(
                {
                    "arguments": command,
                    "cwd": str(cwd),
                    "environment": dict(os.environ),
                    "streams": list(map(str, streams)),
                    "file_size": file_size,
                }
            )
            stdout, stderr = (stream.read_text() for stream in streams)
        return subprocess.CompletedProcess(["atb-fast", *command], code, stdout, stderr)

    def _ask(self, job: dict[str, Any]) -> int:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._server.stdin
        assert self._server.stdout
        try:
            self._server.stdin.write(json.dumps(job) + "\n")
            self._server.stdin.flush()
            return int(self._server.stdout.readline())
        except BaseException:  # such as a test's timeout; the next command gets a new server
            self.close()
            raise

    def close(self) -> None:
        """Kill the server and the command it runs."""
        server, self._server = self._server, None
        if server:
            with server:
                os.killpg(server.pid, signal.SIGKILL)


def _work(job: dict[str, Any]) -> NoReturn:
    from atb_fast.cli.main import main

    for number, path in enumerate(job["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    if job["file_size"] is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    sys.argv = ["atb-fast", *job["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # A regular exit would wait for TensorFlow's threads, which do not exist after a fork.
        os._exit(code)


def _serve() -> None:
    from atb_fast.training.device import import_tensorflow

    import_tensorflow()  # first, because it sets what TensorFlow logs
    import onnxruntime  # noqa: F401
    import tf2onnx  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(job)  # never returns
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
