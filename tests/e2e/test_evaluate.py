"""What `evaluate` and `train model` print about every kind of forecast."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import CommandLine

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
    "prices": "tested trained RMSE no change ratio linear right up rev.",
    "returns": "tested trained RMSE no change ratio linear right up rev.",
    "two": "tested trained log loss shares ratio linear right maj. rev.",
    "three": "tested trained log loss shares ratio linear right maj. rev.",
    "volatility": "tested trained RMSE ratio HAR EWMA linear R² QLIKE band",
}


@pytest.fixture(params=TARGETS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A kind of forecast, with a recipe file for it."""
    name = str(request.param)
    document: dict[str, dict[str, Any]] = {
        "features": FEATURES,
        "target": TARGETS[name],
        "network": {"kind": "linear"},
    }
    lines = ['name = "own"']
    for table, items in document.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in items.items())]
    (tmp_path / "own.toml").write_text("\n".join(lines))
    return name


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
    if kind != "prices":
        assert not re.search("quote currency|price", done.stdout.replace("--", ""))
    as_json = json.loads(command_line.run(*command, "--json", cwd=tmp_path).stdout)
    assert f"the model is {as_json['verdict']} (Diebold-Mariano" in verdict
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
    lines = {
        "prices": "test RMSE {test_rmse:,.2f}, persistence {persistence_rmse:,.2f}: ",
        "returns": "test RMSE of return {test_rmse:.5g}, no change {persistence_rmse:.5g}: ",
        "two": "test log loss {test_log_loss:.5g}, class shares {class_shares_log_loss:.5g}: ",
        "three": "test log loss {test_log_loss:.5g}, class shares {class_shares_log_loss:.5g}: ",
        "volatility": "test RMSE of log sigma {test_rmse:.5g}, HAR {har_rmse:.5g}, "
        "no change {persistence_rmse:.5g}: ",
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
    if kind != "prices":
        assert not re.search("MAPE|persistence|quote", done.stdout)
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
    own = f"{found[key]:,.2f}" if kind == "prices" else f"{found[key]:.5g}"
    assert re.search(rf"^{error} +{own} \(", shown, re.MULTILINE)
