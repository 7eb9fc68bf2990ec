"""What `evaluate` and `train model` print about every kind of forecast."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import CommandLine

from atb_fast.errors import DataError
from atb_fast.ingestion import sample

MARKET = ("--source", "sample", "--start-date", "2019-01-01", "--end-date", "2023-01-01")
HAR = "log(mean(high / low - 1, {}))"
FEATURES = {
    "return_1": "log(close / lag(close, 1))",
    "range": "log(high / low)",
    **{f"har_{days}": HAR.format(days) for days in (1, 7, 30)},
}
TARGETS: dict[str, dict[str, Any]] = {
    "prices": {"kind": "log_return"},
    "returns": {"kind": "smoothed_return", "horizon": 3},
    "two": {"kind": "binary_direction"},
    "three": {"kind": "triple_barrier", "horizon": 5, "take_profit": 0.03, "stop_loss": 0.03},
    "volatility": {"kind": "volatility", "quantiles": [0.05, 0.95]},
}
ERRORS = {
    "prices": "RMSE",
    "returns": "RMSE",
    "two": "log loss",
    "three": "log loss",
    "volatility": "RMSE",
}
COLUMNS = {
    "prices": "tested train RMSE pers. / pers. linear right up rev.",
    "returns": "tested train RMSE pers. / pers. linear right up rev.",
    "two": "tested train log loss shares / shares linear right maj. rev.",
    "three": "tested train log loss shares / shares linear right maj. rev.",
    "volatility": "tested train RMSE / pers. HAR EWMA linear R² QLIKE band",
}


def write_recipe(folder: Path, name: str) -> None:
    document: dict[str, dict[str, Any]] = {
        "features": FEATURES,
        "target": TARGETS[name],
        "network": {"kind": "linear"},
    }
    lines = ['name = "own"']
    for table, items in document.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in items.items())]
    (folder / "own.toml").write_text("\n".join(lines))


@pytest.fixture(params=TARGETS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A kind of forecast, with a recipe file for it."""
    write_recipe(tmp_path, str(request.param))
    return str(request.param)


def test_a_walk_forward_evaluation(kind: str, tmp_path: Path, command_line: CommandLine) -> None:
    command = ["evaluate", "BTCUSDT", *MARKET, "--recipe", "own.toml", "--folds", "2"]
    command += ["--sequence-length", "10"]
    done = command_line.run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    title, head, _, *rows, _, verdict = done.stdout.strip().splitlines()
    assert f"recipe: {ERRORS[kind]} is " in title
    assert " ".join(head.split()) == COLUMNS[kind]
    assert len(rows) == 3
    assert rows[-1].startswith("all folds")
    # It fits into a terminal of the usual width.
    assert max(map(len, (head, *rows))) <= 80
    assert verdict.startswith("On all ")
    # Folds run in parallel, so each of their log lines names the fold.
    of_folds = [line for line in done.stderr.splitlines() if "training windows: " in line]
    of_folds += [line for line in done.stderr.splitlines() if "shrinkage factor" in line]
    assert {line[:13] for line in of_folds} <= {"fold 1 of 2: ", "fold 2 of 2: "}
    assert len(of_folds) == 2 or kind in ("prices", "returns", "volatility")
    if kind != "prices":
        assert not re.search("quote currency|price", done.stdout.replace("--", ""))
    as_json = json.loads(command_line.run(*command, "--json", cwd=tmp_path).stdout)
    assert f"the model is {as_json['verdict']} (Diebold-Mariano" in verdict
    pooled = as_json["pooled"]
    bars = pooled.get("directional_bars", pooled["test"])
    fewer = f" from {-(-bars // 5):,} bars whose horizons do not overlap" if kind == "three" else ""
    assert (f"on {bars:,} bars in total, with its 95% interval{fewer}; " in done.stdout) is (
        kind != "volatility"
    )
    assert as_json["caveat"] == ""
    assert ("It is right " in verdict) is (ERRORS[kind] == "log loss")
    assert (" bars whose horizons do not overlap, alone on " in verdict) is (kind == "three")
    assert as_json["verdict"].endswith(as_json["reference"])
    assert as_json["error"] == ERRORS[kind]
    found = [
        fold["rmse"] / fold["har_rmse"] if kind == "volatility" else fold["ratio"]
        for fold in as_json["folds"]
    ]
    other = as_json["reference"]
    assert f" is {min(found):.3f} to {max(found):.3f} times that of {other}, worse" in title
    ratios = [fold["ratio"] for fold in as_json["folds"]] + [as_json["pooled"]["ratio"]]
    for row, ratio in zip(rows, ratios, strict=True):
        assert f" {ratio:.3f} " in row


def test_the_result_of_a_training(kind: str, tmp_path: Path, command_line: CommandLine) -> None:
    command = ["train", "model", "BTCUSDT", *MARKET, "--recipe", "own.toml", "--skip-onnx"]
    command += ["--sequence-length", "10", "--skip-plots", "--registry", "models"]
    done = command_line.run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (errors,) = re.findall(r"^test .*: the model is .*$", done.stdout, re.MULTILINE)
    (kept,) = re.findall(r"^not published, kept in: (.*)$", done.stdout, re.MULTILINE)
    metadata = json.loads((tmp_path / kept / "metadata.json").read_text())
    found = metadata["evaluation_results"]
    curves = json.loads((tmp_path / kept / "curves.json").read_text())
    assert curves["tested"]["class"] == ("up" if kind in ("two", "three") else None)
    lines = {
        "prices": "test RMSE {test_rmse:,.2f}, persistence {persistence_rmse:,.2f}: ",
        "returns": "test RMSE of return {test_rmse:#.5g}, persistence {persistence_rmse:#.5g}: ",
        "two": "test log loss {test_log_loss:#.5g}, class shares {class_shares_log_loss:#.5g}: ",
        "three": "test log loss {test_log_loss:#.5g}, class shares {class_shares_log_loss:#.5g}: ",
        "volatility": "test RMSE of log sigma {test_rmse:#.5g}, HAR {har_rmse:#.5g}, "
        "persistence {persistence_rmse:#.5g}: ",
    }
    assert errors.startswith(lines[kind].format(**found))
    further = {
        "prices": ["MAPE"],
        "returns": ["direction: "],
        "two": ["accuracy: right in "],
        "three": ["accuracy: right in "],
        "volatility": ["QLIKE: ", "R²: ", "band: "],
    }
    for text in further[kind]:
        assert f"\n{text}" in done.stdout
    if ERRORS[kind] == "log loss":
        count = metadata["dataset"]["test_windows"]
        fewer = (
            f" from {-(-count // 5):,} bars whose horizons do not overlap"
            if kind == "three"
            else ""
        )
        text = rf"^accuracy: right in \S+% of {count:,} bars \(95% interval \S+% to \S+%{fewer}\)$"
        assert re.search(text, done.stdout, re.MULTILINE)
    if kind != "prices":
        assert not re.search("MAPE|quote", done.stdout)
    shown = command_line.run("models", "show", kept, cwd=tmp_path).stdout
    named = " ".join(shown.split())
    keys = {
        "prices": "log_return, horizon 1",
        "returns": "smoothed_return, horizon 3",
        "two": "binary_direction, horizon 1, class weights none",
        "three": "triple_barrier, horizon 5, class weights none, take profit 0.03, stop loss 0.03",
        "volatility": "volatility, horizon 1, quantiles 0.05 / 0.95",
    }
    assert f" target {keys[kind]} network linear, bars 1, l2 1.0 " in named
    assert " training solved exactly " in named
    error = "test log loss" if ERRORS[kind] == "log loss" else "test RMSE"
    key = error.replace(" ", "_").lower()
    own = f"{found[key]:,.2f}" if kind == "prices" else f"{found[key]:#.5g}"
    assert re.search(rf"^{error} +{own} \(", shown, re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with candles of two markets, and a recipe for returns."""
    home = tmp_path_factory.mktemp("several")
    write_recipe(home, "returns")
    for symbol in ("BTCUSDT", "ETHUSDT"):
        candles = sample.candles(symbol, "1d")
        candles.filter(pl.col("timestamp").dt.year() >= 2022).write_parquet(
            home / f"{symbol}.parquet"
        )
    return home


OPTIONS = ["--candles", "{symbol}.parquet", "--recipe", "own.toml", "--sequence-length", "10"]
OPTIONS += ["--folds", "2", "--registry", "models"]


@pytest.fixture(scope="module")
def several(home: Path, command_line: CommandLine) -> Any:
    """What --json prints about two markets and one without candles."""
    symbols = ["BTCUSDT", "SOLUSDT", "ETHUSDT"]
    written = ["--predictions", "all.parquet", "--report", "all.html", "--jobs", "2", "--json"]
    done = command_line.run("evaluate", *symbols, *OPTIONS, *written, cwd=home)
    assert done.returncode == DataError.exit_code, done.stderr
    *_, last = done.stderr.splitlines()
    assert last == "error: 1 of 3 symbols failed: SOLUSDT"
    return json.loads(done.stdout)


def test_several_symbols_are_evaluated_like_each_alone(
    home: Path, several: Any, command_line: CommandLine
) -> None:
    first, failed, other = several
    assert failed.keys() == {"symbol", "failure", "exit_code"}
    assert (failed["symbol"], failed["exit_code"]) == ("SOLUSDT", DataError.exit_code)
    assert "SOLUSDT.parquet: no such file" in failed["failure"]
    written = pl.read_parquet(home / "all.parquet")
    assert written["symbol"].unique(maintain_order=True).to_list() == ["BTCUSDT", "ETHUSDT"]
    for document in (first, other):
        symbol = document["config"]["symbol"]
        assert document["symbol"] == symbol
        options = [*OPTIONS, "--predictions", f"{symbol}_alone.csv", "--json"]
        done = command_line.run("evaluate", symbol, *options, cwd=home)
        alone = json.loads(done.stdout)
        for each in (alone, document):
            each["folds"] = [{**fold, "seconds": None} for fold in each["folds"]]
        assert alone == document
        own = pl.read_csv(home / f"{symbol}_alone.csv", try_parse_dates=True)
        expected = written.filter(pl.col("symbol") == symbol)
        assert own.columns == expected.columns
        for name in ("prediction", "raw", "baseline", "actual", "last_close"):
            np.testing.assert_array_equal(own[name].to_numpy(), expected[name].to_numpy())
    page = (home / "all.html").read_text()
    assert all(symbol in page for symbol in ("BTCUSDT", "SOLUSDT", "ETHUSDT"))


def test_the_line_of_all_symbols(home: Path, several: Any, command_line: CommandLine) -> None:
    written = pl.read_parquet(home / "all.parquet")
    done = command_line.run("evaluate", "BTCUSDT", "ETHUSDT", *OPTIONS, cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all folds") == 2
    head, _, *rows = done.stdout.strip().splitlines()[-5:]
    names = ["symbol", "bars", "RMSE", "persistence", "/ persistence", "worse in"]
    assert re.split("  +", head) == names
    of_all = [document for document in several if "pooled" in document]
    for row, document in zip(rows, of_all, strict=False):
        pooled, symbol = document["pooled"], document["config"]["symbol"]
        worse = sum(fold["ratio"] > 1 for fold in document["folds"])
        figures = [f"{pooled[name]:#.5g}" for name in ("rmse", "persistence_rmse")]
        expected = [symbol, f"{pooled['test']:,}", *figures, f"{pooled['ratio']:.3f}"]
        assert row.split() == [*expected, str(worse), "of", "2", "folds"]
    own, other = (
        np.sqrt(np.mean(np.square((written[name] - written["actual"]).to_numpy())))
        for name in ("prediction", "baseline")
    )
    expected = ["all", "symbols", f"{len(written):,}", f"{own:#.5g}", f"{other:#.5g}"]
    assert rows[-1].split()[:6] == [*expected, f"{own / other:.3f}"]


def test_every_evaluation_is_in_the_ledger(
    home: Path, several: Any, command_line: CommandLine
) -> None:
    found = json.loads(
        command_line.run("runs", "ls", "--registry", "models", "--json", cwd=home).stdout
    )
    by_symbol = {record["symbols"][0]: record for record in found}
    assert by_symbol.keys() == {"BTCUSDT", "ETHUSDT"}
    for document in (several[0], several[2]):
        record = by_symbol[document["config"]["symbol"]]
        assert (record["kind"], record["bundle"]) == ("evaluate", None)
        assert record["metrics"]["test_rmse"] == document["pooled"]["rmse"]
        assert record["options"]["folds"] == 2
        assert record["data"].keys() == {"candles"}


def test_a_ledger_that_cannot_be_written_is_a_warning(
    home: Path, several: Any, tmp_path: Path, command_line: CommandLine
) -> None:
    (tmp_path / ".models-work").write_text("")  # not a folder
    registry = ["--registry", str(tmp_path / "models"), "--json"]
    done = command_line.run("evaluate", "BTCUSDT", *OPTIONS, *registry, cwd=home)
    assert done.returncode == 0
    assert "the run is complete, but" in done.stderr
    assert json.loads(done.stdout)["pooled"] == several[0]["pooled"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BTCUSDT", "btcusdt"], "BTCUSDT is given twice; pass each symbol once"),
        (
            ["BTCUSDT", "ETHUSDT", "--candles", "BTCUSDT.parquet"],
            "--candles BTCUSDT.parquet is one file, but 2 symbols are given; write {symbol} in",
        ),
        (
            ["BTCUSDT", "ETHUSDT", *OPTIONS, "--predictions", "ETHUSDT.parquet"],
            "--predictions 'ETHUSDT.parquet' is the file that --candles reads",
        ),
        (["BTCUSDT", *OPTIONS, "--report", "x.pdf"], "--report is 'x.pdf', expected a name that"),
        (
            ["BTCUSDT", *OPTIONS, "--report", "gone/x.html"],
            "--report 'gone/x.html' is in a directory that does not exist",
        ),
        (["BTCUSDT", *OPTIONS, "--report", "."], "--report is '.', expected a name that"),
    ],
)
def test_what_is_rejected_before_training(
    home: Path, command_line: CommandLine, arguments: list[str], message: str
) -> None:
    done = command_line.run("evaluate", *arguments, cwd=home)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
