"""The out-of-sample predictions of a walk-forward evaluation, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from atb_fast import TrainingConfig, WalkForward, walk_forward
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.networks import Linear
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.targets import (
    BinaryDirection,
    LogReturn,
    SmoothedReturn,
    Target,
    TripleBarrier,
    Volatility,
)

HALF = 0.5
TARGETS: dict[str, Target] = {
    "price": LogReturn(horizon=2),
    "return": SmoothedReturn(horizon=3),
    "two": BinaryDirection(horizon=2),
    "three": TripleBarrier(horizon=5, take_profit=0.02, stop_loss=0.02),
    "weighted": TripleBarrier(
        horizon=5, take_profit=0.02, stop_loss=0.02, class_weights="balanced"
    ),
    "volatility": Volatility(horizon=2, quantiles=(0.05, 0.95)),
}
#: The columns after those that all kinds have.
FURTHER = {
    "price": [],
    "return": ["predicted_return"],
    "two": ["probability", "direction", "baseline_probability"],
    "three": [
        *("probability_down", "probability_flat", "probability_up", "direction"),
        *(f"baseline_probability_{name}" for name in ("down", "flat", "up")),
    ],
    "volatility": ["sigma", "price_q05", "price_q95"],
}
FURTHER["weighted"] = FURTHER["three"]


@dataclass(frozen=True)
class HalfShrunk(Recipe):
    """A recipe whose shrinkage factor is known, if its target has one."""

    def shrinkage(self, data: WindowedData, predict: Any) -> float:
        return HALF if self.target.relative else super().shrinkage(data, predict)


@pytest.fixture(scope="module")
def made() -> dict[str, WalkForward]:
    """An evaluation of each kind, with the linear network, which is solved exactly."""
    features = {
        "return_1": "log(close / lag(close, 1))",
        **{f"har_{days}": f"log(mean(high / low - 1, {days}))" for days in (1, 7, 30)},
    }

    def evaluated(target: Target) -> WalkForward:
        recipe = HalfShrunk(name="own", features=features, target=target, network=Linear())
        options: dict[str, Any] = {"start_date": "2021-06-01", "sequence_length": 10}
        config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe=recipe, **options)
        return walk_forward(config, folds=3)

    return {kind: evaluated(target) for kind, target in TARGETS.items()}


@pytest.fixture(params=TARGETS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_columns(made: dict[str, WalkForward], kind: str) -> None:
    found = made[kind].predictions
    times = ["timestamp", "made_at", "target_time"]
    numbers = ["prediction", "raw", "baseline", "actual", "last_close", *FURTHER[kind]]
    assert found.columns == ["symbol", *times, "fold", *numbers]
    assert {found[name].dtype for name in times} == {pl.Datetime("ms", "UTC")}
    assert {found[name].dtype for name in numbers} == {pl.Float64}
    assert found.schema["symbol"] == pl.String
    assert found.schema["fold"] == pl.Int64
    assert found["symbol"].unique().to_list() == ["BTCUSDT"]
    assert found.null_count().sum_horizontal().item() == 0
    assert found["timestamp"].is_sorted()
    assert not found["timestamp"].is_duplicated().any()
    counts = [(fold.number, fold.test) for fold in made[kind].folds]
    assert found.group_by("fold", maintain_order=True).len().rows() == counts


def test_times(made: dict[str, WalkForward], kind: str, daily: pl.DataFrame) -> None:
    found, horizon = made[kind].predictions, TARGETS[kind].horizon
    closes = dict(zip(daily["timestamp"] + timedelta(days=1), daily["close"], strict=True))
    # The last bar of a window is the newest one that is closed when its forecast is made.
    assert found["last_close"].to_list() == [closes[time] for time in found["made_at"]]
    later = found["target_time"] - found["made_at"]
    assert later.unique().to_list() == [timedelta(days=horizon)]
    listed = found["target_time"] - timedelta(days=1) if kind == "price" else found["made_at"]
    assert found["timestamp"].equals(listed, check_names=False)
    if kind == "price":
        assert found["actual"].to_list() == [closes[time] for time in found["target_time"]]


def test_the_pooled_figures_follow_from_the_predictions(
    made: dict[str, WalkForward], kind: str
) -> None:
    """They are figures of all bars, not means of those of the folds."""
    found, pooled = made[kind].predictions, made[kind].pooled
    actual = found["actual"].to_numpy()
    expected: dict[str, float] = {}
    for name, prefix in (("prediction", ""), ("baseline", "baseline_")):
        values = found[name].to_numpy()
        if kind in ("price", "return"):
            key = "rmse" if name == "prediction" else "persistence_rmse"
            expected[key] = float(np.sqrt(np.mean(np.square(values - actual))))
        elif kind == "volatility":
            ratio = np.square(actual / values)
            key = "qlike" if name == "prediction" else "har_qlike"
            expected[key] = float(np.mean(ratio - np.log(ratio) - 1.0))
        else:
            chances = found.select(f"^{prefix}probability.*$").to_numpy()
            chances = np.column_stack([1 - chances, chances]) if kind == "two" else chances
            weights = _weights(made[kind]) if kind == "weighted" else np.ones(len(found))
            key = "log_loss" if name == "prediction" else "class_shares_log_loss"
            labels = np.array([-1, 1] if kind == "two" else [-1, 0, 1])
            of_actual = chances[np.arange(len(found)), np.searchsorted(labels, actual)]
            expected[key] = float(np.mean(-np.log(of_actual) * weights))
            key = "accuracy" if name == "prediction" else "majority_accuracy"
            expected[key] = float(np.mean(values == actual))
    assert {key: pooled[key] for key in expected} == pytest.approx(expected, rel=1e-9)
    assert pooled["test"] == len(found)


def _weights(made: WalkForward) -> Any:
    return made.tested.further["weights"]


def test_pooled_horizons_do_not_overlap(made: dict[str, WalkForward]) -> None:
    """Those of the last windows of a fold reach into the next fold."""
    found, count, until = made["three"].predictions, 0, None
    for begin, end in found.select("made_at", "target_time").iter_rows():
        if until is None or begin >= until:
            count, until = count + 1, end
    assert made["three"].pooled["accuracy_bars"] == count
    assert count < sum(fold.figures["accuracy_bars"] for fold in made["three"].folds)


def test_raw_is_the_network_before_shrinkage(made: dict[str, WalkForward], kind: str) -> None:
    found = made[kind].predictions
    prediction, raw, baseline, last = (
        found[name].to_numpy() for name in ("prediction", "raw", "baseline", "last_close")
    )
    if kind == "return":
        np.testing.assert_allclose(prediction, HALF * raw, rtol=1e-5)
    elif kind == "price":
        np.testing.assert_allclose(
            np.log(prediction / last), HALF * np.log(raw / last), rtol=1e-4, atol=1e-9
        )
    elif kind == "volatility":
        # The mean of network and HAR, except for their variance factors, which each fold has.
        off = np.log(prediction) - HALF * np.log(raw) - HALF * np.log(baseline)
        for fold in (1, 2, 3):
            assert np.ptp(off[found["fold"].to_numpy() == fold]) < 1e-5
        assert np.ptp(np.log(raw / baseline)) > 1e-3
    else:  # probabilities are not shrunk
        assert (prediction == raw).all()
    if kind in ("two", "three", "weighted"):
        assert found["prediction"].equals(found["direction"], check_names=False)


def test_the_baseline(made: dict[str, WalkForward], kind: str) -> None:
    found = made[kind].predictions
    if kind == "price":
        assert found["baseline"].equals(found["last_close"], check_names=False)
    elif kind == "return":
        assert (found["baseline"] == 0).all()
    elif kind == "weighted":  # the best constant forecast of a weighted loss, but one label
        names = [f"baseline_probability_{name}" for name in ("down", "flat", "up")]
        np.testing.assert_allclose(found.select(names).to_numpy(), 1 / 3)
        majority = made["three"].predictions["baseline"]
        assert found["baseline"].equals(majority)
