"""Walk-forward evaluation: train on the past, test on the bars that follow, and repeat."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast import recipes
from atb_fast.callbacks import SILENT, WORK, Listener
from atb_fast.config import OPTIONS
from atb_fast.errors import ArgumentError, DataError, TrainingError, counted
from atb_fast.evaluation.predictions import out_of_fold
from atb_fast.evaluation.scoring import NAMES, Scoring, Tested, scoring_of
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Parts
from atb_fast.ingestion.market import Market, load_market
from atb_fast.options import check_count, check_type
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.split import Split, TooFewCandlesError, before, divided
from atb_fast.training.compile_cache import open_cache
from atb_fast.training.device import DevicePolicy, configure, import_ahead
from atb_fast.training.engine import choose
from atb_fast.training.environment import parallel_operations
from atb_fast.training.predict import predict, predict_outputs
from atb_fast.training.side_by_side import side_by_side
from atb_fast.training.train import forget_models, train

log = logging.getLogger(__name__)

#: Whether the training part grows, or drops its oldest windows to keep its size.
Window = Literal["expanding", "rolling"]

#: Share of the windows, oldest first, that is not tested in any fold.
_FIRST_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The results of one fold, out of sample: its test bars follow all bars it was fitted on.

    The legacy recipe is an exception, because it fits its scalers on all bars.

    RMSE is in the unit of the target: quote currency, a return, or the logarithm of volatility. The
    error of classes is the log loss. Shares are 0..1. What does not exist for the target of the
    recipe is None.

    Attributes:
        number: Number of the fold, counted from 1.
        first: Open time of the first test bar, ISO 8601, UTC.
        last: Open time of the last test bar.
        train: Number of training windows.
        validation: Number of validation windows, which select the best epoch.
        test: Number of test windows.
        shrinkage: Shrinkage factor of the outputs; at 0 the model is persistence, or HAR.
        ratio: Error of the model divided by that of persistence, or of the class shares; above 1,
            the model is worse.
        reference_ratio: Error of the model divided by that of the baseline to beat, which is HAR
            for volatility, else as in `ratio`; infinite if the error of the baseline is 0.
        linear_ratio: The same for the linear model on the last bar of each window: least squares,
            for returns with a shrinkage factor estimated as for the model, or logistic regression.
        epochs: Number of epochs.
        best_epoch: Epoch whose weights were kept, counted from 1.
        seconds: Duration of the fold. Folds may run in parallel.
        rmse: RMSE of the model; None for classes.
        persistence_rmse: RMSE of persistence.
        linear_rmse: RMSE of the linear model.
        directional_accuracy: Share of correct directions of a model of prices or returns, on
            windows whose horizons do not overlap. Bars that do not move and forecasts of no move
            do not count.
        directional_accuracy_low: Lower end of its 95% interval.
        directional_accuracy_high: Upper end of that interval.
        directional_bars: Number of bars that count; 0 if the model predicts no move.
        linear_directional_accuracy: Directional accuracy of the linear model.
        up_share: Share of bars whose price rose: the accuracy of always predicting up.
        accuracy: Share of windows whose most probable class is right.
        majority_accuracy: Accuracy of the most frequent class of the training windows.
        contrarian_accuracy: Accuracy of a reversal of the last return, measured as
            `directional_accuracy` or as `accuracy`.
        har_ratio: As `ratio`, for HAR.
        ewma_ratio: As `ratio`, for the exponentially weighted volatility of RiskMetrics.
        figures: All figures by name, also those that are not repeated here; see docs/evaluate.md.
    """

    number: int
    first: str
    last: str
    train: int
    validation: int
    test: int
    shrinkage: float
    ratio: float
    reference_ratio: float
    linear_ratio: float
    epochs: int
    best_epoch: int
    seconds: float
    rmse: float | None = None
    persistence_rmse: float | None = None
    linear_rmse: float | None = None
    directional_accuracy: float | None = None
    directional_accuracy_low: float | None = None
    directional_accuracy_high: float | None = None
    directional_bars: int | None = None
    linear_directional_accuracy: float | None = None
    up_share: float | None = None
    accuracy: float | None = None
    majority_accuracy: float | None = None
    contrarian_accuracy: float | None = None
    har_ratio: float | None = None
    ewma_ratio: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what exists by name, as JSON values, with `figures` on the same level."""
        own = asdict(self)
        figures: dict[str, Any] = own.pop("figures")
        missing = (None, math.inf)  # JSON has no infinity
        return {name: value for name, value in own.items() if value not in missing} | figures


@dataclass(frozen=True)
class WalkForward:
    """A walk-forward evaluation.

    Attributes:
        folds: The results of each fold.
        tested: What the models of all folds and the baselines forecast, in order of time.
        scoring: How the forecasts are scored.
        predictions: The forecasts for a backtest, one row for each test window; docs/evaluate.md
            describes the columns.
        sha256: Hashes of the input, for example of `candles`.
    """

    folds: list[Fold]
    tested: Tested
    scoring: Scoring
    predictions: pl.DataFrame
    sha256: Mapping[str, str]

    @cached_property
    def pooled(self) -> dict[str, Any]:
        """The figures of all test windows together; see `Scoring.figures`."""
        times = self.tested.times
        return {
            "first": times[0].isoformat(),
            "last": times[-1].isoformat(),
            "test": len(times),
            **self.scoring.figures(self.tested),
        }

    @property
    def ratios(self) -> list[float]:
        """Error of the model of each fold, divided by that of the reference."""
        return [fold.reference_ratio for fold in self.folds]

    @property
    def losses(self) -> pl.DataFrame:
        """The loss of each forecast, in order of time.

        Columns: `timestamp`, as in the predictions; `fold`, int64; `model` and `reference`, the
        losses of the model and of the reference, float64: squared errors, or log losses.
        """
        numbers = np.repeat([fold.number for fold in self.folds], [f.test for f in self.folds])
        reference = self.tested.baselines[self.scoring.reference(self.tested)]
        return pl.DataFrame(
            {
                "timestamp": self.tested.times,
                "fold": numbers.astype(np.int64),
                "model": self.scoring.losses_of(self.tested, self.tested.forecasts),
                "reference": self.scoring.losses_of(self.tested, reference),
            }
        )

    @property
    def reference(self) -> str:
        """What a model has to beat, in sentences."""
        return NAMES[self.scoring.reference(self.tested)]

    @property
    def verdict(self) -> str:
        """How the models of all folds compare with the reference; see `significance.verdict`."""
        return self.scoring.verdict(self.tested, self.pooled[self.scoring.key], self.pooled)

    @cached_property
    def caveat(self) -> str:
        """Which figures contradict the verdict, in a sentence; see `Scoring.caveat`."""
        return self.scoring.caveat(self.tested, self.pooled[self.scoring.key], self.pooled)


def mean_errors(evaluations: Sequence[WalkForward]) -> tuple[float, float]:
    """Return the error of the models and of the reference on all bars of several evaluations.

    The errors must have the same unit.
    """
    losses, scoring = pl.concat([each.losses for each in evaluations]), evaluations[0].scoring
    own, other = (float(scoring.mean(losses[name].to_numpy())) for name in ("model", "reference"))
    return own, other


#: A fold, how its forecasts are scored, what is scored, and its predictions for a backtest.
_Done = tuple[Fold, Scoring, Tested, pl.DataFrame]


def evaluate(
    config: TrainingConfig,
    *,
    folds: int = 5,
    window: Window = "expanding",
    embargo: int | None = None,
    listener: Listener = SILENT,
) -> list[Fold]:
    """Return the results of training the recipe of `config` once for each fold.

    This is `walk_forward` without the forecasts.

    Args:
        config: What to train, and how.
        folds: Number of consecutive test periods, at least 1.
        window: `expanding` trains on all windows before a test period; `rolling` on the newest of
            them, as many as in the first fold.
        embargo: Bars dropped between the parts, for any recipe. Default: `config.embargo`, else 1%
            of the bars.
        listener: Receives the progress of downloads, epochs, windows and folds.

    Raises:
        ArgumentError: `folds`, `window` or the embargo is out of range.
        DataError: Candles or sentiment are unusable, or too few for the folds.
        TrainingError: The loss of a fold became NaN.
    """
    return walk_forward(
        config, folds=folds, window=window, embargo=embargo, listener=listener
    ).folds


def walk_forward(
    config: TrainingConfig,
    *,
    folds: int = 5,
    window: Window = "expanding",
    embargo: int | None = None,
    market: Market | None = None,
    until: datetime | None = None,
    holdout: datetime | None = None,
    listener: Listener = SILENT,
) -> WalkForward:
    """Return the results of training the recipe of `config` once for each fold.

    To search without look-ahead bias, compare models on the folds `until` a time, and test only the
    best one on the `holdout` from that time on.

    Folds are trained in parallel: TF_NUM_INTEROP_THREADS of them at a time, by default one for each
    core. The results do not depend on this.

    Args:
        config: What to train, and how.
        folds: Number of consecutive test periods, at least 1.
        window: `expanding` trains on all windows before a test period; `rolling` on the newest of
            them, as many as in the first fold.
        embargo: Bars dropped between the parts, for any recipe. Default: `config.embargo`, else 1%
            of the bars.
        market: The candles, sentiment and extras. Default: those that `config` selects. If given,
            the age of the sentiment is measured at the last candle, so that results can be
            repeated.
        until: Use only what was known at this time, UTC: no window, label or feature reaches
            beyond it.
        holdout: Instead of folds, test the forecasts made from this time on, UTC, with one model
            that is trained on all earlier windows; `folds` must be 1.
        listener: Receives the progress of downloads, epochs, windows and folds.

    Raises:
        ArgumentError: `folds`, `window` or the embargo is out of range, an argument has the wrong
            type, or `holdout` is given with several folds.
        DataError: Candles or sentiment are unusable, or too few for the folds.
        TrainingError: The loss of a fold became NaN.
        MissingExtraError: TensorFlow is not installed.
    """
    check_type("config", config, TrainingConfig)
    check_type("listener", listener, Listener)
    folds = check_count("folds", folds)
    if window not in get_args(Window):
        expected = " or ".join(get_args(Window))
        raise ArgumentError(f"window is {window!r}, expected {expected}", ["window"])
    embargo = OPTIONS["embargo"].check(embargo)
    if holdout is not None and folds != 1:
        raise ArgumentError(
            f"folds is {folds}, but a holdout is a single test period; pass folds=1", ["folds"]
        )
    recipe = config.definition
    if config.compile_cache:
        open_cache(config.cache_dir)
    import_ahead()  # while the input is read or downloaded
    now = None
    if market is None:
        market = load_market(config, listener=listener)
    else:
        now = market.candles["timestamp"][-1]
    prepared, plan = planned(
        market,
        config,
        folds=folds,
        window=window,
        embargo=embargo,
        until=until,
        holdout=holdout,
        now=now,
    )
    policy = configure(config, listener=listener)
    log.info("%s", policy.reason)
    if policy.engine == "auto":
        # All folds have the same layers, so one network tells which engine trains them.
        model = recipe.build(config.sequence_length, prepared.matrix.shape[1])
        engine = choose(
            policy.engine, model, head=recipe.target.head, network=recipe.trained_network
        )
        policy = replace(policy, engine=engine)
    # Keras' own loop does not train a model independently of other threads.
    together = policy.engine != "keras" and not policy.gpus
    works = [
        partial(
            _named,
            f"fold {number} of {folds}: " if folds > 1 else "",
            partial(_evaluated, config, prepared, policy, (number, parts)),
        )
        for number, parts in enumerate(plan, 1)
    ]

    def report(done: _Done) -> None:
        fold, scoring, tested, _ = done
        log.info(
            "fold %d of %d: %s %.3f times that of %s, %.1f s",
            fold.number,
            folds,
            scoring.name,
            fold.reference_ratio,
            NAMES[scoring.reference(tested)],
            fold.seconds,
        )
        listener.fold(fold)

    forget_models()
    threads = min(folds, parallel_operations()) if together else 1
    made, scorings, tested, predictions = zip(
        *side_by_side(works, threads, listener, report), strict=True
    )
    return WalkForward(
        list(made), Tested.together(tested), scorings[0], pl.concat(predictions), prepared.sha256
    )


def planned(
    market: Market,
    config: TrainingConfig,
    *,
    folds: int,
    embargo: int | None,
    window: Window = "expanding",
    until: datetime | None = None,
    holdout: datetime | None = None,
    now: datetime | None = None,
) -> tuple[PreparedData, list[Parts]]:
    """Return the features of `market`, and the windows of each fold; see `walk_forward`.

    `now` is the time at which the age of the sentiment is measured, by default the current time.

    Raises:
        DataError: There are too few candles for the folds, or no window is in the holdout.
    """
    recipe, what, later = config.definition, "the range", 0
    if until is not None:
        what, candles = "the range before the holdout", len(market.candles)
        market = known_at(market, until, config.bar_ms)
        now, later = market.candles["timestamp"][-1], candles - len(market.candles)
    try:
        prepared = recipes.prepare(market, config, now=now, cache=config.cache_dir / "features")
    except TooFewCandlesError as error:
        prepared = error.prepared
        if len(prepared.matrix) >= config.sequence_length + recipe.reach(config):
            raise  # a user's class needs more than one window
        # Below, this is the same error with the number of candles for the folds.
    starts = recipe.starts(prepared, config)
    held_out = None if holdout is None else _made_from(holdout, prepared, starts, config)

    def split(folds: int) -> Split:
        return lambda starts, _, beyond: fold_parts(
            starts, folds, window, beyond=beyond, tested=held_out
        )

    def without_holdout(starts: NDArray[np.int64], reach: int, beyond: int) -> Iterable[Parts]:
        return split(folds)(np.arange(len(starts) + later), reach, beyond)

    return prepared, divided(
        split(folds),
        starts,
        prepared,
        config,
        recipe.reach(config),
        embargo=config.embargo if embargo is None else embargo,
        purpose=f"test {counted(folds, 'fold')}" if holdout is None else "test the holdout",
        what=what,
        smaller={"fewer --folds": split(1)}
        | ({"a smaller --holdout": without_holdout} if later else {}),
    )


def known_at(market: Market, time: datetime, bar_ms: int) -> Market:
    """Return what was known of `market` at `time`.

    Args:
        market: The market.
        time: UTC. Candles are kept if they have closed by then.
        bar_ms: Length of a bar, milliseconds.

    Raises:
        DataError: No candle has closed by then.
    """
    opened = time - timedelta(milliseconds=bar_ms)
    candles, index = market.candles.filter(pl.col("timestamp") <= opened), market.sentiment
    if candles.is_empty():
        first = market.candles["timestamp"][0]
        raise DataError(
            f"no candle has closed by {time:%Y-%m-%d %H:%M}; the first one opens at "
            f"{first:%Y-%m-%d %H:%M} UTC. Use more candles (an earlier --start-date)"
        )
    if index is not None:
        index = index.filter(pl.col("timestamp") < time)
    last = candles["timestamp"][-1]
    return Market(candles, index, tuple(extra.known_at(last) for extra in market.extras))


def _made_from(
    time: datetime, prepared: PreparedData, starts: NDArray[np.int64], config: TrainingConfig
) -> int:
    """Return how many windows forecast from `time` on.

    Raises:
        TooFewCandlesError: No window does.
    """
    last = prepared.timestamps.gather(starts + config.sequence_length - 1)
    count = int((last >= time - timedelta(milliseconds=config.bar_ms)).sum())
    if not count:
        raise TooFewCandlesError(
            f"no forecast is made from {time:%Y-%m-%d %H:%M} on, so there is no holdout to test; "
            "make it longer (in a sweep, with a larger --holdout)"
        )
    return count


def _named(name: str, work: Callable[[Listener], _Done], listener: Listener) -> _Done:
    """Return the result of `work`, whose log lines begin with `name`."""
    before = WORK.set(name)
    try:
        return work(listener)
    finally:
        WORK.reset(before)


def _evaluated(
    config: TrainingConfig,
    prepared: PreparedData,
    policy: DevicePolicy,
    numbered: tuple[int, Parts],
    listener: Listener,
) -> _Done:
    """Return the results of one fold, and the forecasts that they are computed from."""
    began = time.perf_counter()
    recipe, (number, parts) = config.definition, numbered
    try:
        data = recipe.windows(prepared, config, parts)
    except DataError as error:  # for example, all training windows have the same class
        first, last = (prepared.timestamps[int(part)] for part in parts.train[[0, -1]])
        # The first fold is trained on the same windows, whatever the number of folds.
        fewer = ", or fewer --folds" * (number > 1)
        raise DataError(
            f"fold {number}, trained on windows from {first:%Y-%m-%d} to {last:%Y-%m-%d}: "
            f"{error}{fewer}"
        ) from error
    model, fitted = train(recipe, config, data, policy, listener=listener)
    data = recipe.calibrated(data, partial(predict_outputs, model, data))
    if fitted.diverged:
        raise TrainingError(
            f"the loss of fold {number} became NaN in epoch {fitted.diverged}; try another "
            "--seed, or fewer --epochs"
        )
    scoring = scoring_of(data)
    forecasts = predict(model, data, data.test)
    tested = scoring.tested(data, forecasts)
    figures = scoring.figures(tested)
    if "ratio" not in figures:
        raise DataError(
            f"fold {number}: the error of {NAMES[scoring.unchanged]} is 0, so there is nothing to "
            "forecast; use candles of a market that trades"
        )
    named = {each.name for each in fields(Fold)} & figures.keys()
    reference = scoring.reference(tested)
    other = 1.0 if reference == scoring.unchanged else figures[f"{reference}_ratio"]
    fold = Fold(
        number=number,
        first=tested.times[0].isoformat(),
        last=tested.times[-1].isoformat(),
        train=len(data.train),
        validation=len(data.validation),
        test=len(data.test),
        shrinkage=fitted.shrinkage,
        reference_ratio=figures["ratio"] / other if other else math.inf,
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        seconds=time.perf_counter() - began,
        figures=figures,
        **{name: figures[name] for name in named},
    )
    of_network = None if fitted.unshrunk is None else data.forecasts(data.test, fitted.unshrunk)
    predictions = out_of_fold(
        data,
        tested,
        forecasts,
        of_network,
        reference=scoring.reference(tested),
        symbol=config.symbol,
        fold=number,
        bar_ms=config.bar_ms,
    )
    return fold, scoring, tested, predictions


def fold_parts(
    starts: NDArray[np.int64],
    folds: int,
    window: Window,
    *,
    beyond: int,
    tested: int | None = None,
) -> Iterator[Parts]:
    """Yield the windows of each fold: training, validation and test. Parts may be empty.

    Args:
        starts: Starts of all usable windows, ascending.
        folds: Number of test periods, at least 1.
        window: `expanding` trains on all earlier windows; `rolling` on the newest of them, as many
            as in the first fold.
        beyond: See `before`.
        tested: Number of windows in the test periods. Default: half of them.
    """
    begin = int(len(starts) * _FIRST_SHARE) if tested is None else max(0, len(starts) - tested)
    if folds > len(starts) - begin:  # also keeps the edges small
        yield Parts(starts[:0], starts[:0], starts[:0])
        return
    edges = np.linspace(begin, len(starts), folds + 1).astype(int)
    for edge, end in pairwise(edges.tolist()):
        oldest = max(0, edge - begin) if window == "rolling" else 0
        yield before(starts[oldest:edge], starts[edge:end], beyond)
