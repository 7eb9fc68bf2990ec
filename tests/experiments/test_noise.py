"""What a study concludes from markets with nothing to find, and from markets with a signal.

The trials are real: linear models of the direction of the next bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atb_fast import Recipe, Study, TrainingConfig, sweep
from atb_fast.experiments.executors import Local
from atb_fast.ingestion import sample
from atb_fast.recipes.networks import Linear
from atb_fast.recipes.targets import BinaryDirection

BARS = 900
# With a weaker penalty, the defaults would fit noise, so others would be really better than they.
RECIPE = Recipe(
    name="moves",
    features={
        "up": "sign(diff(close, 1))",
        "change": "log(close / lag(close, 1))",
        "range": "high / low - 1",
    },
    target=BinaryDirection(),
    network=Linear(l2=1000.0),
    sequence_length=30,
)
SPACE = {
    "network.bars": {"low": 1, "high": 20},
    "sequence_length": {"low": 20, "high": 40},
    "network.l2": {"low": 0.1, "high": 1000.0, "log": True},
    "scaler": ["standard", "robust", "minmax"],
}


@pytest.fixture(scope="module")
def executor() -> Iterator[Local]:
    with Local(2, threads=1, reuse=True) as running:
        yield running


def market(returns: np.ndarray[Any, Any], seed: int) -> pl.DataFrame:
    """Return candles with these log returns from close to close."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(returns))
    before = np.concatenate([[100.0], close[:-1]])
    spread = 1 + np.abs(0.01 * random.standard_normal((2, len(close))))
    times = sample.candles("BTCUSDT", "1d")["timestamp"][: len(close)]
    return pl.DataFrame(
        {
            "timestamp": times,
            "open": before,
            "high": np.maximum(before, close) * spread[0],
            "low": np.minimum(before, close) / spread[1],
            "close": close,
            "volume": random.gamma(2.0, 100.0, len(close)),
        }
    )


def shuffled(seed: int) -> np.ndarray[Any, Any]:
    """Return the returns of the sample market in random order: nothing predicts the next one."""
    close = sample.candles("BTCUSDT", "1d")["close"].to_numpy()[: BARS + 1]
    return np.random.default_rng(seed).permutation(np.diff(np.log(close)))


def planted(seed: int) -> np.ndarray[Any, Any]:
    """Return returns whose direction mostly is that of the return 5 bars before."""
    found = shuffled(seed)
    same = np.random.default_rng(seed).random(len(found)) < 0.8
    for place in range(5, len(found)):
        sign = np.sign(found[place - 5]) * (1 if same[place] else -1)
        found[place] = sign * abs(found[place])
    return found


def study(
    returns: np.ndarray[Any, Any], seed: int, folder: Path, executor: Local, **options: Any
) -> Study:
    """Return a study of a market; its trials look back 1 to 20 bars, the defaults 1 bar."""
    path = folder / f"{seed}.parquet"
    market(returns, seed).write_parquet(path)
    config = TrainingConfig(
        symbol="BTCUSDT",
        candles=path,
        force_price_only=True,
        recipe=RECIPE,
        registry=folder / "models",
    )
    return sweep(config, SPACE, search_seed=seed, executor=executor, **options)


def test_noise(tmp_path: Path, executor: Local) -> None:
    made = study(shuffled(0), 0, tmp_path, executor, trials=6, folds=3, search="random")
    assert made.states["complete"] == 6
    assert made.verdict["keep"] == "defaults"


def test_a_planted_signal(tmp_path: Path, executor: Local) -> None:
    found = study(planted(1), 1, tmp_path, executor, trials=6, folds=2, search="random")
    best = next(each for each in found.trials if each.trial_id == found.best)
    assert found.verdict["keep"] == "best"
    assert best.params["network.bars"] >= 5
    held_out = found.verdict["holdout"]
    assert held_out["best"]["value"] < held_out["defaults"]["value"]


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_noise_keeps_the_defaults_in_19_of_20_studies(tmp_path: Path, executor: Local) -> None:
    kept = [
        study(shuffled(seed), seed, tmp_path, executor, trials=30, folds=6).verdict["keep"]
        for seed in range(20)
    ]
    assert kept.count("defaults") >= 19


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_planted_signal_is_found_and_kept(tmp_path: Path, executor: Local) -> None:
    for seed in range(5):
        found = study(planted(seed), seed, tmp_path, executor, trials=30, folds=6)
        assert found.verdict["keep"] == "best"
