"""Bundles for the strategies of the bot: trained by the command line, scored, and repeated."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import plain_reader
import polars as pl
import pytest
from commands import CommandLine
from sealing import reseal
from strategy_breaks import BREAKS, metadata
from strategy_contract import KINDS, violations

from atb_fast import load_bundle
from atb_fast.ingestion import sample
from atb_fast.recipes.meta_label import meta_label_features
from atb_fast.recipes.targets import TARGETS
from atb_fast.recipes.targets.anchored import Classifier
from atb_fast.serving.verification import TARGET_FORECASTS, verify

LENGTH = 120
BARRIER = ["--target", "triple_barrier", "--horizon", "48", "--target-take-profit", "0.01"]
OPTIONS = {
    "binary": ["--recipe", "engine", "--target", "binary_direction"],
    "ternary": ["--recipe", "engine", *BARRIER],
    "smoothed return": ["--recipe", "engine", "--target", "smoothed_return", "--horizon", "24"],
    "meta label": [
        *("--recipe", "meta_label", "--horizon", "48", "--extra", "primary=primary.parquet"),
    ],
}
COLUMNS = {
    "binary": ["probability"],
    "ternary": ["probability_down", "probability_flat", "probability_up"],
    "smoothed return": ["predicted_return"],
}
Truth = Callable[[str, str], pl.DataFrame]


def train(command_line: CommandLine, cwd: Path, kind: str, *options: str) -> Any:
    """Train a model of `kind` and return the document that the program prints."""
    done = command_line.run(
        *("train", "model", "BTCUSDT", *OPTIONS[kind], *options),
        *("--network", "linear", "--skip-plots", "--skip-robustness", "--promote", "always"),
        *("--registry", kind, "--json"),
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def primary(candles: pl.DataFrame) -> pl.DataFrame:
    """Out-of-fold predictions of a primary model that knows nothing."""
    noise = 0.002 * np.random.default_rng(0).normal(size=len(candles))
    return candles.select(
        "timestamp",
        prediction=pl.col("close") * pl.Series(np.exp(noise)),
        fold=pl.int_range(1, len(candles) + 1) // 1000,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, command_line: CommandLine) -> Path:
    """A registry with a live bundle for each kind, trained on the sample market."""
    home = tmp_path_factory.mktemp("strategies")
    primary(sample.candles("BTCUSDT", "1h")).write_parquet(home / "primary.parquet")
    for kind in KINDS:
        train(command_line, home, kind, "--source", "sample", "--start-date", "2024-09-01")
    return home


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, command_line: CommandLine, truth: Truth) -> Path:
    """The same, trained on real candles if there are any."""
    home = tmp_path_factory.mktemp("real")
    candles = truth("BTCUSDT", "1h").tail(4000)
    candles.write_parquet(home / "candles.parquet")
    primary(candles).write_parquet(home / "primary.parquet")
    for kind in KINDS:
        train(command_line, home, kind, "--candles", "candles.parquet")
    return home


def trend() -> pl.DataFrame:
    """Candles of a market whose returns can be predicted: their mean changes slowly."""
    rng = np.random.default_rng(0)
    mean, size = np.zeros(3000), 0.003
    for i in range(1, len(mean)):
        mean[i] = 0.98 * mean[i - 1] + 0.1 * size * rng.normal()
    close = 100.0 * np.exp(np.cumsum(mean + size * rng.normal(size=len(mean))))
    opened = np.concatenate([[100.0], close[:-1]])
    beyond = 1.0 + size * rng.random((2, len(mean)))
    return pl.DataFrame(
        {
            "timestamp": pl.datetime_range(
                datetime(2024, 1, 1, tzinfo=UTC),
                datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=len(mean) - 1),
                "1h",
                eager=True,
            ).dt.cast_time_unit("ms"),
            "open": opened,
            "high": np.maximum(opened, close) * beyond[0],
            "low": np.minimum(opened, close) / beyond[1],
            "close": close,
            "volume": rng.uniform(1.0, 2.0, len(mean)),
        }
    )


@pytest.fixture(scope="module")
def trending(tmp_path_factory: pytest.TempPathFactory, command_line: CommandLine) -> Path:
    """A registry with a model of smoothed returns that is not shrunk to 0, as on real candles."""
    home = tmp_path_factory.mktemp("trending")
    trend().write_parquet(home / "candles.parquet")
    train(command_line, home, "smoothed return", "--candles", "candles.parquet")
    return home / "smoothed return"


@pytest.mark.parametrize("market", ["home", "real"])
@pytest.mark.parametrize("kind", KINDS)
def test_bundles_satisfy_the_contract(
    request: pytest.FixtureRequest, market: str, kind: str
) -> None:
    root: Path = request.getfixturevalue(market) / kind
    assert violations(root, "BTCUSDT", kind) == set()
    report = verify(root / "BTCUSDT" / KINDS[kind].model_type / "latest")
    assert (report.problems, report.unchecked, report.skew) == ((), (), 0.0)
    assert report.prediction_difference is not None
    assert report.prediction_difference < 1e-6


@pytest.mark.parametrize("kind", COLUMNS)
def test_500_bars_equal_a_plain_reading(
    real: Path, trending: Path, truth: Truth, kind: str
) -> None:
    candles = truth("BTCUSDT", "1h").tail(LENGTH + 500)
    root = trending if kind == "smoothed return" else real / kind
    bundle = load_bundle("BTCUSDT:1h:price", registry=root)
    arrays = {name: candles[name].to_numpy() for name in candles.columns[1:]}
    expected = plain_reader.outputs(bundle.path, arrays, range(LENGTH, len(candles)))
    assert np.isfinite(expected).all()
    assert np.ptp(expected, axis=0).min() > 0  # it is no constant
    got = bundle.predict(candles)[LENGTH:]
    np.testing.assert_allclose(got.select(COLUMNS[kind]), expected, rtol=1e-5, atol=1e-7)
    last = bundle.predict_last(candles[:-1])
    assert [*last.values()] == pytest.approx(got.row(-1)[1:], rel=1e-5, abs=1e-7)


def test_a_meta_label_bundle_equals_a_plain_reading(real: Path, truth: Truth) -> None:
    candles = truth("BTCUSDT", "1h").tail(4000)
    frame = meta_label_features(candles, primary(candles))
    bundle = load_bundle("BTCUSDT:1h:meta_label", registry=real / "meta label")
    session = onnxruntime.InferenceSession(bundle.path / "model.onnx")
    rows = frame.select(bundle.feature_names)[-501:].to_numpy().astype(np.float32)
    fed = session.get_inputs()[0].name
    expected = [float(session.run(None, {fed: row[None, None]})[0][0, 0]) for row in rows]
    # What is known at the close of a bar is listed at the next one.
    got = bundle.predict(frame)["probability"][-500:]
    np.testing.assert_allclose(got, expected[:-1], rtol=1e-6)
    assert np.ptp(expected) > 0
    assert bundle.predict_last(frame)["probability"] == pytest.approx(expected[-1], rel=1e-6)


def test_the_distribution_is_that_of_the_training_predictions(trending: Path) -> None:
    assert violations(trending, "BTCUSDT", "smoothed return") == set()
    bundle, candles = load_bundle("BTCUSDT:1h:price", registry=trending), trend()
    dataset = bundle.metadata["dataset"]
    arrays = {name: candles[name].to_numpy() for name in candles.columns[1:]}
    # There are no gaps, so the training windows are the first ones.
    last = LENGTH + dataset["train_windows"]
    returns = plain_reader.outputs(bundle.path, arrays, range(LENGTH, last))[:, 0]
    given = bundle.metadata["target_distribution"]
    assert len(given["values"]) == 101
    expected = np.percentile(np.abs(returns.astype(np.float64)), given["percentiles"])
    np.testing.assert_allclose(given["values"], expected, rtol=1e-4, atol=1e-9)
    # The anchor of a window is the bar after it, and the label looks 24 bars further.
    seen = candles["timestamp"][last - 1 + 24]
    assert dataset["train_last"] == seen.isoformat()


@pytest.mark.parametrize("kind", KINDS)
def test_the_metadata_repeats_the_run(
    home: Path, command_line: CommandLine, tmp_path: Path, kind: str
) -> None:
    bundle = (home / kind / "BTCUSDT" / KINDS[kind].model_type / "latest").resolve()
    shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copy(home / "primary.parquet", tmp_path)
    done = command_line.run(
        *("train", "--from", tmp_path / "bundle", "--registry", "again", "--json"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    repeated = json.loads(done.stdout)
    assert repeated["same_onnx"] is True
    again = json.loads((tmp_path / repeated["paths"]["bundle"] / "metadata.json").read_text())
    before = json.loads((bundle / "metadata.json").read_text())
    for key in ("task_type", "class_labels", "output", "target_distribution", "recipe_document"):
        assert again.get(key) == before.get(key)


def test_models_show_and_list(home: Path, command_line: CommandLine) -> None:
    def models(*arguments: str, kind: str) -> str:
        done = command_line.run("models", *arguments, "--registry", kind, cwd=home)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = models("show", "BTCUSDT:1h:price", kind="ternary")
    assert re.search(r"^task +ternary classification$", shown, re.MULTILINE)
    assert re.search(r"^classes +-1, 0, 1$", shown, re.MULTILINE)
    assert re.search(r"^horizon +48 bars$", shown, re.MULTILINE)
    loss = re.search(r"^test log loss +(\S+) \(class shares: \S+\)$", shown, re.MULTILINE)
    assert loss
    assert re.search(r"^accuracy +right in \S+% of \S+ bars \(95% interval", shown, re.MULTILINE)
    (row,) = json.loads(models("ls", "--json", kind="ternary"))
    assert (row["task_type"], row["class_labels"]) == ("ternary_classification", [-1, 0, 1])
    assert row["horizon"] == 48
    assert f"{row['test_log_loss']:#.5g}" == loss[1]
    assert row["class_shares_log_loss"] > 0
    listed = models("ls", kind="ternary")
    assert "-1, 0, 1" in listed
    assert "test log loss" in listed
    assert "test RMSE" not in listed
    (row,) = json.loads(models("ls", "--json", kind="smoothed return"))
    assert (row["task_type"], row["class_labels"], row["horizon"]) == ("regression", None, 24)
    assert "ok" in models("verify", "--all", kind="binary")


def test_scoring_needs_no_tensorflow(home: Path, tmp_path: Path, truth: Truth) -> None:
    truth("BTCUSDT", "1h").tail(200).write_parquet(tmp_path / "candles.parquet")
    code = (
        "import sys, polars as pl, atb_fast\n"
        f"bundle = atb_fast.load_bundle('BTCUSDT:1h:price', registry={str(home / 'ternary')!r})\n"
        "last = bundle.predict_last(pl.read_parquet('candles.parquet'))\n"
        "assert abs(sum(last[f'probability_{n}'] for n in ('down', 'flat', 'up')) - 1) < 1e-6\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'tensorflow', 'keras', 'onnx'}, loaded\n"
        "assert 'atb_fast.recipes' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ}, check=True)


#: Breaks that verification leaves to the checker: engines load such bundles, if only by chance.
UNSEEN = {
    *("distribution-percentiles", "distribution-values", "inputs"),
    *("meta-operators", "strategy-timeframe"),
}
CASES = [(i, kind) for i, (_, _, kinds) in enumerate(BREAKS) for kind in kinds]


@pytest.mark.parametrize(("number", "kind"), CASES)
def test_verification_finds_what_the_checker_finds(
    home: Path, tmp_path: Path, number: int, kind: str
) -> None:
    rule, break_it, _ = BREAKS[number]
    shutil.copytree(home / kind, tmp_path / kind, symlinks=True)
    bundle = (tmp_path / kind / "BTCUSDT" / KINDS[kind].model_type / "latest").resolve()
    break_it(bundle)
    reseal(bundle)
    assert rule in violations(tmp_path / kind, "BTCUSDT", kind)
    if rule not in UNSEEN:
        assert verify(bundle).problems, rule


def added(home: Path, kind: str, root: Path, version: str) -> None:
    """Add the model of `kind` to the registry `root` as another version of the type price."""
    path = root / "BTCUSDT" / "price" / version
    shutil.copytree((home / kind / "BTCUSDT" / "price" / "latest").resolve(), path)
    metadata(version_id=version)(path)
    reseal(path)


def test_another_forecast_does_not_replace_the_live_one(
    home: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    def models(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command_line.run("models", *arguments, "--registry", str(root), cwd=tmp_path)

    def live() -> str:
        return str((root / "BTCUSDT" / "price" / "latest").readlink())

    root = tmp_path / "models"
    shutil.copytree(home / "ternary", root, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    first, older, newer = live(), "2098-01-01_00h00m00s_v1", "2099-01-01_00h00m00s_v1"
    added(home, "binary", root, newer)
    key = "BTCUSDT:1h:price"
    refused = models("promote", f"{key}:{newer}")
    assert refused.returncode == 9
    assert (
        f"{newer} predicts the classes -1, 1 (horizon 1, lag 1), but the live model {first} "
        "predicts the classes -1, 0, 1 (horizon 48, lag 1); pass --force" in refused.stderr
    )
    assert live() == first
    forced = models("promote", f"{key}:{newer}", "--force")
    assert forced.returncode == 0, forced.stderr

    none = models("rollback", key, "--force")
    assert none.returncode == 9
    assert f"{first}: it predicts the classes -1, 0, 1 (horizon 48, lag 1), but" in none.stderr
    assert f"use models promote {key}:{first} --force" in none.stderr
    assert live() == newer
    added(home, "binary", root, "2024-01-01_00h00m00s_v1")
    added(home, "smoothed return", root, older)
    back = models("rollback", key)
    assert back.returncode == 0, back.stderr
    assert f"{older}: it predicts returns (horizon 24, lag 1), but" in back.stderr
    assert first in back.stderr
    assert live() == "2024-01-01_00h00m00s_v1"
    same = models("promote", f"{key}:{newer}")
    assert same.returncode == 0, same.stderr


OUTPUT = {"kind": "classes", "horizon": 48, "lag": 1}


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        (
            "meta label",
            {"class_labels": [-1, 1]},
            "metadata.json says that the model predicts the classes -1, 1, but the target "
            "meta_label in recipe_document predicts the classes 0, 1",
        ),
        (
            "ternary",
            {"output": OUTPUT | {"horizon": 24}},
            "the output has horizon 24, but recipe_document has horizon 48",
        ),
        (
            "ternary",
            {"output": OUTPUT | {"horizon": 24}},
            "the output has horizon 24, but config has horizon 48",
        ),
        (
            "ternary",
            {"output": OUTPUT | {"lag": 0}},
            "the output has lag 0, but recipe_document has lag 1",
        ),
    ],
)
def test_outputs_that_contradict_the_recipe_are_found(
    home: Path, tmp_path: Path, kind: str, changes: Any, problem: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree((home / kind / "BTCUSDT" / KINDS[kind].model_type / "latest").resolve(), bundle)
    assert not verify(bundle).problems
    metadata(**changes)(bundle)
    reseal(bundle)
    assert problem in verify(bundle).problems


def test_verification_knows_every_target() -> None:
    assert TARGET_FORECASTS.keys() == TARGETS.keys()
    for name, target in TARGETS.items():
        labels = target.class_labels if issubclass(target, Classifier) else None
        said = TARGET_FORECASTS[name]
        assert said.removeprefix("the classes ") == (
            ", ".join(map(str, labels)) if labels else said
        )
        assert target.price == (said == "prices")
