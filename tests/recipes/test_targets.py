"""Targets whose label follows from the bars after an anchor, through `prepare` and `split`."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from atb_fast import Recipe, TrainingConfig, find_leaks
from atb_fast.errors import DataError
from atb_fast.features.heads import LINEAR, SIGMOID, Head
from atb_fast.features.outputs import Classes, Return
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.targets import BinaryDirection, SmoothedReturn, Target, TripleBarrier

LENGTH = 12
HOUR = timedelta(hours=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
TARGETS = [
    BinaryDirection(horizon=1),
    BinaryDirection(horizon=5),
    SmoothedReturn(horizon=4),
    TripleBarrier(horizon=7, take_profit=0.02, stop_loss=0.015),
]
EVERY_TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.kind)


@pytest.fixture(scope="module")
def candles() -> pl.DataFrame:
    """Hourly candles without a gap. Their volume is their index."""
    rng = np.random.default_rng(5)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 900)))
    return pl.DataFrame(
        {
            "timestamp": pl.datetime_range(
                START, START + 899 * HOUR, HOUR, time_unit="ms", eager=True
            ),
            "open": close,
            "high": close * (1 + rng.uniform(0, 0.01, 900)),
            "low": close * (1 - rng.uniform(0, 0.01, 900)),
            "close": close,
            "volume": np.arange(900.0),
        }
    )


def recipe(target: Target, lag: int = 0) -> Recipe:
    return Recipe(name="mine", features={"volume": "volume"}, target=target, scaler="none", lag=lag)


def config(target: Target, lag: int = 0, **options: Any) -> TrainingConfig:
    given: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "timeframe": "1h"}
    given |= {"recipe": recipe(target, lag), "sequence_length": LENGTH, "embargo": 0}
    return TrainingConfig(**given | options)


def windows(candles: pl.DataFrame, target: Target, lag: int = 0, **options: Any) -> WindowedData:
    given = config(target, lag, **options)
    return split(prepare(Market(candles, None), given), given)


def label(target: Target, candles: pl.DataFrame, at: int) -> float:
    """Return the label of the candle at index `at`, as the definition says."""
    ahead = candles[at + 1 : at + 1 + target.horizon]
    entry = candles["close"][at]
    if len(ahead) < target.horizon:
        return np.nan
    if isinstance(target, BinaryDirection):
        return float(ahead["close"][-1] > entry)
    if isinstance(target, SmoothedReturn):
        mean = ahead["close"].mean()
        assert isinstance(mean, float)
        return float(mean / entry - 1)
    assert isinstance(target, TripleBarrier)
    for bar in ahead.iter_rows(named=True):
        if bar["low"] <= entry * (1 - target.stop_loss):
            return 0.0
        if bar["high"] >= entry * (1 + target.take_profit):
            return 2.0
    return 1.0


def last_rows(data: WindowedData) -> NDArray[np.int64]:
    """Return the index of the candle that is the last row of each window: its volume."""
    return data.windows(data.parts.every)[:, -1, 0].astype(np.int64)


@EVERY_TARGET
@pytest.mark.parametrize("lag", [0, 1])
def test_the_label_belongs_to_the_bar_lag_bars_after_the_window(
    candles: pl.DataFrame, target: Target, lag: int
) -> None:
    data = windows(candles, target, lag)
    ends = last_rows(data)
    got = data.fitted(data.parts.every)
    for shift in (-1, 0, 1):
        expected = np.array([label(target, candles, int(end) + lag + shift) for end in ends])
        known = ~np.isnan(expected)
        assert known.sum() > 800
        if shift == 0:
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
        else:  # the labels of neighbors differ, or this test would show nothing
            assert np.abs(got - expected)[known].max() > 1e-3
    np.testing.assert_array_equal(data.targets(data.parts.every), got)


@EVERY_TARGET
@pytest.mark.parametrize("lag", [0, 1])
def test_purging_drops_a_window_the_lag_and_the_horizon(
    candles: pl.DataFrame, target: Target, lag: int
) -> None:
    data = windows(candles, target, lag)
    between = LENGTH + lag + target.horizon
    assert data.validation[0] - data.train[-1] == between
    assert data.test[0] - data.validation[-1] == between
    # The label of the newest window depends on the last candle.
    assert data.test[-1] + between == len(candles)
    embargo = windows(candles, target, lag, embargo=9)
    assert embargo.validation[0] - embargo.train[-1] == between + 9


@EVERY_TARGET
def test_windows_without_a_label_are_left_out(
    candles: pl.DataFrame, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    horizon, lag = target.horizon, 1
    # The candles from 300 on are an hour late; candle 500 has no price.
    gap, bad = 300, 500
    late = pl.when(pl.int_range(pl.len()) >= gap).then(HOUR).otherwise(timedelta())
    zero = pl.int_range(pl.len()) == bad
    prices = {name: pl.when(zero).then(0.0).otherwise(name) for name in ("low", "close")}
    moved = (pl.col("timestamp") + late).dt.cast_time_unit("ms")
    broken = candles.with_columns(moved, **prices)
    anchors = np.arange(LENGTH - 1 + lag, len(candles) - horizon)
    over_gap = (anchors < gap) & (anchors + horizon >= gap)
    reads = {
        "binary_direction": (anchors == bad) | (anchors + horizon == bad),
        "smoothed_return": (anchors <= bad) & (anchors + horizon >= bad),
        "triple_barrier": (anchors <= bad) & (anchors + horizon >= bad),
    }[target.kind]
    given = config(target, lag)
    prepared = prepare(Market(broken, None), given)
    with caplog.at_level(logging.INFO):
        starts = given.definition.starts(prepared, given)
    np.testing.assert_array_equal(starts, (anchors - LENGTH + 1 - lag)[~over_gap & ~reads])
    left = horizon + lag + over_gap.sum() + reads.sum()
    assert caplog.messages[-1] == (
        f"{left} of {len(candles) - LENGTH + 1} windows left out: {horizon + lag} too new to have "
        f"a label, {over_gap.sum()} with a gap within the horizon of {horizon} "
        f"bar{'s' if horizon > 1 else ''}, {reads.sum()} with a price that is missing, 0 or "
        "negative"
    )


def test_the_log_names_only_reasons_that_occur(
    candles: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    rows = 1000 + LENGTH
    times = pl.datetime_range(START, START + (rows - 1) * HOUR, HOUR, time_unit="ms", eager=True)
    longer = pl.concat([candles, candles.head(rows - len(candles))]).with_columns(timestamp=times)
    with caplog.at_level(logging.INFO):
        windows(longer, BinaryDirection())
    assert "1 of 1,001 windows left out: 1 too new to have a label" in caplog.messages


def test_the_log_of_window_close_names_only_reasons_that_occur(
    candles: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    bad = pl.when(pl.int_range(pl.len()) == 500).then(0.0).otherwise(pl.col("volume") + 1)
    given = TrainingConfig(symbol="BTCUSDT", source="sample", timeframe="1h", recipe="basic")
    with caplog.at_level(logging.INFO):
        split(prepare(Market(candles.with_columns(volume=bad), None), given), given)
    assert caplog.messages == [
        "120 of 780 windows left out: 120 with a value that is missing, 0 or negative, which "
        "engines reject"
    ]


@EVERY_TARGET
def test_windows_of_raw_candles_with_a_price_of_0_are_left_out(
    candles: pl.DataFrame, target: Target
) -> None:
    bad = pl.int_range(pl.len()) == 500
    broken = candles.with_columns(open=pl.when(bad).then(0.0).otherwise("open"))
    columns = {name: name for name in ("open", "close")}
    engine = Recipe(
        name="mine",
        features=columns,
        target=target,
        scaler="window",
        lag=1,
        sequence_length=LENGTH,
    )
    given = config(target, recipe=engine)
    data = split(prepare(Market(broken, None), given), given)
    usable = data.prepared.matrix.usable(LENGTH)  # type: ignore[union-attr]
    assert len(usable) == len(candles) - LENGTH + 1 - LENGTH
    labelled = usable[: len(usable) - target.horizon - 1]
    np.testing.assert_array_equal(engine.starts(data.prepared, given), labelled)
    # No label reads an open.
    expected = [label(target, candles, s + LENGTH) for s in data.parts.every.tolist()]
    np.testing.assert_allclose(data.fitted(data.parts.every), expected, rtol=1e-12, atol=1e-15)
    assert np.isfinite(data.windows(data.parts.every)).all()


@pytest.mark.parametrize("lag", [0, 1])
def test_no_label_that_trains_reaches_into_the_labels_of_a_shared_test_part(
    candles: pl.DataFrame, lag: int
) -> None:
    target = SmoothedReturn(horizon=6)
    shared = replace(recipe(target, lag), split="shared_test")
    given = config(target, recipe=shared, embargo=None)
    data = split(prepare(Market(candles, None), given), given)
    np.testing.assert_array_equal(data.validation, data.test)
    assert data.test[0] - data.train[-1] == lag + target.horizon
    count = len(candles) - LENGTH + 1 - lag - target.horizon
    assert data.test[0] == int(count * 0.8)
    fewest = LENGTH + lag + 5 + math.ceil((lag + 6) / 0.8)
    least = split(prepare(Market(candles.head(fewest), None), given), given)
    assert len(least.train) == 1
    with pytest.raises(DataError, match=f"has {fewest - 1} candles, expected at least {fewest} to"):
        split(prepare(Market(candles.head(fewest - 1), None), given), given)


def test_too_few_labels(candles: pl.DataFrame) -> None:
    # Every fourth candle is missing.
    sparse = candles.filter(pl.int_range(pl.len()) % 4 != 0)
    expected = (
        r"^only 0 of 658 windows have a label: of the others, 658 have a gap within the horizon of "
        "6 bars, and 0 have a price that is missing, 0 or negative; use candles without gaps, or a "
        "shorter --horizon$"
    )
    with pytest.raises(DataError, match=expected):
        windows(sparse, SmoothedReturn(horizon=6))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            BinaryDirection(),
            r"all \d+ training windows have the class 1, expected at least two classes; use a "
            "longer range, or another --horizon$",
        ),
        (
            TripleBarrier(horizon=5, take_profit=9.0, stop_loss=0.5),
            "the class 0, expected at least two classes; use a longer range, another --horizon, or "
            "other distances",
        ),
    ],
)
def test_one_class(candles: pl.DataFrame, target: Target, message: str) -> None:
    rising = np.arange(1000.0, 1900.0)
    prices = {name: pl.Series(rising) for name in ("open", "high", "low", "close")}
    with pytest.raises(DataError, match=message):
        windows(candles.with_columns(**prices), target)


@pytest.mark.parametrize(
    "target",
    [
        BinaryDirection(horizon=3, class_weights="balanced"),
        TripleBarrier(horizon=9, take_profit=0.03, stop_loss=0.02, class_weights="balanced"),
    ],
)
def test_balanced_weights_equal_scikit_learn(
    candles: pl.DataFrame, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        data = windows(candles, target, lag=1)
    fitted, every = data.fitted(data.train), data.fitted(data.parts.every)
    classes = np.unique(fitted)
    balanced = compute_class_weight("balanced", classes=classes, y=fitted)
    weights = data.labels.weights
    assert weights is not None
    np.testing.assert_allclose(
        weights[data.parts.every + data.length], balanced[every.astype(int)], rtol=1e-12
    )
    # Each class has the same total weight in the training part.
    totals = [weights[data.train + data.length][fitted == each].sum() for each in classes]
    np.testing.assert_allclose(totals, len(fitted) / len(classes))
    assert isinstance(data.output, Classes)
    shares = ", ".join(
        f"{name} {np.mean(fitted == each):.1%} (weight {weight:.3g})"
        for name, each, weight in zip(data.output.labels, classes, balanced, strict=True)
    )
    assert caplog.messages[-1] == f"classes of the {len(fitted)} training windows: {shares}"


def test_a_class_without_a_training_window_is_a_warning(
    candles: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    windows(candles, TripleBarrier(horizon=9, take_profit=10, stop_loss=0.02))
    (found,) = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert found.startswith("no training window has the class 1, so the model cannot learn it; ")


@pytest.mark.parametrize(("take_profit", "warned"), [(0.06, False), (0.07, True)])
def test_a_large_weight_of_a_rare_class_is_a_warning(
    candles: pl.DataFrame, caplog: pytest.LogCaptureFixture, take_profit: float, warned: bool
) -> None:
    target = TripleBarrier(horizon=9, take_profit=take_profit, stop_loss=0.02)
    windows(candles, target)
    assert not caplog.messages  # without weights, a rare class does no harm
    data = windows(candles, replace(target, class_weights="balanced"))
    share = np.mean(data.fitted(data.train) == 2)
    assert (3 * share < 0.1) == warned
    found = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert len(found) == warned
    for message in found:
        weight = f"the class 1 has {share:.1%} of the training windows and the weight "
        assert message.startswith(f"{weight}{1 / (3 * share):.3g}, so few windows ")


def test_shares_of_classes_are_logged_without_weights(
    candles: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        data = windows(candles, BinaryDirection())
    assert data.labels.weights is None
    up = np.mean(data.fitted(data.train))
    assert f"-1 {1 - up:.1%} (weight 1), 1 {up:.1%} (weight 1)" in caplog.messages[-1]


@pytest.mark.parametrize("lag", [0, 1])
def test_outputs(candles: pl.DataFrame, lag: int) -> None:
    heads = [SIGMOID, SIGMOID, LINEAR, Head("softmax", 3)]
    outputs = [
        Classes((-1, 1), 1, lag),
        Classes((-1, 1), 5, lag),
        Return(4, lag),
        Classes((-1, 0, 1), 7, lag),
    ]
    for target, head, output in zip(TARGETS, heads, outputs, strict=True):
        data = windows(candles, target, lag)
        assert (target.head, data.output) == (head, output)
        unchanged = data.persistence(data.test)
        if isinstance(output, Return):
            np.testing.assert_array_equal(unchanged, 0.0)
        else:
            assert np.isnan(unchanged).all()
        # The forecast is listed at the bar after the window, whatever the horizon.
        ends = last_rows(data)[-len(data.test) :]
        assert data.times(data.test).to_list() == candles["timestamp"][ends + 1].to_list()


@EVERY_TARGET
def test_labels_have_no_look_ahead_bias(candles: pl.DataFrame, target: Target) -> None:
    report = find_leaks(Market(candles, None), config(target, lag=1), cuts=6)
    assert not report.leaks
