"""A recipe that reads extra series: trained, checked, scored, and repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import CommandLine

from atb_fast.errors import ArgumentError, DataError
from atb_fast.ingestion import sample

RECIPE = """\
name = "funded"
sequence_length = 20
extra = ["funding", "eth_close"]

[features]
return_1 = "log(close / lag(close, 1))"
funding = "mean(fill(funding, 0), 3)"
eth = "log(eth_close / lag(eth_close, 1))"

[target]
kind = "log_return"

[network]
kind = "cnn_lstm"
"""
EXTRAS = ["--extra", "funding=funding.csv", "--extra", "eth=eth.parquet"]
OPTIONS = ["--source", "sample", "--recipe", "funded.toml", "--start-date", "2023-01-01"]
OPTIONS += [*EXTRAS, "--extra-lag", "funding=8h"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("extras")
    (home / "funded.toml").write_text(RECIPE)
    write_funding(home / "funding.csv")
    sample.candles("ETHUSDT", "1d").write_parquet(home / "eth.parquet")
    return home


def write_funding(path: Path, **changed: float) -> None:
    """Write a value for every 8 hours.

    With a lag of 8 hours, a daily candle reads the value of 16:00 of the day before. `read`
    replaces such a value, and `unread` another one.
    """
    times = pl.datetime_range(
        pl.datetime(2022, 12, 1, time_unit="ms", time_zone="UTC"),
        pl.datetime(2024, 12, 31, 23, time_unit="ms", time_zone="UTC"),
        "8h",
        eager=True,
    )
    values = np.random.default_rng(5).normal(size=len(times))
    values[101] = changed.get("read", values[101])
    values[102] = changed.get("unread", values[102])
    pl.DataFrame({"timestamp": times, "value": values}).write_csv(path)


@pytest.fixture(scope="module")
def bundle(home: Path, command_line: CommandLine) -> Path:
    command = ["train", "model", "BTCUSDT", *OPTIONS, "--epochs", "1", "--engine", "keras"]
    done = command_line.run(*command, "--registry", "models", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    return home / str(json.loads(done.stdout)["paths"]["bundle"])


def metadata(bundle: Path) -> Any:
    return json.loads((bundle / "metadata.json").read_text())


def test_the_bundle_says_what_it_was_trained_on(bundle: Path) -> None:
    document = metadata(bundle)
    assert sorted(document["dataset"]["sha256"]) == ["candles", "eth", "funding"]
    assert document["config"]["extra"] == {"funding": "funding.csv", "eth": "eth.parquet"}
    assert document["config"]["extra_lag"] == {"funding": "8h"}
    assert document["verification"]["feature_skew"] == 0.0
    assert "funding.csv, lag 8h" in (bundle / "report.html").read_text()


def test_the_leak_check_passes(home: Path, command_line: CommandLine) -> None:
    done = command_line.run("check", "leak", "BTCUSDT", *OPTIONS, "--cuts", "5", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "no look-ahead bias" in done.stdout
    assert "timestamps of extra series and --extra-lag are taken as given" in done.stdout


def test_a_frame_to_score_has_the_columns(home: Path, bundle: Path) -> None:
    from atb_fast import TrainingConfig, load_bundle, load_market

    options: dict[str, Any] = {"source": "sample", "recipe": str(home / "funded.toml")}
    options |= {"extra": {"funding": home / "funding.csv", "eth": home / "eth.parquet"}}
    config = TrainingConfig(symbol="BTCUSDT", **options, extra_lag={"funding": "8h"})
    market, loaded = load_market(config), load_bundle(bundle)
    # Candles of the same timeframe close at the same time, so they need no lag.
    other = sample.candles("ETHUSDT", "1d").select("timestamp", eth_close="close")
    assert market.frame.select("timestamp", "eth_close").equals(other)
    predictions = loaded.predict(market.frame)["prediction"]
    last = loaded.predict_last(market.frame)
    assert predictions.count() > 600
    assert loaded.predict_last(market.frame[:-1]) == pytest.approx(predictions[-1], rel=1e-6)
    assert np.isfinite(last)
    with pytest.raises(DataError, match="funding"):
        loaded.predict(market.candles)


def test_a_repeated_run_finds_a_changed_file(
    home: Path, bundle: Path, command_line: CommandLine
) -> None:
    def repeat(**changed: float) -> Any:
        write_funding(home / "moved.csv", **changed)
        return command_line.run(
            *("train", "--from", bundle, "--extra", "funding=moved.csv", "--registry", "again"),
            "--json",
            cwd=home,
        )

    same = repeat(unread=9.0)
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["same_onnx"] is True
    other = repeat(read=9.0)
    assert other.returncode == DataError.exit_code
    (error,) = other.stderr.splitlines()[-1:]
    assert error.startswith("error: the input differs from that of ")
    assert " in funding: received " in error


def test_series_and_recipe_must_fit(home: Path, command_line: CommandLine) -> None:
    command = ["train", "model", "BTCUSDT", "--source", "sample", "--epochs", "1"]
    for arguments, code, message in (
        (
            ["--recipe", "funded.toml", *EXTRAS[:2]],
            DataError.exit_code,
            "--extra eth_close=FILE with one column of values, or --extra NAME=FILE with several, "
            "which are read as NAME_COLUMN (--extra gave funding)",
        ),
        (
            ["--recipe", "funded.toml", *EXTRAS, "--extra", "unused=funding.csv"],
            ArgumentError.exit_code,
            "--extra unused has no effect",
        ),
        (["--recipe", "legacy", *EXTRAS], ArgumentError.exit_code, "--extra "),
    ):
        done = command_line.run(*command, *arguments, cwd=home)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
