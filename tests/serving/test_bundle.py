"""The properties of a bundle, and the number of threads that score it."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sealing import reseal

from atb_fast import (
    ArgumentError,
    Bundle,
    BundleError,
    InSampleWarning,
    PriceScale,
    load_bundle,
)
from atb_fast.ingestion import sample
from atb_fast.serving.verification import verify

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


def test_trained_until_includes_the_bars_that_scalers_were_fitted_on(models: Path) -> None:
    bundle = load_bundle("BTCUSDT:1d:price", registry=models)
    last = datetime.fromisoformat(bundle.metadata["dataset"]["candles_last"])
    assert bundle.metadata["recipe_document"]["fit_scalers_on"] == "all"
    assert bundle.trained_until == last + timedelta(days=1)
    assert bundle.trained_until.utcoffset() == timedelta(0)


def test_the_times_of_the_parts(models: Path) -> None:
    """From the candles and the numbers of windows alone."""
    bundle = load_bundle("BTCUSDT:1d:price", registry=models)
    dataset = bundle.metadata["dataset"]
    days = sample.candles("BTCUSDT", "1d")["timestamp"].to_list()
    # Rows begin after the 29 candles of the warm-up; windows are consecutive.
    row = days.index(datetime.fromisoformat(dataset["candles_first"])) + 29
    train, test = dataset["train_windows"], dataset["test_windows"]
    expected = {
        name: {
            "first": days[row + begin],
            "last": days[row + begin + count - 1 + bundle.sequence_length - 1],
            "labels_until": days[row + begin + count - 1 + bundle.sequence_length]
            + timedelta(days=1),
        }
        for name, begin, count in (
            ("train", 0, train),
            ("validation", train, test),
            ("test", train, test),
        )
    }
    found = {
        part: {name: datetime.fromisoformat(stamp) for name, stamp in times.items()}
        for part, times in dataset["split"].items()
    }
    assert found == expected


def test_older_metadata(changed: Callable[[dict[str, Any]], Bundle]) -> None:
    bundle = changed({"dataset": {"last": "2024-12-01T00:00:00+00:00"}, "symbol": None})
    assert bundle.trained_until is None
    with pytest.raises(BundleError, match="has symbol None, expected a string"):
        _ = bundle.symbol


def test_metadata_with_the_end_of_the_validation_part_only(
    changed: Callable[[dict[str, Any]], Bundle],
) -> None:
    bundle = changed({"dataset": {"validation_last": "2024-06-01T00:00:00+00:00"}})
    assert bundle.trained_until == datetime(2024, 6, 2, tzinfo=UTC)


@pytest.mark.parametrize("stamp", ["2024-01-01T00:00:00", "2024-01-01T00:00:00+02:00", "x", 7])
def test_an_invalid_time(
    changed: Callable[[dict[str, Any]], Bundle], stamp: Any, daily: pl.DataFrame
) -> None:
    bundle = changed({"dataset": {"trained_until": stamp}})
    with pytest.raises(BundleError, match=r"dataset.trained_until .*, expected an ISO time in UTC"):
        _ = bundle.trained_until
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle.predict_last(daily)


def closing_at(daily: pl.DataFrame, time: datetime) -> pl.DataFrame:
    return daily.filter(pl.col("timestamp") < time)


@pytest.fixture
def until(changed: Callable[[dict[str, Any]], Bundle]) -> Bundle:
    """A bundle whose training ended with the bar of 2024-06-01."""
    return changed({"dataset": {"trained_until": "2024-06-02T00:00:00+00:00"}})


def warned(score: Callable[[], object]) -> list[str]:
    """Return the warnings of a call, which must all be about the line that makes it."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        score()
    assert {warning.category for warning in found} <= {InSampleWarning}
    assert {warning.filename for warning in found} <= {__file__}
    return [str(warning.message) for warning in found]


KINDS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda frame: frame,
    "pandas": lambda frame: frame.to_pandas().set_index("timestamp"),
    "pyarrow": lambda frame: frame.to_arrow(),
    "seconds": lambda frame: frame.with_columns(pl.col("timestamp").dt.epoch("s")),
    "nanoseconds": lambda frame: frame.with_columns(pl.col("timestamp").dt.cast_time_unit("ns")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["predict", "predict_last"])
def test_predictions_in_sample_are_reported_once(
    until: Bundle, daily: pl.DataFrame, way: str, kind: str
) -> None:
    assert until.trained_until is not None
    before = closing_at(daily, until.trained_until - timedelta(days=1))
    if way == "predict":
        seen = daily["timestamp"].search_sorted(until.trained_until)
        first = seen - until.lookback - until.sequence_length
        after, before = daily[first:], daily[first - 1 :]
        assert until.predict(after).drop_nulls()["timestamp"][0] == until.trained_until
    else:
        after = closing_at(daily, until.trained_until)
    bundle, to = load_bundle(until.path), KINDS[kind]
    assert warned(lambda: getattr(bundle, way)(to(after))) == []
    (message,) = warned(lambda: getattr(bundle, way)(to(before)))
    assert message.startswith(
        f"{bundle!r} was fitted and selected on prices until 2024-06-02 00:00"
    )
    assert f"the {bundle.lookback + bundle.sequence_length} before them" in message
    assert warned(lambda: [bundle.predict_last(to(before)), bundle.predict(to(before))]) == []
    copy = pickle.loads(pickle.dumps(bundle))
    frame = to(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InSampleWarning)
        with pytest.raises(InSampleWarning):
            getattr(copy, way)(frame)


def test_what_is_never_reported(
    until: Bundle, changed: Callable[[dict[str, Any]], Bundle], daily: pl.DataFrame, tmp_path: Path
) -> None:
    untimed = closing_at(daily, datetime(2024, 1, 1, tzinfo=UTC)).drop("timestamp")
    assert warned(lambda: until.predict_last(untimed)) == []
    # What the program itself does with live models.
    assert warned(lambda: [until.forecasts(daily), verify(until.path)]) == []
    shutil.rmtree(tmp_path / "bundle")
    older = changed({"dataset": {"train_last": "2024-12-01T00:00:00+00:00"}})
    assert warned(lambda: [older.predict(daily), older.predict_last(daily.head(900))]) == []


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
