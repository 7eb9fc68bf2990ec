"""Searches: what they propose, and that it depends on nothing but the results."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atb_fast import ArgumentError, MissingExtraError, TrainingConfig
from atb_fast.experiments import search, space
from atb_fast.experiments.search import Kind, Search
from atb_fast.experiments.space import Space


@pytest.fixture(scope="module")
def base() -> TrainingConfig:
    return TrainingConfig(symbol="BTCUSDT", recipe="causal", source="sample")


@pytest.fixture(scope="module")
def some(base: TrainingConfig) -> Space:
    return space.read(
        {
            "epochs": {"low": 1, "high": 100},
            "seed": [1, 2, 3],
            "network.dropout": {"low": 0.0, "high": 0.4, "step": 0.1},
        },
        base,
    )


def result(
    value: float | None, state: str = "complete", folds: int = 6, *, name: str = "a"
) -> dict[str, Any]:
    steps = [{"reference_ratio": 1.0 + 0.01 * fold} for fold in range(folds)]
    return {"trial_id": name, "state": state, "value": value, "folds": steps}


def run(searching: Search, number: int) -> list[dict[str, Any]]:
    """Return candidates, whose results get better with more epochs; the third one of 4 fails."""
    made = []
    for _ in range(0, number, 4):
        asked = [searching.ask() for _ in range(4)]
        for place, params in enumerate(asked):
            assert params is not None
            made.append(params)
            if place == 2:
                searching.tell(result(None, "failed", 0))
            elif place == 3:
                searching.tell(result(None, "pruned", 4))
            else:
                searching.tell(result(2.0 - params["epochs"] / 100))
    return made


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_the_same_seed_and_results_give_the_same_candidates(kind: Kind, some: Space) -> None:
    first = run(search.search_of(kind, some, 5), 24)
    assert run(search.search_of(kind, some, 5), 24) == first
    assert run(search.search_of(kind, some, 6), 24) != first
    assert {params["network.dropout"] for params in first} <= {0.0, 0.1, 0.2, 0.3, 0.4}
    assert all(type(params["epochs"]) is int for params in first)


def test_tpe_learns(some: Space) -> None:
    made = run(search.search_of("tpe", some, 0), 60)
    assert np.mean([params["epochs"] for params in made[-20:]]) > 70


def test_tpe_learns_from_the_defaults(some: Space) -> None:
    found = search.Tpe(some, 0)
    found.start({"epochs": 7, "seed": 2, "network.dropout": 0.2}, result(0.5))
    assert [trial.params for trial in found.study.trials] == [
        {"epochs": 7, "seed": 1, "network.dropout": 0.2}
    ]
    found = search.Tpe(some, 0)  # defaults outside of the space
    found.start({"epochs": 300, "seed": 2, "network.dropout": 0.2}, result(0.5))
    assert found.study.trials == []


def test_grid_is_the_product_in_order(base: TrainingConfig) -> None:
    found = space.read({"seed": [2, 1], "epochs": {"low": 5, "high": 15, "step": 5}}, base)
    grid = search.search_of("grid", found, 0)
    made = [grid.ask() for _ in range(6)]
    assert made == [{"seed": s, "epochs": e} for s in (2, 1) for e in (5, 10, 15)]
    assert grid.ask() is None


def test_a_grid_needs_steps(some: Space) -> None:
    with pytest.raises(ArgumentError, match="epochs is a range without step, which a grid needs"):
        search.search_of("grid", some, 0)


def test_a_grid_has_no_huge_range(base: TrainingConfig) -> None:
    found = space.read({"seed": {"low": 0, "high": 10**9, "step": 1}}, base)
    with pytest.raises(ArgumentError, match="seed has 1,000,000,001 values"):
        search.search_of("grid", found, 0)


def test_unknown_search(some: Space) -> None:
    with pytest.raises(ArgumentError, match="search is 'bayes', expected one of tpe, random, grid"):
        search.search_of("bayes", some, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["optuna", "sklearn"])
def test_only_tpe_needs_optuna(package: str, some: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}; .* 'atb-fast\[sweep\]'"):
        search.search_of("tpe", some, 0)
    assert search.search_of("random", some, 0).ask()
    assert search.importance(search.search_of("random", some, 0), {}) == {}


def importance(
    value: Callable[[dict[str, Any]], float], base: TrainingConfig, trials: int, pruned: int = 0
) -> dict[str, float]:
    """Return the importance for known values. The last `pruned` trials were finished later."""
    dimensions = {
        "network.bars": [1, 2, 3, 5],
        "network.l2": {"low": 0.1, "high": 100, "log": True},
    }
    linear = replace(base, network="linear")
    found = search.search_of("tpe", space.read(dimensions, linear), 0)
    values: dict[str, float | None] = {}
    for number in range(trials):
        params, name = found.ask(), str(number)
        assert params is not None
        values[name] = value(params)
        if number < trials - pruned:
            found.tell(result(values[name], name=name))
        else:
            found.tell(result(None, "pruned", 4, name=name))
    found.ask()
    found.tell(result(None, "failed", 0, name="failed"))
    return search.importance(found, values | {"failed": None})


def by_bars(params: dict[str, Any]) -> float:
    """Return a value of which the bars explain 99% of the variance."""
    return float(1.0 + 0.01 * params["network.bars"] + 0.001 * math.log10(params["network.l2"]))


def test_importance_is_the_share_of_the_variance(base: TrainingConfig) -> None:
    shares = importance(by_bars, base, 24)
    assert shares["network.bars"] > 0.95
    assert shares["network.l2"] < 0.05
    assert shares == importance(by_bars, base, 24)
    # Ranges are as wide as they are drawn: a third of the penalties is below 1.
    shares = importance(lambda params: params["network.l2"] < 1, base, 24)
    assert shares["network.l2"] > 0.8
    # Neither explains anything without the other.
    both = importance(lambda p: (p["network.l2"] < 3) ^ (p["network.bars"] in (1, 5)), base, 60)
    assert sum(both.values()) < 0.5


def test_the_importance_is_unknown_after_fewer_than_10_complete_trials(
    base: TrainingConfig,
) -> None:
    assert importance(by_bars, base, 9) == {}
    assert importance(by_bars, base, 10)


def test_trials_that_were_pruned_and_finished_later_count(base: TrainingConfig) -> None:
    assert importance(by_bars, base, 12, pruned=3)["network.bars"] > 0.8


def test_nothing_matters_if_all_trials_are_equally_good(some: Space) -> None:
    found = search.search_of("tpe", some, 0)
    for _ in range(12):
        assert found.ask()
        found.tell(result(1.0))
    assert search.importance(found, {"a": 1.0}) == {}
