"""Errors compared with persistence, robustness, and permutation importance of a trained model.

Keras computes all predictions, regardless of the engine that trained the model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import FeatureMatrix
from atb_fast.evaluation import significance
from atb_fast.evaluation.metrics import direction, mape, rmse
from atb_fast.features.sentiment import with_neutral_index
from atb_fast.features.windows import WindowedData
from atb_fast.training.predict import PREDICT_BATCH, predict, predict_batches

#: Largest number of test windows on which permutation importance is measured.
_IMPORTANCE_WINDOWS = 100
_SHUFFLES = 5


@dataclass(frozen=True)
class Evaluation:
    """Errors on the training and test windows.

    RMSE is in quote currency, MAPE in percent; a loss is a squared RMSE. Persistence predicts the
    last close of each test window. For the directional figures see `metrics.Direction`, for the
    statistic `significance.diebold_mariano`.
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
        """How the model compares with persistence; see `significance.verdict`."""
        return significance.verdict(self.test_rmse, self.persistence_rmse, self.diebold_mariano)

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name, as metadata.json has them."""
        return asdict(self)


def evaluate(model: Any, data: WindowedData, test_predictions: NDArray[np.float64]) -> Evaluation:
    """Return the errors of `model` on the training and test windows.

    Args:
        model: A Keras model.
        data: The windows.
        test_predictions: Its predictions for the test windows, quote currency, shape (windows,).
    """
    train_rmse = rmse(data.targets(data.train), predict(model, data, data.train))
    errors = errors_on_test(data, test_predictions)
    return Evaluation(train_loss=train_rmse**2, train_rmse=train_rmse, **errors)


def errors_on_test(data: WindowedData, predictions: NDArray[np.float64]) -> dict[str, Any]:
    """Return the fields of `Evaluation` that are measured on the test windows, by name.

    Args:
        data: The windows.
        predictions: Prediction for each test window, quote currency, shape (windows,).
    """
    actual, unchanged = data.targets(data.test), data.persistence(data.test)
    test_rmse = rmse(actual, predictions)
    foreseen = direction(data, predictions)
    return {
        "test_loss": test_rmse**2,
        "test_rmse": test_rmse,
        "mape": mape(actual, predictions),
        "persistence_rmse": rmse(actual, unchanged),
        "persistence_mape": mape(actual, unchanged),
        "directional_accuracy": foreseen.share,
        "directional_accuracy_low": foreseen.low,
        "directional_accuracy_high": foreseen.high,
        "directional_bars": foreseen.bars,
        "directional_up_share": foreseen.up_share,
        "diebold_mariano": significance.diebold_mariano(
            actual, predictions, unchanged, data.horizon
        ),
    }


def before_shrinkage(
    data: WindowedData, outputs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, Any]] | None:
    """Return the predictions and the errors of a network before shrinkage.

    Shrinkage can hide outputs of any size, so the model is sound even if these are not.

    Args:
        data: The windows.
        outputs: Outputs for the test windows before shrinkage, shape (windows,).

    Returns:
        Predictions in quote currency, and their `errors_on_test`; None if either overflows.
    """
    predictions = data.forecasts(data.test, outputs)
    if not np.isfinite(predictions).all():
        return None
    try:
        with np.errstate(over="raise"):
            return predictions, errors_on_test(data, predictions)
    except FloatingPointError:
        return None


def robustness(
    model: Any, data: WindowedData, test_predictions: NDArray[np.float64]
) -> dict[str, float]:
    """Return the test RMSE with and without sentiment, by name; only `test_rmse` for price models.

    `test_rmse_neutral_sentiment` is measured with a constant index of 50.
    `test_rmse_without_sentiment` is measured with the scaled features of sentiment set to 0. In the
    legacy recipe, 0 is the steepest fall of the index rather than a neutral value; the figure is
    kept to be comparable with that of the trainer that atb-fast replaces.
    """
    actual, prepared = data.targets(data.test), data.prepared
    results = {"test_rmse": rmse(actual, test_predictions)}
    if not prepared.has_sentiment:
        return results
    assert prepared.pipeline is not None  # only recipes without sentiment have none
    names = prepared.matrix.names
    sentiment = [i for i, name in enumerate(names) if prepared.specs[name].uses_index]
    neutral = prepared.pipeline.transform(with_neutral_index(prepared.frame))
    # A feature may be undefined for a constant index; its row is 0 then.
    filled = np.zeros((len(prepared.matrix), len(sentiment)), np.float32)
    _, to, found = np.intersect1d(prepared.matrix.rows, neutral.rows, return_indices=True)
    filled[to] = neutral.values[found][:, sentiment]
    for what, scaled in (("without", np.zeros_like(filled)), ("neutral", filled)):
        values = prepared.matrix.values.astype(np.float32)
        values[:, sentiment] = scaled
        changed = replace(data, prepared=replace(prepared, matrix=FeatureMatrix(values, names)))
        error = rmse(actual, predict(model, changed, data.test))
        results[f"test_rmse_{what}_sentiment"] = error
    return results


def permutation_importance(
    model: Any, data: WindowedData, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return how much the test RMSE increases when a feature is permuted between windows.

    A window keeps the other features, and takes the whole series of this one from another window
    (L. Breiman, Random Forests, 2001). It is measured on at most 100 evenly spaced test windows,
    with five permutations.

    Returns:
        Mean and standard deviation of the RMSE increase over the permutations, by feature, quote
        currency. The model does not use a feature whose mean is about 0 or below.
    """
    step = -(-len(data.test) // _IMPORTANCE_WINDOWS)
    chosen = data.test[::step]
    rng = np.random.default_rng(seed)
    orders = np.concatenate([rng.permutation(len(chosen)) for _ in range(_SHUFFLES)])
    # All permutations are predicted together, because many small batches would take longer.
    starts = np.tile(chosen, _SHUFFLES)
    actual, windows = data.targets(starts), data.windows(starts)
    base = rmse(data.targets(chosen), predict(model, data, chosen))
    mean, deviation = {}, {}
    for i, name in enumerate(data.prepared.matrix.names):
        column = windows[:, :, i].copy()
        windows[:, :, i] = column[orders]
        parts = np.split(windows, range(PREDICT_BATCH, len(windows), PREDICT_BATCH))
        residuals = data.forecasts(starts, predict_batches(model, parts)) - actual
        rises = np.sqrt(np.mean(np.square(residuals).reshape(_SHUFFLES, -1), axis=1)) - base
        windows[:, :, i] = column
        mean[name], deviation[name] = float(np.mean(rises)), float(np.std(rises, ddof=1))
    return mean, deviation
