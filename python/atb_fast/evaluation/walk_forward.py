"""Walk-forward: a recipe trained again and again, each time tested on what comes next."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atb_fast import recipes
from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import OPTIONS, RecipeOptions, TrainingConfig
from atb_fast.errors import DataError, TrainingError
from atb_fast.evaluation.metrics import direction, rmse
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import load_market
from atb_fast.recipes.shrinkage import shrinkage_factor
from atb_fast.recipes.split import before, embargo_rows
from atb_fast.training.device import configure
from atb_fast.training.predict import predict
from atb_fast.training.train import forget_models, train

log = logging.getLogger(__name__)

#: Of the windows, oldest first, that no fold tests.
_FIRST_SHARE = 0.5
#: Windows whose last rows are read at once.
_BATCH = 4096


@dataclass(frozen=True)
class Fold:
    """How a model did on bars that came after all it was fitted to.

    The scalers of the legacy recipe have seen them all the same: it scales before it is split.

    Errors are root mean squared, quote currency; shares are 0..1.

    Attributes:
        number: From 1.
        first: When the first tested bar opens, ISO, UTC.
        last: When the last one does.
        train: Windows that were fitted.
        validation: Windows that chose the epoch.
        test: Windows that were tested.
        shrinkage: What the recipe multiplied the outputs with; at 0 the model says "no change".
        rmse: Of the model.
        persistence_rmse: Of "no change".
        linear_rmse: Of least squares on the features of each window's last bar; returns are shrunk
            by validation as those of the model are.
        ratio: `rmse / persistence_rmse`; above 1 the model is worse than no change.
        linear_ratio: `linear_rmse / persistence_rmse`.
        directional_accuracy: How often the model was right about up or down, with the ends of its
            95 % interval; of windows whose horizons do not overlap. See `diagnostics.Direction`.
        directional_accuracy_low: See there.
        directional_accuracy_high: See there.
        directional_bars: What that is of: 0 if the model says "no change", and nothing is known.
        linear_directional_accuracy: The same of least squares.
        up_share: How often the price went up: what always saying so foresees.
        epochs: Epochs that were run.
        best_epoch: The epoch whose weights were kept, from 1.
        seconds: What the fold took.
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
    window: Literal["expanding", "rolling"] = "expanding",
    embargo: int | None = None,
    listener: Listener = SILENT,
) -> list[Fold]:
    """Train the recipe of `config` once for each fold; nothing is written.

    Args:
        config: What to train, on what, and how.
        folds: Stretches that are tested one after the other, at least 1; see `walk_forward`.
        window: Whether training windows add up, or the oldest ones are dropped.
        embargo: Bars skipped between the parts, for any recipe; default `config.embargo`, else 1 %
            of the bars.
        listener: Hears about downloads, epochs, windows and folds.

    Raises:
        ArgumentError: A negative embargo.
        DataError: Candles or sentiment that cannot be used, or too few for the folds.
        TrainingError: The loss of a fold became NaN.
    """
    recipe = recipes.get(config.recipe)
    embargo = OPTIONS["embargo"].check(embargo)
    market = load_market(config, listener=listener)
    prepared = recipes.prepare(market, config, cache=config.cache_dir / "features")
    between = embargo_rows(prepared, config) if embargo is None else embargo
    plan = walk_forward(recipe.starts(prepared, config), config, between, folds, window)
    policy = configure(config)
    log.info("%s", policy.reason)
    done = []
    for number, parts in enumerate(plan, 1):
        began = time.perf_counter()
        data = recipe.windows(prepared, config, parts)
        forget_models()
        model, fitted = train(recipe, config, data, policy, listener=listener)
        if fitted.diverged:
            raise TrainingError(
                f"the loss of fold {number} stopped being a number in epoch {fitted.diverged}; try "
                "another --seed, or fewer --epochs"
            )
        times = data.times(data.test)
        fold = Fold(
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
        done.append(fold)
        log.info(
            "fold %d of %d: %.3f of the RMSE of no change, %.1f s",
            number,
            folds,
            fold.ratio,
            fold.seconds,
        )
        listener.fold(fold)
    return done


def walk_forward(
    starts: NDArray[np.int64],
    options: RecipeOptions,
    embargo: int,
    folds: int,
    window: Literal["expanding", "rolling"],
) -> list[Parts]:
    """Return the parts of each fold.

    The newer half of the windows is cut into `folds` stretches. Each is tested by a model that is
    fitted on windows before it; see `recipes.base.before`.

    Args:
        starts: Of all windows that can be used, ascending.
        options: Length of the windows, and horizon.
        embargo: Rows between two parts that neither has.
        folds: At least 1.
        window: `expanding`: every window before; `rolling`: as many as before the first test.

    Raises:
        DataError: Too few windows for a fold.
    """
    begin = int(len(starts) * _FIRST_SHARE)
    edges = np.linspace(begin, len(starts), folds + 1).astype(int)
    parts: list[Parts] = []
    for edge, end in pairwise(edges.tolist()):
        oldest = max(0, edge - begin) if window == "rolling" else 0
        fold = before(starts[oldest:edge], starts[edge:end], options, embargo)
        if not fold.complete:
            raise DataError(
                f"{len(starts)} windows of {options.sequence_length} bars are too few for {folds} "
                f"folds: fold {len(parts) + 1} has {len(fold.train)} to train, "
                f"{len(fold.validation)} to validate, {len(fold.test)} to test, with an embargo of "
                f"{embargo} bars; give a longer range, fewer --folds, or a shorter "
                "--sequence-length"
            )
        parts.append(fold)
    return parts


def _errors(data: WindowedData, predicted: NDArray[np.float64]) -> dict[str, Any]:
    actual, unchanged = data.targets(data.test), data.persistence(data.test)
    linear = _linear(data)
    foreseen = direction(data, predicted)
    persistence = rmse(actual, unchanged)
    if not persistence:
        raise DataError("no price moves in a fold; give candles of a market that trades")
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
    """Return what least squares predicts for the test windows, from the last bar of each."""
    weights, *_ = np.linalg.lstsq(
        _last_rows(data, data.train), data.labels[data.train + data.length], rcond=None
    )
    factor = 1.0
    if data.price_scale.kind == "log_return":
        returns = data.labels[data.validation + data.length]
        factor = shrinkage_factor(
            _last_rows(data, data.validation) @ weights, returns, data.horizon
        )
    return data.prices(data.test, factor * (_last_rows(data, data.test) @ weights))


def _last_rows(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the features of the last bar of each window, and a column of ones."""
    if data.scaled_by_window:
        parts = np.array_split(starts, -(-len(starts) // _BATCH))
        rows: Any = np.concatenate([data.windows(part)[:, -1] for part in parts])
    else:
        rows = data.prepared.matrix.values[starts + data.length - 1]
    return np.column_stack([rows.astype(np.float64), np.ones(len(rows))])
