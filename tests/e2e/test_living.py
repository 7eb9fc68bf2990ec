"""Several symbols, interrupts, `doctor` and completion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import pytest

from atb_fast.training import compile_cache

Run = Callable[..., "subprocess.CompletedProcess[str]"]

QUICK = [
    *("--source", "sample", "--start-date", "2024-01-01", "--epochs", "1", "--sequence-length"),
    *("20", "--engine", "keras", "--skip-onnx", "--skip-plots", "--skip-robustness"),
]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """New programs do not ignore SIGHUP, even if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_failed_symbol_does_not_stop_the_others(
    tmp_path: Path, atb_fast: Run, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow says so on any processor
    daily.tail(300).write_parquet(tmp_path / "BTCUSDT.parquet")
    options = [*QUICK[4:], "--candles", "{symbol}.parquet", "--force-price-only"]
    (tmp_path / "atb-fast.toml").write_text("[train]\nregistry = 'models'\n")
    done = atb_fast("train", "model", "ETHUSDT", "BTCUSDT", "SOLUSDT", *options, "--json")
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1] == "error: 2 of 3 symbols failed: ETHUSDT, SOLUSDT"
    eth, btc, sol = json.loads(done.stdout)
    assert eth == {
        "symbol": "ETHUSDT",
        "failure": "ETHUSDT.parquet: no such file; check the path",
        "exit_code": 3,
    }
    assert sol["symbol"] == "SOLUSDT"
    assert btc["epochs"] == 1
    metadata = json.loads(Path(tmp_path, btc["paths"]["metadata.json"]).read_text())
    assert metadata["symbol"] == "BTCUSDT"
    assert "ETHUSDT: error: ETHUSDT.parquet: no such file; check the path" in done.stderr
    first, *logged = done.stderr.splitlines()[:-1]
    assert first.startswith("settings: ATB_FAST_CACHE, atb-fast.toml")
    assert all(line.startswith(("ETHUSDT: ", "BTCUSDT: ", "SOLUSDT: ")) for line in logged)


def test_several_symbols_without_json(tmp_path: Path, atb_fast: Run) -> None:
    options = [*QUICK, "--registry", "models", "--jobs", "2"]
    done = atb_fast("train", "model", "btcusdt", "ETHUSDT", *options)
    assert done.returncode == 0, done.stderr
    *results, title, details = done.stdout.splitlines()
    lines = [line.split() for line in results if "USDT" in line]
    assert [line[0] for line in lines] == ["BTCUSDT", "ETHUSDT", "BTCUSDT:", "ETHUSDT:"]
    for numbers, where in (lines[::2], lines[1::2]):
        assert len(numbers) == 5
        assert numbers[3] == "1"
        assert where[1:-1] == ["not", "published,", "kept", "in:"]
        assert (tmp_path / where[-1]).name.startswith(f"{numbers[0]}_sentiment")
        assert (tmp_path / where[-1] / "model.keras").is_file()
    assert title == "next steps, for example for BTCUSDT:"
    assert details.split() == ["details", "atb-fast", "models", "show", lines[2][-1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BTCUSDT", "btcusdt"], "BTCUSDT is given twice"),
        (["BTCUSDT", "ETH/USDT"], "symbol is 'ETH/USDT'"),
        (["BTCUSDT", "ETHUSDT", "--candles", "x.csv"], "is one file, but 2 symbols are given"),
        (["BTCUSDT", "ETHUSDT", "--jobs", "0"], "0 is not in the range x>=1"),
    ],
)
def test_nothing_is_trained_if_one_symbol_is_invalid(
    atb_fast: Run, arguments: list[str], message: str
) -> None:
    done = atb_fast("train", "model", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "TensorFlow" not in done.stderr


@contextmanager
def _two_trainings(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Start two trainings in a new process group, as a shell does, and wait until both train."""
    command = [sys.executable, "-m", "atb_fast", "train", "model", "BTCUSDT", "ETHUSDT", *QUICK]
    command += ["--epochs", "10000", "--patience", "10000", "--registry", "models", "--jobs", "2"]
    with subprocess.Popen(
        command, cwd=home, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        begun: set[str] = set()
        for line in process.stderr:
            if "CPU: " in line or "GPU: " in line:
                begun.add(line.partition(":")[0])
            if len(begun) == 2:
                break
        assert process.poll() is None
        yield process


def _wait_for_end_of_group(group: int) -> None:
    """Wait until no process of the group is left; the timeout of the test is the limit."""
    with suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "everybody"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)],
    ids=["ctrl-c", "kill", "closed terminal"],
)
def test_an_interrupt_ends_all_processes(
    tmp_path: Path, number: signal.Signals, everybody: bool
) -> None:
    with _two_trainings(tmp_path) as process:
        if everybody:  # a terminal sends its signals to the whole group
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, rest = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in rest
    hint = "the same command with --resume continues where each symbol stopped"
    assert rest.splitlines()[-1] == f"error: interrupted; {hint}"
    _wait_for_end_of_group(process.pid)
    assert list((tmp_path / "models").rglob("*")) == []


#: Sends a signal to its own process from a finalizer, when that process imports Polars.
_BUSY_FINALIZER = """
import multiprocessing, os, sys
class Busy:
    def __del__(self):
        os.kill(os.getpid(), {number})
        for _ in range(100_000):
            pass
def hook(event, arguments):
    if event == "import" and arguments[0] == "polars" and {where}:
        Busy()
sys.addaudithook(hook)
"""


def _at_startup(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Python run `code` at its start, in this process' children and in theirs."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    _import_first(folder, monkeypatch)


def _import_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_in_a_finalizer_is_not_lost(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Python prints exceptions of finalizers, and then ignores them."""
    code = _BUSY_FINALIZER.format(number=int(number), where=True)
    _at_startup(tmp_path / "startup", code, monkeypatch)
    done = new_process("train", "model", "BTCUSDT", *QUICK, "--registry", "models")
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


def test_an_interrupt_in_a_finalizer_ends_a_child(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "multiprocessing.parent_process()"
    code = _BUSY_FINALIZER.format(number=int(signal.SIGTERM), where=where)
    _at_startup(tmp_path / "startup", code, monkeypatch)
    options = [*QUICK, "--registry", "models", "--jobs", "2"]
    done = new_process("train", "model", "BTCUSDT", "ETHUSDT", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BTCUSDT: error: the process was interrupted" in done.stderr.splitlines()
    assert "ETHUSDT: error: the process was interrupted" in done.stderr.splitlines()


def test_nohup_protects_from_a_closed_terminal(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = _BUSY_FINALIZER.format(number=int(signal.SIGHUP), where=True)
    _at_startup(
        tmp_path / "startup", f"import signal\nsignal.signal(1, signal.SIG_IGN){code}", monkeypatch
    )
    done = new_process("data", "ls")
    assert done.returncode == 0, done.stderr


def test_an_interrupt_while_python_imports_the_program(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "click.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)"
    )
    _import_first(tmp_path / "first", monkeypatch)
    done = new_process("models", "ls")
    assert done.returncode == 130
    assert done.stderr == "error: interrupted\n"


@pytest.mark.parametrize(
    "arguments", [["config", "show"], ["--help"], ["train", "model", "--help"], ["doctor"]]
)
def test_a_reader_may_end_early(tmp_path: Path, arguments: list[str]) -> None:
    """As in `atb-fast config show | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "atb_fast", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""


def test_the_reader_of_the_log_may_end_early(tmp_path: Path) -> None:
    """As in `atb-fast check leak BTCUSDT 2>&1 >leaks.txt | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "atb_fast", "check", "leak", "BTCUSDT", "--json"]
    options = ["--source", "sample", "--start-date", "2021-01-01", "--recipe", "causal"]
    done = subprocess.run(
        [*command, *options, "--cuts", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=writer,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0
    assert json.loads(done.stdout)["leaks"] == []


def _without_stdout(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atb_fast", *arguments]
    return subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        cwd=home,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_stdout_may_be_closed(tmp_path: Path) -> None:
    done = _without_stdout(tmp_path, "models", "ls", "--registry", "gone")
    assert done.returncode == 6
    assert done.stderr.startswith("error: registry gone does not exist")
    assert len(done.stderr.splitlines()) == 1
    train = ["train", "model", "BTCUSDT", *QUICK, "--registry", "models", "--json"]
    done = _without_stdout(tmp_path, *train)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    (kept,) = (tmp_path / ".models-work" / "unpublished").iterdir()
    assert (kept / "metadata.json").is_file()


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_paths_have_letters_that_the_terminal_lacks(
    tmp_path: Path, daily: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    folder = tmp_path / "ü€"
    folder.mkdir()
    daily.tail(300).write_parquet(folder / "BTCUSDT_1d.parquet")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = _in_bytes(tmp_path, "data", "verify", "ü€/BTCUSDT_1d.parquet", "ü€/gone.csv")
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    table = done.stdout.decode("latin-1").replace("|", " ")
    assert "BTCUSDT_1d.parquet yes 300" in " ".join(table.split())
    monkeypatch.setenv("ATB_FAST_CACHE", str(folder))
    done = _in_bytes(tmp_path, "config", "show")
    assert (done.returncode, done.stderr) == (0, b"")
    options = [*QUICK[4:], "--candles", "ü€/BTCUSDT_1d.parquet", "--force-price-only", "--registry"]
    done = _in_bytes(tmp_path, "train", "model", "BTCUSDT", *options, "ü€/models")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def _in_bytes(home: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "atb_fast", *arguments]
    return subprocess.run(command, cwd=home, capture_output=True, check=False)


def test_a_clock_in_1970_does_not_lose_the_model(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines without a battery start there. ZIP, and so Keras, has no dates before 1980."""
    code = """
import time
now, local = time.time, time.localtime
began = now()
time.time = lambda: now() - began
time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)
"""
    _at_startup(tmp_path / "startup", code, monkeypatch)
    done = new_process("train", "model", "BTCUSDT", *QUICK, "--registry", "models")
    assert done.returncode == 0, done.stderr
    assert "the clock of this machine says 1970-01-01" in done.stderr
    (kept,) = (tmp_path / ".models-work" / "unpublished").iterdir()
    with ZipFile(kept / "model.keras") as archive:
        assert sorted(archive.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]


def test_a_training_leaves_no_files_elsewhere(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow writes to the temporary folder, and onnxruntime statistics to the home folder."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    folders = [tmp_path / name for name in ("temporary", "home")]
    for name, folder in zip(("TMPDIR", "HOME"), folders, strict=True):
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    options = [each for each in QUICK if each != "--skip-onnx"]
    done = new_process("train", "model", "BTCUSDT", *options, "--registry", "models")
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stderr
    found = {path.name for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert found <= {"keras.json"}  # the settings of Keras


def test_no_training_outlives_a_killed_parent(tmp_path: Path) -> None:
    with _two_trainings(tmp_path) as process:
        process.kill()
        _, rest = process.communicate()
    assert "Traceback" not in rest
    _wait_for_end_of_group(process.pid)
    assert list((tmp_path / "models").rglob("*")) == []


def test_doctor_finds_no_problem_where_training_works(
    new_process: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow says so on any processor
    monkeypatch.setenv("ATB_FAST_CACHE", str(cache / "here"))
    folder = cache / "here" / "compiled"
    folder.mkdir(parents=True)
    for name in ("key-xla.pb", "key.outputs.pb"):  # a program and a trace
        (folder / name).write_bytes(bytes(1_500_000))
    done = new_process("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {check["state"] for check in checks.values()} == {"ok"}
    for name in ("tensorflow", "keras", "polars", "numpy", "onnxruntime", "tf2onnx"):
        package = "tensorflow-cpu" if name == "tensorflow" and not _installed(name) else name
        assert checks[name]["found"] == version(package)
    assert "release build" in checks["atb-fast"]["found"]
    assert checks["cache_dir"]["found"].startswith(f"{cache / 'here'}, ")
    kept = compile_cache.obstacle() or f"2 files, 3.0 MB, kept in {folder}"
    assert checks["compiled programs"]["found"].endswith(kept)
    assert checks["binance url"]["found"] == "http://127.0.0.1:9, from ATB_FAST_BINANCE_URL"


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def test_doctor_says_what_is_missing_and_how_to_fix_it(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tf2onnx.py").write_text("raise ImportError('no such luck')")
    (tmp_path / "a_file").write_text("")
    (tmp_path / "atb-fast.toml").write_text("[train]\nepoch = 5\n")
    paths = [str(broken), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("MODEL_REGISTRY_PATH", "a_file/models")
    monkeypatch.setenv("ATB_FAST_FNG_URL", "alternative.me")
    (tmp_path / "both.toml").write_text("[train]\nforce_sentiment=true\nforce_price_only=true\n")
    both = new_process("doctor", "--config", "both.toml").stdout
    found = next(line.split(maxsplit=2) for line in both.splitlines() if " settings " in line)
    assert found[:2] == ["problem", "settings"]
    assert found[2].startswith("--force-price-only and --force-sentiment contradict")
    assert "--force-sentiment is from both.toml" in both
    done = new_process("doctor")
    assert done.returncode == 8
    assert done.stderr == (
        "error: training does not work: settings, tf2onnx, registry, fng url; apply the fixes "
        "listed above\n"
    )
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    bad = {line[1]: line[2] for line in lines if line[0] in ("problem", "missing")}
    assert bad.keys() == {"settings", "tf2onnx", "registry", "fng"}
    assert bad["settings"].endswith("is unknown; did you mean epochs?")
    assert bad["tf2onnx"] == "cannot be imported: no such luck"
    assert bad["registry"].startswith("a_file/models is not writable: Not a directory")
    assert "pip install 'atb-fast[train]', or train with --skip-onnx" in done.stdout
    assert "set ATB_FAST_FNG_URL to a URL that starts with https:// or http://" in done.stdout


@pytest.mark.parametrize("url", ["api.binance.com", "ftp://x", "http://", "http://[::1"])
def test_doctor_and_training_agree_on_an_unusable_address(
    atb_fast: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATB_FAST_ARCHIVE_URL", url)
    done = atb_fast("doctor", "--json")
    assert done.returncode == 8
    assert "training does not work: archive url; apply the fixes" in done.stderr
    refused = atb_fast("train", "model", "BTCUSDT", "--start-date", "2024-01-01")
    assert refused.returncode == 8
    message = f"error: ATB_FAST_ARCHIVE_URL is '{url.rstrip('/')}', expected a URL that starts with"
    assert message in refused.stderr
    # The sample market needs no address.
    monkeypatch.setenv("ATB_FAST_SOURCE", "sample")
    fine = atb_fast("doctor")
    assert fine.returncode == 0
    assert "training works" in fine.stdout
    assert "set ATB_FAST_ARCHIVE_URL to a URL that starts with https://" in fine.stdout


@pytest.mark.parametrize(
    "error",
    [
        "ImportError('x.so: failed to map segment from shared object')",
        "MemoryError",
        "OSError(12, 'no')",
    ],
)
def test_little_memory_is_not_a_missing_package(
    tmp_path: Path, new_process: Run, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "keras.py").write_text(f"raise {error}")
    _import_first(tmp_path / "first", monkeypatch)
    done = new_process("train", "model", "BTCUSDT", *QUICK, "--registry", "models")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: not enough memory: TensorFlow cannot be")
    assert "Traceback" not in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no /dev/shm")
def test_doctor_refuses_a_registry_that_training_refuses(
    new_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_PATH", "/dev/shm")
    done = new_process("doctor", "--json")
    assert done.returncode == 6
    (check,) = (check for check in json.loads(done.stdout) if check["name"] == "registry")
    assert check["state"] == "problem"
    assert "registry /dev/shm is a mount point" in check["found"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("atb-fast train model --timeframe 1", {"1m", "15m", "1h", "12h", "1d", "1w"}),
        ("atb-fast train price --skip-o", {"--skip-onnx"}),
        ("atb-fast comp", {"completion"}),
        ("atb-fast config show p", {"price"}),
        ("atb-fast data ls --c", {"--cache-dir", "--config"}),
    ],
)
def test_bash_completes(tmp_path: Path, typed: str, offered: set[str]) -> None:
    """The printed script works in bash, even with a broken settings file."""
    program = tmp_path / "atb-fast"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m atb_fast "$@"\n')
    program.chmod(0o755)
    (tmp_path / "atb-fast.toml").write_text("[train")
    script = f"""
        eval "$(./atb-fast completion bash)"
        COMP_WORDS=({typed}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _atb_fast_completion ./atb-fast
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(atb_fast: Run, shell: str) -> None:
    done = atb_fast("completion", shell)
    assert done.returncode == 0, done.stderr
    assert f"_ATB_FAST_COMPLETE={shell}_complete" in done.stdout
