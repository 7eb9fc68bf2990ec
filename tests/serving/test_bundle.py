"""The properties of a bundle, and the number of threads that score it."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sealing import reseal

from atb_fast import ArgumentError, Bundle, BundleError, PriceScale, load_bundle
from atb_fast.ingestion import sample

Truth = Callable[[str, str], pl.DataFrame]


@pytest.fixture
def changed(models: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Bundle]:
    """Load a copy of the daily price bundle with a changed metadata.json."""

    def load(change: dict[str, Any]) -> Bundle:
        path = tmp_path / "bundle"
        shutil.copytree(models / "BTCUSDT" / "price" / "latest", path)
        document = path / "metadata.json"
        document.write_text(json.dumps(json.loads(document.read_text()) | change))
        reseal(path)
        return load_bundle(path)

    return load


@pytest.mark.parametrize(
    ("model_type", "timeframe", "kind"),
    [("basic", "1h", "rolling_minmax"), ("price", "1d", "linear"), ("sentiment", "1d", "linear")],
)
def test_typed_properties(models: Path, model_type: str, timeframe: str, kind: str) -> None:
    bundle = load_bundle(f"BTCUSDT:{timeframe}:{model_type}", registry=str(models))
    assert (bundle.symbol, bundle.timeframe, bundle.model_type) == (
        "BTCUSDT",
        timeframe,
        model_type,
    )
    assert isinstance(bundle.output, PriceScale)
    assert (bundle.horizon, bundle.threads, bundle.output.kind) == (1, 1, kind)


def test_trained_until_is_the_close_of_the_last_training_target(models: Path) -> None:
    bundle = load_bundle("BTCUSDT:1d:price", registry=models)
    dataset = bundle.metadata["dataset"]
    # Rows begin after the 29 candles of the warm-up; windows are consecutive.
    days = sample.candles("BTCUSDT", "1d")["timestamp"]
    first = days.to_list().index(datetime.fromisoformat(dataset["candles_first"])) + 29
    last_target = days[first + dataset["train_windows"] - 1 + bundle.sequence_length]
    assert bundle.trained_until == last_target + timedelta(days=1)
    assert bundle.trained_until.utcoffset() == timedelta(0)
    assert bundle.trained_until < datetime.fromisoformat(dataset["last"])


def test_older_metadata(changed: Callable[[dict[str, Any]], Bundle]) -> None:
    bundle = changed({"dataset": {"last": "2024-12-01T00:00:00+00:00"}, "symbol": None})
    assert bundle.trained_until is None
    with pytest.raises(BundleError, match="has symbol None, expected a string"):
        _ = bundle.symbol


@pytest.mark.parametrize("stamp", ["2024-01-01T00:00:00", "2024-01-01T00:00:00+02:00", "x", 7])
def test_an_invalid_time(changed: Callable[[dict[str, Any]], Bundle], stamp: Any) -> None:
    bundle = changed({"dataset": {"train_last": stamp}})
    with pytest.raises(BundleError, match=r"dataset.train_last .*, expected an ISO time in UTC"):
        _ = bundle.trained_until


@pytest.mark.parametrize("kind", ["basic", "price", "sentiment"])
@pytest.mark.parametrize("threads", [2, 3, 50])
def test_predictions_do_not_depend_on_the_number_of_threads(
    models: Path, truth: Truth, kind: str, threads: int
) -> None:
    path = models / "BTCUSDT" / kind / "latest"
    one, many = load_bundle(path), load_bundle(path, threads=threads)
    frame = (
        truth("BTCUSDT", "1h").tail(1500) if kind == "basic" else sample.candles("BTCUSDT", "1d")
    )
    sentiment: Any = "neutral" if kind == "sentiment" else None
    expected = one.predict(frame, sentiment)
    assert expected["prediction"].count() > 900
    assert many.predict(frame, sentiment).equals(expected)
    copy = pickle.loads(pickle.dumps(many))
    assert copy.threads == threads
    assert copy.predict(frame, sentiment).equals(expected)
    assert len(many.predict(frame.head(0), sentiment)) == 0
    assert many.predict_last(frame, sentiment) == one.predict_last(frame, sentiment)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_scoring_threads(models: Path, truth: Truth, threads: int) -> None:
    bundle = load_bundle("BTCUSDT:1h:basic", registry=models, threads=threads)
    frame = truth("BTCUSDT", "1h").tail(1500)
    started: set[int] = set()
    threading.setprofile(lambda *_: started.add(threading.get_ident()))
    try:
        bundle.predict(frame)
    finally:
        threading.setprofile(None)
    assert len(started) == (threads if threads > 1 else 0)


def test_an_error_in_a_thread_is_raised(models: Path, tmp_path: Path, truth: Truth) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(models / "BTCUSDT" / "basic" / "latest", path)
    document = path / "metadata.json"
    scale = {"price_normalization": {"mean": 1e308, "std": 1e308}}
    document.write_text(json.dumps(json.loads(document.read_text()) | scale))
    reseal(path)
    bundle = load_bundle(path, threads=2)
    with pytest.raises(BundleError, match="values too large for a forecast"):
        bundle.predict(truth("BTCUSDT", "1h").tail(1500))


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2"])
def test_wrong_threads(models: Path, threads: Any) -> None:
    with pytest.raises(ArgumentError, match=r"threads is .*, expected an integer of at least 1"):
        load_bundle("BTCUSDT:1h:basic", registry=models, threads=threads)
