"""Mistakes of a new user: one clear line, a documented exit code, and no files written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from atb_fast.ingestion import sample


@pytest.fixture
def files(daily: pl.DataFrame, tmp_path: Path) -> Path:
    daily.write_csv(tmp_path / "candles.csv")
    daily.drop("volume").write_csv(tmp_path / "no_volume.csv")
    daily.with_columns(close=pl.lit("about 7")).write_csv(tmp_path / "text.csv")
    sample.sentiment().write_csv(tmp_path / "sentiment.csv")
    close = pl.when(pl.int_range(pl.len()) == 9).then(1e9).otherwise(pl.col("close"))
    daily.with_columns(close=close).write_csv(tmp_path / "impossible.csv")
    daily.with_columns(
        pl.lit(7.0).alias(name) for name in ("open", "high", "low", "close")
    ).write_csv(tmp_path / "flat.csv")
    sample.sentiment().with_columns(pl.col("value") / 100).write_csv(tmp_path / "fractions.csv")
    daily.write_csv(tmp_path / "headless.csv", include_header=False)
    daily.rename({"timestamp": "Open time", "volume": "Volume BTC"}).write_csv(
        tmp_path / "renamed.csv"
    )
    (tmp_path / "a_file").write_text("")
    (tmp_path / "a_file.csv").write_text("")
    return tmp_path


GOOD = ["--candles", "candles.csv", "--sentiment", "sentiment.csv"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["BTCUSDT"],
            8,
            "error: http://127.0.0.1:9/api/v3/time: Connection refused, 4 times in a row; check "
            "the network and the address, try again later, or pass --offline to use only stored "
            "data. To avoid the download, pass --candles FILE, or --source sample for synthetic "
            "prices",
        ),
        (["BTCUSDT", "--offline"], 8, "atb-fast data fetch BTCUSDT --timeframe 1d"),
        (["BTC/USDT", *GOOD], 2, "symbol is 'BTC/USDT', expected capital letters and digits"),
        ([*GOOD], 2, "Missing argument 'SYMBOL...'"),
        (["BTCUSDT", *GOOD, "--batch-size", "-5"], 2, "-5 is not in the range x>=1"),
        (["BTCUSDT", *GOOD, "--timeframe", "2d"], 2, "'2d' is not one of"),
        *(
            (
                ["BTCUSDT", *GOOD, "--start-date", day],
                2,
                f"'{day}' is not a date; expected YYYY-MM-DD, for example 2024-01-31",
            )
            for day in ("1.1.2020", "2024-02-30")
        ),
        (["BTCUSDT", *GOOD, "--epoch", "3"], 2, "No such option"),
        (
            ["BTCUSDT", *GOOD, "--start-date", "2024-02-01", "--end-date", "2024-01-01"],
            2,
            "--start-date 2024-02-01 is after --end-date 2024-01-01; swap them",
        ),
        (
            ["BTCUSDT", "--candles", "candles.csv"],
            2,
            "pass --sentiment FILE, or --force-price-only",
        ),
        (
            ["BTCUSDT", *GOOD, "--start-date", "2031-01-01"],
            3,
            "no candles between 2031-01-01 and the end; the source covers 2018-01-01",
        ),
        (
            ["BTCUSDT", *GOOD, "--sequence-length", "9000"],
            3,
            "expected at least 9,033 (including 31 that lack a feature) to train and test a model",
        ),
        (
            ["BTCUSDT", "--candles", "gone.csv", "--force-price-only"],
            3,
            "gone.csv: no such file",
        ),
        (["BTCUSDT", "--candles", "gone.csv"], 3, "error: gone.csv: no such file; check the path"),
        (
            ["BTCUSDT", "--candles", "no_volume.csv", "--force-price-only"],
            3,
            "no_volume.csv has no column volume (found: timestamp, open, high, low, close)",
        ),
        (
            ["BTCUSDT", "--candles", "renamed.csv", "--force-price-only"],
            3,
            "renamed.csv has no column timestamp, volume (found: open time, open, ",
        ),
        (
            ["BTCUSDT", "--candles", "headless.csv", "--force-price-only"],
            3,
            "); add a header line with the column names",
        ),
        (
            ["BTCUSDT", "--candles", "a_file.csv", "--force-price-only"],
            3,
            "a_file.csv: the file is empty; expected column names and at least one row",
        ),
        (
            ["BTCUSDT", "--candles", "text.csv", "--force-price-only"],
            3,
            "text.csv: column close, row 1: found 'about 7', expected a price above 0",
        ),
        (
            ["BTCUSDT", "--candles", "impossible.csv", "--force-price-only"],
            3,
            "impossible.csv: 1 of 2,557 bars is impossible, the first at 2018-01-10 00:00 UTC",
        ),
        (
            ["BTCUSDT", "--candles", "candles.csv", "--sentiment", "fractions.csv"],
            3,
            "fractions.csv: column value has only values from 0 to 1",
        ),
        *(
            (
                ["BTCUSDT", "--candles", "flat.csv", "--force-price-only", "--recipe", recipe],
                3,
                "the close is 7 in all 2,557 candles; use candles of a market whose price moves",
            )
            for recipe in ("legacy", "causal")
        ),
        (["BTCUSDT", "--sentiment", "sentiment.csv"], 2, "--sentiment is given without --candles"),
        *(
            (["BTCUSDT", *GOOD, flag, ""], 2, f"{flag} is empty; pass a path, or leave it out")
            for flag in ("--registry", "--cache-dir", "--candles", "--sentiment", "--tensorboard")
        ),
        (
            ["BTCUSDT", *GOOD, "--timeframe", "1h"],
            3,
            "candles.csv has 1d bars, but the timeframe is 1h; pass a file with 1h bars, or "
            "--timeframe 1d",
        ),
        (["BTCUSDT", *GOOD, "--registry", "a_file"], 6, "registry a_file cannot be written"),
        (["BTCUSDT", *GOOD, "--registry", "/proc/x"], 6, "writable --registry"),
    ],
)
def test_one_clear_line(
    files: Path, atb_fast: Any, arguments: list[str], code: int, message: str
) -> None:
    before = sorted(files.rglob("*"))
    registry = [] if "--registry" in arguments else ["--registry", "models"]
    done = atb_fast("train", "model", *arguments, *registry)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert done.stderr.splitlines()[-1] == errors[0]
    assert not re.search(r"Warning|\.py\b", done.stderr)
    assert sorted(files.rglob("*")) == before


def test_a_text_in_place_of_an_integer(atb_fast: Any) -> None:
    done = atb_fast("train", "model", "BTCUSDT", "--epochs", "three")
    assert done.returncode == 2
    assert re.search(r"'three' is not a valid integer\.?$", done.stderr)


@pytest.mark.parametrize(
    ("command", "end"),
    [
        (["train", "BTCUSDT"], "No such command 'BTCUSDT'. Expected one of: model, price"),
        (["check", "BTCUSDT"], "No such command 'BTCUSDT'. Expected one of: leak"),
        (["data", "BTCUSDT"], "Expected one of: clear, fetch, ls, prune, repair, verify"),
    ],
)
def test_an_unknown_command_names_the_known_ones(
    atb_fast: Any, command: list[str], end: str
) -> None:
    done = atb_fast(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(end)


def test_help_names_every_option_and_exit_code(atb_fast: Any) -> None:
    done = atb_fast("train", "model", "--help")
    assert done.returncode == 0
    for flag in [
        "--timeframe", "--start-date", "--end-date", "--epochs", "--batch-size",
        "--sequence-length", "--patience", "--seed", "--force-sentiment", "--force-price-only",
        "--skip-plots", "--skip-robustness", "--skip-onnx", "--no-mixed-precision",
        "--force-refresh", "--registry", "--candles", "--sentiment", "--source", "--json",
    ]:  # fmt: skip
        assert flag in done.stdout
    assert "130 interrupted" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "command", [["evaluate", "BTCUSDT"], ["check", "leak", "BTCUSDT"], ["data", "verify"]]
)
def test_impossible_bars_are_refused_everywhere(
    files: Path, atb_fast: Any, command: list[str]
) -> None:
    given = [] if "verify" in command else ["--force-price-only", "--candles"]
    done = atb_fast(*command, *given, "impossible.csv")
    assert done.returncode == 3
    assert "1 of 2,557 bars is impossible" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [["models", "ls", "--registry"], ["data", "ls", "--cache-dir"],
                ["train", "--from", "BTCUSDT:1d:price", "--registry"]],
)  # fmt: skip
def test_an_empty_path_is_not_the_working_directory(
    files: Path, atb_fast: Any, command: list[str]
) -> None:
    done = atb_fast(*command, "")
    assert done.returncode == 2
    assert done.stderr == f"error: {command[-1]} is empty; pass a path, or leave it out\n"
