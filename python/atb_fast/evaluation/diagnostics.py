"""Errors compared with baselines, robustness, and permutation importance of a trained model.

Keras computes all predictions, regardless of the engine that trained the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import FeatureMatrix
from atb_fast.evaluation.scoring import NAMES, Scoring, Tested, scoring_of
from atb_fast.features.sentiment import with_neutral_index
from atb_fast.features.windows import WindowedData
from atb_fast.training.predict import PREDICT_BATCH, predict, predict_batches

#: Largest number of test windows on which permutation importance is measured.
_IMPORTANCE_WINDOWS = 100
_SHUFFLES = 5


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on the training and test windows.

    Attributes:
        scoring: How its forecasts are scored.
        tested: Its forecasts for the test windows, and those of the baselines.
        results: `Scoring.figures` of the test windows, with the error as `test_rmse` or
            `test_log_loss`; the error on the training windows, `train_rmse` or `train_log_loss`;
            and the losses, `train_loss` and `test_loss`.
    """

    scoring: Scoring
    tested: Tested
    results: Mapping[str, Any]

    @property
    def error(self) -> float:
        """The error on the test windows."""
        return float(self.results[f"test_{self.scoring.key}"])

    @property
    def reference_error(self) -> float:
        """The error of the reference on the test windows."""
        return float(self.results[f"{self.scoring.reference(self.tested)}_{self.scoring.key}"])

    @property
    def reference(self) -> str:
        """The name of the reference in sentences: `persistence`, `the class shares` or `HAR`."""
        return NAMES[self.scoring.reference(self.tested)]

    @property
    def diebold_mariano(self) -> float:
        """How much better the model is than the reference; see `significance.diebold_mariano`."""
        return float(self.results["diebold_mariano"])

    @property
    def verdict(self) -> str:
        """How the model compares with the reference; see `significance.verdict`."""
        return self.scoring.verdict(self.tested, self.error, self.results)

    @property
    def caveat(self) -> str:
        """Which figures contradict the verdict, in a sentence; see `Scoring.caveat`."""
        return self.scoring.caveat(self.tested, self.error, self.results)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, as metadata.json has them."""
        return dict(self.results)


def evaluate(model: Any, data: WindowedData, test_forecasts: NDArray[np.float64]) -> Evaluation:
    """Return the errors of `model` on the training and test windows.

    Args:
        model: A Keras model.
        data: The windows.
        test_forecasts: Its forecasts for the test windows; see `WindowedData.forecasts`.
    """
    scoring = scoring_of(data)
    error = scoring.error(data.targets(data.train), predict(model, data, data.train))
    tested = scoring.tested(data, test_forecasts)
    of_training = {"train_loss": scoring.loss(error), f"train_{scoring.key}": error}
    return Evaluation(scoring, tested, of_training | _test_results(scoring, tested))


def before_shrinkage(
    evaluation: Evaluation, data: WindowedData, outputs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, Any]] | None:
    """Return the forecasts and the results of a network before shrinkage.

    Shrinkage can hide outputs of any size, so the model is sound even if these are not.

    Args:
        evaluation: That of the model.
        data: The windows.
        outputs: Outputs for the test windows before shrinkage.

    Returns:
        Forecasts, and their results on the test windows; None if either is not finite. Of
        volatility, figures that depend on its level are left out: the variance factor is that of
        the model.
    """
    forecasts = data.forecasts(data.test, outputs)
    if not np.isfinite(forecasts).all():
        return None
    scoring = evaluation.scoring
    try:
        with np.errstate(over="raise"):
            tested = scoring.of_network(evaluation.tested, data, forecasts)
            return forecasts, _test_results(scoring, tested)
    except FloatingPointError:
        return None


def _test_results(scoring: Scoring, tested: Tested) -> dict[str, Any]:
    """Return `Evaluation.results` without those of the training windows."""
    figures = scoring.figures(tested)
    error = figures.pop(scoring.key)
    return {"test_loss": scoring.loss(error), f"test_{scoring.key}": error} | figures


def robustness(
    model: Any, data: WindowedData, test_forecasts: NDArray[np.float64]
) -> dict[str, float]:
    """Return the test error with and without sentiment, by name; only one without sentiment.

    The names below are those of an RMSE. For classes, they begin with `test_log_loss`.
    `test_rmse_neutral_sentiment` is measured with a constant index of 50.
    `test_rmse_without_sentiment` is measured with the scaled features of sentiment set to 0. In the
    legacy recipe, 0 is the steepest fall of the index rather than a neutral value; the figure is
    kept to be comparable with that of the trainer that atb-fast replaces.
    """
    actual, prepared, scoring = data.targets(data.test), data.prepared, scoring_of(data)
    name = f"test_{scoring.key}"
    results = {name: scoring.error(actual, test_forecasts)}
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
        error = scoring.error(actual, predict(model, changed, data.test))
        results[f"{name}_{what}_sentiment"] = error
    return results


def permutation_importance(
    model: Any, data: WindowedData, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return how much the test error increases when a feature is permuted between windows.

    A window keeps the other features, and takes the whole series of this one from another window
    (L. Breiman, Random Forests, 2001). It is measured on at most 100 evenly spaced test windows,
    with five permutations.

    Returns:
        Mean and standard deviation of the increase over the permutations, by feature, in the unit
        of the error. The model does not use a feature whose mean is about 0 or below.
    """
    step = -(-len(data.test) // _IMPORTANCE_WINDOWS)
    chosen = data.test[::step]
    rng = np.random.default_rng(seed)
    orders = np.concatenate([rng.permutation(len(chosen)) for _ in range(_SHUFFLES)])
    # All permutations are predicted together, because many small batches would take longer.
    starts = np.tile(chosen, _SHUFFLES)
    actual, windows = data.targets(starts), data.windows(starts)
    scoring = scoring_of(data)
    base = scoring.error(data.targets(chosen), predict(model, data, chosen))
    mean, deviation = {}, {}
    for i, name in enumerate(data.prepared.matrix.names):
        column = windows[:, :, i].copy()
        windows[:, :, i] = column[orders]
        parts = np.split(windows, range(PREDICT_BATCH, len(windows), PREDICT_BATCH))
        losses = scoring.losses(actual, data.forecasts(starts, predict_batches(model, parts)))
        rises = scoring.mean(losses.reshape(_SHUFFLES, -1)) - base
        windows[:, :, i] = column
        mean[name], deviation[name] = float(np.mean(rises)), float(np.std(rises, ddof=1))
    return mean, deviation
