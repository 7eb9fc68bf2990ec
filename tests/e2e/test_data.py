"""`atb-fast data` and `atb-fast train` with the store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from exchange import Answer, Exchange

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CANONICAL = ["--timeframe", "1d", "--start-date", "2019-01-01", "--end-date", "2024-12-01"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: Exchange) -> Path:
    """An empty store; the environment points the program to it and to the local exchange."""
    monkeypatch.setenv("ATB_FAST_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


def document(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)["rows"]


def by_series(rows: Any) -> dict[str, Any]:
    return {row["series"]: row for row in rows}


def damage(store: Path, pattern: str) -> None:
    (path,) = store.glob(pattern)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_fetch_list_verify_repair(atb_fast: Run, exchange: Exchange, store: Path) -> None:
    fetch = ["data", "fetch", "btcusdt", *CANONICAL, "--timeframe", "1h", "--json"]
    rows = by_series(document(atb_fast(*fetch)))
    assert rows["BTCUSDT 1d"] == {
        "series": "BTCUSDT 1d",
        "rows": 2162,
        "first": "2019-01-01 00:00",
        "last": "2024-12-01 00:00",
    }
    assert rows["BTCUSDT 1h"]["last"] == "2024-12-01 23:00"
    assert rows["sentiment"]["first"] == "2018-02-01 00:00"
    exchange.requests.clear()
    again = atb_fast(*fetch)
    assert by_series(document(again)) == rows
    assert "BTCUSDT 1d: 2,162 candles from the store" in again.stderr
    assert exchange.requests == []

    listed = by_series(document(atb_fast("data", "ls", "--json")))
    assert listed["BTCUSDT 1d"]["rows"] == 2162
    assert listed["sentiment"]["source"] == exchange.url
    assert all(row["sound"] for row in document(atb_fast("data", "verify", "--json")))

    damage(store, "candles/BTCUSDT/1h/*.parquet")
    damage(store, "sentiment/*.parquet")
    found = atb_fast("data", "verify")
    assert found.returncode == 3
    assert found.stdout.count("its hash does not match the manifest") == 2
    assert found.stderr == "error: problems found in the store: 2; run: atb-fast data repair\n"
    refused = atb_fast(*fetch)
    assert refused.returncode == 6
    assert "run: atb-fast data repair" in refused.stderr
    repaired = by_series(document(atb_fast("data", "repair", "--json")))
    assert {name: row["result"] for name, row in repaired.items()} == {
        "BTCUSDT 1h": "replaced",
        "sentiment": "replaced",
    }
    assert "nothing to repair" in atb_fast("data", "repair").stdout
    assert all(row["sound"] for row in document(atb_fast("data", "verify", "--json")))
    exchange.requests.clear()
    assert by_series(document(atb_fast(*fetch))) == rows
    assert exchange.requests == []


def test_repair_brings_back_a_series_whose_manifest_is_damaged(
    atb_fast: Run, exchange: Exchange, store: Path
) -> None:
    fetch = ["data", "fetch", "BTCUSDT", *CANONICAL, "--skip-sentiment", "--json"]
    rows = document(atb_fast(*fetch))
    manifest = store / "candles/BTCUSDT/1d/manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert by_series(document(atb_fast("data", "ls", "--json")))["BTCUSDT 1d"]["state"] == "damaged"
    exchange.requests.clear()
    (repaired,) = document(atb_fast("data", "repair", "--offline", "--json"))
    assert repaired == {
        "series": "BTCUSDT 1d",
        "from": "2019-01-01T00:00",
        "to": "2024-12-02T00:00",
        "result": "rebuilt",
    }
    assert document(atb_fast(*fetch)) == rows
    assert exchange.requests == []


def test_a_failed_series_does_not_stop_the_others(atb_fast: Run, exchange: Exchange) -> None:
    options = ["--start-date", "2024-11-01", "--end-date", "2024-11-30", "--json"]
    done = atb_fast("data", "fetch", "NOPEUSDT", "BTCUSDT", "--skip-sentiment", *options)
    assert list(by_series(document(done, code=2))) == ["BTCUSDT 1d"]
    assert "does not list the symbol 'NOPEUSDT'" in done.stderr
    early = ["--start-date", "1990-01-01", "--end-date", "1990-01-02", "--skip-sentiment"]
    none = atb_fast("data", "fetch", "BTCUSDT", "--timeframe", "1h", *early)
    assert none.returncode == 3
    assert "has no closed candle from 1990-01-01 to 1990-01-02" in none.stderr
    first = atb_fast("data", "fetch", "BTCUSDT", "--start-date", "0001-01-01", *options[2:])
    assert first.returncode == 0
    assert "Traceback" not in first.stderr


def test_a_repair_without_the_exchange_removes_nothing(
    atb_fast: Run, exchange: Exchange, store: Path
) -> None:
    both = ["--timeframe", "1d", "--timeframe", "1h", *CANONICAL[2:]]
    document(atb_fast("data", "fetch", "BTCUSDT", *both, "--json"))
    (store / "candles/BTCUSDT/1d/manifest.json").unlink()
    damage(store, "candles/BTCUSDT/1h/*.parquet")
    damage(store, "sentiment/*.parquet")
    before = {path: path.read_bytes() for path in store.rglob("*.parquet")}
    exchange.requests.clear()
    for option in ("--offline", None):
        if not option:
            exchange.fault(".", Answer(403, b"<html>"))
        done = atb_fast("data", "repair", "--json", *filter(None, [option]))
        rows = by_series(document(done, code=8))
        results = {name: row["result"] for name, row in rows.items()}
        rebuilt = {"BTCUSDT 1d": "rebuilt"} if option else {}  # only once
        assert results == {
            **rebuilt,
            "BTCUSDT 1h": "not replaced",
            "sentiment": "not replaced",
        }
        assert "stays where it is: BTCUSDT 1h, sentiment" in done.stderr
        assert ("--offline forbids a download" in done.stderr) == bool(option)
        assert ("blocked by a firewall" in done.stderr) == (not option)
        assert {path: path.read_bytes() for path in store.rglob("*.parquet")} == before
        assert (exchange.requests == []) == bool(option)
    assert atb_fast("data", "verify").returncode == 3
    document(atb_fast("data", "repair", "--json"))
    assert atb_fast("data", "verify").returncode == 0


def test_a_repair_that_is_killed_during_a_download_changes_nothing(
    atb_fast: Run, exchange: Exchange, store: Path, tmp_path: Path
) -> None:
    document(atb_fast("data", "fetch", "BTCUSDT", *CANONICAL, "--json"))
    damage(store, "candles/BTCUSDT/1d/*.parquet")
    before = {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()}
    command = [sys.executable, "-m", "atb_fast", "data", "repair"]
    with exchange.holding("klines.*startTime=(?!1546300800000)", requests=1) as held:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        held.wait()
        process.kill()
        process.wait()
    assert {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()} == before
    document(atb_fast("data", "repair", "--json"))
    assert atb_fast("data", "verify").returncode == 0


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "1e400", "", "-nan", "soon"])
def test_prune_needs_a_number_of_days(atb_fast: Run, store: Path, days: str) -> None:
    (store / "features").mkdir(parents=True)
    (store / "features" / "x.npz").touch()
    done = atb_fast("data", "prune", "--older-than", days)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--older-than" in done.stderr
    assert (store / "features" / "x.npz").exists()


def test_offline_suggests_options_that_the_command_has(atb_fast: Run, exchange: Exchange) -> None:
    document(atb_fast("data", "fetch", "BTCUSDT", *CANONICAL, "--skip-sentiment", "--json"))
    done = atb_fast("data", "fetch", "BTCUSDT", *CANONICAL, "--offline")
    assert done.returncode == 8
    assert "or pass --skip-sentiment" in done.stderr
    assert "--force-price-only" not in done.stderr


def test_a_file_of_the_index_is_verified(
    atb_fast: Run, tmp_path: Path, true_index: pl.DataFrame
) -> None:
    true_index.write_csv(tmp_path / "index.csv")
    sound = atb_fast("data", "verify", "index.csv")
    assert sound.returncode == 0
    assert "index.csv: checked as the Fear & Greed index" in sound.stderr
    true_index.with_columns(pl.col("value") - 50).write_csv(tmp_path / "bad.csv")
    found = atb_fast("data", "verify", "bad.csv")
    assert found.returncode == 3
    assert "expected a value from 0 to 100" in found.stdout


def test_clear_removes_what_is_named(atb_fast: Run, store: Path) -> None:
    both = ["--timeframe", "1d", "--timeframe", "1h", "--start-date", "2024-11-01"]
    document(atb_fast("data", "fetch", "BTCUSDT", *both, "--end-date", "2024-12-01", "--json"))

    def left() -> set[str]:
        return set(by_series(document(atb_fast("data", "ls", "--json"))))

    everything = {"BTCUSDT 1d", "BTCUSDT 1h", "sentiment"}
    assert left() == everything
    refused = atb_fast("data", "clear")
    assert refused.returncode == 2
    assert "nothing to remove" in refused.stderr
    named = document(atb_fast("data", "clear", "--all", "--dry-run", "--json"))
    assert set(by_series(named)) == everything
    assert document(atb_fast("data", "clear", "ETHUSDT", "--json")) == []
    assert left() == everything
    document(atb_fast("data", "clear", "BTCUSDT", "--timeframe", "1h", "--json"))
    assert left() == {"BTCUSDT 1d", "sentiment"}
    document(atb_fast("data", "clear", "--sentiment", "--json"))
    assert left() == {"BTCUSDT 1d"}
    assert document(atb_fast("data", "prune", "--older-than", "1", "--json")) == []
    assert left() == {"BTCUSDT 1d"}
    for path in ("features/x.npz", "checkpoints/x.npz", "compiled/x.pb"):
        (store / path).parent.mkdir()
        (store / path).touch()
    document(atb_fast("data", "clear", "--features", "--json"))
    assert left() == {"BTCUSDT 1d", "checkpoints", "compiled"}
    document(atb_fast("data", "clear", "--compiled", "--json"))
    assert left() == {"BTCUSDT 1d", "checkpoints"}
    document(atb_fast("data", "prune", "--older-than", "0", "--json"))
    assert left() == set()
    (store / "checkpoints" / "x.npz").touch()
    document(atb_fast("data", "clear", "--all", "--json"))
    assert left() == set()


def test_files_are_verified(atb_fast: Run, shared: Path, tmp_path: Path, daily: Any) -> None:
    names = ("BTCUSDT_1h_2017-08-17_2024-12-31", "BTCUSDT_1h_offgrid_2017-08-17_2025-01-20")
    paths = [shared / "data" / f"{name}.parquet" for name in names]
    clean, off = document(atb_fast("data", "verify", *paths, "--json"))
    assert (clean["missing"], clean["hole_runs"], clean["off_grid"]) == (129, 28, 0)
    assert clean["longest_step"] == "34 h"
    assert clean["zero_volume"] == 3
    assert (off["missing"], off["hole_runs"], off["off_grid"]) == (170, 28, 43)
    assert clean["sound"]
    assert off["sound"]

    daily.with_columns(high=pl.col("low")).write_csv(tmp_path / "bad.csv")
    pl.concat([daily, daily[:1]]).write_csv(tmp_path / "doubled.csv")
    found = atb_fast("data", "verify", "bad.csv", "doubled.csv")
    assert found.returncode == 3
    assert "bars are impossible" in found.stdout
    assert "duplicate timestamp" in found.stdout


def test_bad_symbols_and_contradictions(atb_fast: Run, exchange: Exchange) -> None:
    unknown = atb_fast("data", "fetch", "NOPEUSDT", *CANONICAL)
    assert unknown.returncode == 2
    assert "Binance does not list the symbol 'NOPEUSDT'" in unknown.stderr
    impossible = atb_fast("data", "fetch", "../etc", *CANONICAL)
    assert impossible.returncode == 2
    assert "expected capital letters and digits" in impossible.stderr
    exchange.fault("klines", Answer(403, b"<html>"))
    refused = atb_fast("data", "fetch", "BTCUSDT", *CANONICAL)
    assert refused.returncode == 8
    assert refused.stderr.count("\n") == 1
    assert "blocked by a firewall" in refused.stderr


OTHER_CANDLES = (
    ". To avoid the download, pass --candles FILE, or --source sample for synthetic prices"
)
NO_SENTIMENT = ". To do without sentiment, pass "


@pytest.mark.parametrize(
    ("fault", "answer", "options", "end", "code"),
    [
        (
            "klines",
            Answer(403),
            [],
            "wait a few minutes, or use another network" + OTHER_CANDLES,
            8,
        ),
        ("klines", Answer(418), [], "do not send requests until then" + OTHER_CANDLES, 8),
        ("klines", Answer(451), [], "set ATB_FAST_BINANCE_URL to a mirror" + OTHER_CANDLES, 8),
        ("klines", Answer(404), [], "check the address", 8),
        ("klines", Answer(400, b'{"code": -1}'), [], "look for a newer version of atb-fast", 8),
        (
            "klines",
            Answer(400, b'{"code": -1121}'),
            [],
            "check the spelling, for example BTCUSDT",
            2,
        ),
        ("no", Answer(), ["--offline"], "--start-date 2024-11-01 --end-date 2024-11-30", 8),
        ("fng", Answer(403), [], "another network" + NO_SENTIMENT + "--force-price-only", 8),
        ("fng", Answer(404), [], "check the address", 8),
    ],
)
def test_a_failed_download_suggests_only_what_helps(
    fault: str,
    answer: Answer,
    options: list[str],
    end: str,
    code: int,
    atb_fast: Run,
    exchange: Exchange,
) -> None:
    exchange.fault(fault, answer, times=2)  # of both hosts
    days = ["--start-date", "2024-11-01", "--end-date", "2024-11-30"]
    done = atb_fast("train", "model", "BTCUSDT", *days, *options, "--registry", "models")
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].endswith(end)


def test_a_failed_download_of_sentiment_names_the_option_of_the_command(
    atb_fast: Run, exchange: Exchange
) -> None:
    exchange.fault("fng", Answer(403))
    done = atb_fast("data", "fetch", "BTCUSDT", *CANONICAL)
    assert done.returncode == 8
    assert done.stderr.splitlines()[-1].endswith(NO_SENTIMENT + "--skip-sentiment")


def test_an_interrupt_stops_immediately_and_loses_nothing(
    atb_fast: Run, exchange: Exchange, tmp_path: Path
) -> None:
    """Even while two threads wait for responses that never arrive."""
    command = [sys.executable, "-m", "atb_fast", "data", "fetch", "BTCUSDT", *CANONICAL]
    # All requests except the one for the page from 2019-01-01.
    with exchange.holding(r"klines.*startTime=(?!1546300800000)", requests=2) as held:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        held.wait()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "error: interrupted"
    assert atb_fast("data", "verify").returncode == 0
    assert atb_fast("data", "fetch", "BTCUSDT", *CANONICAL).returncode == 0


def test_directories_that_cannot_be_used(atb_fast: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = atb_fast("data", "ls", "--cache-dir", "file")
    assert refused.returncode == 2
    assert "--cache-dir is file, which is a file; expected a directory" in refused.stderr
    full = subprocess.run(
        ["sh", "-c", '"$0" -m atb_fast data ls --json > /dev/full', sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert full.returncode == 6
    assert full.stderr.count("\n") == 1
    assert "No space left on device" in full.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_does_not_fit_on_the_disk(tmp_path: Path, unbuffered: str) -> None:
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
    code += "from atb_fast.__main__ import main; main()"
    with (tmp_path / "out.json").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", code, "recipes", "show", "legacy", "--json"],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (tmp_path / "out.json").stat().st_size == 100
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
    assert "File too large" in done.stderr


def test_eight_processes_share_one_download(exchange: Exchange, tmp_path: Path) -> None:
    """One downloads, and is held back until the seven others have logged that they wait."""
    command = [sys.executable, "-m", "atb_fast", "data", "fetch", "BTCUSDT", *CANONICAL, "--json"]
    output, end = os.pipe()
    with os.fdopen(output) as lines:
        with exchange.holding("klines", requests=1):
            processes = [
                subprocess.Popen(
                    command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=end, text=True
                )
                for _ in range(8)
            ]
            os.close(end)
            log = list(islice((line for line in lines if "another process" in line), 7))
        log += list(lines)
    documents = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 8, log
    assert len(documents) == 1
    # If a slow machine retries a request, it is still one download.
    assert len([line for line in log if "downloaded" in line]) == 2, log
    assert len(set(exchange.requests)) == 4


def train(atb_fast: Run, *options: str) -> Any:
    """Train for an epoch and return the result with the bundle's metadata and the log."""
    quick = ["--epochs", "1", "--sequence-length", "20", "--skip-plots", "--skip-robustness"]
    quick += ["--engine", "keras"]  # nothing to compile
    done = atb_fast(
        "train", "model", "BTCUSDT", *CANONICAL, *quick, "--skip-onnx", "--json", *options
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    result["metadata"] = json.loads(Path(result["paths"]["bundle"], "metadata.json").read_text())
    return result | {"log": done.stderr}


def test_a_second_training_downloads_nothing(
    atb_fast: Run, exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(atb_fast)
    assert exchange.counts() == {"/api/v3/klines": 3, "/fng/": 1}
    assert first["model_type"] == "sentiment"
    dataset = first["metadata"]["dataset"]
    assert dataset["source"] == "binance"
    assert set(dataset["sha256"]) == {"candles", "sentiment"}
    exchange.requests.clear()
    second = train(atb_fast, "--batch-size", "64", "--offline")
    assert exchange.requests == []
    assert second["metadata"]["dataset"]["sha256"] == dataset["sha256"]
    assert second["persistence_rmse"] == first["persistence_rmse"]
    for said in ("candles from the store", "sentiment: from the store", "from the cache"):
        assert said not in first["log"]
        assert said in second["log"]
    # Without a network, a missing index is an error and never leads to a model of another type.
    assert atb_fast("data", "clear", "--sentiment").returncode == 0
    refused = atb_fast("train", "model", "BTCUSDT", *CANONICAL, "--offline")
    assert refused.returncode == 8
    assert "stored sentiment does not reach" in refused.stderr
