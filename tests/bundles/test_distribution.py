"""`target_distribution`, compared with its definition in plain Python."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from strategy_contract import distribution_violations

from atb_fast.bundles.distribution import target_distribution


def by_definition(predictions: Any, points: int = 101) -> dict[str, list[float]]:
    """Interpolate between the sorted sizes, and drop each value that was seen before."""
    sizes = sorted(abs(float(prediction)) for prediction in predictions)
    found: dict[float, float] = {}
    for point in range(points):
        place = point / (points - 1) * (len(sizes) - 1)
        below = min(int(place), len(sizes) - 1)
        above = min(below + 1, len(sizes) - 1)
        value = sizes[below] + (sizes[above] - sizes[below]) * (place - below)
        found.setdefault(value, 100 * point / (points - 1))
    if len(found) == 1:
        (value,) = found
        found = {value: 0.0, value + 1e-12: 100.0}
    return {"values": list(found), "percentiles": list(found.values())}


def test_the_example_of_the_contract() -> None:
    made = target_distribution(np.array([0.0, 1.0, 2.0, 3.0]), points=5)
    assert made == {"values": [0, 0.75, 1.5, 2.25, 3], "percentiles": [0, 25, 50, 75, 100]}
    confidence = np.interp(1.1, made["values"], made["percentiles"]) / 100
    assert confidence == pytest.approx(0.3667, abs=5e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 101, 102, 1000, 12_345])
def test_percentiles_equal_their_definition(count: int) -> None:
    predictions = np.random.default_rng(count).normal(0.0, 0.01, count)
    made, expected = target_distribution(predictions), by_definition(predictions)
    np.testing.assert_allclose(made["values"], expected["values"], rtol=1e-12)
    assert made["percentiles"] == pytest.approx(expected["percentiles"])
    assert not distribution_violations(json.loads(json.dumps(made)))


def test_of_equal_values_the_first_is_kept() -> None:
    """Half of the predictions are 0, as after rectification, and the largest tenth is equal."""
    predictions = np.minimum(np.maximum(np.linspace(-0.01, 0.01, 1001), 0.0), 0.008)
    made = target_distribution(predictions)
    assert made["values"][0] == 0.0
    assert made["percentiles"] == [0.0, *map(float, range(51, 91))]
    assert made["values"][-1] == pytest.approx(0.008)
    assert not distribution_violations(made)


@pytest.mark.parametrize("value", [0.0, 1e-300, -0.0123, 0.5, 3e4, 1e300])
def test_equal_predictions(value: float) -> None:
    size = abs(value)
    made = target_distribution(np.full(7, value))
    assert made["percentiles"] == [0.0, 100.0]
    low, high = made["values"]
    assert low == size < high
    assert high == (size + 1e-12 if size + 1e-12 > size else math.nextafter(size, math.inf))


def test_values_ascend_where_floats_are_scarce() -> None:
    """Among neighboring floats, interpolation rounds to equal values, or even backwards."""
    rng = np.random.default_rng(0)
    for start in (0.0, 5e-324, 0.01, 1.0):
        steps = np.frombuffer(np.array(start).tobytes(), np.int64) + rng.integers(0, 5, 50)
        made = target_distribution(steps.view(np.float64))
        assert (np.diff(made["values"]) > 0).all()
        assert made["percentiles"][0] == 0.0
