"""The report of a real run, and a run without the package that writes it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from atb_fast.ingestion import sample

Run = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = [
    *("--source", "sample", "--timeframe", "1d", "--start-date", "2023-01-01"),
    *("--end-date", "2023-12-31", "--sequence-length", "20", "--epochs", "1", "--engine", "keras"),
    *("--skip-onnx", "--skip-robustness", "--registry", "models", "--json"),
]
CAUSAL = [
    *("--recipe", "causal", "--force-price-only", "--sequence-length", "12", "--epochs", "1"),
    *("--engine", "keras", "--skip-onnx", "--registry", "models", "--json"),
]


@pytest.mark.parametrize("broken", [False, True], ids=["installed", "missing"])
def test_a_run_needs_no_jinja2(
    tmp_path: Path, atb_fast: Run, new_process: Run, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    if broken:
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "jinja2.py").write_text("raise ImportError('no jinja2')")
        paths = [str(tmp_path / "broken"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    run = new_process if broken else atb_fast  # which has imported Jinja2 already
    done = run("train", "model", "BTCUSDT", *QUICK)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / json.loads(done.stdout)["paths"]["bundle"]
    assert (bundle / "training.png").is_file()
    assert (bundle / "report.html").exists() != broken
    failures = json.loads((bundle / "metadata.json").read_text())["diagnostic_failures"]
    assert failures == ({"report": "ImportError: no jinja2"} if broken else {})
    assert ("report failed" in done.stderr) == broken


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["engine", "--target", "triple_barrier"], ["class shares", "Confusion matrix"]),
        (["engine", "--target", "smoothed_return"], ["persistence", "RMSE of persistence"]),
        (["volatility"], ["HAR", "Distribution of forecast and", "Calibration of the bands"]),
    ],
)
def test_reports_of_forecasts_that_are_no_prices(
    tmp_path: Path, atb_fast: Run, options: list[str], shown: list[str]
) -> None:
    network = ["--network", "linear", "--start-date", "2024-07-01", "--skip-onnx", "--json"]
    done = atb_fast(
        *("train", "model", "BTCUSDT", "--source", "sample", "--registry", "models"),
        *("--recipe", *options, *network),
    )
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / json.loads(done.stdout)["paths"]["bundle"]
    assert json.loads((bundle / "metadata.json").read_text())["diagnostic_failures"] == {}
    page = (bundle / "report.html").read_text(encoding="utf-8")
    for text in shown:
        assert text in page
    assert "Not drawn" not in page
    assert (bundle / "training.png").is_file()


def test_the_second_run_is_compared_with_the_first(tmp_path: Path, atb_fast: Run) -> None:
    command = [
        *("train", "model", "BTCUSDT", "--source", "sample", "--registry", "models", "--json"),
        *("--recipe", "engine", "--target", "smoothed_return", "--start-date", "2024-07-01"),
        *("--network", "linear"),
    ]
    pages, versions = [], []
    for seed in ("1", "2"):
        done = atb_fast(*command, "--seed", seed)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        pages.append((tmp_path / result["paths"]["report.html"]).read_text(encoding="utf-8"))
        versions.append(result["version_id"])
    assert "Compared with the previous run" not in pages[0]
    section = pages[1].partition("Compared with the previous run")[2].partition("</section>")[0]
    assert versions[0] in section
    assert '<th scope="row">seed</th><td>1</td><td>2</td>' in section
    assert "ratio to persistence" in section
    assert str(tmp_path) not in section


def test_a_market_that_does_not_move_is_refused_without_warnings(
    tmp_path: Path, atb_fast: Run
) -> None:
    still = (
        sample.candles("BTCUSDT", "1d")
        .tail(600)
        .with_columns(pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close"))
    )
    still.write_csv(tmp_path / "still.csv")
    done = atb_fast("train", "model", "BTCUSDT", "--candles", "still.csv", *CAUSAL)
    assert done.returncode == 3
    assert "error: the close is 100 in all 600 candles" in done.stderr
    assert "Warning" not in done.stderr
    assert ".py" not in done.stderr


def test_a_model_shrunk_to_nothing_is_shown_next_to_its_network(
    tmp_path: Path, atb_fast: Run
) -> None:
    sample.candles("BTCUSDT", "1d").tail(1076).write_csv(tmp_path / "sample.csv")
    done = atb_fast("train", "model", "BTCUSDT", "--candles", "sample.csv", *CAUSAL)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / json.loads(done.stdout)["paths"]["bundle"]
    metadata = json.loads((bundle / "metadata.json").read_text())
    assert metadata["training_params"]["shrinkage"] == 0
    model, network = metadata["evaluation_results"], metadata["unshrunk_results"]
    assert model["test_rmse"] == model["persistence_rmse"] == network["persistence_rmse"]
    assert model["directional_bars"] == 0 < network["directional_bars"]
    assert "directional_accuracy" in network.keys() - model.keys()
    listed = json.loads(atb_fast("runs", "ls", "--registry", "models", "--json").stdout)
    assert [run["metrics"].get("directional_accuracy") for run in listed] == [None]
    page = (bundle / "report.html").read_text(encoding="utf-8")
    for text in (f"{network['test_rmse']:,.2f}", f"{network['directional_accuracy']:.1%}"):
        assert text in page.partition("Unshrunk test RMSE")[2].partition("Data and split")[0]
    assert page.count(">unshrunk</text>") == 2
    assert page.count(">left out</text>") == 1
