"""`target_distribution` in metadata.json: the distribution of the sizes of predicted returns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Percentiles 0, 1, ..., 100.
_POINTS = 101
#: Distance of the two values if all predictions are equal.
_LEAST_STEP = 1e-12


def target_distribution(
    predictions: NDArray[np.float64], *, points: int = _POINTS
) -> dict[str, list[float]]:
    """Return the percentiles of the absolute predictions.

    Strategies interpolate: the confidence of a prediction is the percentile of its absolute value,
    divided by 100. They need strictly ascending values, so of equal values only the first is kept.
    If all are equal to v, the values are v and v + 1e-12, or the next float64 if that is larger.

    Args:
        predictions: Predicted returns on the training windows, shape (windows,), all finite.
        points: Number of percentiles, evenly spaced from 0 to 100.

    Returns:
        `values`, strictly ascending, and their `percentiles`, both of the same length from 2 to
        `points`.
    """
    percentiles = np.linspace(0.0, 100.0, points)
    sizes = np.percentile(np.abs(predictions), percentiles)
    # Rounding may put a value below the one before it.
    highest = np.maximum.accumulate(sizes)
    first = np.concatenate([[True], highest[1:] > highest[:-1]])
    values, percentiles = highest[first], percentiles[first]
    if len(values) == 1:
        (value,) = values
        values = np.array([value, max(value + _LEAST_STEP, np.nextafter(value, np.inf))])
        percentiles = np.array([0.0, 100.0])
    return {"values": values.tolist(), "percentiles": percentiles.tolist()}
