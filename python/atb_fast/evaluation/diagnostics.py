"""How good the model is: errors beside persistence, robustness, importance of the features.

Every figure comes from Keras' own predictions, whatever engine trained the model; nothing
here is needed to use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import FeatureMatrix
from atb_fast.features.sentiment import neutral_value
from atb_fast.training.tf_data import WindowedData

_PREDICT_BATCH = 256
#: Windows that importance is measured on, evenly spread over the test windows.
_IMPORTANCE_WINDOWS = 100
_SHUFFLES = 5
#: Standard deviations of a normal distribution that hold 95 % of it on either side of the mean.
_Z95 = NormalDist().inv_cdf(0.975)
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


def predict(model: Any, data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the prediction for each window, quote currency, shape (windows,)."""
    return data.prices(starts, predict_outputs(model, data, starts))


def predict_outputs(
    model: Any, data: WindowedData, starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return what the model gives for each window, in the unit of the labels, shape (windows,)."""
    parts = np.split(starts, range(_PREDICT_BATCH, len(starts), _PREDICT_BATCH))
    return predict_batches(model, (data.windows(part) for part in parts))


def rmse(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the root mean squared error, in the unit of the inputs."""
    return float(np.sqrt(np.mean(np.square(predicted - actual))))


def mape(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the mean absolute percentage error, in per cent of `actual`."""
    return float(np.mean(np.abs((predicted - actual) / actual))) * 100.0


@dataclass(frozen=True)
class Direction:
    """How often a prediction lay on the side of the last close that the price went to.

    Bars whose price did not move are left out, and predictions that say it will not. Without any
    bar nothing is known, and the shares are what interval and centre tend to.

    Attributes:
        share: Of the bars, 0..1.
        low: Lower end of its 95 % interval (E. Wilson, Probable Inference, 1927), which takes the
            bars for independent.
        high: Upper end.
        bars: Those that count.
        up_share: Of them, those whose price rose: what always saying so foresees.
    """

    share: float = 0.5
    low: float = 0.0
    high: float = 1.0
    bars: int = 0
    up_share: float = 0.5


def directional_accuracy(
    last: NDArray[np.float64], actual: NDArray[np.float64], predicted: NDArray[np.float64]
) -> Direction:
    """Return how often `predicted` foresaw the direction.

    Args:
        last: Last close inside of each window, shape (windows,).
        actual: The close behind it.
        predicted: The prediction of that.
    """
    moved = (actual != last) & (predicted != last)
    count = int(moved.sum())
    if count == 0:
        return Direction()
    hits = np.sign(predicted - last)[moved] == np.sign(actual - last)[moved]
    share, extra = float(np.mean(hits)), _Z95**2 / count
    centre = (share + extra / 2) / (1 + extra)
    half = (share * (1 - share) * extra + extra**2 / 4) ** 0.5 / (1 + extra)
    # At 0 and 1 they are that end; rounding must not lead beyond.
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return Direction(share, low, high, count, float(np.mean((actual > last)[moved])))


def direction(data: WindowedData, predicted: NDArray[np.float64]) -> Direction:
    """Return `directional_accuracy` of the test windows, of those whose horizons do not overlap."""
    starts = data.test[:: data.horizon]
    last, actual = data.persistence(starts), data.targets(starts)
    return directional_accuracy(last, actual, predicted[:: data.horizon])


def diebold_mariano(data: WindowedData, predicted: NDArray[np.float64]) -> float:
    """Return how far the model is better than "no change" on the test windows, in standard errors.

    The mean of the differences of squared errors over its standard error, with the covariances of
    overlapping horizons (F. Diebold and R. Mariano, Comparing Predictive Accuracy, 1995). Beyond 2
    chance hardly gets; 0 where there is no difference at all.
    """
    actual = data.targets(data.test)
    gain = np.square(data.persistence(data.test) - actual) - np.square(predicted - actual)
    apart = gain - gain.mean()
    variance = float(np.mean(np.square(apart)))
    for lag in range(1, min(data.horizon, len(gain))):
        variance += 2.0 * float(np.sum(apart[lag:] * apart[:-lag])) / len(gain)
    return float(gain.mean() / np.sqrt(variance / len(gain))) if variance > 0.0 else 0.0


@dataclass(frozen=True)
class Deciles:
    """Returns by decile of the predicted return, natural logarithms, each of shape (deciles,).

    Attributes:
        predicted: Mean predicted return.
        actual: Mean actual return of the same windows.
        half_width: Half of the 95 % interval of `actual`, 1.96 standard errors; it takes windows
            whose horizons do not overlap for independent.
        left_out: Windows whose prediction is not above 0, and so has no return.
    """

    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    half_width: NDArray[np.float64]
    left_out: int


def return_deciles(
    last: NDArray[np.float64],
    actual: NDArray[np.float64],
    predicted: NDArray[np.float64],
    horizon: int = 1,
) -> Deciles:
    """Return what the price did, by decile of what was predicted.

    A return is `ln(price / last)`. Deciles with less than two windows are left out, as they have no
    standard error.

    Args:
        last: Last close inside of each window, shape (windows,).
        actual: The close behind it.
        predicted: The prediction of that.
        horizon: Bars that a return goes over: so many neighbours know what one does.
    """
    usable = (predicted > 0) & (actual > 0) & (last > 0)
    expected, got = (np.log(values[usable] / last[usable]) for values in (predicted, actual))
    rows = []
    if len(expected):
        # Right-closed, as of pandas' qcut.
        inner = np.quantile(expected, np.arange(1, 10) / 10)
        decile = np.searchsorted(inner, expected, side="left")
        for i in range(10):
            of = decile == i
            if of.sum() >= 2:
                error = np.std(got[of], ddof=1) / np.sqrt(of.sum() / horizon)
                rows.append((expected[of].mean(), got[of].mean(), _Z95 * error))
    mean_expected, mean_got, half_width = np.array(rows).reshape(-1, 3).T
    return Deciles(mean_expected, mean_got, half_width, int((~usable).sum()))


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


def predict_batches(model: Any, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the outputs for all batches, shape (windows,)."""
    # Not `Model.predict`: it sets up a dataset for each call, and takes longer for that than to
    # predict.
    predictions = [np.asarray(model.predict_on_batch(batch)).reshape(-1) for batch in batches]
    return np.concatenate(predictions).astype(np.float64)
