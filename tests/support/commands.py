"""Runs the command line in forked processes, which saves the time of imports.

A server imports TensorFlow and everything else once, then forks for each command. A command is
still a process with its own exit code, streams, directory and environment. The server itself only
imports, because a process that has used Polars or TensorFlow must not fork.

`injecting` makes commands fail. A process that a command starts reads its fault from the variable
WORKER_FAULT, because it imports this module as the main module of its parent.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import injecting


class CommandLine:
    """Runs commands one at a time; the server is started on first use.

    Args:
        environment: Variables of the commands, in addition to those of this process.
        small_steps: Whether downloads have small pieces and short pauses. The server, which
            imports TensorFlow, then prints nothing.
        patience: Seconds after which a command counts as hung; None for never.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        small_steps: bool = False,
        patience: float | None = None,
    ) -> None:
        self._environment = environment or {}
        self._options = ["small_steps"] if small_steps else []
        self._patience = patience
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, *arguments: str | Path, cwd: Path, file_size: int | None = None, **fault: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `atb-fast` with `arguments` in `cwd` and with the environment of this process.

        Args:
            arguments: Without the name of the program.
            cwd: Where it runs.
            file_size: Limit in bytes; writing beyond it fails as on a full disk.
            fault: See `injecting.arm`; no fault by default.
        """
        return self.run_at_once([arguments], cwd=cwd, file_size=file_size, faults=[fault])[0]

    def run_at_once(
        self,
        commands: Sequence[Sequence[str | Path]],
        *,
        cwd: Path,
        file_size: int | None = None,
        faults: Sequence[Mapping[str, Any]] = (),
    ) -> list[subprocess.CompletedProcess[str]]:
        """Run several commands at the same time; see `run`.

        Raises:
            TimeoutError: One of them hangs. All have been killed.
        """
        written = [list(map(str, arguments)) for arguments in commands]
        given = [*faults, *({} for _ in written)][: len(written)]
        with tempfile.TemporaryDirectory() as folder:
            streams = [
                [Path(folder, f"{name}{number}") for name in ("stdout", "stderr")]
                for number in range(len(written))
            ]
            codes = self._ask(
                [
                    {
                        "arguments": command,
                        "cwd": str(cwd),
                        "environment": os.environ | self._environment,
                        "streams": list(map(str, outputs)),
                        "file_size": file_size,
                        "fault": dict(fault),
                    }
                    for command, outputs, fault in zip(written, streams, given, strict=True)
                ]
            )
            texts = [[output.read_text() for output in outputs] for outputs in streams]
        return [
            subprocess.CompletedProcess(["atb-fast", *command], code, *text)
            for command, code, text in zip(written, codes, texts, strict=True)
        ]

    def _ask(self, jobs: Sequence[Mapping[str, Any]]) -> list[int]:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__, *self._options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if self._options else None,
                text=True,
                start_new_session=True,
            )
        assert self._server.stdin
        assert self._server.stdout
        try:
            self._server.stdin.write(json.dumps(jobs) + "\n")
            self._server.stdin.flush()
            if select.select([self._server.stdout], [], [], self._patience)[0]:
                codes: list[int] = json.loads(self._server.stdout.readline())
                return codes
        except BaseException:  # such as a test's timeout; the next command gets a new server
            self.close()
            raise
        self.close()
        raise TimeoutError(f"no end after {self._patience} s: {jobs[0]['arguments']}")

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
    injecting.arm(**job["fault"])
    sys.argv = ["atb-fast", *job["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
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

    import atb_fast.cli.main  # noqa: F401
    from atb_fast.ingestion import fetch
    from atb_fast.ingestion.exchange import http

    if "small_steps" in sys.argv:
        fetch.CHUNK_ROWS = 480
        http.FIRST_PAUSE = 0.005
    for line in sys.stdin:
        children = []
        for job in json.loads(line):
            children.append(os.fork())
            if children[-1] == 0:
                _work(job)  # never returns
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    _serve()
elif __name__ == "__mp_main__":
    injecting.arm(**json.loads(os.environ.get("WORKER_FAULT", "{}")))
