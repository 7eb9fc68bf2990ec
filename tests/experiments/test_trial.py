"""Trials as data, and their results, which depend on nothing else."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest

from atb_fast import TrainingConfig
from atb_fast.config import RECIPES
from atb_fast.errors import ArgumentError
from atb_fast.evaluation.walk_forward import walk_forward
from atb_fast.experiments import trial
from atb_fast.experiments.executors import Local
from atb_fast.ingestion.extras import Extra
from atb_fast.ingestion.market import Market, load_market
from atb_fast.recipes.config import from_plain

UNTIL = "2024-06-01T00:00:00+00:00"
FOLDS = {"number": 5, "window": "expanding", "embargo": None, "until": UNTIL}
HOLDOUT = {"holdout": UNTIL, "embargo": None}


def config(symbol: str = "BTCUSDT", **options: Any) -> TrainingConfig:
    given = {"source": "sample", "recipe": "causal", "sequence_length": 10, "network": "linear"}
    return TrainingConfig(symbol=symbol, **{**given, "start_date": "2022-01-01", **options})


@pytest.fixture(scope="module")
def market() -> Market:
    return load_market(config())


@pytest.fixture(scope="module")
def other() -> Market:
    return load_market(config("ETHUSDT"))


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    """A process that runs all trials of these tests."""
    with Local(1, threads=1, reuse=True) as executor:
        yield executor


def run(executor: Local, *documents: dict[str, Any], markets: list[Market]) -> list[dict[str, Any]]:
    for each in markets:
        for key, content in trial.pack(each)[1].items():
            executor.share(key, content)
    tasks = [trial.task(document) for document in documents]
    results = {task.name: result for task, result in executor.run(tasks)}
    return [results[task.name] for task in tasks]


def document(market: Market, **options: Any) -> dict[str, Any]:
    folds, prune = options.pop("folds", FOLDS), options.pop("prune", None)
    return trial.document([config(**options)], [trial.pack(market)[0]], folds=folds, prune=prune)


def fixed(result: dict[str, Any]) -> bytes:
    """Return all of a result that must not vary."""
    return trial.canonical({name: value for name, value in result.items() if name != "run"})


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_document_gives_the_configuration_again(recipe: str, market: Market) -> None:
    given: dict[str, Any] = {"source": "sample", "recipe": recipe, "seed": 7}
    if recipe == "causal":
        given |= {"target": "triple_barrier", "horizon": 3, "target_take_profit": 0.05}
        given |= {"network": "linear", "network_l2": 0.5, "sequence_length": 30}
    if recipe == "volatility":
        given |= {"target_quantiles": (0.1, 0.9), "force_price_only": True}
    expected = TrainingConfig(symbol="BTCUSDT", **given)
    made = trial.document([expected], [trial.pack(market)[0]], folds=FOLDS)
    made = json.loads(trial.canonical(made))
    found = from_plain({**made["options"], "symbol": "BTCUSDT"}, made["recipe"])
    assert found.definition == expected.definition
    assert {n: getattr(found, n) for n in made["options"]} == {
        n: getattr(expected, n) for n in made["options"]
    }


def test_the_name_of_a_trial_follows_its_content(market: Market) -> None:
    made = document(market)
    assert trial.identity(json.loads(json.dumps(made))) == trial.identity(made)
    assert trial.identity(dict(reversed(made.items()))) == trial.identity(made)
    assert len(trial.identity(made)) == 16
    cut = Market(market.candles.head(-1), market.sentiment)
    changed = [
        document(cut),
        document(market, seed=1),
        document(market, folds={**FOLDS, "number": 4}),
        document(market, prune={"p_threshold": 0.1, "startup": 4, "losses": [1.0]}),
        {**made, "threads": 2},
        {**made, "versions": {}},
    ]
    names = [trial.identity(each) for each in (made, *changed)]
    assert len(set(names)) == len(names)
    # Where the candles came from does not matter.
    elsewhere = document(market, cache_dir="elsewhere", end_date="2024-12-31")
    assert trial.identity(elsewhere) == names[0]


def test_what_does_not_fit_together_is_refused(market: Market) -> None:
    described = trial.pack(market)[0]
    with pytest.raises(ArgumentError, match="of one trial differ in seed, timeframe"):
        trial.document(
            [config(), config("ETHUSDT", seed=1, timeframe="1h")], [described] * 2, folds=FOLDS
        )
    with pytest.raises(ArgumentError, match="the time '2024-06-01', expected ISO 8601 with a time"):
        document(market, folds={**FOLDS, "until": "2024-06-01"})


def test_extras_and_sentiment_survive_the_trip(market: Market) -> None:
    times = market.candles["timestamp"]
    funding = pl.DataFrame({"timestamp": times, "funding": np.linspace(0, 1, len(times))})
    given = Market(market.candles, market.sentiment, (Extra("funding", funding, 3_600_000),))
    described, contents = trial.pack(given)
    assert set(contents) == set(trial.task(document(given)).shared)
    recipe = {
        "name": "own",
        "features": {"a": "funding", "b": "fear_greed", "c": "log(close / lag(close, 1))"},
        "extra": ["funding"],
        "target": {"kind": "log_return"},
        "network": {"kind": "linear"},
    }
    made = document(market, sequence_length=10) | {"recipe": recipe}
    made["markets"] = [{"symbol": "BTCUSDT", "timeframe": "1d", **described}]
    made["options"]["recipe"] = "own"
    with Local(1, threads=1) as executor:
        (result,) = run(executor, made, markets=[given])
    assert result["state"] == "complete", result


def test_results_are_those_of_an_evaluation(local: Local, market: Market, other: Market) -> None:
    made = trial.document(
        [config(), config("ETHUSDT")],
        [trial.pack(each)[0] for each in (market, other)],
        folds=FOLDS,
    )
    (result,) = run(local, made, markets=[market, other])
    until = datetime.fromisoformat(UNTIL)
    expected = {
        symbol: walk_forward(config(symbol), folds=5, market=each, until=until)
        for symbol, each in (("BTCUSDT", market), ("ETHUSDT", other))
    }
    assert (result["state"], result["error"], result["exit_code"]) == ("complete", None, None)
    assert [fold["symbol"] for fold in result["folds"]] == ["BTCUSDT"] * 5 + ["ETHUSDT"] * 5
    ratios = [fold.reference_ratio for each in expected.values() for fold in each.folds]
    assert [fold["reference_ratio"] for fold in result["folds"]] == pytest.approx(ratios, rel=1e-9)
    assert result["value"] == pytest.approx(np.mean(ratios), rel=1e-9)
    assert len(result["run"]["fold_seconds"]) == 10
    assert result["run"]["machine"]["intra_op_threads"] == 1
    table = trial.losses(result)
    for symbol, each in expected.items():
        own = table.filter(pl.col("symbol") == symbol)
        assert own["timestamp"].to_list() == each.tested.times.to_list()
        assert own["fold"].unique().sort().to_list() == [1, 2, 3, 4, 5]
        pooled = result["pooled"][symbol]
        assert np.sqrt(np.mean(own["model"].to_numpy())) == pytest.approx(pooled["rmse"], rel=1e-12)
        unchanged = pooled["persistence_rmse"]
        assert np.sqrt(np.mean(own["reference"].to_numpy())) == pytest.approx(unchanged, rel=1e-12)
    assert max(own["timestamp"].to_list()) < until


def test_results_do_not_depend_on_where_they_were_computed(market: Market) -> None:
    """With a network whose folds are trained in parallel, if there is more than one core."""
    options = {"network": "mlp", "epochs": 2, "target": "binary_direction"}
    few = {**FOLDS, "number": 2}
    documents = [document(market, **options, folds=folds) for folds in (few, HOLDOUT)]
    found = []
    for jobs, reuse in ((1, True), (2, False)):
        with Local(jobs, threads=1, reuse=reuse) as executor:
            found.append([fixed(each) for each in run(executor, *documents, markets=[market])])
    assert found[0] == found[1]
    assert all(json.loads(each)["state"] == "complete" for each in found[0])


def test_the_future_does_not_matter(local: Local, market: Market) -> None:
    """Neither to the folds of a search, nor does the holdout test what they have seen."""
    later = pl.col("timestamp") >= datetime(2024, 6, 1, tzinfo=UTC)
    prices = [pl.when(later).then(pl.col(n) * 1.5).otherwise(n).alias(n) for n in ("open", "close")]
    assert market.sentiment is not None
    changed = Market(
        market.candles.with_columns(prices),
        market.sentiment.with_columns(pl.when(later).then(5.0).otherwise("value").alias("value")),
    )
    options = {"target": "binary_direction"}  # without a shrinkage factor, which may be 0
    documents = [document(each, **options) for each in (market, changed)]
    documents += [document(each, **options, folds=HOLDOUT) for each in (market, changed)]
    *searched, held, other = run(local, *documents, markets=[market, changed])
    for name in ("folds", "pooled", "losses", "value"):
        assert searched[0][name] == searched[1][name]
    assert len({searched[0]["value"], held["value"], other["value"]}) == 3
    (fold,) = held["folds"]
    assert (fold["first"], fold["last"]) == (UNTIL, "2024-12-31T00:00:00+00:00")
    assert searched[0]["folds"][-1]["last"] == "2024-05-31T00:00:00+00:00"


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_pruning_equals_that_of_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        best = rng.normal(1.0, 0.05, 8)
        values = best + rng.choice([-0.02, 0.0, 0.02, 0.05]) + rng.normal(0, 0.02, 8)
        values = values[: rng.integers(1, 9)]
        if rng.random() < 0.1:
            values = best[: len(values)]
        threshold, startup = float(rng.choice([0.05, 0.1, 0.3])), int(rng.integers(0, 6))
        study = optuna.create_study()
        study.add_trial(
            optuna.trial.create_trial(
                value=float(best.mean()), intermediate_values=dict(enumerate(best.tolist()))
            )
        )
        running = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            intermediate_values=dict(enumerate(values.tolist())),
        )
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=threshold, n_startup_steps=startup)
        prune = {"p_threshold": threshold, "startup": startup, "losses": best.tolist()}
        found = trial.is_worse(values.tolist(), prune)
        assert found is pruner.prune(study, running)
        seen.add(found)
    assert seen == {True, False}


def test_a_trial_that_is_worse_stops(local: Local, market: Market) -> None:
    prune = {"p_threshold": 0.1, "startup": 4, "losses": [0.5] * 5}
    first, second, kept = run(
        local,
        document(market, prune=prune),
        document(market, prune=prune, network="mlp", epochs=1),
        document(market, prune={**prune, "losses": [2.0] * 5}),
        markets=[market],
    )
    for pruned in (first, second):
        assert (pruned["state"], pruned["value"], pruned["error"]) == ("pruned", None, None)
        assert [fold["number"] for fold in pruned["folds"]] == [1, 2, 3, 4]
        assert pruned["pooled"] == pruned["losses"] == {}
    assert (kept["state"], len(kept["folds"])) == ("complete", 5)


def test_an_error_is_a_result(local: Local, market: Market) -> None:
    made = document(market)
    python = made | {"recipe": {"python": "broken_recipes:Exhausted"}}
    python["options"] = made["options"] | {"recipe": "exhausted", "network": None}
    too_many, other, memory, fine = run(
        local,
        document(market, folds={**FOLDS, "number": 10_000}),
        made | {"versions": {"atb-fast": "0.0.1"}},
        python,
        made,
        markets=[market],
    )
    assert (too_many["state"], too_many["exit_code"], too_many["value"]) == ("failed", 3, None)
    assert "to test 10,000 folds with" in too_many["error"]
    assert too_many["folds"] == []
    assert "the trial needs the versions {'atb-fast': '0.0.1'}, but this" in other["error"]
    assert (memory["state"], memory["exit_code"]) == ("failed", 1)
    assert memory["error"].startswith("not enough memory: 1 TB for windows; free some memory")
    assert "Traceback" in memory["run"]["traceback"]
    assert fine["state"] == "complete"


def test_a_trial_that_fails_at_once_does_not_disturb_the_next_one(market: Market) -> None:
    """While TensorFlow is still being imported for the first one."""
    broken = document(market, recipe="broken_recipes:Exhausted", network=None)
    with Local(1, threads=1, reuse=True) as executor:
        first, second = run(executor, broken, document(market, folds=HOLDOUT), markets=[market])
    assert first["error"].startswith("not enough memory: 1 TB for windows")
    assert (second["state"], second["error"]) == ("complete", None)


def test_the_code_of_a_recipe_is_part_of_its_trials(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_recipe.py"

    def described(code: str, recipe: str) -> dict[str, Any]:
        file.write_text(code)
        monkeypatch.delitem(sys.modules, "own_recipe", raising=False)
        importlib.invalidate_caches()
        return document(market, recipe=f"own_recipe:{recipe}", network=None)

    code = OWN.format(lookback=1)
    first, again = described(code, "Own"), described(code, "Own")
    assert first == again
    assert trial.identity(first) != trial.identity(described(OWN.format(lookback=5), "Own"))
    result = trial.run_trial(first | {"threads": _threads()}, shared=trial.pack(market)[1])
    assert "the file of the recipe own_recipe:Own is not the one" in result["error"]
    with pytest.raises(ArgumentError, match=r"own_recipe:Takes takes arguments \(lookback\)"):
        described(code, "Takes")


OWN = """
from atb_fast import Recipe
from atb_fast.recipes.networks import Linear
class Takes(Recipe):
    def __init__(self, lookback={lookback}):
        super().__init__(name="own", network=Linear(),
                         features={{"x": f"log(close / lag(close, {{lookback}}))"}})
class Own(Takes):
    def __init__(self):
        super().__init__()
"""


def _threads() -> int:
    from atb_fast.training.device import import_tensorflow
    from atb_fast.training.environment import environment

    import_tensorflow()
    found: int = environment()["intra_op_threads"]
    return found


def test_a_process_with_other_threads_is_refused(market: Market) -> None:
    other = _threads() + 1
    made = document(market) | {"threads": other}
    result = trial.run_trial(made, shared=trial.pack(market)[1])
    assert (result["state"], result["exit_code"]) == ("failed", 2)
    assert result["error"].startswith(f"the trial needs {other} threads per operation, but this")


def test_machine_options(local: Local, market: Market, tmp_path: Any) -> None:
    for key, content in trial.pack(market)[1].items():
        local.share(key, content)
    made = document(market, folds=HOLDOUT, recipe="legacy")  # whose features are cached
    ((_, result),) = local.run([trial.task(made, {"cache_dir": str(tmp_path)})])
    assert result["state"] == "complete"
    assert result["trial"] == made
    assert list(tmp_path.rglob("*.npz"))


def test_replacing_options_gives_the_same_document(market: Market) -> None:
    """As a search does, which changes the configuration of the defaults."""
    changed = replace(config(seed=1), seed=42)
    described = trial.pack(market)[0]
    assert trial.document([changed], [described], folds=FOLDS) == document(market)
