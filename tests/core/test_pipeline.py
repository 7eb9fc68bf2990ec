"""FeaturePipeline compared with pandas and scikit-learn, and its handling of invalid input."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from core_features import PRICE_FEATURES, of_column
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler

from atb_fast import _core
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import ArgumentError, DataError
from atb_fast.features.windows import windows

Pipeline = _core.FeaturePipeline


def incumbent(candles: pl.DataFrame) -> pd.DataFrame:
    """The scaled legacy features by pandas and scikit-learn, without rows with NaN."""
    frame = pd.DataFrame({name: candles[name].to_numpy() for name in CANDLE_COLUMNS})
    for window in (7, 14, 30):
        frame[f"sma_{window}"] = frame["close"].rolling(window).mean()
    delta = frame["close"].diff()
    gain = delta.where(delta > 0, 0.0).rolling(14).mean()
    loss = (-delta.where(delta < 0, 0.0)).rolling(14).mean()
    frame["rsi"] = 100 - 100 / (1 + gain / loss)
    for name in list(frame):
        known = frame[name].notna()
        scaled = MinMaxScaler().fit_transform(frame.loc[known, [name]].to_numpy())
        frame.loc[known, name] = scaled[:, 0]
    return frame.dropna()


@pytest.mark.parametrize("timeframe", ["1d", "1h"])
def test_features_equal_pandas_and_sklearn(timeframe: str) -> None:
    from atb_fast.ingestion import sample

    candles = sample.candles("ETHUSDT", timeframe)
    pipeline = Pipeline(PRICE_FEATURES).fit(candles)
    expected = incumbent(candles)
    matrix = pipeline.transform(candles)
    assert matrix.rows.tolist() == expected.index.tolist()
    np.testing.assert_allclose(
        pipeline.transform_float64(candles), expected.to_numpy(), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(matrix.values, expected.to_numpy(), rtol=0, atol=1e-7)


@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=50))
@settings(deadline=None)
def test_scaler_equals_sklearn_bit_for_bit(values: list[float]) -> None:
    column = np.array(values)
    theirs = MinMaxScaler().fit(column[:, None])
    ours = _core.MinMaxScaler(column.min(), column.max())
    assert (ours.scale, ours.min) == (theirs.scale_[0], theirs.min_[0])
    scaled = theirs.transform(column[:, None])[:, 0]
    np.testing.assert_array_equal(ours.transform(column), scaled)
    np.testing.assert_array_equal(
        ours.inverse_transform(scaled), theirs.inverse_transform(scaled[:, None])[:, 0]
    )


def test_fit_on_a_range_of_rows(daily: pl.DataFrame) -> None:
    pipeline = Pipeline([of_column("close", "close")]).fit(daily, rows=(100, 200))
    part = daily["close"][100:200]
    assert (pipeline.scalers[0].data_min, pipeline.scalers[0].data_max) == (part.min(), part.max())
    with pytest.raises(ArgumentError, match=r"rows is 0..99999, expected a range within"):
        pipeline.fit(daily, rows=(0, 99_999))
    with pytest.raises(ArgumentError, match=r"rows is 5..3, expected a range within"):
        pipeline.fit(daily, rows=(5, 3))


@pytest.mark.parametrize("kind", ["polars", "polars_chunked", "pyarrow", "pandas", "batch"])
def test_frames_of_any_library(daily: pl.DataFrame, kind: str) -> None:
    candles = daily.select(CANDLE_COLUMNS)
    frames: dict[str, Any] = {
        "polars": candles,
        "polars_chunked": pl.concat(
            [candles[:700], candles[700:701], candles[701:]], rechunk=False
        ),
        "pyarrow": candles.to_arrow(),
        "pandas": pd.DataFrame({name: candles[name].to_numpy() for name in CANDLE_COLUMNS}),
        "batch": candles.to_arrow().combine_chunks().to_batches()[0],
    }
    expected = Pipeline(PRICE_FEATURES).fit(candles).transform(candles).values
    got = Pipeline(PRICE_FEATURES).fit(frames[kind]).transform(frames[kind]).values
    np.testing.assert_array_equal(got, expected)


def test_null_leaves_out_the_rows_that_depend_on_it() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0, None, 4.0, 5.0, 6.0]})
    pipeline = Pipeline([of_column("x", "x"), of_column("mean", "x", "mean", 2)]).fit(frame)
    matrix = pipeline.transform(frame)
    assert matrix.rows.tolist() == [1, 4, 5]
    np.testing.assert_allclose(matrix.values[:, 0], [0.2, 0.8, 1.0], rtol=1e-6)
    assert pipeline.scalers[1].data_min == 1.5


def test_null_as_counts_for_the_fit_only() -> None:
    frame = pl.DataFrame({"x": [3.0, None, 5.0]})
    pipeline = Pipeline([of_column("x", "x", null_as=0.0)]).fit(frame)
    assert pipeline.scalers[0].data_min == 0.0
    assert pipeline.transform(frame).rows.tolist() == [0, 2]


def test_pandas_nan_is_null() -> None:
    frame = pd.DataFrame({"x": [1.0, np.nan, 3.0]})
    assert Pipeline([of_column("x", "x")]).fit(frame).transform(frame).rows.tolist() == [0, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(value: float) -> None:
    good = pl.DataFrame({"x": [1.0, 2.0, 3.0]})
    bad = pl.DataFrame({"x": [1.0, value, None]})
    fitted = Pipeline([of_column("x", "x")]).fit(good)
    for use in (fitted.fit, fitted.transform):
        with pytest.raises(DataError, match=r"column 'x', row 1: found .*, expected a finite"):
            use(bad)


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Int64, pl.String])
def test_other_dtypes(dtype: pl.DataType) -> None:
    frame = pl.DataFrame({"x": [1, 2, 3]}).cast(dtype)
    with pytest.raises(
        DataError, match=r"column 'x' has dtype .*, expected float64; cast it first"
    ):
        Pipeline([of_column("x", "x")]).fit(frame)


def unusable_frames() -> list[tuple[Any, str]]:
    frame = pl.DataFrame({"x": [1.0, 2.0]})
    text = pd.DataFrame({"x": [1.0, "a"]}, dtype=object)
    return [
        (frame["x"], r"got Series, expected a frame with named columns; call to_frame\(\)"),
        (pd.Series([1.0]), r"got Series, expected a frame with named columns; call to_frame\(\)"),
        (pa.array([1.0]), "the DoubleArray cannot be read as a frame with named columns"),
        (frame.lazy(), "got LazyFrame, expected a Polars, pyarrow or pandas frame"),
        (frame.to_numpy(), "got ndarray, expected a Polars, pyarrow or pandas frame"),
        ({"x": [1.0]}, "got dict, expected a Polars, pyarrow or pandas frame"),
        (None, "got NoneType, expected a Polars, pyarrow or pandas frame"),
        (text, "the DataFrame cannot be read .*'a'.* column x with type object"),
        (
            pd.DataFrame([[1.0, 2.0]], columns=["x", "x"]),
            r"the DataFrame cannot be read .* Duplicate column names found: \['x', 'x'\]",
        ),
        (frame.with_columns(x=pl.lit(None)), "column 'x' has dtype Null, because all of its"),
        (frame.with_columns(y=pl.lit(None)), "column 'y' has dtype Null, .* cast it .* or drop it"),
        (pd.DataFrame({"x": [None, None]}), "column 'x' has dtype Null, expected float64"),
        (pl.DataFrame({"x": pl.Series([object()], dtype=pl.Object)}), "column 'x' has dtype"),
    ]


@pytest.mark.parametrize(("frame", "message"), unusable_frames())
def test_frames_that_cannot_be_read(frame: Any, message: str) -> None:
    good = pl.DataFrame({"timestamp": [1, 2], "x": [1.0, 2.0]})
    fitted = Pipeline([of_column("x", "x")]).fit(good)
    calls: list[Callable[[Any], Any]] = [
        fitted.fit,
        fitted.transform,
        fitted.transform_float64,
        lambda frame: windows(frame, 1, ["x"]),
        lambda frame: _core.CandleMatrix(frame, ["x"]),
    ]
    for call in calls:
        with pytest.raises(DataError, match=message):
            call(frame)
    for left, right in ((frame, good), (good, frame)):
        with pytest.raises(DataError, match=f"{message}|'timestamp' is missing"):
            _core.merge(left, right, ["x"], how="exact")


def test_one_name_is_a_list_of_one() -> None:
    frame = pl.DataFrame({"timestamp": [1, 2], "close": [1.0, 2.0]})
    np.testing.assert_array_equal(windows(frame, 1, "close"), windows(frame, 1, ["close"]))
    np.testing.assert_array_equal(windows(frame, 1, iter(["close"])), windows(frame, 1, ["close"]))
    assert _core.CandleMatrix(frame, "close").names == ["close"]
    assert _core.FeatureMatrix(np.ones((2, 1), np.float32), "close").names == ["close"]
    merged = pl.DataFrame(_core.merge(frame, frame, "close", how="exact"))
    assert merged.equals(frame.select("close"))
    for bad in (None, 3, ["close", 3]):
        calls: list[Callable[[Any], Any]] = [
            lambda names: windows(frame, 1, names),
            lambda names: _core.CandleMatrix(frame, names),
            lambda names: _core.merge(frame, frame, names, how="exact"),
        ]
        for call in calls:
            with pytest.raises(ArgumentError, match=r"is .*, expected a (name|string)"):
                call(bad)


def test_fit_changes_the_pipeline_as_in_scikit_learn(daily: pl.DataFrame) -> None:
    pipeline = Pipeline([of_column("close", "close")])
    with pytest.raises(ArgumentError, match=r"the pipeline is not fitted; call fit\(\) first"):
        pipeline.transform(daily)
    assert pipeline.fit(daily) is pipeline
    whole = pipeline.transform(daily)
    assert pipeline.fit(daily, rows=(0, 100)) is pipeline
    part = pipeline.scalers
    assert part[0].data_max == daily["close"][:100].max()
    # A matrix does not depend on what happens to its pipeline.
    assert whole.values.max() == 1.0
    with pytest.raises(DataError):
        pipeline.fit(daily.drop("close"))
    assert pipeline.scalers == part


def test_threads_see_the_scalers_of_one_fit() -> None:
    frame = pl.DataFrame({"x": [0.0, 1.0], "y": [0.0, 1.0]})
    frames = [frame * factor for factor in (1.0, 2.0)]
    pipeline = Pipeline([of_column("x", "x"), of_column("y", "y")]).fit(frame)

    def fit_and_transform(number: int) -> bool:
        rows = pipeline.fit(frames[number % 2]).transform(frame).values
        return bool(rows[1, 0] == rows[1, 1])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fit_and_transform, range(400)))


def transformed(pipeline: _core.FeaturePipeline, frame: pl.DataFrame) -> _core.FeatureMatrix:
    return pipeline.transform(frame)


def test_pickles(daily: pl.DataFrame) -> None:
    features = [*PRICE_FEATURES, of_column("volume", "volume", null_as=-0.0)]
    pipeline = Pipeline(features)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        empty = pickle.loads(pickle.dumps(pipeline, protocol))
        assert (empty.features, empty.scalers) == (features, [])
    pipeline.fit(daily)
    for again in (pickle.loads(pickle.dumps(pipeline)), copy.deepcopy(pipeline)):
        assert again is not pipeline
        assert again.features == features
        assert [repr(scaler) for scaler in again.scalers] == list(map(repr, pipeline.scalers))
        expected = pipeline.transform_float64(daily).tobytes()
        assert again.transform_float64(daily).tobytes() == expected
    matrix = pipeline.transform(daily)
    # A spawned process has nothing but the pickle.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(transformed, pipeline, daily).result()
    assert there.values.tobytes() == matrix.values.tobytes()
    assert there.rows.tobytes() == matrix.rows.tobytes()
    assert (there.names, there.shape) == (matrix.names, matrix.shape)


def test_values_too_large_to_scale() -> None:
    frame = pl.DataFrame({"x": [1e308, 1e308, -1e308, 0.0]})
    with pytest.raises(DataError, match="feature 'x' has values too large to be scaled"):
        Pipeline([of_column("x", "x")]).fit(frame)
    # A sum that is not finite is null.
    fitted = Pipeline([of_column("x", "x", "mean", 2)]).fit(frame)
    assert fitted.transform(frame).rows.tolist() == [2, 3]


def test_missing_empty_and_short() -> None:
    with pytest.raises(DataError, match=r"column 'close' is missing; the frame has: x"):
        Pipeline([of_column("c", "close")]).fit(pl.DataFrame({"x": [1.0]}))
    empty = pl.DataFrame({"x": []}, schema={"x": pl.Float64})
    with pytest.raises(DataError, match=r"feature 'x' has no value"):
        Pipeline([of_column("x", "x")]).fit(empty)
    short = pl.DataFrame({"x": [1.0] * 6})
    with pytest.raises(DataError, match=r"feature 'mean' has no value in rows 0..6"):
        Pipeline([of_column("mean", "x", "mean", 7)]).fit(short)
    fitted = Pipeline([of_column("x", "x"), of_column("mean", "x", "mean", 7)]).fit(
        pl.DataFrame({"x": np.arange(9.0)})
    )
    assert fitted.transform(short).shape == (0, 2)
    assert fitted.transform(empty).shape == (0, 2)


def test_pipeline_arguments(daily: pl.DataFrame) -> None:
    with pytest.raises(ArgumentError, match="call fit"):
        Pipeline([of_column("x", "close")]).transform(daily)
    with pytest.raises(ArgumentError, match="at least one feature"):
        Pipeline([])
    with pytest.raises(ArgumentError, match="feature name is x, expected unique names"):
        Pipeline([of_column("x", "a"), of_column("x", "b")])
    with pytest.raises(ArgumentError, match="null_as is not finite"):
        Pipeline([of_column("x", "a", null_as=float("inf"))])
    with pytest.raises(ArgumentError, match="data_min <= data_max"):
        _core.MinMaxScaler(2.0, 1.0)
    with pytest.raises(ArgumentError, match=r"data_min is 1e308 and data_max is -1e308, expected"):
        _core.MinMaxScaler(1e308, -1e308)


def test_repr_and_equality(daily: pl.DataFrame) -> None:
    pipeline = Pipeline([of_column("mean", "close", "mean", 7)])
    assert repr(pipeline) == "FeaturePipeline(mean, not fitted)"
    assert pipeline.scalers == []
    assert repr(pipeline.fit(daily)) == "FeaturePipeline(mean, fitted)"
    assert pipeline.features == [of_column("mean", "close", "mean", 7)]
    assert repr(pipeline.features[0]) == "Feature('mean', 2 nodes)"
    assert (
        repr(of_column("x", "y", "rsi_simple", 3, null_as=0.0))
        == "Feature('x', 2 nodes, null_as=0.0)"
    )
    assert "FeatureMatrix(" in repr(pipeline.fit(daily).transform(daily))


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 1, 3]])
def test_timestamps_must_ascend(order: list[int]) -> None:
    good = pl.DataFrame({"timestamp": [0, 1, 2, 3], "x": [1.0, 2.0, 3.0, 4.0]})
    fitted = Pipeline([of_column("x", "x")]).fit(good)
    bad = good.with_columns(timestamp=pl.Series(order))
    for use in (fitted.fit, fitted.transform, fitted.transform_float64):
        with pytest.raises(DataError, match=r"column 'timestamp', row 2: .* strictly ascending"):
            use(bad)


def test_long_windows(daily: pl.DataFrame) -> None:
    matrix = (
        Pipeline([of_column("mean", "close", "mean", 2000)]).fit(daily).transform_float64(daily)
    )
    expected = daily["close"].to_pandas().rolling(2000).mean().dropna().to_numpy()
    scaled = MinMaxScaler().fit_transform(expected[:, None])
    np.testing.assert_allclose(matrix, scaled, rtol=0, atol=1e-12)


def test_input_is_not_changed(daily: pl.DataFrame) -> None:
    table = daily.select("close").to_arrow()
    before = pa.table({"close": pa.array(table["close"].to_pylist())})
    Pipeline([of_column("mean", "close", "mean", 7)]).fit(table).transform(table)
    assert table.equals(before)
