"""What the best of many trials is worth, compared with purgedcv, arch and simulations."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations

import numpy as np
import polars as pl
import purgedcv
import pytest
from arch.bootstrap import MCS, SPA, StationaryBootstrap
from numpy.typing import NDArray

from atb_fast import ArgumentError
from atb_fast.experiments.luck import block_length, confidence_set, judge, pbo, spa


def noise(seed: int, bars: int = 250, trials: int = 30) -> NDArray[np.float64]:
    """Return the losses of forecasts of pure noise that hardly differ."""
    rng = np.random.default_rng(seed)
    same, own = rng.standard_normal((bars, 1)), rng.standard_normal((bars, trials))
    return np.asarray(np.square(same + 0.1 * own))


def frame_of(panel: NDArray[np.float64], symbol: str = "A") -> pl.DataFrame:
    """Return what `judge` takes; the baseline is like a further trial."""
    own = np.random.default_rng(len(panel)).standard_normal(len(panel))
    return pl.DataFrame(
        {"symbol": symbol, "timestamp": np.arange(len(panel)), "baseline": own**2}
        | {f"t{trial}": losses for trial, losses in enumerate(panel.T)}
    )


# Probability of backtest overfitting.


@pytest.mark.parametrize(("bars", "trials", "blocks"), [(240, 10, 8), (80, 7, 8), (96, 2, 6)])
def test_pbo_equals_purgedcv(bars: int, trials: int, blocks: int) -> None:
    losses = noise(trials, bars, trials)
    found = purgedcv.probability_of_backtest_overfitting(
        -losses.T, n_splits=blocks, metric=lambda values: float(values.mean())
    )
    # A rank on the median, which only an odd number of trials has, counts as overfitted here.
    assert pbo(losses, blocks) == np.mean(found.logits < 1e-12)
    if trials % 2 == 0:
        assert pbo(losses, blocks) == found.pbo


def by_hand(losses: NDArray[np.float64], blocks: int) -> float:
    """Return the PBO of different trials, computed one split after the other."""
    edges = [block * len(losses) // blocks for block in range(blocks + 1)]
    of_block = [list(range(edges[block], edges[block + 1])) for block in range(blocks)]
    overfitted = []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = [bar for block in chosen for bar in of_block[block]]
        outside = sorted(set(range(len(losses))) - set(inside))
        means, others = losses[inside].mean(axis=0), losses[outside].mean(axis=0)
        selected = list(means).index(min(means))
        worse = sum(other > others[selected] for other in others)
        better = sum(other < others[selected] for other in others)
        overfitted.append(worse <= better)
    return float(np.mean(overfitted))


@pytest.mark.parametrize("bars", [8, 83, 90])  # blocks of one bar, and of different lengths
def test_pbo_equals_a_loop_over_the_splits(bars: int) -> None:
    losses = noise(bars, bars, 5)
    assert pbo(losses, 8) == by_hand(losses, 8)


def test_pbo_with_16_blocks_equals_a_loop_over_the_splits() -> None:
    # Integers have exact sums and many ties.
    losses = np.random.default_rng(1).integers(0, 3, (64, 6)).astype(float)
    assert pbo(losses) == by_hand(losses, 16)


def test_pbo_of_a_better_trial_and_of_a_lucky_one() -> None:
    losses = noise(0)
    losses[:, 7] *= 0.8
    assert pbo(losses) == 0.0
    # Each trial is good in one block only: who wins in some blocks loses in the others.
    losses = np.ones((160, 16))
    for block in range(16):
        losses[10 * block : 10 * (block + 1), block] -= 0.5 + 0.01 * block
    assert pbo(losses) == 1.0


def test_pbo_of_equal_and_constant_trials() -> None:
    losses = noise(2, trials=6)
    again = np.column_stack([losses, losses[:, ::-1], losses])
    assert pbo(again) == pbo(losses)  # a copy is no further choice
    assert math.isnan(pbo(np.repeat(losses[:, :1], 4, axis=1)))
    assert math.isnan(pbo(losses[:, :1]))
    assert math.isnan(pbo(losses[:15]))
    assert not math.isnan(pbo(losses[:16]))
    # A constant trial is one like any other.
    assert pbo(np.full((20, 3), [1.0, 2.0, 3.0])) == 0.0


# Tests of several trials.


def hansen(losses: NDArray[np.float64], block: int, seed: int, reps: int) -> float:
    """Return the consistent p-value of Hansen (2005) against the first trial, step by step."""
    gains = losses[:, :1] - losses[:, 1:]
    bars, mean = len(gains), gains.mean(axis=0)
    own = gains - mean
    variance, q = (own**2).mean(axis=0), 1 / block
    for lag in range(1, bars):
        kernel = (bars - lag) / bars * (1 - q) ** lag + lag / bars * (1 - q) ** (bars - lag)
        variance += 2 * kernel * (own[:-lag] * own[lag:]).sum(axis=0) / bars
    omega = np.sqrt(variance)
    statistic = max(0.0, (math.sqrt(bars) * mean / omega).max())
    threshold = -omega * np.sqrt(2 / bars * np.log(np.log(bars)))
    center = [m if m >= least else 0.0 for m, least in zip(mean, threshold, strict=True)]
    drawn = StationaryBootstrap(block, gains, seed=seed).bootstrap(reps)
    found = [(math.sqrt(bars) * (sample.mean(axis=0) - center) / omega) for (sample,), _ in drawn]
    return float(np.mean([max(0.0, each.max()) > statistic for each in found]))


#: How much trials differ by chance: all alike, and some far more than others.
SPREADS = [np.full(10, 0.1), np.array([0.1, 0.05, 0.05, 0.1, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0])]


def equally_good(seed: int, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the losses of trials with the same expected loss, but not with the same noise."""
    rng = np.random.default_rng(seed)
    same, own = rng.standard_normal((250, 1)), rng.standard_normal((250, len(spread)))
    return np.asarray(np.square(same + spread * own) - spread**2)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("block", [1, 4])
def test_spa_equals_the_paper_and_arch(spread: NDArray[np.float64], block: int) -> None:
    losses = equally_good(3, spread)
    losses[:, 1] -= 0.01
    losses[:, 7] += 1.0  # so bad that it is irrelevant
    expected = hansen(losses, block, seed=9, reps=500)
    assert 0.0 < spa(losses[:, 0], losses[:, 1:], block=block, seed=9, reps=500) == expected < 1.0
    # `arch` does not divide by the deviations; if they are the same, it does not matter.
    gains = losses[:, :1] - losses[:, 1:]
    bootstrap = StationaryBootstrap(block, gains, seed=1)
    deviations = bootstrap.apply(lambda sample: sample.mean(axis=0), reps=5000).std(axis=0)
    theirs = SPA(np.zeros(len(gains)), -gains / deviations, block_size=block, reps=500, seed=9)
    theirs.compute()
    assert theirs.pvalues["consistent"] == pytest.approx(expected, abs=0.05)


def test_confidence_set_equals_arch() -> None:
    losses = noise(3)
    losses[:, 4] -= 0.02
    members = MCS(losses, 0.1, block_size=3, reps=500, seed=9)
    members.compute()
    found = confidence_set(losses, block=3, seed=9, reps=500)
    assert found == members.included
    assert 4 in found


def test_spa_of_many_bars_equals_that_of_their_averages() -> None:
    losses = noise(9, bars=3 * 2048, trials=5)
    means = losses.reshape(2048, 3, 5).mean(axis=1)
    expected = spa(means[:, 0], means[:, 1:], block=2)
    assert spa(losses[:, 0], losses[:, 1:], block=6) == expected < 1.0
    assert confidence_set(losses, block=6) == confidence_set(means, block=2)
    # Bars that cannot be divided evenly.
    assert 0.0 < spa(losses[:-1, 0], losses[:-1, 1:], block=6) < 1.0


@pytest.mark.parametrize("spread", SPREADS)
def test_the_p_values_of_spa_are_uniform_if_no_trial_is_better(
    spread: NDArray[np.float64],
) -> None:
    found = [
        spa(losses[:, 0], losses[:, 1:], block=1, reps=200)
        for losses in (equally_good(seed, spread) for seed in range(150))
    ]
    for share in (0.05, 0.2, 0.5):
        deviation = math.sqrt(share * (1 - share) / len(found))
        assert abs(np.mean(np.array(found) < share) - share) < 3 * deviation


def test_spa_of_equal_losses() -> None:
    losses = noise(5)
    first = losses[:, 0]
    same = np.repeat(losses[:, :1], 3, axis=1)
    assert spa(first, same, block=1) == 1.0
    assert spa(first, same + 0.1, block=1) == 1.0  # always worse
    assert spa(first, np.nextafter(same, 0.0), block=1) == 1.0  # rounding is no improvement
    assert spa(first, same - 0.1, block=1) == 0.0  # always better
    assert math.isnan(spa(first[:19], same[:19], block=2))
    assert spa(first[:20], same[:20], block=2) == 1.0


def test_confidence_set_of_equal_losses() -> None:
    losses = noise(6, trials=3)
    expected = confidence_set(losses, block=1)
    assert expected == [0, 1, 2]
    again = np.column_stack([losses, losses])
    assert confidence_set(again, block=1) == [0, 1, 2, 3, 4, 5]
    shifted = np.column_stack([losses[:, 0] + 0.1, losses[:, 0], losses[:, 0]])
    assert confidence_set(shifted, block=1) == [1, 2]
    assert confidence_set(losses[:, :1], block=1) == [0]
    worse = np.column_stack([losses, losses + 10.0 + noise(7, trials=3)])
    assert confidence_set(worse, block=1) == [0, 1, 2]
    assert confidence_set(worse[:9], block=1) == [0, 1, 2, 3, 4, 5]
    # Different trials with the same mean.
    means = np.tile([[0.0, 1.0, 3.0], [2.0, 1.0, 4.0], [1.0, 1.0, 3.0]], (10, 1))
    assert confidence_set(means, block=1) == [0, 1]


def test_confidence_set_compares_at_most_100_trials() -> None:
    losses = noise(7, bars=40, trials=110)
    losses[:, 10:50] += 0.5
    found = confidence_set(np.column_stack([losses, losses]), block=1, reps=100)
    order = np.argsort(losses.mean(axis=0))
    assert set(found) <= {*order[:100], *(order[:100] + 110)}
    assert {order[0], order[0] + 110} <= set(found)


def test_blocks_follow_the_horizon_and_the_dependence_of_losses() -> None:
    independent = noise(8, bars=1000, trials=4)
    assert block_length(independent[:, 0], independent[:, 1:]) <= 4
    assert block_length(independent[:, 0], independent[:, 1:], horizon=24) == 24
    kernel = np.ones(20) / 20
    smooth = np.column_stack([np.convolve(each, kernel, "valid") for each in independent.T])
    assert block_length(smooth[:, 0], smooth[:, 1:]) > 15
    # Nothing to measure the dependence by.
    assert block_length(smooth[:, 0], smooth[:, :1], horizon=3) == 3
    assert block_length(smooth[:5, 0], smooth[:5, 1:], horizon=3) == 3


# The verdict.


def test_noise_keeps_the_defaults() -> None:
    kept = [
        judge(frame_of(noise(seed)), defaults="t0", reps=200).keep == "defaults"
        for seed in range(60)
    ]
    assert sum(kept) >= 57


@pytest.mark.parametrize("seed", range(5))
def test_a_better_trial_is_found(seed: int) -> None:
    panel = noise(seed)
    rng = np.random.default_rng(seed)
    panel[:, 11] *= rng.uniform(0.4, 1.0, len(panel))
    found = judge(frame_of(panel), defaults="t0")
    assert (found.keep, found.trial, found.best) == ("best", "t11", "t11")
    assert found.confidence_set == ["t11"]
    assert found.spa_defaults is not None
    assert found.pbo is not None
    assert found.spa_defaults < 0.05
    assert found.pbo < 0.5
    assert found.gain == pytest.approx(1 - panel[:, 11].mean() / panel[:, 0].mean())
    assert found.sentence == (
        f"Use trial t11: its mean loss is {found.gain:.2%} lower than that of the defaults, which "
        "luck among 30 trials does not explain (SPA p < 0.001, PBO 0.00)."
    )


@pytest.mark.parametrize("seed", range(5))
def test_bad_and_noisy_trials_do_not_hide_a_better_one(seed: int) -> None:
    panel = noise(seed, trials=3)
    panel[:, 1] -= 0.1 + 0.1 * np.random.default_rng(seed).standard_normal(len(panel))
    bad = np.random.default_rng(seed + 100).standard_normal((len(panel), 10))
    bad += 0.1 - bad.mean(axis=0)
    for shown in (panel, np.column_stack([panel, panel[:, :1] + bad])):
        found = judge(frame_of(shown), defaults="t0")
        assert found.trial == "t1"
        assert found.spa_defaults is not None
        assert found.spa_defaults < 0.01


def test_a_lucky_and_noisy_trial_is_not_the_best_one() -> None:
    panel = noise(0, trials=3)
    panel[:, 1] -= 0.1
    random = np.random.default_rng(0).standard_normal(len(panel))
    panel[:, 2] = panel[:, 0] - 0.15 + 10.0 * (random - random.mean())
    found = judge(frame_of(panel), defaults="t0")
    assert panel.mean(axis=0).argmin() == 2
    assert (found.best, found.spa_defaults) == ("t1", 0.0)
    # Without the better trial, it has the lowest mean loss, but is not significantly better.
    found = judge(frame_of(panel).drop("t1"), defaults="t0")
    assert (found.best, found.trial) == ("t2", "t0")


def test_the_sentence_names_the_reason() -> None:
    found = judge(frame_of(noise(1)), defaults="t0")
    assert found.sentence == (
        "Keep the defaults: the best of 30 trials is statistically indistinguishable from them "
        f"(SPA p = {found.spa_defaults:.2g}, PBO {found.pbo:.2f})."
    )
    assert (found.keep, found.trial) == ("defaults", "t0") != ("best", found.best)
    assert "baseline" in found.baseline_sentence
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_a_significant_trial_is_not_enough() -> None:
    # All trials but the defaults are equally good, so it is luck which of them is the best.
    panel = noise(3, bars=1000, trials=7)
    panel[:, 0] += 1.0
    found = judge(frame_of(panel), defaults="t0")
    assert found.spa_defaults == 0.0
    assert found.pbo is not None
    assert found.keep == ("best" if found.pbo < 0.5 else "defaults")
    lucky = np.full((160, 17), 1.0)
    for block in range(16):
        lucky[10 * block : 10 * (block + 1), block + 1] -= 0.5 + 0.01 * block
    lucky[:, 0] += 1.0
    found = judge(frame_of(lucky), defaults="t0")
    assert (found.keep, found.pbo, found.spa_defaults) == ("defaults", 1.0, 0.0)
    assert "trials that win on some bars do not win on others" in found.sentence


def test_few_trials_and_few_bars() -> None:
    panel = noise(4)
    alone = judge(frame_of(panel[:, :1]), defaults="t0")
    assert (alone.keep, alone.trial, alone.trials) == ("defaults", "t0", 1)
    assert (alone.spa_defaults, alone.pbo, alone.confidence_set) == (None, None, ["t0"])
    assert alone.sentence == "Keep the defaults: no other trial is complete."
    panel[:, 0] += 1.0
    for bars, words in [
        (0, "0 bars are too few to judge the best of 30 trials"),
        (1, "1 bar is too few"),
        (15, "15 bars are too few"),
    ]:
        few = judge(frame_of(panel[:bars]), defaults="t0")
        assert (few.keep, few.bars, few.pbo) == ("defaults", bars, None)
        assert few.sentence.startswith(f"Keep the defaults: {words}")
    long = judge(frame_of(panel), defaults="t0", horizon=30)
    assert (long.keep, long.spa_defaults, long.block) == ("defaults", None, 30)
    assert "250 bars are too few" in long.sentence


def test_the_defaults_are_the_best_if_no_trial_is_better() -> None:
    panel = np.repeat(noise(5, trials=1), 4, axis=1)
    same = judge(frame_of(panel), defaults="t2")
    assert (same.keep, same.best, same.gain) == ("defaults", "t2", 0.0)
    assert same.sentence == "Keep the defaults: none of the other 3 trials has a lower mean loss."
    two = judge(frame_of(panel[:, :2]), defaults="t0")
    assert two.sentence == "Keep the defaults: the other trial has no lower mean loss."
    assert (same.pbo, same.spa_defaults) == (None, 1.0)


def test_losses_of_symbols_and_folds_are_combined_without_their_scale() -> None:
    panel = noise(6, trials=4)
    panel[:, 2] *= 0.8
    first = frame_of(panel)
    scaled = first.with_columns(pl.exclude("symbol", "timestamp") * 1e6, symbol=pl.lit("B"))
    expected = judge(first, defaults="t0").to_dict()
    found = judge(pl.concat([scaled, first]), defaults="t0").to_dict()
    assert found.pop("gain") == pytest.approx(expected.pop("gain"))
    assert found == expected
    # The scale of each fold, too.
    late = pl.col("timestamp") >= 125
    folds = first.with_columns(fold=late.cast(pl.Int64) + 1)
    higher = folds.with_columns(pl.col("^t.|baseline$") * pl.when(late).then(50).otherwise(1))
    expected, found = (judge(each, defaults="t0").to_dict() for each in (folds, higher))
    assert found.pop("gain") == pytest.approx(expected.pop("gain"))
    assert found == expected


def test_bars_that_a_trial_lacks_are_left_out() -> None:
    frame = frame_of(noise(7, trials=4))
    gaps = frame.with_columns(t3=pl.when(pl.col("timestamp") >= 50).then("t3"))
    found = judge(gaps, defaults="t0")
    assert found == judge(frame[50:], defaults="t0")
    assert found.bars == 200


# Invalid arguments.


LOSSES = noise(8, trials=3)
FRAME = frame_of(LOSSES)
CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: pbo(LOSSES, 7), "blocks is 7, expected an even number from 2 to 20"),
    (lambda: pbo(LOSSES[0]), r"losses have the shape \(3,\), expected \(bars, trials\)"),
    (lambda: pbo(LOSSES[:, :0]), "at least one trial"),
    (lambda: pbo(LOSSES * math.nan), "losses contains NaN or infinity"),
    (lambda: spa(LOSSES[:9, 0], LOSSES, block=1), "the reference has 9 bars, expected 250"),
    (lambda: spa(LOSSES[:, 0], LOSSES, block=0), "block is 0, expected an integer"),
    (lambda: confidence_set(LOSSES, block=1, size=1.0), "size is 1.0, expected a number between"),
    (lambda: block_length(LOSSES[:, 0], LOSSES, 0), "horizon is 0"),
    (lambda: judge(FRAME, defaults="t9"), r"no column t9 \(found: symbol, timestamp"),
    (lambda: judge(FRAME.with_columns(t1=math.nan), defaults="t0"), "NaN or infinity"),
    (lambda: judge(FRAME.with_columns(baseline=0.0), defaults="t0"), "baseline .* are 0"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_invalid_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_without_arch_one_line_names_the_extra() -> None:
    program = """
import sys
sys.modules["arch"] = None
import numpy as np
from atb_fast.experiments.luck import pbo, spa
losses = np.random.default_rng(0).random((100, 3))
print(0 <= pbo(losses) <= 1)
try:
    spa(losses[:, 0], losses, block=1)
except ImportError as error:
    print(error.exit_code, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "True",
        "7 judging trials needs arch; install it with pip install 'atb-fast[sweep]'",
    ]


def test_heavy_packages_are_imported_when_they_are_needed() -> None:
    program = (
        "import sys, atb_fast.experiments.luck\n"
        "print(sorted({'arch', 'pandas', 'scipy', 'optuna', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
