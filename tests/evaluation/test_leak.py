"""Deliberate leaks in a recipe are found and named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from atb_fast import TrainingConfig, _core
from atb_fast.config import RecipeOptions
from atb_fast.errors import ArgumentError, DataError
from atb_fast.evaluation.leak import LeakReport, find_leaks
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.specs import INDEX_COLUMNS
from atb_fast.features.windows import Labels, Parts, WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import library
from atb_fast.recipes.base import BaseRecipe, Context
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.targets import (
    BinaryDirection,
    SmoothedReturn,
    Target,
    TripleBarrier,
    Volatility,
)

CAUSAL = library.get("causal")
NAMES = list(CAUSAL.specs)


class Causal(Recipe):
    """The causal recipe, to be changed by subclasses."""

    def __init__(self) -> None:
        super().__init__(**{item.name: getattr(CAUSAL, item.name) for item in fields(CAUSAL)})


def config(recipe: str = "causal", **options: Any) -> TrainingConfig:
    given = {"symbol": "BTCUSDT", "source": "sample", "sequence_length": 30}
    return TrainingConfig(recipe=recipe, **{**given, **options})


def leaking(report: LeakReport) -> set[str]:
    return {leak.what for leak in report.leaks}


class ScaledByAll(Causal):
    def fitted_rows(self, parts: Parts, options: RecipeOptions) -> tuple[int, int]:
        return 0, int(parts.every[-1]) + options.sequence_length - 1


class CenteredMean(Causal):
    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        made = super().prepare(market, options, context)
        assert made.pipeline is not None
        centered = made.frame["volume"].rolling_mean(7, center=True, min_samples=1)
        frame = made.frame.with_columns(centered)
        return replace(made, frame=frame, matrix=made.pipeline.transform(frame))


class NoPurge(Causal):
    def parts(self, prepared: PreparedData, options: RecipeOptions) -> Parts:
        starts = self.starts(prepared, options)
        return Parts(*np.split(starts, [len(starts) // 2, 3 * len(starts) // 4]))


class WrongTarget(Causal):
    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        data = super().windows(prepared, options, parts)
        values = data.labels.values / np.nanmax(np.abs(data.labels.values))
        return replace(data, labels=replace(data.labels, values=values))


class ScaledTarget(Causal):
    """The labels have no look-ahead bias, but their conversion to prices does."""

    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        data = super().windows(prepared, options, parts)
        scale = PriceScale.log_return(float(np.nanstd(data.labels.values)))
        return replace(data, labels=replace(data.labels, output=scale))


class InfiniteTarget(Causal):
    """The labels of the whole market are infinite, and no others."""

    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        data = super().windows(prepared, options, parts)
        if len(prepared.frame) < 2557:
            return data
        values = np.full_like(data.labels.values, np.inf)
        return replace(data, labels=replace(data.labels, values=values))


class OneFeature(BaseRecipe):
    """A recipe with one unscaled feature, computed from the closes of the market."""

    name = "one"

    def __init__(self, compute: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        self.compute = compute

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        made = CAUSAL.prepare(market, options, context)
        values = self.compute(market.candles["close"].to_numpy())
        frame = made.frame.with_columns(pl.Series("one", values))
        feature = _core.Feature("one", [("column", (), ("one",))])
        pipeline = _core.FeaturePipeline([feature], scalers=[_core.MinMaxScaler(0.0, 1.0)])
        matrix = pipeline.transform(frame)
        close, times = frame["close"].to_numpy()[matrix.rows], frame["timestamp"]
        times = times.gather(matrix.rows)
        return replace(
            made, frame=frame, pipeline=pipeline, matrix=matrix, close=close, timestamps=times
        )


class Maximum:
    """Divides by the largest close of the first market that it sees."""

    first: float | None = None

    def __call__(self, close: NDArray[np.float64]) -> NDArray[np.float64]:
        self.first = self.first or float(close.max())
        return close / self.first


def tomorrow(close: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.append(np.diff(np.log(close)), 0.0)


def tiny(close: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1e-5 * tomorrow(close)


def with_spike(close: NDArray[np.float64]) -> NDArray[np.float64]:
    values = tomorrow(close)
    values[100] = 1e9
    return values


class WindowsThatRise(Causal):
    def starts(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.int64]:
        starts = super().starts(prepared, options)
        last = starts + options.sequence_length - 1
        later = np.minimum(last + 60, len(prepared.close) - 1)
        return np.asarray(starts[prepared.close[later] > prepared.close[last]])


class SelectedOnTest(Causal):
    def parts(self, prepared: PreparedData, options: RecipeOptions) -> Parts:
        parts = super().parts(prepared, options)
        return replace(parts, validation=parts.test.copy())


class Refuses(Causal):
    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        if len(market.candles) < 2557:
            raise DataError("too few")
        return super().prepare(market, options, context)


@pytest.mark.parametrize("options", [{}, {"horizon": 7}, {"force_price_only": True}])
def test_causal_passes(market: Market, options: dict[str, Any]) -> None:
    report = find_leaks(market, config(**options))
    assert report.leaks == ()
    assert report.cuts >= 21


def test_hourly_causal_passes(truth: Any, true_index: pl.DataFrame) -> None:
    candles = truth("BTCUSDT", "1h").tail(4000)
    assert find_leaks(Market(candles, true_index), config(timeframe="1h")).leaks == ()


@dataclass(frozen=True)
class Farther(BinaryDirection):
    """Its labels look two bars further than its horizon says."""

    kind = "farther"

    def outcomes(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        close = prepared.frame["close"].to_numpy()
        return np.append(close[options.horizon + 2 :] > close[: -options.horizon - 2], [1, 0, 1])


@dataclass(frozen=True)
class BalancedOnAll(BinaryDirection):
    """Its class weights are those of all windows."""

    kind = "balanced_on_all"

    def labels(
        self, prepared: PreparedData, options: RecipeOptions, parts: Parts, lag: int = 0
    ) -> Labels:
        made = super().labels(prepared, options, parts, lag)
        share = np.nanmean(made.values)
        return replace(made, weights=np.where(made.values == 1, 0.5 / share, 0.5 / (1 - share)))


def with_target(target: Target, lag: int = 0) -> Recipe:
    return replace(CAUSAL, name="own", target=target, lag=lag)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize(
    "target",
    [
        BinaryDirection(horizon=3, class_weights="balanced"),
        SmoothedReturn(horizon=5),
        TripleBarrier(horizon=30),
    ],
)
def test_targets_of_the_next_bars_pass(market: Market, target: Target, lag: int) -> None:
    recipe = with_target(target, lag)
    options = config(horizon=target.horizon)
    assert find_leaks(market, options, recipe=recipe).leaks == ()
    # A class may override anything, so it runs on the whole history before each cut.
    own = Causal()
    for name in ("target", "lag"):
        object.__setattr__(own, name, getattr(recipe, name))
    assert find_leaks(market, options, recipe=own, cuts=3).leaks == ()


@pytest.mark.parametrize(("horizon", "quantiles"), [(1, ()), (7, (0.1, 0.9))])
def test_a_target_with_a_base_passes(
    market: Market, horizon: int, quantiles: tuple[float, ...]
) -> None:
    """HAR is fitted to features, so all of them are needed."""
    target = Volatility(horizon=horizon, quantiles=quantiles)
    recipe = replace(library.get("volatility"), target=target)
    assert (
        find_leaks(
            market, config("volatility", timeframe="1d", horizon=horizon), recipe=recipe
        ).leaks
        == ()
    )


@pytest.mark.parametrize("target", [Farther(), BalancedOnAll()])
def test_a_target_that_depends_on_the_future(market: Market, target: Target) -> None:
    assert leaking(find_leaks(market, config(), recipe=with_target(target))) == {"target"}


def test_a_scaler_on_all_rows(market: Market) -> None:
    found = leaking(find_leaks(market, config(), recipe=ScaledByAll()))
    # Days without sentiment are equally rare before and after the cuts.
    assert found >= {name for name in NAMES if "extreme" not in name and "missing" not in name}
    assert not found - set(NAMES)


def test_a_centered_window(market: Market) -> None:
    assert leaking(find_leaks(market, config(), recipe=CenteredMean())) == {"volume_to_sma_30"}


def test_sentiment_of_the_same_day(market: Market) -> None:
    found = leaking(find_leaks(market, config(sentiment_lag_days=0)))
    assert "sentiment_primary" in found
    assert found <= set(INDEX_COLUMNS)


def test_a_split_without_purge(market: Market) -> None:
    (leak,) = find_leaks(market, config(), recipe=NoPurge()).leaks
    assert leak.what == "split"
    # 30 windows of the part before share a row or their target with it.
    assert leak.reason == "windows that overlap a later part: 30"
    assert leak.cuts == 2


@pytest.mark.parametrize("recipe", [WrongTarget(), ScaledTarget()])
def test_a_target_scaled_by_the_future(market: Market, recipe: BaseRecipe) -> None:
    assert leaking(find_leaks(market, config(), recipe=recipe)) == {"target"}


@pytest.mark.parametrize("compute", [tomorrow, tiny, with_spike])
def test_a_leak_of_any_size(
    market: Market, compute: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> None:
    leaks = find_leaks(market, config(), recipe=OneFeature(compute)).leaks
    (leak,) = (leak for leak in leaks if leak.what != "split")
    assert leak.what == "one"
    assert leak.cuts > 15


def test_the_past_with_a_spike_is_no_leak(market: Market) -> None:
    def spike_of_yesterday(close: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.roll(with_spike(close), 2)[: len(close)] * (np.arange(len(close)) > 1)

    found = leaking(find_leaks(market, config(), recipe=OneFeature(spike_of_yesterday)))
    assert found == {"split"}


def test_recursions_after_a_spike_are_no_leak(market: Market) -> None:
    spike = pl.when(pl.int_range(pl.len()) == 1500).then(1e15).otherwise("volume")
    candles = market.candles.with_columns(volume=spike)
    recipe = Recipe(
        name="smooth",
        features={
            "none": {"expression": "ema(volume, 5) - ema(volume, 10)", "scaler": "none"},
            "standard": "ema(volume, 5) / close",
        },
    )
    # So many cuts that some lie where the spike has just left the lookback.
    assert find_leaks(Market(candles, None), config(), recipe=recipe, cuts=90).leaks == ()


def test_a_recipe_that_remembers_the_whole_market(market: Market) -> None:
    recipe = OneFeature(Maximum())
    assert leaking(find_leaks(market, config(), recipe=recipe)) == {"one", "split"}
    assert recipe.compute.first is None  # type: ignore[attr-defined]


def test_a_recipe_that_cannot_be_copied(market: Market, caplog: pytest.LogCaptureFixture) -> None:
    recipe = OneFeature(lambda close: close)
    recipe.lock = Lock()  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, "atb_fast"):
        find_leaks(market, config(), recipe=recipe, cuts=1)
    assert caplog.text.count("the recipe cannot be copied") == 1


def test_an_infinite_target(market: Market) -> None:
    leaks = find_leaks(market, config(), recipe=InfiniteTarget()).leaks
    assert {leak.what for leak in leaks} == {"target"}
    assert "values that change to or from NaN or infinity: " in leaks[0].reason
    assert not any("nan" in leak.reason.lower().replace("nan or inf", "") for leak in leaks)


def test_windows_chosen_by_the_future(market: Market) -> None:
    (leak,) = find_leaks(market, config(), recipe=WindowsThatRise()).leaks
    assert leak.what == "split"
    assert leak.reason.startswith("windows that later data selects: ")


def test_windows_in_both_validation_and_test(market: Market) -> None:
    (leak,) = find_leaks(market, config(), recipe=SelectedOnTest()).leaks
    assert leak.reason.startswith("test windows that also select the epoch: ")


def test_comparing_nothing_is_an_error(market: Market) -> None:
    assert len(market.candles) == 2557
    with pytest.raises(DataError, match="too few candles at every cut; use a longer range"):
        find_leaks(market, config(), recipe=Refuses())


def test_no_cuts_are_no_check(market: Market) -> None:
    with pytest.raises(ArgumentError, match="cuts is 0, expected an integer of at least 1"):
        find_leaks(market, config(), cuts=0)


def test_no_more_cuts_than_bars(market: Market) -> None:
    few = Market(market.candles.head(620), None)
    options: dict[str, Any] = {"force_price_only": True, "sequence_length": 12}
    report = find_leaks(few, config(**options), cuts=10**12)
    assert 100 < report.cuts < 620


def test_legacy_leaks_and_says_what(market: Market) -> None:
    found = leaking(find_leaks(market, config("legacy")))
    prices = {"open", "high", "low", "close", "volume", "sma_7", "sma_14", "sma_30"}
    assert found >= {f"{name}_scaled" for name in prices} | {"split", "candles"}


def test_basic_leaks_by_its_split_only(truth: Any) -> None:
    candles = truth("BTCUSDT", "1h").tail(2000)
    basic = config("basic", timeframe="1h", sequence_length=120)
    report = find_leaks(Market(candles, None), basic)
    assert leaking(report) == {"split"}
    assert len(report.leaks) == 2


def test_a_custom_recipe(market: Market) -> None:
    """A recipe is one class; only `prepare` is required."""

    class Momentum(BaseRecipe):
        def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
            made = CAUSAL.prepare(market, options, context)
            pipeline = _core.FeaturePipeline(
                [_core.Feature("momentum", [("column", (), ("volume",))])],
                scalers=[_core.MinMaxScaler(0.0, 1e6)],
            )
            matrix = pipeline.transform(made.frame)
            close = made.frame["close"].to_numpy()[matrix.rows]
            return replace(made, pipeline=pipeline, matrix=matrix, close=close)

    found = leaking(find_leaks(market, config(), recipe=Momentum()))
    assert found == {"split"}
