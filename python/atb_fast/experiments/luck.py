"""Whether the best of many trials is really better, or just lucky."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from atb_fast.errors import ArgumentError, MissingExtraError, counted
from atb_fast.evaluation.significance import LEVEL
from atb_fast.options import check_count

#: A study overfits if at least this share of the splits is overfitted; see `pbo`.
_OVERFITTED = 0.5
#: Fewest blocks from which a bootstrap can estimate the distribution of a mean.
_FEWEST_BLOCKS = 10
#: Most rows of a bootstrap, for its time and memory. Longer series are averaged over consecutive
#: bars, which preserves their mean and the variance of the mean.
_ROWS = 2048
#: Most different trials that a model confidence set compares.
_COMPARED = 100
#: Means with a smaller relative difference are equal except for rounding.
_ROUNDING = 1e-12


def pbo(losses: ArrayLike, blocks: int = 16) -> float:
    """Return the probability of backtest overfitting, 0..1.

    The bars are cut into `blocks` consecutive blocks. For each way to choose half of them, the
    trial with the lowest mean loss on the chosen blocks is selected, and compared with the other
    trials on the remaining blocks. A split counts as overfitted unless the selected trial beats
    more trials there than beat it. The result is the share of such splits (D. Bailey, J. Borwein,
    M. Lopez de Prado and Q. Zhu, The Probability of Backtest Overfitting, 2017: combinatorially
    symmetric cross-validation, CSCV; a rank exactly at the median counts as overfitted).

    A result below 0.5 means that on other bars, a selected trial is usually better than the median
    trial. It does not mean that it beats the defaults: if most trials are bad, a low value is easy
    to reach. So `judge` also uses `spa`.

    Of trials with equal losses on the chosen blocks, the first is selected. Trials with the same
    losses on all blocks count as one. The result is NaN if fewer than two different trials remain,
    or if there are fewer bars than blocks.

    Args:
        losses: Loss of each trial for each bar, in order of time, shape (bars, trials).
        blocks: Number of blocks, even, 2..20.

    Raises:
        ArgumentError: `blocks` or the shape of `losses` is invalid, or a loss is not finite.
    """
    checked = _checked(losses)
    if check_count("blocks", blocks) % 2 or blocks > 20:
        raise ArgumentError(f"blocks is {blocks}, expected an even number from 2 to 20", ["blocks"])
    if len(checked) < blocks:
        return math.nan
    sums = _sums(checked, blocks)
    _, first = np.unique(sums, axis=1, return_index=True)
    sums = sums[:, np.sort(first)]  # the order of the trials decides ties
    if sums.shape[1] < 2:
        return math.nan
    chosen = np.zeros((math.comb(blocks, blocks // 2), blocks))
    halves = np.array(list(combinations(range(blocks), blocks // 2)))
    np.put_along_axis(chosen, halves, 1.0, axis=1)
    inside, outside = chosen @ sums, (1.0 - chosen) @ sums
    selected = np.take_along_axis(outside, inside.argmin(axis=1)[:, None], axis=1)
    beaten, better = (outside > selected).sum(axis=1), (outside < selected).sum(axis=1)
    return float(np.mean(beaten <= better))


def block_length(reference: ArrayLike, losses: ArrayLike, horizon: int = 1) -> int:
    """Return the mean length of the blocks of a bootstrap, in bars.

    Losses of neighboring bars depend on each other, because their horizons overlap and volatility
    clusters. Blocks preserve this dependence. The length is the median over the trials of the
    optimal length for the difference between the losses of the reference and of the trial (D.
    Politis and H. White, 2004, corrected with A. Patton, 2009), but at least the horizon.

    Args:
        reference: Loss of the reference for each bar, in order of time, shape (bars,).
        losses: Loss of each trial for each bar, shape (bars, trials).
        horizon: Bars that a forecast covers.

    Raises:
        ArgumentError: The shapes or the horizon are invalid, or a loss is not finite.
        MissingExtraError: `arch` is not installed.
    """
    gains, bars = _gains(reference, losses)
    shortest = check_count("horizon", horizon)
    varies = np.ptp(gains, axis=0) > _ROUNDING * np.abs(gains).max(initial=0.0)
    if bars < _FEWEST_BLOCKS or not varies.any():
        return shortest
    lengths = _bootstrap().optimal_block_length(gains[:, varies])["stationary"]
    rows = float(np.nanmedian(lengths.to_numpy()))
    return max(shortest, math.ceil(rows * bars / len(gains)))


def spa(
    reference: ArrayLike, losses: ArrayLike, *, block: int, seed: int = 0, reps: int = 1000
) -> float:
    """Return the p-value of the hypothesis that no trial is better than the reference.

    This is the consistent p-value of P. Hansen, A Test for Superior Predictive Ability (2005), with
    the stationary bootstrap. It accounts for the number of trials and their correlation. The test
    statistic is the largest `sqrt(n) * d / omega` of all trials, with the mean `d` of the `n`
    differences between the losses of the reference and of the trial, and the long-run standard
    deviation `omega` of these differences. `omega` is that of the mean of a bootstrap sample times
    `sqrt(n)` (D. Politis and J. Romano, The Stationary Bootstrap, 1994). Because of `omega`, bad
    trials with noisy losses cannot hide a good one.

    The result is 1 if no trial has a lower mean loss than the reference, for example if all losses
    are the same. It is 0 if a trial is better by the same amount on every bar, and NaN if there
    are fewer than 10 blocks of bars. More than 2,048 bars are averaged over consecutive bars first.

    Args:
        reference: Loss of the reference for each bar, in order of time, shape (bars,).
        losses: Loss of each trial for each bar, shape (bars, trials).
        block: Mean length of the blocks in bars; see `block_length`.
        seed: Seed of the bootstrap.
        reps: Number of bootstrap samples.

    Raises:
        ArgumentError: The shapes, `block` or `reps` are invalid, or a loss is not finite.
        MissingExtraError: `arch` is not installed.
    """
    return float(_p_values(reference, losses, block=block, seed=seed, reps=reps).min())


def _p_values(
    reference: ArrayLike, losses: ArrayLike, *, block: int, seed: int, reps: int
) -> NDArray[np.float64]:
    """Return the p-value of each trial; the lowest one is that of `spa`.

    It is the share of bootstrap samples whose largest statistic exceeds that of the trial.
    """
    gains, bars = _gains(reference, losses)
    block_rows, count = _rows_of(block, bars, len(gains)), check_count("reps", reps)
    if not block_rows:
        return np.full(gains.shape[1], math.nan)
    rounding = _ROUNDING * float(np.abs(np.asarray(reference, np.float64)).mean())
    means, rows = gains.mean(axis=0), len(gains)
    # Without a lower limit, the statistic of a trial that equals the reference would be 0 / 0.
    least = rounding or np.finfo(np.float64).tiny
    errors = np.maximum(_deviations(gains, block_rows), least) / math.sqrt(rows)
    drawn = _bootstrap().StationaryBootstrap(block_rows, np.arange(rows), seed=seed)
    times = np.array(
        [np.bincount(places, minlength=rows) for (places,), _ in drawn.bootstrap(count)], np.float64
    )
    # A much worse trial keeps its negative mean, so it almost never has the largest statistic.
    relevant = means >= -errors * math.sqrt(2.0 * math.log(math.log(rows)))
    samples = (times @ gains / rows - np.where(relevant, means, 0.0)) / errors
    found = (samples.max(axis=1)[:, None] > means / errors).mean(axis=0)
    return np.where(means > rounding, found, 1.0)


def _deviations(gains: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Return the standard deviation of the mean of a bootstrap sample, times sqrt(rows)."""
    rows = len(gains)
    spectrum = np.fft.rfft(gains - gains.mean(axis=0), axis=0)
    covariances = np.fft.irfft(np.abs(spectrum) ** 2, rows, axis=0) / rows  # circular
    lags = np.arange(1, rows)
    weights = (1.0 - lags / rows) * (1.0 - 1.0 / block) ** lags
    variances = covariances[0] + 2.0 * weights @ covariances[1:]
    return np.asarray(np.sqrt(np.maximum(variances, 0.0)))


def confidence_set(
    losses: ArrayLike, *, block: int, size: float = 0.10, seed: int = 0, reps: int = 1000
) -> list[int]:
    """Return the columns of the trials that may be the best one, ascending.

    The set contains the best trial with a probability of 1 - `size` (P. Hansen, A. Lunde and J.
    Nason, The Model Confidence Set, 2011, with the statistic T_R, as computed by
    `arch.bootstrap.MCS`). A large set means that the data cannot distinguish the trials.

    Trials with the same losses are either all in the set or all outside. A trial that is worse than
    another one by the same amount on every bar is outside. Only the 100 trials with the lowest mean
    losses are tested, because memory grows with the square of their number; all others are outside.
    With fewer than 10 blocks of bars, no trial can be excluded. More than 2,048 bars are averaged
    over consecutive bars first.

    Args:
        losses: Loss of each trial for each bar, in order of time, shape (bars, trials).
        block: Mean length of the blocks in bars; see `block_length`.
        size: Probability that the best trial is outside, between 0 and 1.
        seed: Seed of the bootstrap.
        reps: Number of bootstrap samples.

    Raises:
        ArgumentError: The shape, `block`, `size` or `reps` is invalid, or a loss is not finite.
        MissingExtraError: `arch` is not installed.
    """
    checked = _checked(losses)
    if not 0.0 < size < 1.0:
        raise ArgumentError(f"size is {size}, expected a number between 0 and 1", ["size"])
    averaged = _averaged(checked)
    rows, count = _rows_of(block, len(checked), len(averaged)), check_count("reps", reps)
    if not rows:
        return list(range(checked.shape[1]))
    # Without variance between two trials, the test statistic would be 0 / 0.
    rounding = _ROUNDING * float(np.abs(averaged).mean())
    equals: dict[int, list[int]] = {}
    for column in np.argsort(averaged.mean(axis=0), kind="stable").tolist():
        gaps = {each: averaged[:, column] - averaged[:, each] for each in equals}
        leader = next((each for each, gap in gaps.items() if np.ptp(gap) <= rounding), None)
        if leader is None and len(equals) < _COMPARED:
            equals[column] = [column]
        elif leader is not None and gaps[leader].mean() <= rounding:
            equals[leader].append(column)
    leaders = list(equals)
    if len(leaders) > 1:
        # `arch` fails if different trials have the same mean; here, these are ascending.
        compared = averaged[:, leaders] + rounding * np.arange(len(leaders))
        found = _bootstrap().MCS(compared, size, reps=count, block_size=rows, seed=seed)
        found.compute()
        leaders = [leaders[index] for index in found.included]
    return sorted(column for leader in leaders for column in equals[leader])


@dataclass(frozen=True)
class Verdict:
    """Whether to use the best trial of a study instead of the defaults; see `judge`.

    Attributes:
        keep: What to use.
        trial: The trial to use: `defaults` or `best`.
        defaults: The trial with the default options.
        best: The trial with the lowest mean loss, of those that are significantly better than the
            defaults if there are any; the defaults if no trial is better.
        trials: Number of complete trials, including the defaults.
        bars: Number of timestamps at which the trials were compared.
        gain: Share by which the mean loss of `best` is lower than that of the defaults.
        spa_defaults: p-value of `spa` against the defaults; None if undefined.
        spa_baseline: p-value of `spa` of all trials against the baseline; None if undefined.
        pbo: See `pbo`; None if undefined.
        confidence_set: The trials in the 90% model confidence set; see `confidence_set`.
        block: Mean length of the bootstrap blocks in bars; None if there was no test.
        sentence: The verdict in words.
        baseline_sentence: How the trials compare with the baseline, in words.
    """

    keep: Literal["defaults", "best"]
    trial: str
    defaults: str
    best: str
    trials: int
    bars: int
    gain: float
    spa_defaults: float | None
    spa_baseline: float | None
    pbo: float | None
    confidence_set: list[str]
    block: int | None
    sentence: str
    baseline_sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name, as JSON values."""
        return asdict(self)


def judge(
    losses: pl.DataFrame,
    *,
    defaults: str,
    horizon: int = 1,
    baseline: str = "the baseline",
    seed: int = 0,
    reps: int = 1000,
) -> Verdict:
    """Return whether to use the best trial of a study instead of the defaults.

    The defaults are kept unless `spa` against them is below 0.05 and `pbo` with 16 blocks is below
    0.5. Both are computed from one series for each trial. Losses of different symbols and folds
    have different scales. So they are divided by the mean absolute loss of the baseline in the same
    symbol and fold, and then averaged over the symbols at each timestamp. Bars for which any trial
    has no loss are left out. With too few bars for the tests, the defaults are kept.

    A trial is significantly better than the defaults if the probability that the largest statistic
    of `spa` exceeds that of the trial by luck is below 0.05.

    Args:
        losses: One row for each symbol and bar: `symbol`, `timestamp`, `baseline` with the loss of
            the baseline, `fold` if there are folds, and one column for each complete trial, named
            by its id. Of equally good trials, the first column wins.
        defaults: Id of the trial with the default options.
        horizon: Bars that a forecast covers.
        baseline: Name of the baseline in sentences.
        seed: Seed of the bootstraps.
        reps: Number of samples of each bootstrap.

    Raises:
        ArgumentError: A column is missing, a loss is not finite, or all losses of the baseline in a
            symbol and fold are 0.
        MissingExtraError: `arch` is not installed.
    """
    names, reference, panel = _combined(losses, defaults)
    start, bars = names.index(defaults), len(panel)
    means = panel.mean(axis=0) if bars else np.zeros(len(names))
    overfitting = pbo(panel)
    block, p_values, of_baseline = None, *np.full((2, len(names)), math.nan)
    possible = list(range(len(names)))
    if bars:
        block = block_length(panel[:, start] if len(names) > 1 else reference, panel, horizon)
        if len(names) > 1:
            p_values = _p_values(panel[:, start], panel, block=block, seed=seed, reps=reps)
        of_baseline = _p_values(reference, panel, block=block, seed=seed, reps=reps)
        possible = confidence_set(panel, block=block, seed=seed, reps=reps)
    against_defaults, against_baseline = float(p_values.min()), float(of_baseline.min())
    better = p_values < LEVEL
    index = int(np.where(better | ~better.any(), means, math.inf).argmin())
    if means[index] >= means[start] - _ROUNDING * abs(means[start]):
        index = start
    best, scale = names[index], abs(means[start])
    gain = float((means[start] - means[index]) / scale) if scale else 0.0
    use = index != start and against_defaults < LEVEL and overfitting < _OVERFITTED
    found = f"({_p_value(against_defaults, reps)}, PBO {overfitting:.2f})"
    best_of = f"the best of {counted(len(names), 'trial')}"
    if use:
        sentence = (
            f"Use trial {best}: its mean loss is {gain:.2%} lower than that of the defaults, which "
            f"luck among {counted(len(names), 'trial')} does not explain {found}."
        )
    elif len(names) == 1:
        sentence = "Keep the defaults: no other trial is complete."
    elif index == start and bars:
        rest = len(names) - 1
        subject = (
            f"none of the other {rest:,} trials has a" if rest > 1 else "the other trial has no"
        )
        sentence = f"Keep the defaults: {subject} lower mean loss."
    elif math.isnan(against_defaults) or math.isnan(overfitting):
        verb = "is" if bars == 1 else "are"
        sentence = f"Keep the defaults: {counted(bars, 'bar')} {verb} too few to judge {best_of}."
    elif against_defaults < LEVEL:
        sentence = (
            f"Keep the defaults: {best_of} is better on these bars, but trials that win on some "
            f"bars do not win on others {found}."
        )
    else:
        sentence = (
            f"Keep the defaults: {best_of} is statistically indistinguishable from them {found}."
        )
    if math.isnan(against_baseline):
        baseline_sentence = f"There are too few bars to compare the trials with {baseline}."
    elif against_baseline < LEVEL:
        which = "The best trial" if of_baseline[index] < LEVEL else "Another trial"
        baseline_sentence = (
            f"{which} is better than {baseline} ({_p_value(against_baseline, reps)})."
        )
    else:
        baseline_sentence = (
            f"No trial is significantly better than {baseline} "
            f"({_p_value(against_baseline, reps)})."
        )
    return Verdict(
        keep="best" if use else "defaults",
        trial=best if use else defaults,
        defaults=defaults,
        best=best,
        trials=len(names),
        bars=bars,
        gain=gain,
        spa_defaults=_defined(against_defaults),
        spa_baseline=_defined(against_baseline),
        pbo=_defined(overfitting),
        confidence_set=[names[each] for each in possible],
        block=block,
        sentence=sentence,
        baseline_sentence=baseline_sentence,
    )


def _combined(
    losses: pl.DataFrame, defaults: str
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Return the ids of the trials, and the losses of the baseline and the trials by timestamp."""
    groups = [name for name in ("symbol", "fold") if name in losses.columns]
    names = [
        name for name in losses.columns if name not in {"symbol", "fold", "timestamp", "baseline"}
    ]
    missing = sorted({"symbol", "timestamp", "baseline", defaults} - set(losses.columns))
    if missing:
        raise ArgumentError(
            f"the losses have no column {', '.join(missing)} (found: {', '.join(losses.columns)})",
            ["losses"],
        )
    values = pl.col("baseline", *names).cast(pl.Float64)
    frame = losses.drop_nulls().with_columns(values / pl.col("baseline").abs().mean().over(groups))
    frame = frame.group_by("timestamp", maintain_order=True).agg(values.mean()).sort("timestamp")
    combined = frame.select("baseline", *names).to_numpy().astype(np.float64, copy=False)
    if not np.isfinite(combined).all():
        raise ArgumentError(
            "the losses contain NaN or infinity, or all losses of the baseline in a symbol and "
            "fold are 0; leave out such trials and folds",
            ["losses"],
        )
    return names, combined[:, 0], combined[:, 1:]


def _checked(losses: ArrayLike) -> NDArray[np.float64]:
    """Return checked losses, shape (bars, trials)."""
    made = np.asarray(losses, np.float64)
    if made.ndim != 2 or not made.shape[1]:
        raise ArgumentError(
            f"losses have the shape {made.shape}, expected (bars, trials) with at least one trial",
            ["losses"],
        )
    return _finite("losses", made)


def series(name: str, values: ArrayLike, fewest: int) -> NDArray[np.float64]:
    """Return the values of the argument `name` as an array, shape (count,).

    Raises:
        ArgumentError: They have another shape, are fewer than `fewest`, or are not finite.
    """
    made = np.asarray(values, np.float64)
    if made.ndim != 1 or len(made) < fewest:
        raise ArgumentError(
            f"{name} has the shape {made.shape}, expected a sequence of at least {fewest} numbers",
            [name],
        )
    return _finite(name, made)


def _finite(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise ArgumentError(f"{name} contains NaN or infinity; leave out such values", [name])
    return values


def _sums(losses: NDArray[np.float64], parts: int) -> NDArray[np.float64]:
    """Return the sums over consecutive parts of the bars, shape (parts, trials)."""
    return np.add.reduceat(losses, np.arange(parts) * len(losses) // parts, axis=0)


def _averaged(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the losses, averaged over consecutive bars if there are many; see `_ROWS`."""
    if len(losses) <= _ROWS:
        return losses
    return _sums(losses, _ROWS) * (_ROWS / len(losses))  # the mean of all bars stays the same


def _gains(reference: ArrayLike, losses: ArrayLike) -> tuple[NDArray[np.float64], int]:
    """Return by how much each trial is better than the reference, and the number of bars.

    The first has the shape (rows, trials); see `_averaged`.
    """
    checked, base = _checked(losses), series("reference", reference, 0)
    if len(base) != len(checked):
        raise ArgumentError(
            f"the reference has {counted(len(base), 'bar')}, expected {len(checked):,} as in the "
            "losses",
            ["reference"],
        )
    return _averaged(base[:, None]) - _averaged(checked), len(checked)


def _rows_of(block: int, bars: int, rows: int) -> int:
    """Return the length of a block in rows; 0 if there are too few blocks for a bootstrap."""
    length = check_count("block", block)
    return math.ceil(length * rows / bars) if bars >= _FEWEST_BLOCKS * length else 0


def _bootstrap() -> Any:
    """Return `arch.bootstrap`."""
    try:
        from arch import bootstrap
    except ImportError as error:
        raise MissingExtraError(
            "judging trials needs arch; install it with pip install 'atb-fast[sweep]'"
        ) from error
    return bootstrap


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _p_value(value: float, reps: int) -> str:
    return f"SPA p < {1 / reps:.2g}" if value == 0.0 else f"SPA p = {value:.2g}"
