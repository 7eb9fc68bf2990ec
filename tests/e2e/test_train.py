"""`atb-fast train model`, from the command line to the bundle."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from commands import CommandLine

from atb_fast.ingestion import sample

LENGTH = 20
SHORT = ["--source", "sample", "--start-date", "2023-01-01", "--end-date", "2024-12-31"]
QUICK = [*SHORT, "--epochs", "2", "--sequence-length", str(LENGTH)]
STAGES = ["ingestion", "features", "dataset", "training", "evaluation", "diagnostics"]
STAGES += ["artifacts", "onnx"]


ONE_EPOCH = [*SHORT, "--epochs", "1", "--sequence-length", str(LENGTH), "--engine", "keras"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def left_in(registry: Path) -> list[Path]:
    """Return what a run left in the registry and in the work folder next to it."""
    work = registry.parent / f".{registry.name}-work"
    return [*registry.rglob("*"), *work.glob("*/*")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home: Path) -> dict[str, Any]:
    """A run of all steps in a new interpreter, with options both before and after the symbol."""
    command = [sys.executable, "-m", "atb_fast", "train", "model", *QUICK, "BTCUSDT", "--json"]
    done = subprocess.run(
        [*command, "--seed", "3", "--registry", "models"],
        cwd=home,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"},  # TensorFlow says so on any processor
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    document["stderr"] = done.stderr
    return document


@pytest.fixture(scope="module")
def bundle(home: Path, trained: dict[str, Any]) -> Path:
    return home / str(trained["paths"]["bundle"])


@pytest.fixture(scope="module")
def metadata(bundle: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in metadata.json")

    text = (bundle / "metadata.json").read_text()
    return json.loads(text, parse_constant=refuse)


def test_result_document(trained: dict[str, Any]) -> None:
    assert list(trained["stages"]) == STAGES
    assert all(seconds >= 0 for seconds in trained["stages"].values())
    assert sum(trained["stages"].values()) <= trained["total_seconds"]
    assert trained["stages"]["training"] > 0.5
    assert trained["epochs"] == 2
    assert trained["test_rmse"] > 0
    assert trained["persistence_rmse"] > 0
    assert 0 < trained["mape"] < 1000


def test_stderr_has_log_lines_only(trained: dict[str, Any]) -> None:
    lines = trained["stderr"].splitlines()
    assert any("synthetic" in line for line in lines)
    assert any(line.startswith(("CPU", "GPU")) for line in lines)
    assert not [line for line in lines if re.search(r"Warning|WARNING|Traceback|\.(py|cc):", line)]


def test_a_bad_model_goes_live_with_a_loud_warning(
    home: Path, trained: dict[str, Any], metadata: Any
) -> None:
    """The default of the legacy recipe, so that unattended jobs go on as before."""
    assert trained["promoted"] is True
    assert trained["promotion"].startswith(
        "promoted although the model is significantly worse than persistence (RMSE "
    )
    assert trained["promote_command"] == ""
    decision = metadata["promotion"]
    assert (decision["policy"], decision["promoted"]) == ("always", True)
    assert decision["reason"] == trained["promotion"]
    assert decision["live_before"] is None
    (compared,) = decision["compared"]
    assert compared["rmse"] == trained["test_rmse"]
    assert compared["other_rmse"] == trained["persistence_rmse"]
    assert compared["bars"] == metadata["dataset"]["test_windows"]
    (line,) = (line for line in trained["stderr"].splitlines() if "latest -> " in line)
    assert trained["promotion"] in line
    assert "; pass --promote gate to " in line
    # The best epoch was selected on the test windows.
    assert metadata["dataset"]["validation_last"] == compared["last"]


def test_a_real_model_is_not_replaced_by_one_of_the_sample_market(
    atb_fast: Run, tmp_path: Path
) -> None:
    sample.candles("BTCUSDT", "1d").tail(300).write_parquet(tmp_path / "real.parquet")
    options = ["train", "model", "BTCUSDT", "--force-price-only", "--epochs", "1", "--engine"]
    options += ["keras", "--sequence-length", "12", "--skip-plots", "--registry", "my models"]
    made_up = [*options, "--source", "sample", "--start-date", "2024-03-01"]
    home = tmp_path / "my models" / "BTCUSDT" / "price"

    gated = atb_fast(*options, "--candles", "real.parquet", "--promote", "gate")
    assert gated.returncode == 0, gated.stderr
    version = next(home.iterdir()).name
    assert not (home / "latest").is_symlink()
    command = f"atb-fast models promote BTCUSDT:1d:price:{version} --registry 'my models'"
    reason = "the model is significantly worse than persistence (RMSE "
    assert f"latest was not moved: {reason}" in gated.stderr
    assert gated.stderr.splitlines()[-1].endswith(f"; to make the model live anyway, run {command}")
    *_, live, title, details, score, promote = gated.stdout.splitlines()
    assert live.startswith(f"not live: {reason}")
    assert [title, details.split(), promote.split()] == [
        "next steps:",
        f"details atb-fast models show BTCUSDT:1d:price:{version} --registry 'my models'".split(),
        f"go live {command}".split(),
    ]
    assert f"load_bundle('BTCUSDT:1d:price:{version}', registry='my models')" in score
    assert atb_fast(*shlex.split(command)[1:]).returncode == 0
    assert str((home / "latest").readlink()) == version

    held = atb_fast(*made_up, "--promote", "always", "--json")
    assert held.returncode == 0, held.stderr
    result = json.loads(held.stdout)
    assert (result["published"], result["promoted"]) == (True, False)
    assert f"never replaces a real one, and {version} is live" in result["promotion"]
    assert result["promotion"] in held.stderr
    assert result["promote_command"] == ""
    made = f"BTCUSDT:1d:price:{result['version_id']}"
    forced = atb_fast("models", "promote", made, "--force", "--registry", "my models")
    assert forced.returncode == 9
    assert f"never replaces a real one, and {version} is live" in forced.stderr
    assert "use another --registry" in forced.stderr
    assert str((home / "latest").readlink()) == version


def test_layout(home: Path, bundle: Path, trained: dict[str, Any]) -> None:
    assert bundle.parent == home / "models" / "BTCUSDT" / "sentiment"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\dh\d\dm\d\ds_v1", bundle.name)
    assert trained["version_id"] == bundle.name
    assert str((bundle.parent / "latest").readlink()) == bundle.name
    files = ["SHA256SUMS", "curves.json", "feature_schema.json", "metadata.json", "model.keras"]
    files += ["model.onnx", "report.html", "samples.npz", "training.png"]
    assert sorted(path.name for path in bundle.iterdir()) == files
    assert all((home / trained["paths"][name]).is_file() for name in files)
    assert (bundle / "training.png").read_bytes().startswith(b"\x89PNG")


def test_metadata_has_what_the_engines_read(metadata: Any, bundle: Path) -> None:
    assert metadata["symbol"] == "BTCUSDT"
    assert metadata["timeframe"] == "1d"
    assert metadata["model_type"] == "sentiment"
    assert metadata["version_id"] == bundle.name
    assert metadata["created_at"] == metadata["training_date"]
    assert metadata["created_at"].endswith("+00:00")
    assert metadata["sequence_length"] == LENGTH
    assert metadata["feature_count"] == len(metadata["feature_names"]) == 10
    assert metadata["task_type"] == "regression"
    assert metadata["price_normalization"] == {"mean": 0.0, "std": 1.0}
    assert metadata["framework"] == "onnx"
    assert metadata["model_file"] == "model.onnx"
    assert metadata["has_sentiment"] is True
    assert metadata["diagnostics"] == {"plots": True, "robustness": True, "onnx": True}
    assert metadata["dataset"]["synthetic"] is True
    assert metadata["training_params"]["epochs"] == 2
    assert metadata["training_params"]["seed"] == 3
    assert metadata["sentiment_assessment"]["recommendation"] in (
        "full_sentiment",
        "hybrid_with_fallback",
    )
    assert "normalization_params" not in metadata
    robust = metadata["robustness_results"]
    assert set(robust) == {
        *("test_rmse", "test_rmse_without_sentiment", "test_rmse_neutral_sentiment")
    }
    share, low, high = (
        metadata["evaluation_results"][f"directional_accuracy{end}"]
        for end in ("", "_low", "_high")
    )
    assert 0 <= low <= share <= high <= 1
    assert set(metadata["permutation_importance"]) == set(metadata["feature_names"])


def test_the_report_has_the_results_of_publishing(bundle: Path, metadata: Any) -> None:
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert bundle.name in page
    assert page.count("<svg ") == 13
    assert page.count("passed") == 5
    assert "failed" not in page
    for name in ("test_rmse", "persistence_rmse"):
        assert f">{metadata['evaluation_results'][name]:,.2f}<" in page
    difference = metadata["verification"]["prediction_difference"]
    assert f"{difference:.1e} ≤ 1e-05" in page


def test_onnx_satisfies_the_contract(bundle: Path) -> None:
    import onnx

    model = onnx.load(bundle / "model.onnx")
    assert 13 <= {o.domain: o.version for o in model.opset_import}[""] <= 17
    assert model.ir_version <= 8
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LSTM") == 2
    assert "Loop" not in operators
    first, output = model.graph.input[0].type.tensor_type, model.graph.output[0].type.tensor_type
    assert first.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_value for d in first.shape.dim] == [0, LENGTH, 10]
    assert [d.dim_value for d in output.shape.dim] == [0, 1]


def test_scoring_the_bundle_gives_the_reported_error(
    bundle: Path, trained: dict[str, Any], metadata: Any
) -> None:
    """With features computed by NumPy from feature_schema.json, and the model in onnxruntime."""
    import onnxruntime

    schema = json.loads((bundle / "feature_schema.json").read_text())
    assert [f["name"] for f in schema["features"]] == metadata["feature_names"]
    assert all(f["required"] and "normalization" not in f for f in schema["features"])

    sentiment = sample.sentiment()
    change = sentiment["value"] / sentiment["value"].shift(1) - 1
    change = change.set(~change.is_finite(), 0.0)  # the day after an index of 0
    sentiment = sentiment.with_columns(sentiment_momentum=change.fill_null(0.0))
    candles = sample.candles("BTCUSDT", "1d").filter(pl.col("timestamp").dt.year() >= 2023)
    frame = candles.join(sentiment, on="timestamp", how="left", maintain_order="left")
    close = frame["close"].to_numpy()
    columns = []
    for feature in schema["features"]:
        expression = feature["expression"]
        name = re.search("open|high|low|close|volume|sentiment_momentum", expression)
        assert name is not None
        values = frame[name[0]].to_numpy().copy()
        if mean := re.fullmatch(r"mean\(close, (\d+)\)", expression):
            window = int(mean[1])
            padded = np.concatenate([np.full(window - 1, np.nan), values])
            values = np.lib.stride_tricks.sliding_window_view(padded, window).mean(axis=1)
        elif expression == "rsi(close, 14, simple)":
            steps = np.diff(close, prepend=close[0])
            up = np.convolve(np.maximum(steps, 0), np.ones(14))[: len(close)]
            down = np.convolve(np.maximum(-steps, 0), np.ones(14))[: len(close)]
            with np.errstate(all="ignore"):  # no losses in the first rows, which are cut below
                values = 100 - 100 / (1 + up / down)
        else:
            assert expression == name[0]
        scaler = feature["scaler"]
        columns.append(values * scaler["scale"] + scaler["min"])
    matrix = np.stack(columns, axis=1)[29:].astype(np.float32)
    close = close[29:]

    count = len(matrix) - LENGTH
    test = range(int(count * 0.8), count)
    windows = np.stack([matrix[s : s + LENGTH] for s in test])
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    predicted = session.run(None, {session.get_inputs()[0].name: windows})[0][:, 0]
    actual = close[LENGTH:][test.start :]
    error = float(np.sqrt(np.mean((predicted - actual) ** 2)))
    assert error == pytest.approx(trained["test_rmse"], rel=1e-5)
    unchanged = close[LENGTH - 1 : -1][test.start :]
    assert float(np.sqrt(np.mean((unchanged - actual) ** 2))) == pytest.approx(
        trained["persistence_rmse"], rel=1e-9
    )
    assert float(np.mean(np.abs(predicted / actual - 1))) * 100 == pytest.approx(
        trained["mape"], rel=1e-4
    )


def test_onnx_equals_keras(bundle: Path) -> None:
    import keras
    import onnxruntime

    model = keras.models.load_model(bundle / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    rng = np.random.default_rng(0)
    for size in (1, 7, 256):
        windows = rng.random((size, LENGTH, 10), dtype=np.float32)
        got = session.run(None, {session.get_inputs()[0].name: windows})[0]
        expected = model.predict(windows, verbose=0)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_skipped_steps_are_logged_and_recorded(
    home: Path, bundle: Path, command_line: CommandLine
) -> None:
    options = [*ONE_EPOCH, "--skip-plots", "--skip-robustness", "--skip-onnx"]
    options += ["--force-price-only", "--registry", "models"]
    done = command_line.run("train", "model", "btcusdt", *options, cwd=home)
    assert done.returncode == 0, done.stderr
    for line in ("robustness: skipped", "plots: skipped", "onnx: skipped"):
        assert line in done.stderr
    assert "test RMSE" in done.stdout
    assert "\n1 keras epoch of " in done.stdout
    assert "not published, kept in" in done.stdout
    assert done.stdout.splitlines()[-2] == "next steps:"
    assert not (home / "models" / "BTCUSDT" / "price").exists()
    (kept,) = (home / ".models-work" / "unpublished").iterdir()
    document = json.loads((kept / "metadata.json").read_text())
    assert document["diagnostics"] == {"plots": False, "robustness": False, "onnx": False}
    assert document["model_type"] == "price"
    assert document["feature_count"] == 9
    assert document["promotion"]["promoted"] is False
    assert "--skip-onnx was given" in document["promotion"]["reason"]
    assert kept.name.endswith(document["version_id"])
    assert sorted(path.name for path in kept.iterdir()) == [
        "SHA256SUMS",
        "curves.json",
        "feature_schema.json",
        "metadata.json",
        "model.keras",
        "samples.npz",
    ]
    assert str((bundle.parent / "latest").readlink()) == bundle.name


def test_a_result_that_cannot_be_printed(home: Path) -> None:
    command = [sys.executable, "-m", "atb_fast", "train", "model", "BTCUSDT", *ONE_EPOCH, "--json"]
    options = ["--skip-onnx", "--skip-plots", "--skip-robustness", "--registry", "full"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, *options],
            cwd=home,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert "the result cannot be printed (No space left on device), but the bundle" in done.stderr


@pytest.mark.parametrize(("number", "compiled"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_interrupted_training_leaves_nothing(
    tmp_path: Path, number: signal.Signals, compiled: bool
) -> None:
    """Interrupted during compilation, and while there is a checkpoint to resume from."""
    command = [sys.executable, "-m", "atb_fast", "train", "model", "BTCUSDT", *QUICK]
    command += ["--epochs", "100000", "--patience", "100000", "--cache-dir", "cache"]
    with subprocess.Popen(
        [*command, "--registry", "models"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "compiling" in line:
                break
        # The first checkpoint counts once it is on the disk, so wait for the second one.
        written: set[int] = set()
        while compiled and len(written) < 2:
            assert process.poll() is None
            files = (tmp_path / "cache" / "checkpoints").glob("*.npz")
            written |= {file.stat().st_mtime_ns for file in files}
            time.sleep(0.05)
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 130
    resume = r"; the same command with --resume continues after epoch \d+" if compiled else ""
    # The newline ends the line of the ^C. Progress may have been printed before.
    assert re.fullmatch(rf"(training: .*\n)*\nerror: interrupted{resume}\n", rest)
    assert left_in(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("space", "file", "kept"),
    [(2_000, "", []), (20_000, "/samples.npz", ["SHA256SUMS", "model.keras", "model.onnx"])],
)
def test_a_full_disk(
    command_line: CommandLine, tmp_path: Path, space: int, file: str, kept: list[str]
) -> None:
    options = ["--recipe", "causal", "--network", "linear", "--start-date", "2022-01-01"]
    options += ["--source", "sample", "--registry", "models", "--cache-dir", "cache"]
    done = command_line.run(
        "train", "model", "BTCUSDT", *options, "--no-compile-cache", cwd=tmp_path, file_size=space
    )
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    said = rf"error: registry models cannot be written \(File too large: .*_v1{file}\); raise the "
    said += r"limit for the size of a file \(ulimit -f\), or pass another --registry"
    assert re.fullmatch(said, done.stderr.splitlines()[-1])
    assert list((tmp_path / "models").rglob("*")) == []
    left = (tmp_path / ".models-work").rglob("*_v1/*")  # none of them is cut off
    assert sorted(path.name for path in left) == kept


def test_eth_trains_the_same_way(shared: Path, atb_fast: Run) -> None:
    candles = shared / "data" / "ETHUSDT_1d_2017-08-17_2024-12-31.parquet"
    options = ["--start-date", "2023-01-01", "--end-date", "2024-12-01", "--engine", "keras"]
    options += ["--force-price-only", "--epochs", "1", "--skip-plots", "--registry", "models"]
    done = atb_fast("train", "model", "ETHUSDT", "--candles", candles, *options, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["model_type"] == "price"
    assert result["paths"]["bundle"].startswith("models/ETHUSDT/price/")


@pytest.mark.long
def test_canonical_candles_for_twenty_epochs(shared: Path, atb_fast: Run, tmp_path: Path) -> None:
    data = shared / "data"
    options = ["--start-date", "2019-01-01", "--end-date", "2024-12-01", "--timeframe", "1d"]
    options += ["--epochs", "20", "--seed", "1", "--skip-plots", "--skip-robustness", "--json"]
    options += ["--candles", str(data / "BTCUSDT_1d_2017-08-17_2024-12-31.parquet")]
    options += ["--sentiment", str(data / "fear_greed_1d_2018-02-01_2025-05-02.parquet")]
    done = atb_fast("train", "model", "BTCUSDT", *options, "--registry", "models")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["epochs"] == 20
    # Twenty epochs move the predictions from 0 dollars to about the level of the prices.
    assert 10_000 < result["test_rmse"] < 60_000
    assert result["persistence_rmse"] == pytest.approx(1680.116, abs=1e-3)
    document = json.loads(Path(tmp_path, result["paths"]["metadata.json"]).read_text())
    assert set(document["onnx_difference"]) == {"1", "7", "256"}
    assert max(document["onnx_difference"].values()) <= 1e-5
