"""Meta-labels from the command line: the primary model, training, the bundle, and scoring it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
from commands import CommandLine
from sklearn.linear_model import LogisticRegression

from atb_fast import load_bundle, meta_label_features
from atb_fast.errors import ArgumentError, DataError
from atb_fast.features.meta_label import FEATURES
from atb_fast.ingestion import sample
from atb_fast.serving.verification import verify

DATA = ["--source", "sample", "--start-date", "2024-05-01"]
META = [*DATA, "--recipe", "meta_label", "--extra", "primary=primary.parquet"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, command_line: CommandLine) -> Path:
    """A directory with the out-of-fold predictions of a basic model."""
    home = tmp_path_factory.mktemp("meta")
    basic = ["--recipe", "basic", "--timeframe", "1h", "--network", "linear"]
    written = ["--folds", "2", "--predictions", "primary.parquet"]
    done = command_line.run("evaluate", "BTCUSDT", *DATA, *basic, *written, cwd=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def predictions(home: Path) -> pl.DataFrame:
    return pl.read_parquet(home / "primary.parquet")


@pytest.fixture(scope="module")
def result(home: Path, command_line: CommandLine) -> Any:
    options = ["--registry", "models", "--promote", "always", "--json"]
    done = command_line.run("train", "model", "BTCUSDT", *META, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def bundle(home: Path, result: Any) -> Path:
    return home / str(result["paths"]["bundle"])


@pytest.fixture(scope="module")
def scored(predictions: pl.DataFrame) -> pl.DataFrame:
    """The candles, with the features of a backtest."""
    candles = sample.candles("BTCUSDT", "1h")
    recent = candles.filter(pl.col("timestamp") >= pl.datetime(2024, 5, 1, time_zone="UTC"))
    return meta_label_features(recent, predictions)


def test_the_predictions_of_the_folds(predictions: pl.DataFrame, scored: pl.DataFrame) -> None:
    hour = pl.duration(hours=1)
    assert predictions.columns == [
        *("symbol", "timestamp", "made_at", "target_time", "fold"),
        *("prediction", "raw", "baseline", "actual", "last_close"),
    ]
    # Half of the bars are tested, each once, by two models one after the other.
    assert len(predictions) == pytest.approx(len(scored) / 2, abs=200)
    assert predictions["timestamp"].is_sorted()
    assert not predictions["timestamp"].is_duplicated().any()
    assert predictions["fold"].is_sorted()
    assert predictions["fold"].unique().to_list() == [1, 2]
    # The close of a bar, predicted when it opens, from the close before it.
    closes = scored.select("timestamp", "close", before=pl.col("close").shift(1))
    joined = predictions.join(closes, on="timestamp", how="left", maintain_order="left")
    assert joined["actual"].equals(joined["close"], check_names=False)
    assert joined["last_close"].equals(joined["before"], check_names=False)
    times = predictions.select(pl.col("made_at") == pl.col("timestamp"))
    assert times.to_series().all()
    known = predictions.select(pl.col("target_time") == pl.col("timestamp") + hour)
    assert known.to_series().all()
    assert predictions.null_count().sum_horizontal().item() == 0


def test_the_bundle(bundle: Path, result: Any) -> None:
    assert bundle.parts[-3:-1] == ("BTCUSDT", "meta_label")
    assert result["model_type"] == "meta_label"
    metadata = json.loads((bundle / "metadata.json").read_text())
    assert (metadata["task_type"], metadata["class_labels"]) == ("binary_classification", [0, 1])
    assert (metadata["primary_model_type"], metadata["timeframe"]) == ("basic", "1h")
    assert (metadata["sequence_length"], metadata["feature_count"]) == (1, 8)
    assert tuple(metadata["feature_names"]) == FEATURES
    assert "price_normalization" not in metadata
    assert metadata["requirements"] == {"columns": {name: {"lag_ms": 0} for name in FEATURES}}
    assert metadata["dataset"]["sha256"].keys() == {"candles", "primary"}
    schema = json.loads((bundle / "feature_schema.json").read_text())
    assert [feature["name"] for feature in schema["features"]] == list(FEATURES)
    assert all("normalization" not in feature for feature in schema["features"])
    graph = onnx.load(str(bundle / "model.onnx")).graph
    assert [node.op_type for node in graph.node] == ["Reshape", "MatMul", "Add", "Sigmoid"]
    assert verify(bundle).problems == ()


def test_the_model_is_the_logistic_regression_of_scikit_learn(
    bundle: Path, scored: pl.DataFrame, predictions: pl.DataFrame
) -> None:
    dataset = json.loads((bundle / "metadata.json").read_text())["dataset"]
    fires = scored.filter(pl.col("primary_side") != 0).drop_nulls(FEATURES)
    assert dataset["rows"] == len(fires)
    # The outcome of a fire, from the candles alone.
    rows = {time: row for row, time in enumerate(scored["timestamp"])}
    high, low, close = (scored[name].to_numpy() for name in ("high", "low", "close"))
    outcomes = []
    for time, side in fires.select("timestamp", "primary_side").iter_rows():
        entry, outcome = close[rows[time]], None
        for now in range(rows[time] + 1, min(rows[time] + 337, len(close))):
            bad, good = (low, high) if side > 0 else (high, low)
            if side * (bad[now] / entry - 1) <= -0.05:
                outcome = 0
            elif side * (good[now] / entry - 1) >= 0.04:
                outcome = 1
            elif now == rows[time] + 336:
                outcome = int(side * (close[now] / entry - 1) > 0.002)
            if outcome is not None:
                break
        outcomes.append(outcome)
    labeled = fires.with_columns(outcome=pl.Series(outcomes)).head(len(fires) - 336)
    trained = labeled.drop_nulls("outcome").head(dataset["train_windows"])
    x = trained.select(FEATURES).to_numpy().astype(np.float32).astype(np.float64)
    expected = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, trained["outcome"])
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    (feed,) = session.get_inputs()
    assert feed.shape[1:] == [1, 8]
    every = fires.select(FEATURES).to_numpy().astype(np.float32)
    one_by_one = [session.run(None, {feed.name: row[None, None]})[0] for row in every]
    got = np.concatenate(one_by_one)
    assert got.shape == (len(every), 1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[:, 0], expected.predict_proba(every)[:, 1], atol=1e-5)


def test_scoring_a_frame(bundle: Path, scored: pl.DataFrame) -> None:
    model = load_bundle(bundle)
    assert list(model.extra_columns) == list(FEATURES)
    found = model.predict(scored)
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    fires = scored.with_row_index("row").filter(pl.col("primary_side") != 0).tail(50)
    for *values, row in fires.select(*FEATURES, "row").iter_rows():
        given = np.array(values, np.float32)[None, None]
        (expected,) = session.run(None, {session.get_inputs()[0].name: given})
        last = model.predict_last(scored.head(row + 1))
        assert last["probability"] == pytest.approx(float(expected[0, 0]), abs=1e-6)
        # The forecast at the close of a bar is listed at the next one.
        if row + 1 < len(found):
            assert found["probability"][row + 1] == pytest.approx(last["probability"], abs=1e-9)
    # There is no forecast without a prediction of the primary model.
    assert found["probability"].null_count() == scored[FEATURES[-1]].head(-1).null_count() + 1
    with pytest.raises(
        DataError, match=r"the frame lacks realized_vol_48, .* which the model reads"
    ):
        model.predict(scored.drop(FEATURES))


def test_the_run_can_be_repeated(home: Path, bundle: Path, command_line: CommandLine) -> None:
    options = ["--registry", "models", "--json"]
    done = command_line.run("train", "--from", bundle, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    again = home / str(json.loads(done.stdout)["paths"]["bundle"])
    assert (again / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


def test_evaluation_and_leak_check(home: Path, command_line: CommandLine) -> None:
    options = ["--folds", "1", "--predictions", "meta.csv"]
    done = command_line.run("evaluate", "BTCUSDT", *META, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    _, _, _, fold, legend, _ = done.stdout.splitlines()
    assert 0 < float(fold.split()[4]) < 10
    assert legend.endswith("; maj.: accuracy of the majority class.")  # has no contrarian
    written = pl.read_csv(home / "meta.csv", try_parse_dates=True)
    assert {*written["actual"]} <= {0.0, 1.0}
    assert written["probability"].is_between(0, 1).all()
    assert (written["timestamp"] == written["made_at"]).all()
    done = command_line.run("check", "leak", "BTCUSDT", *META, "--cuts", "3", cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_recipe_is_described(home: Path, command_line: CommandLine) -> None:
    done = command_line.run("recipes", "show", "meta_label", "--json", cwd=home)
    document = json.loads(done.stdout)
    assert (document["sequence_length"], document["purge"]) == (1, 336)
    assert [feature["name"] for feature in document["features"]] == list(FEATURES)
    done = command_line.run("recipes", "ls", cwd=home)
    assert "meta_label" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--recipe", "meta_label"], ArgumentError, "needs the predictions of the basic model"),
        ([*META, "--extra-lag", "primary=1h"], ArgumentError, "--extra-lag primary does not apply"),
        ([*META, "--sequence-length", "20"], ArgumentError, "--sequence-length"),
        ([*META, "--extra", "x=primary.parquet"], ArgumentError, "reads only primary"),
    ],
)
def test_options_that_do_not_apply(
    home: Path, command_line: CommandLine, options: list[str], code: Any, message: str
) -> None:
    done = command_line.run("train", "model", "BTCUSDT", *DATA, *options, cwd=home)
    assert done.returncode == code.exit_code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("primary.xlsx", "expected a name that ends with .parquet, .feather, .csv"),
        ("gone/primary.parquet", "is in a directory that does not exist"),
        # The file itself could exist, but not the temporary file that it is renamed from.
        (f"{'p' * 240}.csv", "cannot be written (File name too long)"),
        ("/proc/primary.csv", "cannot be written (No such file or directory)"),
        (f"{'p' * 300}.csv", "cannot be written (File name too long)"),
    ],
)
def test_predictions_that_cannot_be_written_are_reported_before_training(
    home: Path, command_line: CommandLine, name: str, message: str
) -> None:
    # The candles do not exist either, but that would be found only later.
    options = ["--candles", "gone.csv", "--force-price-only", "--predictions", name]
    done = command_line.run("evaluate", "BTCUSDT", *options, cwd=home)
    assert done.returncode == ArgumentError.exit_code
    shown = f"'{name}"[:200]
    assert f"--predictions is {shown}" in done.stderr or f"--predictions {shown}" in done.stderr
    assert message in done.stderr
    assert ".tmp" not in done.stderr
    assert not [*home.glob(".*.tmp")]


_OWN = """\
name = "own"
extra = ["fear"]
features = { fear = "fear" }
target = { kind = "log_return" }
network = { kind = "linear" }
"""


@pytest.mark.parametrize(
    ("options", "name", "read_by"),
    [
        (["--candles", "a.csv", "--force-price-only"], "a.csv", "--candles"),
        (["--candles", "link.csv", "--force-price-only"], "a.csv", "--candles"),
        (["--candles", "a.csv", "--force-price-only"], "link.csv", "--candles"),
        (["--candles", "a.csv", "--force-price-only"], "here/a.csv", "--candles"),
        (["--candles", "{symbol}.csv", "--force-price-only"], "BTCUSDT.csv", "--candles"),
        (["--candles", "gone.csv", "--sentiment", "a.csv"], "a.csv", "--sentiment"),
        (["--recipe", "own.toml", "--extra", "fear=a.csv"], "link.csv", "--extra fear"),
        (["--recipe", "own.toml", "--extra", "fear=a.csv"], "own.csv", "--recipe"),
    ],
)
def test_predictions_never_replace_an_input(
    tmp_path: Path, command_line: CommandLine, options: list[str], name: str, read_by: str
) -> None:
    contents = {"a.csv": "a", "BTCUSDT.csv": "b", "own.csv": _OWN}
    for file, content in contents.items():
        (tmp_path / file).write_text(content)
    links = (("link.csv", "a.csv"), ("own.toml", "own.csv"), ("here", "."))
    for link, target in links:
        (tmp_path / link).symlink_to(target)
    done = command_line.run("evaluate", "BTCUSDT", *options, "--predictions", name, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"--predictions '{name}' is the file that {read_by} reads" in line
    assert {file: (tmp_path / file).read_text() for file in contents} == contents
    assert {link for link, _ in links} == {each.name for each in tmp_path.iterdir()} - {*contents}
