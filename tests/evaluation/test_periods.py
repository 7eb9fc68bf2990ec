"""How good a model is over time, by month and by volatility, compared with pandas and scipy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from relabelling import of_kind
from scipy.stats import binomtest

from atb_fast.evaluation.periods import Losses, by_group, months, regimes, rolling
from atb_fast.evaluation.scoring import scoring_of
from atb_fast.features.outputs import Classes, Return
from atb_fast.features.windows import WindowedData

#: Number of classes of each kind that has some.
CLASSES = {"two": 2, "three": 3}


def rmse(losses: Any) -> Any:
    return np.sqrt(np.mean(losses, axis=-1))


def losses_of(count: int) -> Losses:
    model, reference = np.random.default_rng(1).lognormal(0, 2, (2, count))
    return Losses(model, reference, rmse)


@pytest.mark.parametrize(("count", "windows"), [(40, 20), (239, 20), (252, 21), (3000, 250)])
def test_rolling_errors_equal_pandas(count: int, windows: int) -> None:
    losses = losses_of(count)
    found = rolling(losses)
    assert found is not None
    assert found.windows == windows
    for own, values in ((found.model, losses.model), (found.reference, losses.reference)):
        expected = pd.Series(values).rolling(windows).mean() ** 0.5
        np.testing.assert_allclose(own, expected, rtol=1e-9)


def test_an_infinite_loss_does_not_hide_later_errors() -> None:
    losses = losses_of(100)
    losses.model[30] = np.inf
    found = rolling(losses)
    assert found is not None
    expected = pd.Series(losses_of(100).model).rolling(20).mean() ** 0.5
    expected[30:50] = np.inf
    np.testing.assert_allclose(found.model, expected, rtol=1e-9)


def test_too_few_windows_to_roll() -> None:
    assert rolling(losses_of(39)) is None
    assert rolling(Losses(np.zeros(0), np.zeros(0), rmse)) is None


@pytest.mark.parametrize("kind", ["prices", "returns", "two", "three", "volatility"])
def test_groups_equal_pandas(data: WindowedData, kind: str) -> None:
    data = of_kind(data, kind)
    rng, scoring = np.random.default_rng(2), scoring_of(data)
    actual = data.targets(data.test)
    forecasts = actual + rng.normal(0, np.std(actual), len(actual))
    if kind in CLASSES:
        scores = rng.dirichlet(np.ones(CLASSES[kind]), len(actual))
        forecasts = scores[:, 1] if kind == "two" else scores
    tested = scoring.tested(data, forecasts)
    group = rng.integers(-1, 4, len(actual))
    group[group == 2] = 3  # an empty group
    found = by_group(scoring, tested, group, 4)
    for number in range(4):
        part = group == number
        assert found.windows[number] == part.sum()
        ratio = found.ratios[scoring.name][number]
        if not part.any():
            assert np.isnan([ratio, found.share[number], found.low[number]]).all()
            continue
        other = tested.baselines[scoring.reference(tested)]
        errors = [
            scoring.mean(scoring.losses_of(tested, each)[part]) for each in (forecasts, other)
        ]
        assert ratio == pytest.approx(errors[0] / errors[1])
        hits = scoring.hits(tested)[part]
        hits = hits[~np.isnan(hits)]
        assert found.counted[number] == found.bars[number] == len(hits)
        if kind == "volatility":
            assert len(hits) == 0
            continue
        interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        assert found.share[number] == pytest.approx(hits.mean())
        assert found.low[number] == pytest.approx(interval.low)
        assert found.high[number] == pytest.approx(interval.high)
    assert ("QLIKE" in found.ratios) == (kind == "volatility")


@pytest.mark.parametrize("kind", ["prices", "returns", "two", "three"])
def test_hits_agree_with_the_accuracy_of_all_windows(data: WindowedData, kind: str) -> None:
    data = of_kind(data, kind)
    scoring, rng = scoring_of(data), np.random.default_rng(3)
    actual = data.targets(data.test)
    forecasts = data.persistence(data.test) + rng.normal(0, np.std(actual), len(actual))
    if kind in CLASSES:
        scores = rng.dirichlet(np.ones(CLASSES[kind]), len(actual))
        forecasts = scores[:, 1] if kind == "two" else scores
    else:
        forecasts[:9] = data.persistence(data.test)[:9]  # no move
    tested = scoring.tested(data, forecasts)
    hits, figures = scoring.hits(tested), scoring.figures(tested)
    name = "accuracy" if kind in CLASSES else "directional_accuracy"
    assert np.nanmean(hits) == pytest.approx(figures[name])
    count = figures["accuracy_bars" if name == "accuracy" else "directional_bars"]
    assert np.sum(~np.isnan(hits)) == count


@pytest.mark.parametrize("kind", ["returns", "two", "three"])
def test_one_group_of_all_windows_has_the_accuracy_of_the_model(
    data: WindowedData, kind: str
) -> None:
    data = of_kind(data, kind)
    output = {
        "returns": Return(horizon=7),
        "two": Classes((-1, 1), 7),
        "three": Classes((-1, 0, 1), 7),
    }[kind]
    data = replace(data, labels=replace(data.labels, output=output))
    scoring, rng = scoring_of(data), np.random.default_rng(4)
    actual = data.targets(data.test)
    forecasts = rng.normal(0, 1, len(actual))
    if kind in CLASSES:
        scores = rng.dirichlet(np.ones(CLASSES[kind]), len(actual))
        forecasts = scores[:, 1] if kind == "two" else scores
    tested = scoring.tested(data, forecasts)
    found, figures = (
        by_group(scoring, tested, np.zeros(len(actual), np.int64), 1),
        scoring.figures(tested),
    )
    name = "accuracy" if kind in CLASSES else "directional_accuracy"
    assert found.share[0] == pytest.approx(figures[name])
    assert found.low[0] == pytest.approx(figures[f"{name}_low"])
    assert found.high[0] == pytest.approx(figures[f"{name}_high"])
    bars = figures["accuracy_bars" if kind in CLASSES else "directional_bars"]
    assert found.bars[0] == bars < len(actual) / 6


def test_a_group_without_a_window_of_its_own_has_the_widest_interval(data: WindowedData) -> None:
    data = of_kind(data, "three")
    data = replace(data, labels=replace(data.labels, output=Classes((-1, 0, 1), 7)))
    scoring = scoring_of(data)
    tested = scoring.tested(data, np.tile([0.2, 0.3, 0.5], (len(data.test), 1)))
    group = np.where(tested.apart, 0, 1)
    found = by_group(scoring, tested, group, 2)
    assert found.windows[1] == found.counted[1] > 0
    assert found.bars.tolist() == [tested.apart.sum(), 1]
    assert found.high[1] - found.low[1] > 0.5


def test_months_equal_pandas() -> None:
    times = np.arange("2023-11-17", "2024-03-05", dtype="datetime64[D]")
    times = times[(times < np.datetime64("2024-01-01")) | (times >= np.datetime64("2024-02-03"))]
    found, number = months(times)
    expected = pd.Series(1, times).resample("MS").sum()
    assert found.astype(str).tolist() == [f"{month:%Y-%m}" for month in expected.index]
    np.testing.assert_array_equal(np.bincount(number), expected)


def with_closes(data: WindowedData, close: Any) -> WindowedData:
    frame = data.prepared.frame.with_columns(pl.Series("close", close))
    return replace(data, prepared=replace(data.prepared, frame=frame))


def test_regimes_equal_pandas(data: WindowedData) -> None:
    found = regimes(data)
    assert found is not None
    assert found.bars == max(20, data.length)
    frame = data.prepared.frame
    times = pd.DatetimeIndex(frame["timestamp"].to_numpy())
    returns = pd.Series(np.log(frame["close"].to_numpy())).diff()
    returns[np.append(False, np.diff(times) != pd.Timedelta(days=1))] = np.nan  # over a gap
    volatility = (returns**2).rolling(found.bars, min_periods=found.bars // 2).mean() ** 0.5
    rows = data.prepared.matrix.rows
    at = {
        part: volatility.to_numpy()[rows[starts + data.length - 1]]
        for part, starts in (("train", data.train), ("test", data.test))
    }
    limits = np.nanquantile(at["train"], [1 / 3, 2 / 3])
    np.testing.assert_allclose(found.limits, limits)
    np.testing.assert_array_equal(found.level, np.digitize(at["test"], limits, right=True))


def test_regimes_know_nothing_of_the_future(data: WindowedData) -> None:
    before = regimes(data)
    close = data.prepared.frame["close"].to_numpy().copy()
    number = 10
    last = data.prepared.matrix.rows[data.test[number] + data.length - 1]
    close[last + 1 :] *= np.exp(np.random.default_rng(1).normal(0, 1, len(close) - last - 1))
    after = regimes(with_closes(data, close))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.limits, before.limits)
    np.testing.assert_array_equal(after.level[: number + 1], before.level[: number + 1])
    assert (after.level[number + 1 :] == 2).any()


def test_regimes_of_unknown_volatility(data: WindowedData) -> None:
    close = data.prepared.frame["close"].to_numpy().copy()
    rows = data.prepared.matrix.rows[data.test + data.length - 1]
    close[rows[0] - 15 : rows[0] + 1] = np.nan
    found = regimes(with_closes(data, close))
    assert found is not None
    assert found.level[0] == -1
    assert found.level[-1] >= 0
    assert regimes(with_closes(data, np.full(len(close), np.nan))) is None
