"""Both datasets, compared with the windows of the legacy loop and of Keras."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atb_fast import TrainingConfig
from atb_fast.errors import ArgumentError
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.training.tf_data import gathered_dataset, generated_dataset, trained_windows

LENGTH = 30
BOTH = pytest.mark.parametrize("make", [gathered_dataset, generated_dataset])


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", force_price_only=True, sequence_length=LENGTH
    )
    return split(prepare(Market(market.candles.head(400), None), config), config)


def collect(dataset: Any) -> tuple[Any, Any]:
    batches = list(dataset.as_numpy_iterator())
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


@BOTH
def test_windows_in_order_equal_the_legacy_loop(make: Any, data: WindowedData) -> None:
    features = data.prepared.matrix.values
    rows = range(LENGTH, LENGTH + len(data.train))
    x, y = collect(make(data, data.train, 32))
    np.testing.assert_array_equal(x, [features[i - LENGTH : i] for i in rows])
    np.testing.assert_array_equal(y, data.prepared.close[rows].astype(np.float32))


def test_rust_does_not_drop_weights(data: WindowedData) -> None:
    weighted = replace(data, labels=replace(data.labels, weights=np.ones(len(data.labels.values))))
    with pytest.raises(ArgumentError, match="does not support labels with weights; use gathered"):
        generated_dataset(weighted, data.train, 32)


@BOTH
def test_windows_equal_timeseries_dataset_from_array(make: Any, data: WindowedData) -> None:
    import keras

    target = data.prepared.close.astype(np.float32)
    theirs = keras.utils.timeseries_dataset_from_array(
        data.prepared.matrix.values[:-1], target[LENGTH:], LENGTH, batch_size=32
    )
    expected = collect(theirs)
    ours = collect(make(data, np.concatenate([data.train, data.test]), 32))
    np.testing.assert_array_equal(ours[0], expected[0])
    np.testing.assert_array_equal(ours[1], expected[1])


def test_windows_scaled_in_the_graph_equal_rust(truth: Any) -> None:
    candles = truth("BTCUSDT", "1h").tail(3000)
    config = TrainingConfig(symbol="BTCUSDT", source="sample", timeframe="1h", recipe="basic")
    for length in (2, 119, 120, 128):
        object.__setattr__(config, "sequence_length", length)  # engines only use 120
        data = split(prepare(Market(candles, None), config), config)
        x, y = collect(gathered_dataset(data, data.test, 100))
        np.testing.assert_array_equal(x, data.windows(data.test))
        np.testing.assert_array_equal(trained_windows(data, data.test), x)
        close = candles["close"].to_numpy()
        for label, start in zip(y, data.test, strict=True):
            inside = close[start : start + length]
            span = inside.max() - inside.min()
            assert label == np.float32((close[start + length] - inside.min()) / span)


@BOTH
def test_shapes_and_cardinality(make: Any, data: WindowedData) -> None:
    dataset = make(data, data.train, 32)
    x, y = dataset.element_spec
    assert tuple(x.shape) == (None, LENGTH, 9)
    assert tuple(y.shape) == (None,)
    assert int(dataset.cardinality()) == -(-len(data.train) // 32)


@BOTH
def test_each_epoch_has_its_own_seeded_order(make: Any, data: WindowedData) -> None:
    dataset, again = make(data, data.train, 32, seed=5), make(data, data.train, 32, seed=5)
    first, second = collect(dataset)[1], collect(dataset)[1]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.sort(second))
    np.testing.assert_array_equal(collect(again)[1], first)
    np.testing.assert_array_equal(collect(again)[1], second)


@BOTH
def test_shuffled_windows_go_with_their_targets(make: Any, data: WindowedData) -> None:
    x, y = collect(make(data, data.train, 32, seed=1))
    plain = dict(zip(data.targets(data.train).astype(np.float32), data.train, strict=True))
    for window, target in zip(x, y, strict=True):
        start = plain[target]
        np.testing.assert_array_equal(window, data.prepared.matrix.values[start : start + LENGTH])
