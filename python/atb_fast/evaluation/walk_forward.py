"""Walk-forward evaluation: train on the past, test on the bars that follow, and repeat."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from atb_fast import recipes
from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import OPTIONS, RecipeOptions
from atb_fast.errors import ArgumentError, DataError, TrainingError, counted
from atb_fast.evaluation.metrics import direction, rmse
from atb_fast.features.prepared import PreparedData
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import load_market
from atb_fast.options import check_count, check_type
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.shrinkage import shrinkage_factor
from atb_fast.recipes.split import before, embargo_rows
from atb_fast.training.compile_cache import open_cache
from atb_fast.training.device import DevicePolicy, configure, import_ahead
from atb_fast.training.engine import choose
from atb_fast.training.environment import cores
from atb_fast.training.predict import predict, predict_outputs
from atb_fast.training.side_by_side import side_by_side
from atb_fast.training.train import forget_models, train

log = logging.getLogger(__name__)

#: Whether the training part grows, or drops its oldest windows to keep its size.
Window = Literal["expanding", "rolling"]

#: Share of the windows, oldest first, that is not tested in any fold.
_FIRST_SHARE = 0.5
#: Number of windows copied at a time to read their last rows.
_BATCH = 4096


@dataclass(frozen=True)
class Fold:
    """The results of one fold, out of sample: its test bars follow all bars it was fitted on.

    The legacy recipe is an exception, because it fits its scalers on all bars.

    RMSE is in quote currency; shares are 0..1.

    Attributes:
        number: Number of the fold, counted from 1.
        first: Open time of the first test bar, ISO 8601, UTC.
        last: Open time of the last test bar.
        train: Number of training windows.
        validation: Number of validation windows, which select the best epoch.
        test: Number of test windows.
        shrinkage: Shrinkage factor of the outputs; at 0 the model predicts no change.
        rmse: RMSE of the model.
        persistence_rmse: RMSE of persistence, which predicts the last close.
        linear_rmse: RMSE of least squares on the last bar of each window, with a shrinkage factor
            estimated as for the model.
        ratio: `rmse / persistence_rmse`; above 1 the model is worse than persistence.
        linear_ratio: `linear_rmse / persistence_rmse`.
        directional_accuracy: Share of correct directions, on windows whose horizons do not
            overlap; see `metrics.Direction`.
        directional_accuracy_low: Lower end of its 95% interval.
        directional_accuracy_high: Upper end of that interval.
        directional_bars: Number of bars that count; 0 if the model predicts no change.
        linear_directional_accuracy: Directional accuracy of least squares.
        up_share: Share of bars whose price rose: the accuracy of always predicting up.
        epochs: Number of epochs.
        best_epoch: Epoch whose weights were kept, counted from 1.
        seconds: Duration of the fold. Folds may run in parallel.
    """

    number: int
    first: str
    last: str
    train: int
    validation: int
    test: int
    shrinkage: float
    rmse: float
    persistence_rmse: float
    linear_rmse: float
    ratio: float
    linear_ratio: float
    directional_accuracy: float
    directional_accuracy_low: float
    directional_accuracy_high: float
    directional_bars: int
    linear_directional_accuracy: float
    up_share: float
    epochs: int
    best_epoch: int
    seconds: float


def evaluate(
    config: TrainingConfig,
    *,
    folds: int = 5,
    window: Window = "expanding",
    embargo: int | None = None,
    listener: Listener = SILENT,
) -> list[Fold]:
    """Return the results of training the recipe of `config` once for each fold.

    Args:
        config: What to train, and how.
        folds: Number of consecutive test periods, at least 1; see `walk_forward`.
        window: `expanding` or `rolling`; see `walk_forward`.
        embargo: Bars dropped between the parts, for any recipe. Default: `config.embargo`, else 1%
            of the bars.
        listener: Receives the progress of downloads, epochs, windows and folds.

    Raises:
        ArgumentError: `folds`, `window` or the embargo is out of range, or an argument has the
            wrong type.
        DataError: Candles or sentiment are unusable, or too few for the folds.
        TrainingError: The loss of a fold became NaN.
    """
    check_type("config", config, TrainingConfig)
    check_type("listener", listener, Listener)
    folds = check_count("folds", folds)
    if window not in get_args(Window):
        expected = " or ".join(get_args(Window))
        raise ArgumentError(f"window is {window!r}, expected {expected}", ["window"])
    embargo = OPTIONS["embargo"].check(embargo)
    recipe = config.definition
    if config.compile_cache:
        open_cache(config.cache_dir)
    import_ahead()  # while the input is read or downloaded
    market = load_market(config, listener=listener)
    prepared = recipes.prepare(market, config, cache=config.cache_dir / "features")
    between = embargo_rows(prepared, config) if embargo is None else embargo
    starts, reach = recipe.starts(prepared, config), recipe.reach(config)
    plan = walk_forward(starts, config, folds, window, reach=reach, embargo=between)
    policy = configure(config, listener=listener)
    log.info("%s", policy.reason)
    if policy.engine == "auto":
        # All folds have the same layers, so one network tells which engine trains them.
        model = recipe.build(config.sequence_length, prepared.matrix.shape[1])
        policy = replace(policy, engine=choose(policy.engine, model))
    # Only the compiled engine trains a model independently of other threads.
    together = policy.engine != "keras" and not policy.gpus
    works = [
        partial(_evaluated, config, prepared, policy, (number, parts))
        for number, parts in enumerate(plan, 1)
    ]

    def report(fold: Fold) -> None:
        log.info(
            "fold %d of %d: RMSE %.3f times that of persistence, %.1f s",
            fold.number,
            folds,
            fold.ratio,
            fold.seconds,
        )
        listener.fold(fold)

    forget_models()
    return side_by_side(works, min(folds, cores()) if together else 1, listener, report)


def _evaluated(
    config: TrainingConfig,
    prepared: PreparedData,
    policy: DevicePolicy,
    numbered: tuple[int, Parts],
    listener: Listener,
) -> Fold:
    """Return the results of one fold."""
    began = time.perf_counter()
    recipe, (number, parts) = config.definition, numbered
    data = recipe.windows(prepared, config, parts)
    model, fitted = train(recipe, config, data, policy, listener=listener)
    data = recipe.calibrated(data, partial(predict_outputs, model, data))
    if fitted.diverged:
        raise TrainingError(
            f"the loss of fold {number} became NaN in epoch {fitted.diverged}; try another "
            "--seed, or fewer --epochs"
        )
    times = data.times(data.test)
    return Fold(
        number=number,
        first=times[0].isoformat(),
        last=times[-1].isoformat(),
        train=len(data.train),
        validation=len(data.validation),
        test=len(data.test),
        shrinkage=fitted.shrinkage,
        **_errors(data, predict(model, data, data.test)),
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        seconds=time.perf_counter() - began,
    )


def walk_forward(
    starts: NDArray[np.int64],
    options: RecipeOptions,
    folds: int,
    window: Window,
    *,
    reach: int,
    embargo: int,
) -> list[Parts]:
    """Return the training, validation and test windows of each fold.

    The newer half of the windows is divided into `folds` test periods. The model of a fold is
    fitted on windows before its test period; see `recipes.split.before`.

    Args:
        starts: Starts of all usable windows, ascending.
        options: Sequence length.
        folds: Number of test periods, at least 1.
        window: `expanding` trains on all earlier windows; `rolling` on the newest of them, as many
            as in the first fold.
        reach: Rows after the last row of a window that its label depends on.
        embargo: Number of rows dropped between two parts.

    Raises:
        DataError: A fold has too few windows.
    """
    begin = int(len(starts) * _FIRST_SHARE)
    if folds > len(starts) - begin:  # also keeps the edges small
        raise DataError(
            f"{len(starts):,} windows of {options.sequence_length:,} bars are too few for {folds} "
            f"folds: the newer half, {len(starts) - begin} windows, is divided into folds; "
            f"pass --folds {len(starts) - begin} or less, or use a longer range"
        )
    edges = np.linspace(begin, len(starts), folds + 1).astype(int)
    parts: list[Parts] = []
    for edge, end in pairwise(edges.tolist()):
        oldest = max(0, edge - begin) if window == "rolling" else 0
        fold = before(
            starts[oldest:edge], starts[edge:end], options.sequence_length - 1 + reach + embargo
        )
        if not fold.complete:
            raise DataError(
                f"{len(starts):,} windows of {options.sequence_length:,} bars are too few for "
                f"{counted(folds, 'fold')}: fold {len(parts) + 1} has {len(fold.train)} training, "
                f"{len(fold.validation)} validation and {len(fold.test)} test windows with an "
                f"embargo of {counted(embargo, 'bar')}; use a longer range, fewer --folds, a "
                "shorter --sequence-length, or a smaller --embargo"
            )
        parts.append(fold)
    return parts


def _errors(data: WindowedData, predicted: NDArray[np.float64]) -> dict[str, Any]:
    actual, unchanged = data.targets(data.test), data.persistence(data.test)
    linear = _linear(data)
    foreseen = direction(data, predicted)
    persistence = rmse(actual, unchanged)
    if not persistence:
        raise DataError("the price never moves in a fold; use candles of a market that trades")
    return {
        "rmse": rmse(actual, predicted),
        "persistence_rmse": persistence,
        "linear_rmse": rmse(actual, linear),
        "ratio": rmse(actual, predicted) / persistence,
        "linear_ratio": rmse(actual, linear) / persistence,
        "directional_accuracy": foreseen.share,
        "directional_accuracy_low": foreseen.low,
        "directional_accuracy_high": foreseen.high,
        "directional_bars": foreseen.bars,
        "linear_directional_accuracy": direction(data, linear).share,
        "up_share": float(np.mean(actual > unchanged)),
    }


def _linear(data: WindowedData) -> NDArray[np.float64]:
    """Return the predictions of least squares on the last bar of each test window."""
    weights, *_ = np.linalg.lstsq(_last_rows(data, data.train), data.fitted(data.train), rcond=None)
    factor = 1.0
    if isinstance(data.output, PriceScale) and data.output.kind == "log_return":
        factor = shrinkage_factor(
            _last_rows(data, data.validation) @ weights,
            data.fitted(data.validation),
            data.horizon,
        )
    return data.forecasts(data.test, factor * (_last_rows(data, data.test) @ weights))


def _last_rows(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the features of the last bar of each window, plus a column of ones."""
    if data.scaled_by_window:
        parts = np.array_split(starts, -(-len(starts) // _BATCH))
        rows: Any = np.concatenate([data.windows(part)[:, -1] for part in parts])
    else:
        rows = data.prepared.matrix.values[starts + data.length - 1]
    return np.column_stack([rows.astype(np.float64), np.ones(len(rows))])
