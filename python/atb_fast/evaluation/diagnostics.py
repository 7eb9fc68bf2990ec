"""How good the model is: errors beside persistence, robustness, importance of the features.

Every figure comes from Keras' own predictions, whatever engine trained the model; nothing
here is needed to use it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import FeatureMatrix
from atb_fast.evaluation.metrics import (
    diebold_mariano,
    direction,
    mape,
    rmse,
)
from atb_fast.features.sentiment import neutral_value
from atb_fast.features.windows import WindowedData
from atb_fast.training.predict import _PREDICT_BATCH, predict, predict_batches

#: Windows that importance is measured on, evenly spread over the test windows.
_IMPORTANCE_WINDOWS = 100
_SHUFFLES = 5
#: Standard errors.
_BEYOND_CHANCE = 2.0


@dataclass(frozen=True)
class Evaluation:
    """Errors in quote currency; `mape` in per cent; losses are mean squared errors.

    `persistence_rmse` is the error of "no change" on the same test windows. For the directional
    figures see `Direction`; see also `diebold_mariano`.
    """

    train_loss: float
    train_rmse: float
    test_loss: float
    test_rmse: float
    mape: float
    persistence_rmse: float
    persistence_mape: float
    directional_accuracy: float
    directional_accuracy_low: float
    directional_accuracy_high: float
    directional_bars: int
    directional_up_share: float
    diebold_mariano: float

    @property
    def verdict(self) -> str:
        """How the model compares with "no change", by the errors and by what chance can do."""
        error, unchanged = self.test_rmse, self.persistence_rmse
        if error == unchanged:
            return "as good as no change"
        if abs(self.diebold_mariano) < _BEYOND_CHANCE:
            return f"{'hardly' if error < unchanged else 'no'} better than no change"
        return f"{'better' if error < unchanged else 'worse'} than no change"

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def evaluate(model: Any, data: WindowedData, test_predictions: NDArray[np.float64]) -> Evaluation:
    """Return the errors of `model` on the training and the test windows."""
    train_rmse = rmse(data.targets(data.train), predict(model, data, data.train))
    actual, unchanged = data.targets(data.test), data.persistence(data.test)
    test_rmse = rmse(actual, test_predictions)
    foreseen = direction(data, test_predictions)
    return Evaluation(
        train_loss=train_rmse**2,
        train_rmse=train_rmse,
        test_loss=test_rmse**2,
        test_rmse=test_rmse,
        mape=mape(actual, test_predictions),
        persistence_rmse=rmse(actual, unchanged),
        persistence_mape=mape(actual, unchanged),
        directional_accuracy=foreseen.share,
        directional_accuracy_low=foreseen.low,
        directional_accuracy_high=foreseen.high,
        directional_bars=foreseen.bars,
        directional_up_share=foreseen.up_share,
        diebold_mariano=diebold_mariano(data, test_predictions),
    )


def robustness(
    model: Any, data: WindowedData, test_predictions: NDArray[np.float64]
) -> dict[str, float]:
    """Return the test RMSE, and what it becomes without sentiment.

    `test_rmse_neutral_sentiment` has an index of 50 that never changes.
    `test_rmse_without_sentiment` has the scaled columns at 0. In the legacy recipe that is the
    smallest momentum, not a neutral one; the old trainer measured it so, and figures stay
    comparable.
    """
    actual, prepared = data.targets(data.test), data.prepared
    results = {"test_rmse": rmse(actual, test_predictions)}
    names = prepared.matrix.names
    sentiment = [i for i, name in enumerate(names) if name.startswith("sentiment_")]
    if not sentiment:
        return results
    assert prepared.pipeline is not None  # candles alone have no sentiment
    scalers = prepared.pipeline.scalers
    neutral = [float(scalers[i].transform([neutral_value(names[i])])[0]) for i in sentiment]
    for what, scaled in (("without", [0.0] * len(sentiment)), ("neutral", neutral)):
        values = prepared.matrix.values.astype(np.float32)
        values[:, sentiment] = scaled
        changed = replace(data, prepared=replace(prepared, matrix=FeatureMatrix(values, names)))
        error = rmse(actual, predict(model, changed, data.test))
        results[f"test_rmse_{what}_sentiment"] = error
    return results


def permutation_importance(
    model: Any, data: WindowedData, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return by how much the test RMSE rises when a feature comes from another window.

    Each feature in turn is exchanged between windows as a whole series (L. Breiman, Random
    Forests, 2001), on at most 100 windows spread evenly over the test windows, in five orders.

    Returns:
        Rise of the RMSE in quote currency by feature, about 0 or below: not used; mean and standard
        deviation over the orders.
    """
    step = -(-len(data.test) // _IMPORTANCE_WINDOWS)
    chosen = data.test[::step]
    rng = np.random.default_rng(seed)
    orders = np.concatenate([rng.permutation(len(chosen)) for _ in range(_SHUFFLES)])
    # All orders at once: many small batches take longer.
    starts = np.tile(chosen, _SHUFFLES)
    actual, windows = data.targets(starts), data.windows(starts)
    base = rmse(data.targets(chosen), predict(model, data, chosen))
    mean, deviation = {}, {}
    for i, name in enumerate(data.prepared.matrix.names):
        column = windows[:, :, i].copy()
        windows[:, :, i] = column[orders]
        parts = np.split(windows, range(_PREDICT_BATCH, len(windows), _PREDICT_BATCH))
        residuals = data.prices(starts, predict_batches(model, parts)) - actual
        rises = np.sqrt(np.mean(np.square(residuals).reshape(_SHUFFLES, -1), axis=1)) - base
        windows[:, :, i] = column
        mean[name], deviation[name] = float(np.mean(rises)), float(np.std(rises, ddof=1))
    return mean, deviation
