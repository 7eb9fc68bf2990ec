"""`load_bundle`, compared with a direct implementation of the contract."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import onnxruntime
import pandas
import polars as pl
import pytest
from packaging.requirements import Requirement
from sealing import reseal

import atb_fast
from atb_fast import Bundle, FeatureMatrix, load_bundle
from atb_fast.bundles import publishing
from atb_fast.errors import ArgumentError, BundleError, DataError, StorageError
from atb_fast.features.frames import ArrowFrame, PandasFrame
from atb_fast.features.sentiment import merge_sentiment, sentiment_features
from atb_fast.ingestion import sample

LENGTH = 120
Truth = Callable[[str, str], pl.DataFrame]


@pytest.fixture(scope="module")
def basic(models: Path) -> Bundle:
    return load_bundle("BTCUSDT:1h:basic", registry=models)


@pytest.fixture(scope="module")
def price(models: Path) -> Bundle:
    return load_bundle(models / "BTCUSDT" / "price" / "latest")


@pytest.fixture(scope="module")
def hourly(truth: Truth) -> pl.DataFrame:
    return truth("BTCUSDT", "1h").tail(620)


def basic_by_the_contract(bundle: Path, candles: pl.DataFrame) -> Any:
    """Predictions of the bars from the 121st on, one at a time, by the formulas of the contract."""
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    schema = json.loads((bundle / "feature_schema.json").read_text())
    columns = [feature["name"].split("_")[0] for feature in schema["features"]]
    predictions = []
    for i in range(LENGTH, len(candles)):
        before = candles[i - LENGTH : i]
        window = np.empty((LENGTH, len(columns)), np.float32)
        for j, name in enumerate(columns):
            values = before[name].to_numpy()
            low, high = np.minimum.accumulate(values), np.maximum.accumulate(values)
            with np.errstate(invalid="ignore"):
                scaled = (values - low) / (high - low)
            window[:, j] = np.where(high == low, 0.5, scaled)
        output = session.run(None, {session.get_inputs()[0].name: window[None]})[0][0, 0]
        close = before["close"].to_numpy()
        predictions.append(float(output) * (close.max() - close.min()) + close.min())
    return np.array(predictions)


def test_a_basic_bundle_predicts_what_the_contract_says(
    basic: Bundle, hourly: pl.DataFrame
) -> None:
    expected = basic_by_the_contract(basic.path, hourly)
    got = basic.predict(hourly)
    assert got.columns == ["timestamp", "prediction"]
    assert got["timestamp"].equals(hourly["timestamp"])
    assert got["prediction"][:LENGTH].null_count() == LENGTH
    np.testing.assert_allclose(got["prediction"][LENGTH:], expected, rtol=1e-6)
    assert len(expected) == 500
    # The model has one epoch, but its outputs are still prices.
    assert np.abs(expected / hourly["close"][LENGTH:].to_numpy() - 1).max() < 0.2


@pytest.mark.parametrize("kind", ["basic", "price", "sentiment"])
def test_one_bar_equals_all_at_once(models: Path, kind: str) -> None:
    bundle = load_bundle(models / "BTCUSDT" / kind / "latest")
    timeframe = "1h" if kind == "basic" else "1d"
    candles, index = sample.candles("BTCUSDT", timeframe).tail(230), sample.sentiment()
    sentiment = {"sentiment": index} if kind == "sentiment" else {}
    every = bundle.predict(candles, **sentiment)["prediction"]
    first = LENGTH if kind == "basic" else LENGTH + 29
    assert every.null_count() == first
    for bar in (first, first + 1, 229):
        one = bundle.predict_last(candles[:bar], **sentiment)
        assert one == pytest.approx(every[bar], rel=1e-6)
    with pytest.raises(DataError, match=f"a window needs 120 complete rows, got {LENGTH - 1} from"):
        bundle.predict_last(candles[: first - 1], **sentiment)


@pytest.mark.parametrize("kind", ["basic", "price", "sentiment", "of candles"])
@pytest.mark.parametrize("library", ["polars", "pandas", "pyarrow"])
def test_only_the_newest_bars_decide_about_the_next(
    models: Path, models_of_candles: Path, kind: str, library: str
) -> None:
    root = models_of_candles if kind == "of candles" else models
    name = "sentiment" if kind == "of candles" else kind
    bundle = load_bundle(root / "BTCUSDT" / name / "latest")
    candles = sample.candles("BTCUSDT", bundle.timeframe).tail(1000)
    close = [-1.0, *candles["close"][1:]]
    spoilt = candles.with_columns(close=pl.Series(close))
    sentiment: Any = "neutral" if name == "sentiment" else None
    if kind != "basic":
        with pytest.raises(DataError, match=r"column 'close', row 0: found -1\.0"):
            bundle.predict(spoilt, sentiment)
    frame: Any = {"polars": spoilt, "pandas": spoilt.to_pandas(), "pyarrow": spoilt.to_arrow()}
    expected = bundle.predict_last(candles.tail(200), sentiment)
    assert bundle.predict_last(frame[library], sentiment) == expected
    assert bundle.predict_last(candles, sentiment) == expected
    for bars in range(145, 155):  # around the bars of a window and its averages
        every = bundle.predict(candles.tail(bars + 1), sentiment)["prediction"]
        if every[-1] is not None:
            assert bundle.predict_last(candles.tail(bars + 1).head(bars), sentiment) == every[-1]


@pytest.mark.parametrize("column", ["open", "close"])
@pytest.mark.parametrize("age", [1, 100, 119, 120, 130, 149, 150])
def test_a_window_that_skips_a_bar_begins_earlier(models: Path, column: str, age: int) -> None:
    bundle = load_bundle("BTCUSDT:1d:price", registry=models)
    candles = sample.candles("BTCUSDT", "1d").tail(500)
    values = candles[column].to_list()
    values[-2 - age] = None
    holed = candles.with_columns(pl.Series(column, values))
    expected = bundle.predict(holed)["prediction"][-1]
    if column == "close" and age < 30:  # the average of the last bar is missing
        with pytest.raises(DataError, match="the last bar, row 498, lacks a feature"):
            bundle.predict_last(holed.head(499))
    else:
        assert bundle.predict_last(holed.head(499)) == expected


def test_a_prediction_does_not_depend_on_the_others(models: Path) -> None:
    """To the last bit, although they are scored in batches."""
    bundle = load_bundle("BTCUSDT:1d:price", registry=models)
    candles = sample.candles("BTCUSDT", "1d").tail(400)
    every = bundle.predict(candles)["prediction"]
    assert every.n_unique() > 200
    for bars in (*range(150, 190), 300, 399):
        assert bundle.predict(candles.head(bars))["prediction"].equals(every.head(bars))
        assert bundle.predict_last(candles.head(bars)) == every[bars]


def test_a_column_without_a_value(models: Path) -> None:
    bundle = load_bundle("BTCUSDT:1d:price", registry=models)
    nothing = sample.candles("BTCUSDT", "1d").tail(300).with_columns(high=pl.lit(None, pl.Float64))
    assert bundle.predict(nothing)["prediction"].null_count() == 300
    with pytest.raises(DataError, match="a window needs 120 complete rows, got 0 from 300 candles"):
        bundle.predict_last(nothing)


def test_features_equal_those_of_training(shared: Path, tmp_path: Path) -> None:
    """Computed from the bundle alone, on real candles, they also equal those of the old trainer."""
    from atb_fast import TrainingConfig, run_training_pipeline

    data, golden = shared / "data", shared / "golden"
    config: dict[str, Any] = {"symbol": "BTCUSDT", "epochs": 1, "engine": "keras"}
    config |= {"candles": data / "BTCUSDT_1d_2017-08-17_2024-12-31.parquet"}
    config |= {"sentiment": data / "fear_greed_1d_2018-02-01_2025-05-02.parquet"}
    config |= {"start_date": "2019-01-01", "end_date": "2024-12-01", "registry": tmp_path}
    run_training_pipeline(TrainingConfig(**config, skip_plots=True, skip_robustness=True))
    bundle = load_bundle("BTCUSDT:1d:sentiment", registry=tmp_path)
    expected = pl.read_parquet(golden / "legacy_features_BTCUSDT_1d_2019-01-01_2024-12-01.parquet")
    candles = pl.read_parquet(config["candles"])
    rows = candles["timestamp"].is_between(
        expected["timestamp"][0] - timedelta(days=29), expected["timestamp"][-1]
    )
    got = bundle.features(candles.filter(rows), pl.read_parquet(config["sentiment"]))
    assert isinstance(got, FeatureMatrix)
    np.testing.assert_allclose(
        got.values, expected[bundle.feature_names].to_numpy(), rtol=0, atol=1e-7
    )


def test_frames_of_any_kind(basic: Bundle, hourly: pl.DataFrame) -> None:
    expected = basic.predict(hourly)
    got = basic.predict(hourly.to_arrow())
    assert isinstance(got, pl.DataFrame)
    assert got["prediction"].equals(expected["prediction"])
    assert got["timestamp"].dt.epoch("ms").equals(expected["timestamp"].dt.epoch("ms"))
    assert basic.predict_last(hourly.to_arrow()) == basic.predict_last(hourly)


@pytest.mark.parametrize("index", ["range", "labels", "timestamp", "times without a name"])
def test_pandas_in_and_pandas_out(basic: Bundle, hourly: pl.DataFrame, index: str) -> None:
    frame = hourly.to_pandas()
    if index == "labels":
        frame.index = [f"bar {number}" for number in range(len(frame))]
    elif index != "range":
        frame = frame.set_index("timestamp")
        frame.index.name = "timestamp" if index == "timestamp" else None
    before = frame.copy()
    got = basic.predict(frame)
    assert isinstance(got, pandas.DataFrame)
    assert got.index.equals(frame.index)
    expected = basic.predict(hourly)["prediction"].to_numpy()
    np.testing.assert_array_equal(got["prediction"].to_numpy(), expected)
    if "timestamp" in frame:
        assert got.columns.tolist() == ["timestamp", "prediction"]
        assert got["timestamp"].equals(frame["timestamp"])
    else:
        assert got.columns.tolist() == ["prediction"]
    assert basic.predict_last(frame) == basic.predict_last(hourly)
    pandas.testing.assert_frame_equal(frame, before)
    # So the predictions can be joined as they are.
    assert frame.join(got["prediction"])["prediction"].notna().sum() == len(frame) - LENGTH


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_that_are_whole_numbers(models: Path, unit: Any) -> None:
    def numbers(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col("timestamp").dt.epoch(unit))

    bundle = load_bundle("BTCUSDT:1d:sentiment", registry=models)
    candles, index = sample.candles("BTCUSDT", "1d").tail(200), sample.sentiment()
    expected = bundle.predict(candles, index)
    got = bundle.predict(numbers(candles), numbers(index))
    assert got["timestamp"].equals(numbers(candles)["timestamp"])
    assert got["prediction"].equals(expected["prediction"])
    assert bundle.predict(candles, numbers(index)).equals(expected)
    assert bundle.predict(numbers(candles), index)["prediction"].equals(expected["prediction"])


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", None])
def test_the_timeframe_is_checked_for_timestamps_of_any_kind(
    basic: Bundle, hourly: pl.DataFrame, unit: Any, zone: str | None
) -> None:
    times = hourly["timestamp"].dt.cast_time_unit(unit).dt.replace_time_zone(zone)
    frame = hourly.with_columns(timestamp=times)
    assert basic.predict_last(frame) == basic.predict_last(hourly)
    assert basic.predict_last(frame[:400].vstack(frame[401:])) == basic.predict_last(
        hourly[:400].vstack(hourly[401:])
    )  # a gap
    for predict in (basic.predict, basic.predict_last):
        with pytest.raises(DataError, match="the bars are 120 minutes apart, expected 60"):
            predict(frame.gather_every(2))


@pytest.mark.parametrize("bad", [None, 0.0, -1.0])
def test_windows_that_the_contract_rejects_are_not_predicted(
    basic: Bundle, hourly: pl.DataFrame, bad: float | None
) -> None:
    volume = hourly["volume"].to_list()
    volume[300] = bad
    spoilt = hourly.with_columns(volume=pl.Series(volume, dtype=pl.Float64))
    got = basic.predict(spoilt)["prediction"]
    whole = basic.predict(hourly)["prediction"]
    inside = pl.Series(range(len(hourly))).is_between(301, 300 + LENGTH)
    assert got.filter(inside).null_count() == LENGTH
    assert got.filter(~inside).equals(whole.filter(~inside))
    with pytest.raises(DataError, match="row 300 has a value that is missing, zero or negative"):
        basic.predict_last(spoilt[: 300 + LENGTH])


def test_bad_frames(basic: Bundle, hourly: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="column 'volume' is missing; the frame has: timestamp"):
        basic.predict(hourly.drop("volume"))
    others: list[Any] = [{"close": [1.0]}, {}, hourly.lazy(), hourly["close"], hourly.to_numpy()]
    others += [hourly["close"].to_pandas(), hourly["close"].to_arrow(), None]
    for odd in others:
        with pytest.raises(DataError, match=r"got .*, expected a"):
            basic.predict(odd)
    with pytest.raises(DataError, match="got dict, expected a Polars, pyarrow or pandas"):
        basic.predict_last(others[1])
    mixed = hourly.to_pandas().astype({"close": object})
    mixed.loc[3, "close"] = "about 7"
    for call in (basic.predict, basic.predict_last, basic.features):
        with pytest.raises(DataError, match=r"the DataFrame cannot be read .* column close with"):
            call(mixed)
        with pytest.raises(DataError, match="column 'close' has dtype Null, because all of its"):
            call(hourly.with_columns(close=pl.lit(None)))
    with pytest.raises(DataError, match="the bars are 120 minutes apart, expected 60"):
        basic.predict(hourly.gather_every(2))
    with pytest.raises(DataError, match="the bars are 120 minutes apart, expected 60"):
        basic.predict_last(hourly.gather_every(2))
    with pytest.raises(DataError, match="column 'timestamp' is missing"):
        basic.predict(hourly.drop("timestamp"))
    with pytest.raises(DataError, match="has dtype Int64, expected float64"):
        basic.predict(hourly.with_columns(pl.col("volume").cast(pl.Int64)))
    with pytest.raises(DataError, match="expected strictly ascending times"):
        basic.predict(hourly.reverse())
    with pytest.raises(DataError, match="found inf"):
        basic.predict(hourly.with_columns(close=pl.lit(float("inf"))))
    empty = basic.predict(hourly.clear())
    assert empty.columns == ["timestamp", "prediction"]
    assert len(empty) == 0
    assert basic.predict(hourly[:50])["prediction"].null_count() == 50


@pytest.mark.parametrize("kind", ["price", "sentiment", "of candles"])
@pytest.mark.parametrize("bad", [0.0, -1.0, 1e30, float("nan"), float("inf")])
def test_impossible_prices_are_rejected(
    models: Path, models_of_candles: Path, kind: str, bad: float
) -> None:
    root = models_of_candles if kind == "of candles" else models
    bundle = load_bundle(f"BTCUSDT:1d:{kind if kind == 'price' else 'sentiment'}", registry=root)
    candles = sample.candles("BTCUSDT", "1d").tail(300)
    for name in ("close", "high", "volume"):
        values = candles[name].to_list()
        values[250] = bad
        values[240] = None
        spoilt = candles.with_columns(pl.Series(name, values))
        if name == "volume" and bad == 0.0:  # a bar without trades
            assert bundle.predict(spoilt, "neutral")["prediction"][251] is not None
            continue
        for predict in (bundle.predict, bundle.predict_last):
            with pytest.raises(DataError, match=f"column '{name}', row 250: found"):
                predict(spoilt, "neutral")


def test_sentiment_is_never_left_out_silently(models: Path) -> None:
    bundle = load_bundle("BTCUSDT:1d:sentiment", registry=models)
    candles, index = sample.candles("BTCUSDT", "1d").tail(400), sample.sentiment()
    assert bundle.uses_sentiment == "required"
    with pytest.raises(DataError, match="this model uses sentiment, but sentiment is None"):
        bundle.predict(candles)
    with_index = bundle.predict(candles, index)["prediction"]
    neutral = bundle.predict(candles, "neutral")["prediction"]
    still = index.with_columns(value=pl.lit(50.0))
    assert bundle.predict(candles, still)["prediction"].equals(neutral)
    assert not with_index.equals(neutral)
    assert bundle.predict(candles, index.to_arrow())["prediction"].equals(with_index)


def of_mypy(bundle: Bundle, given: pl.DataFrame, frame: PandasFrame, other: ArrowFrame) -> None:
    """Mypy checks which frame `predict` returns for which."""
    assert_type(bundle.predict(given), pl.DataFrame)
    assert_type(bundle.predict(frame), PandasFrame)
    assert_type(bundle.predict(other), pl.DataFrame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("value") * 5, "expected a value from 0 to 100"),
        (pl.col("value") / 100, "only values from 0 to 1, expected an index from 0 to 100"),
        (pl.lit(None, pl.Float64).alias("value"), "row 0: found None, expected a value from 0"),
        (pl.lit(float("nan")).alias("value"), "row 0: found nan, expected a value from 0"),
        (pl.lit("Greed").alias("value"), "column value of .* has dtype String, expected numbers"),
        (
            pl.col("timestamp").dt.to_string(),
            "of the sentiment has dtype String, expected times",
        ),
        (pl.col("timestamp") - timedelta(days=9999), "covers no day of the candles"),
        (
            pl.when(pl.col("value") != pl.col("value").first()).then("timestamp"),
            "sentiment, row 0: the timestamp is null, expected a day",
        ),
        (pl.col("value").alias("index"), ""),
    ],
)
def test_invalid_sentiment(models: Path, change: pl.Expr, message: str) -> None:
    bundle = load_bundle("BTCUSDT:1d:sentiment", registry=models)
    candles, index = sample.candles("BTCUSDT", "1d").tail(300), sample.sentiment()
    odd = index.with_columns(change)
    if not message:
        odd, message = odd.drop("value"), r"sentiment has no column value \(found: timestamp, index"
    with pytest.raises(DataError, match=message):
        bundle.predict(candles, odd)


def test_threads_and_pickles(basic: Bundle, hourly: pl.DataFrame) -> None:
    frames = [hourly[i : i + 200] for i in range(40)]
    expected = [basic.predict_last(frame) for frame in frames]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(basic.predict_last, frames)) == expected
    for threads in (0, -1, 2.0, True, "2"):
        with pytest.raises(ArgumentError, match=r"threads is .*, expected an integer of at"):
            load_bundle(basic.path, threads=threads)  # type: ignore[arg-type]
    assert load_bundle(basic.path, threads=np.int64(2)).threads == 2  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(basic))
    assert copy.path == basic.path
    assert copy.predict_last(frames[0]) == expected[0]


def in_a_child(bundle: Bundle, frame: Any, sentiment: Any, answers: Any) -> None:
    every = pl.Series(bundle.predict(frame, **sentiment)["prediction"].to_numpy(), nan_to_null=True)
    answers.put((every.to_list(), bundle.predict_last(frame, **sentiment)))


@pytest.mark.parametrize("kind", ["basic", "price", "sentiment"])
@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_forked_workers(models: Path, tmp_path: Path, kind: str, library: str) -> None:
    """Even if this process has used Polars' thread pool before, and the file is deleted."""
    shutil.copytree(models / "BTCUSDT" / kind, tmp_path / kind, symlinks=True)
    bundle = load_bundle((tmp_path / kind / "latest").resolve())
    timeframe = "1h" if kind == "basic" else "1d"
    frame: Any = sample.candles("BTCUSDT", timeframe).tail(200)
    frame = frame.select(pl.all().sort_by("timestamp"))
    sentiment: Any = {"sentiment": sample.sentiment()} if kind == "sentiment" else {}
    expected = bundle.predict(frame, **sentiment)["prediction"].to_list()
    last = bundle.predict_last(frame, **sentiment)
    if library == "pandas":
        frame = frame.to_pandas()
        sentiment = {name: index.to_pandas() for name, index in sentiment.items()}
    (bundle.path / "model.onnx").unlink()
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()
    arguments = (bundle, frame, sentiment, answers)
    children = [context.Process(target=in_a_child, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    try:
        assert [answers.get(timeout=60) for _ in children] == [(expected, last)] * 2
    finally:
        for child in children:
            child.join(10)
            child.kill()


def test_a_copy_keeps_its_version(models: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    shutil.copytree(models, root, symlinks=True)
    bundle = load_bundle("BTCUSDT:1d:price", registry=root)
    newer = bundle.path.parent / "2099-01-01_00h00m00s_v1"
    shutil.copytree(bundle.path, newer)
    publishing.promote(newer)
    assert load_bundle("BTCUSDT:1d:price", registry=root).path == newer
    assert pickle.loads(pickle.dumps(bundle)).path == bundle.path
    version = load_bundle(f"BTCUSDT:1d:price:{bundle.path.name}", registry=root)
    assert version.path == bundle.path


def lone_environment(home: Path) -> None:
    """Fill `home` with what `atb-fast[predict]` needs, and only the packages that score."""
    wanted, linked = ["atb-fast", "onnxruntime"], set()
    while wanted:
        name = wanted.pop()
        found = distribution(name)
        if found.metadata["Name"] in linked:
            continue
        linked.add(found.metadata["Name"])
        for file in found.files or ():
            top = Path(file.parts[0])
            if not (home / top).exists() and top.parts[0] not in ("..", "__pycache__"):
                (home / top).symlink_to(Path(str(found.locate_file(top))).resolve())
        for requirement in found.requires or ():
            needed = Requirement(requirement)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                wanted.append(needed.name)
    (home / "atb_fast").unlink(missing_ok=True)
    (home / "atb_fast").mkdir()
    package = Path(atb_fast.__file__).parent
    ground = [file for file in package.glob("*.py") if file.name != "__main__.py"]
    for module in (*ground, *package.glob("_core*.so"), *package.glob("_core*.pyd")):
        shutil.copy(module, home / "atb_fast")
    for folder in ("features", "serving"):
        shutil.copytree(package / folder, home / "atb_fast" / folder)


def test_scoring_needs_onnxruntime_and_two_packages_of_atb_fast(
    models: Path, models_of_candles: Path, hourly: pl.DataFrame, tmp_path: Path
) -> None:
    """In a process that has neither TensorFlow nor the packages for training."""
    lone_environment(tmp_path)
    daily, index = sample.candles("BTCUSDT", "1d").tail(300), sample.sentiment()
    frames = {"1h": hourly, "1d": daily, "index": index}
    for name, frame in frames.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    paths = [models / "BTCUSDT" / name / "latest" for name in ("basic", "price", "sentiment")]
    paths.append(models_of_candles / "BTCUSDT" / "sentiment" / "latest")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "import json, pathlib\n"
        "import polars as pl\n"
        "from atb_fast import load_bundle\n"
        f"read = lambda name: pl.read_parquet({str(tmp_path)!r} + f'/{{name}}.parquet')\n"
        f"for path in {[str(path) for path in paths]}:\n"
        "    bundle = load_bundle(pathlib.Path(path))\n"
        "    frame = read(bundle.timeframe), read('index')\n"
        "    every = bundle.predict(*frame)['prediction'].to_list()\n"
        "    print(json.dumps([bundle.predict_last(*frame), *every]))\n"
        "wanted = ('tensorflow', 'keras', 'onnx', 'pandas', 'sklearn', 'matplotlib')\n"
        "packages = ('ingestion', 'recipes', 'training', 'bundles', 'runs', 'cli')\n"
        "for name in (*wanted, *(f'atb_fast.{package}' for package in packages)):\n"
        "    try:\n"
        "        __import__(name)\n"
        "        sys.exit(name + ' is there')\n"
        "    except ImportError:\n"
        "        pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        bundle = load_bundle(path)
        frame = frames[bundle.timeframe]
        expected = bundle.predict(frame, index)["prediction"].to_list()
        assert json.loads(line) == [bundle.predict_last(frame, index), *expected]


def test_a_window_ends_with_the_bar_before(models: Path) -> None:
    """And not with an older one if the newest has no sentiment yet."""
    bundle = load_bundle("BTCUSDT:1d:sentiment", registry=models)
    candles, index = sample.candles("BTCUSDT", "1d").tail(400), sample.sentiment()
    day = candles["timestamp"][300]
    whole = bundle.predict(candles, index)["prediction"]
    holed = bundle.predict(candles, index.filter(pl.col("timestamp") != day))["prediction"]
    # On the day after the gap, momentum is the change over two days.
    assert holed[301] is None
    assert holed[:301].equals(whole[:301])
    assert holed[302:].null_count() == 0
    with pytest.raises(DataError, match="the last bar, row 399, lacks a feature"):
        bundle.predict_last(candles, index.filter(pl.col("timestamp") < candles["timestamp"][-1]))


def test_the_index_of_a_day_is_used_for_all_of_its_hours() -> None:
    hours = sample.candles("BTCUSDT", "1h").tail(100)
    index = sample.sentiment().filter(pl.col("timestamp") <= hours["timestamp"][-1])
    momentum = sentiment_features(index)
    trained = merge_sentiment(hours, momentum, "1h")["sentiment_momentum"]
    scored = merge_sentiment(hours, momentum, "1h", whole_last_day=True)["sentiment_momentum"]
    assert trained.null_count() == 23  # for the legacy recipe, sentiment ends at the last midnight
    assert scored.null_count() == 0
    assert scored[:-23].equals(trained[:-23])
    assert (scored[-23:] == momentum["sentiment_momentum"][-1]).all()


# What an untrusted bundle may contain.


@pytest.fixture
def hostile(models: Path, tmp_path: Path) -> Path:
    shutil.copytree(models / "BTCUSDT", tmp_path / "BTCUSDT", symlinks=True)
    return tmp_path


def attack(bundle: Path, name: str) -> None:
    document = bundle / "metadata.json"
    metadata = json.loads(document.read_text())
    if name == "deep":
        document.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    elif name == "huge":
        document.write_text(json.dumps(metadata | {"x": "x" * (5 << 20)}))
    elif name == "nan":
        metadata["price_normalization"] = {"mean": float("nan"), "std": 1.0}
        document.write_text(json.dumps(metadata))
    elif name == "not a document":
        document.write_text("[1]")
    elif name == "not text":
        document.write_bytes(b"\xff\xfe{}")
    elif name == "truncated":
        content = (bundle / "model.onnx").read_bytes()
        (bundle / "model.onnx").write_bytes(content[:1000])
    elif name == "linked model":
        (bundle / "model.onnx").rename(bundle.parent.parent / "stolen.onnx")
        (bundle / "model.onnx").symlink_to(bundle.parent.parent / "stolen.onnx")
    elif name == "linked document":
        document.unlink()
        document.symlink_to("/etc/hostname")
    elif name == "odd schema":
        (bundle / "feature_schema.json").write_text('{"sequence_length": 120, "features": [7]}')
    elif name == "long windows":
        (bundle / "feature_schema.json").write_text(
            '{"sequence_length": 1e18, "features": [{"name": "close_normalized"}]}'
        )
    elif name == "large mean":
        metadata["price_normalization"] = {"mean": 10**400, "std": 1.0}
        document.write_text(json.dumps(metadata))
    elif name in ("large window", "negative window"):
        window = 10**30 if name == "large window" else -1
        path = bundle / "feature_schema.json"
        schema = json.loads(path.read_text())
        schema["features"][5]["expression"] = f"mean(close, {window})"
        path.write_text(json.dumps(schema))
    elif name == "wide windows":
        features = [{"name": "close_normalized"}] * 5000
        (bundle / "feature_schema.json").write_text(
            json.dumps({"sequence_length": 120, "features": features})
        )
    elif name == "two features of one name":
        path = bundle / "feature_schema.json"
        schema = json.loads(path.read_text())
        schema["features"].append(schema["features"][5])
        path.write_text(json.dumps(schema))
    elif name == "no timeframe":
        document.write_text(json.dumps(metadata | {"timeframe": None}))
    elif name == "pipe":
        import os

        document.unlink()
        os.mkfifo(document)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("large mean", "price_normalization is .* cannot be read .OverflowError"),
        ("large window", "`n` of `mean` must be a whole number of bars from 1 to 1,048,576"),
        ("negative window", "`n` of `mean` must be a whole number of bars from 1 to 1,048,576"),
        ("wide windows", "a window has 120 rows of 5000 features"),
        ("two features of one name", "feature_schema.json has the feature '.*' twice; names must"),
        ("no timeframe", "has the timeframe None; expected one of"),
        ("deep", "nested too deeply"),
        ("huge", "bytes, expected at most 4194304"),
        ("nan", "expected finite numbers"),
        ("not a document", "found list, expected a JSON object"),
        ("not text", "cannot be read as JSON: .*decode"),
        ("truncated", "onnxruntime cannot load the model"),
        ("linked model", "found a link, expected a regular file"),
        ("linked document", "found a link, expected a regular file"),
        ("odd schema", "feature_schema.json cannot be used .TypeError"),
        ("long windows", "sequence_length is 1e\\+18, expected an integer"),
        ("pipe", "found something else, expected a regular file"),
    ],
)
def test_hostile_bundles_are_rejected(hostile: Path, name: str, message: str) -> None:
    bundle = (hostile / "BTCUSDT" / "price" / "latest").resolve()
    attack(bundle, name)
    reseal(bundle)
    with pytest.raises(BundleError, match=message):
        load_bundle("BTCUSDT:1d:price", registry=hostile)


@pytest.mark.parametrize(
    "target", ["../../../outside", "/etc", "..", ".", "a/b", "latest", "with space"]
)
def test_hostile_links_are_rejected(hostile: Path, target: str) -> None:
    home = hostile / "BTCUSDT" / "price"
    (home / "latest").unlink()
    (home / "latest").symlink_to(target)
    with pytest.raises(BundleError, match="latest: points to"):
        load_bundle("BTCUSDT:1d:price", registry=hostile)
    with pytest.raises(BundleError, match="latest: points to"):
        load_bundle(home / "latest")


@pytest.mark.parametrize("reference", ["x" * 5000, "x" * 300 + "/y", "BTCUSDT:1d:" + "x" * 300])
def test_references_that_the_file_system_refuses(models: Path, reference: str) -> None:
    with pytest.raises(StorageError, match="cannot be read: File name too long"):
        load_bundle(reference, registry=models)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("BTCUSDT:1d", "is neither a directory nor SYMBOL:TIMEFRAME:TYPE"),
        ("BTCUSDT:1d:..", "is neither a directory"),
        ("BTCUSDT:1d:price\n", "is neither a directory"),
        ("BTCUSDT:7d:price", "invalid timeframe 7d; expected one of"),
        ("BTCUSDT:1h:price", "has the timeframe 1d; ask for that"),
        ("ETHUSDT:1d:price", "latest does not exist; to list the bundles, run atb"),
        ("BTCUSDT:1d:price:2020-01-01_00h00m00s_v1", "no such directory; check the path, or list"),
        ("/nowhere/at/all", "no such directory"),
        ("", "is neither a directory nor SYMBOL"),
    ],
)
def test_references_to_nothing(models: Path, reference: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load_bundle(reference, registry=models)


def test_a_registry_is_not_a_bundle(models: Path) -> None:
    message = f"{models}/metadata.json is missing, so {models} is not a complete bundle; pass the "
    with pytest.raises(BundleError, match=f"^{re.escape(message)}directory of a version"):
        load_bundle(models)


def test_a_bundle_of_the_old_trainer(models: Path, hourly: pl.DataFrame, tmp_path: Path) -> None:
    """Its schema has only names, and its metadata has NaN: it can be scored anyway."""
    new = load_bundle("BTCUSDT:1h:basic", registry=models)
    shutil.copytree(new.path, tmp_path / "old")
    schema = {
        "sequence_length": 120,
        "features": [{"name": name, "required": True} for name in new.feature_names],
    }
    (tmp_path / "old" / "feature_schema.json").write_text(json.dumps(schema))
    metadata = json.loads((new.path / "metadata.json").read_text())
    metadata["robustness_results"] = {"rmse": float("nan"), "mape": float("inf")}
    (tmp_path / "old" / "metadata.json").write_text(json.dumps(metadata))
    reseal(tmp_path / "old")
    old = load_bundle(tmp_path / "old")
    assert old.predict(hourly).equals(new.predict(hourly))
    schema["features"] = [{"name": "close_scaled", "required": True}]
    (tmp_path / "old" / "feature_schema.json").write_text(json.dumps(schema))
    reseal(tmp_path / "old")
    with pytest.raises(BundleError, match="does not say how close_scaled is computed"):
        load_bundle(tmp_path / "old")
