"""Features, scaling, windows and batches, and what each replaces, with equal results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_features import PRICE_FEATURES, SENTIMENT_FEATURE, of_column
from incumbents import Case, pandas_features, polars_features, to_pandas
from sklearn.preprocessing import MinMaxScaler

from atb_fast import _core
from atb_fast.features.sentiment import sentiment_features

LENGTH, BATCH = 120, 32
BAR_MS = {"1d": 86_400_000, "1h": 3_600_000, "1m": 60_000}


def atb_fast_features(case: Case) -> Any:
    how: dict[str, Any] = {"how": "exact"}
    if case.timeframe != "1d":
        how = {"how": "resampled", "step_ms": BAR_MS[case.timeframe]}
    momentum = sentiment_features(case.sentiment)
    import polars as pl

    merged = _core.merge(case.candles, momentum, ["sentiment_momentum"], **how)
    frame = case.candles.hstack(pl.DataFrame(merged))
    pipeline = _core.FeaturePipeline([*PRICE_FEATURES, SENTIMENT_FEATURE]).fit(frame)
    return pipeline.transform(frame).values


@pytest.mark.parametrize("way", ["atb_fast", "polars", "pandas_sklearn"])
def test_features(benchmark: Any, case: Case, way: str) -> None:
    """Merge, SMA, RSI, scaling and dropping rows: frames in, float32 matrix out."""
    benchmark.group = f"features {case}"
    candles, sentiment = to_pandas(case.candles), to_pandas(case.sentiment)
    ways = {
        "atb_fast": lambda: atb_fast_features(case),
        "polars": lambda: polars_features(case.candles, case.sentiment, case.timeframe),
        "pandas_sklearn": lambda: pandas_features(candles, sentiment, case.timeframe),
    }
    result = benchmark.pedantic(ways[way], rounds=11, warmup_rounds=6)
    expected = atb_fast_features(case)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("way", ["atb_fast", "sklearn"])
def test_scaling(benchmark: Any, case: Case, way: str) -> None:
    """Fit and transform five raw columns."""
    benchmark.group = f"scaling {case}"
    names = ["open", "high", "low", "close", "volume"]
    features = [of_column(name, name) for name in names]
    columns = case.candles.select(names).to_numpy(order="c")

    def ours() -> Any:
        pipeline = _core.FeaturePipeline(features)
        return pipeline.fit(case.candles).transform(case.candles).values

    def theirs() -> Any:
        return MinMaxScaler().fit_transform(columns).astype(np.float32)

    ways = {"atb_fast": ours, "sklearn": theirs}
    result = benchmark.pedantic(ways[way], rounds=7, warmup_rounds=1)
    np.testing.assert_array_equal(result, ours())


@pytest.mark.parametrize("way", ["atb_fast", "numpy", "python_loop"])
def test_window_view(benchmark: Any, matrix: _core.FeatureMatrix, case: Case, way: str) -> None:
    """All windows: as a view, as a view of NumPy, and as the list of slices of the old trainer.

    The loop does not stack its slices, which would need 6 GB at 1.3M rows.
    """
    benchmark.group = f"window view {case}"
    values = matrix.values
    ways: dict[str, Any] = {
        "atb_fast": lambda: matrix.windows(LENGTH),
        "numpy": lambda: np.lib.stride_tricks.sliding_window_view(values, LENGTH, axis=0),
        "python_loop": lambda: [values[i - LENGTH : i] for i in range(LENGTH, len(values) + 1)],
    }
    result = benchmark.pedantic(ways[way], rounds=7, warmup_rounds=1)
    for i in (0, len(values) // 2, len(values) - LENGTH):
        window = result[i].T if way == "numpy" else result[i]
        np.testing.assert_array_equal(window, values[i : i + LENGTH])


def gathers(matrix: _core.FeatureMatrix) -> dict[str, Any]:
    values = matrix.values
    view = matrix.windows(LENGTH)
    offsets = np.arange(LENGTH)
    out = np.empty((BATCH, LENGTH, values.shape[1]), np.float32)
    some = np.ones_like(out)
    return {
        "atb_fast": lambda starts: matrix.gather(starts, LENGTH),
        "atb_fast_out": lambda starts: matrix.gather(starts, LENGTH, out=out),
        # Copies as many bytes, which no gather can beat.
        "plain_copy": lambda _: np.copyto(out, some),
        "numpy_indices": lambda starts: values[starts[:, None] + offsets],
        "numpy_take": lambda starts: values.take(starts[:, None] + offsets, axis=0),
        "numpy_view": lambda starts: view[starts],
        "python_loop": lambda starts: np.stack([values[s : s + LENGTH] for s in starts]),
    }


@pytest.mark.parametrize(
    "way",
    [
        "atb_fast",
        "atb_fast_out",
        "plain_copy",
        "numpy_indices",
        "numpy_take",
        "numpy_view",
        "python_loop",
    ],
)
def test_batch_gather(benchmark: Any, matrix: _core.FeatureMatrix, case: Case, way: str) -> None:
    """Gather fifty shuffled batches of 32 windows."""
    benchmark.group = f"batch gather {case}"
    order = np.random.default_rng(1).permutation(len(matrix) - LENGTH)[: 50 * BATCH]
    batches = order.reshape(50, BATCH)
    gather = gathers(matrix)[way]

    def epoch() -> Any:
        for starts in batches:
            last = gather(starts)
        return last

    result = benchmark.pedantic(epoch, rounds=15, warmup_rounds=2)
    if way != "plain_copy":
        np.testing.assert_array_equal(result, matrix.gather(batches[-1], LENGTH))


@pytest.mark.parametrize("way", ["atb_fast", "tf_gather", "keras_timeseries"])
def test_epoch_of_batches(
    benchmark: Any, matrix: _core.FeatureMatrix, case: Case, way: str
) -> None:
    """Iterate over one shuffled epoch of at most 20,000 windows as NumPy batches of 32."""
    benchmark.group = f"epoch of batches {case}"
    count = min(len(matrix) - LENGTH, 20_000)
    values = matrix.values[: count + LENGTH]
    part = _core.FeatureMatrix(values, matrix.names)
    targets = np.arange(len(part), dtype=np.float32)

    def ours() -> Any:
        return part.batches(targets, LENGTH, BATCH, seed=1)

    if way == "atb_fast":
        make = ours
    else:
        import keras
        import tensorflow as tf

        if way == "keras_timeseries":
            dataset = keras.utils.timeseries_dataset_from_array(
                values[:-1], targets[LENGTH:], LENGTH, batch_size=BATCH, shuffle=True, seed=1
            )
        else:
            resident, offsets = tf.constant(values), tf.range(LENGTH, dtype=tf.int64)
            dataset = (
                tf.data.Dataset.range(count)
                .shuffle(count, seed=1)
                .batch(BATCH)
                .map(lambda s: (tf.gather(resident, s[:, None] + offsets), s + LENGTH))
                .prefetch(tf.data.AUTOTUNE)
            )
        make = dataset.as_numpy_iterator

    def epoch() -> int:
        return sum(len(y) for _, y in make())

    assert benchmark.pedantic(epoch, rounds=5, warmup_rounds=1) == count
    seen = []
    for x, y in make():
        rows = y.astype(np.int64)
        np.testing.assert_array_equal(x, part.gather(rows - LENGTH, LENGTH))
        seen.extend(rows.tolist())
    assert sorted(seen) == list(range(LENGTH, LENGTH + count))
    assert seen != sorted(seen)
