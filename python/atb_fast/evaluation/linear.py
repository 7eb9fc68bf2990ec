"""The linear baseline: least squares or logistic regression on the last row of each window."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.outputs import Return
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.networks import Linear
from atb_fast.recipes.shrinkage import shrinkage_factor
from atb_fast.training.exact import probabilities, solve

#: Number of windows copied at a time to read their last rows.
_BATCH = 4096


def least_squares(data: WindowedData) -> NDArray[np.float64]:
    """Return the forecasts of least squares for the test windows, shape (windows,).

    Forecasts of returns have a shrinkage factor that is estimated as for the model.
    """
    weights, *_ = np.linalg.lstsq(_last_rows(data, data.train), data.fitted(data.train), rcond=None)
    factor, output = 1.0, data.output
    if isinstance(output, Return) or (
        isinstance(output, PriceScale) and output.kind == "log_return"
    ):
        factor = shrinkage_factor(
            _last_rows(data, data.validation) @ weights,
            data.fitted(data.validation),
            data.horizon,
        )
    return data.forecasts(data.test, factor * (_last_rows(data, data.test) @ weights))


def logistic(data: WindowedData) -> NDArray[np.float64]:
    """Return the forecasts of logistic regression, whose L2 penalty has a weight of 1.

    It is fitted with the class weights of the model.

    Returns:
        In the shape of the forecasts of a model: (windows,) or (windows, classes).

    Raises:
        TrainingError: See `exact.solve`.
    """
    found = solve(data, Linear())
    outputs = _last_rows(data, data.test)[:, :-1] @ found.kernel + found.bias
    chances = probabilities(outputs)
    return chances[:, 0] if chances.shape[1] == 1 else chances


def _last_rows(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the features of the last bar of each window, plus a column of ones."""
    if data.scaled_by_window:
        parts = np.array_split(starts, -(-len(starts) // _BATCH))
        rows: Any = np.concatenate([data.windows(part)[:, -1] for part in parts])
    else:
        rows = data.prepared.matrix.values[starts + data.length - 1]
    # One array without further copies, because this step determines the peak memory.
    found = np.ones((len(rows), rows.shape[1] + 1))
    found[:, :-1] = rows
    return found
