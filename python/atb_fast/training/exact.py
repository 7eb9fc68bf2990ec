"""The weights of a linear model in float64: ridge regression, or logistic regression with L2.

The optimum is unique, so there are no epochs, no seed and no early stopping. The penalty does not
apply to the bias. Inputs are not scaled again, so the effect of the penalty depends on the scalers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atb_fast.errors import TrainingError
from atb_fast.features.heads import LINEAR
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.networks import Linear

_Array = NDArray[np.float64]

#: Number of windows whose inputs are in memory at once.
_CHUNK = 8192
#: Maximum number of weights: the equations take their square in memory, 512 MB.
_MOST_WEIGHTS = 8192
_MOST_STEPS = 100
#: Newton's method ends when the next step would reduce the mean loss by less.
_PRECISION = 1e-12
#: Added to the curvature of the biases: with a softmax, a constant on all of them has no effect.
_FLAT = 1e-9


@dataclass(frozen=True)
class Solution:
    """The weights of a linear model, and its losses as Keras computes them.

    Attributes:
        kernel: (inputs, units). The inputs are the last rows of a window, flattened.
        bias: (units,).
        loss: Mean weighted loss of the training windows.
        val_loss: Mean weighted loss of the validation windows.
    """

    kernel: _Array
    bias: _Array
    loss: float
    val_loss: float


def solve(data: WindowedData, network: Linear) -> Solution:
    """Return the weights with the lowest sum of weighted losses and penalty.

    The loss follows from the head of the target. For a linear head, the penalty is `l2` times the
    sum of squared weights, otherwise half of that; as in scikit-learn's Ridge with `alpha = l2` and
    LogisticRegression with `C = 1 / l2`. If the labels have a base, the model is fitted to its
    error.

    Raises:
        TrainingError: There are too many weights, the loss is not finite, the equations are
            singular, or the steps of a logistic regression do not converge.
    """
    head = data.output.head
    count = network.bars * data.prepared.matrix.shape[1]
    if count * head.units > _MOST_WEIGHTS:
        raise TrainingError(
            f"the linear network has {count * head.units:,} weights, and the exact engine solves "
            f"at most {_MOST_WEIGHTS:,}; use fewer --network-bars or features, or --engine compiled"
        )
    problem = _Problem(data, network.bars)
    solver = problem.ridge if head == LINEAR else problem.logistic
    kernel, bias = solver(network.l2)
    loss = problem.loss(data.train, kernel, bias)
    val_loss = problem.loss(data.validation, kernel, bias)
    if not np.isfinite([loss, val_loss]).all():
        raise TrainingError(
            "the loss of the linear network is not a finite number; check the candles for outliers"
        )
    return Solution(kernel, bias, loss, val_loss)


def probabilities(outputs: _Array) -> _Array:
    """Return the sigmoid of one output before the activation, or the softmax of several.

    Args:
        outputs: (windows, units).

    Returns:
        In the same shape.
    """
    if outputs.shape[1] == 1:
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * outputs))  # cannot overflow
    exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _solved(equations: _Array, right: _Array) -> _Array:
    """Return the solution of linear equations."""
    try:
        return np.asarray(np.linalg.solve(equations, right), np.float64)
    except np.linalg.LinAlgError as error:
        raise _unsolved("its equations are singular") from error


def _unsolved(why: str) -> TrainingError:
    return TrainingError(
        f"the exact engine cannot solve the linear network: {why}; check the candles for outliers, "
        "or use a larger --network-l2, or --engine compiled"
    )


class _Problem:
    """A linear model of the last rows of the windows."""

    def __init__(self, data: WindowedData, bars: int) -> None:
        self._data, self._bars = data, bars
        self._head = data.output.head
        count = sum(weights.sum() for _, _, weights in self._chunks(data.train))
        self._center = sum(w @ x for x, _, w in self._chunks(data.train)) / count
        self._weight = float(count)

    def ridge(self, l2: float) -> tuple[_Array, _Array]:
        """Return kernel and bias of a ridge regression, from the normal equations."""
        mean = sum(w @ y for _, y, w in self._chunks(self._data.train)) / self._weight
        inputs = len(self._center)
        products, moments = l2 * np.eye(inputs), np.zeros(inputs)
        for x, y, w in self._chunks(self._data.train):
            centered = x - self._center
            products += (centered * w[:, None]).T @ centered
            moments += centered.T @ (w * (y - mean))
        kernel = _solved(products, moments)[:, None]
        return kernel, mean - self._center @ kernel

    def logistic(self, l2: float) -> tuple[_Array, _Array]:
        """Return kernel and bias of a logistic regression, by Newton's method.

        A sigmoid is treated as a softmax of one unit: the derivatives of the loss have the same
        form (C. Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3).
        """
        shape = len(self._center) + 1, self._head.units  # the bias comes last
        penalty = np.repeat(np.append(np.full(shape[0] - 1, l2), 0.0), shape[1]).reshape(shape)
        theta, value = np.zeros(shape), self._objective(np.zeros(shape), penalty)
        for _ in range(_MOST_STEPS):
            slope, curvature = self._derivatives(theta, penalty)
            step = _solved(curvature, slope.ravel()).reshape(shape)
            if abs(np.sum(step * slope)) <= _PRECISION * self._weight:
                break
            size = 1.0
            while (new := self._objective(theta - size * step, penalty)) > value and size > 1e-9:
                size /= 2
            theta, value = theta - size * step, new
        else:
            raise _unsolved(f"there is no solution after {_MOST_STEPS} steps")
        return theta[:-1], theta[-1] - self._center @ theta[:-1]

    def loss(self, starts: NDArray[np.int64], kernel: _Array, bias: _Array) -> float:
        """Return the sum of the weighted losses, divided by the number of windows."""
        chunks = self._chunks(starts)
        total = sum(float(w @ self._losses(x @ kernel + bias, y)) for x, y, w in chunks)
        return total / len(starts)

    def _objective(self, theta: _Array, penalty: _Array) -> float:
        """Return the sum of losses and penalty; `theta` is for centered inputs."""
        total = 0.5 * float(np.sum(penalty * np.square(theta)))
        for x, y, w in self._chunks(self._data.train):
            outputs = (x - self._center) @ theta[:-1] + theta[-1]
            total += float(w @ self._losses(outputs, y))
        return total

    def _derivatives(self, theta: _Array, penalty: _Array) -> tuple[_Array, _Array]:
        """Return the gradient of the objective, in the shape of `theta`, and its Hessian."""
        inputs, units = theta.shape
        slope = penalty * theta
        # The axes are those of `theta`, twice.
        curvature = np.zeros((inputs, units, inputs, units))
        for x, y, w in self._chunks(self._data.train):
            x1 = np.column_stack([x - self._center, np.ones(len(x))])
            found, wanted = probabilities(x1 @ theta), self._wanted(y)
            slope += x1.T @ (w[:, None] * (found - wanted))
            for k in range(units):
                for j in range(units):
                    bend = w * found[:, k] * ((k == j) - found[:, j])
                    curvature[:, k, :, j] += (x1 * bend[:, None]).T @ x1
        flat = curvature.reshape(theta.size, theta.size)
        flat[np.diag_indices(theta.size)] += np.where(penalty > 0, penalty, _FLAT).ravel()
        return slope, flat

    def _wanted(self, labels: _Array) -> _Array:
        """Return the labels as probabilities of 0 or 1, in the shape of the outputs."""
        if self._head.units == 1:
            return labels[:, None]
        return np.asarray(np.eye(self._head.units)[labels.astype(int)])

    def _losses(self, outputs: _Array, labels: _Array) -> _Array:
        """Return the loss of each window from the outputs before the activation."""
        if self._head == LINEAR:
            return np.asarray(np.square(outputs[:, 0] - labels))
        if self._head.units == 1:
            return np.asarray(np.logaddexp(0.0, outputs[:, 0]) - labels * outputs[:, 0])
        total = np.logaddexp.reduce(outputs, axis=1)
        return np.asarray(total - outputs[np.arange(len(labels)), labels.astype(int)])

    def _chunks(self, starts: NDArray[np.int64]) -> Iterator[tuple[_Array, _Array, _Array]]:
        """Yield inputs, (windows, inputs), labels without their base, and weights, (windows,)."""
        data, bars = self._data, self._bars
        for part in np.split(starts, range(_CHUNK, len(starts), _CHUNK)):
            if data.scaled_by_window:
                rows = data.windows(part)[:, -bars:]
            else:
                rows = data.prepared.matrix.gather(part + data.length - bars, bars)
            inputs = rows.reshape(len(part), -1).astype(np.float64)
            yield inputs, data.fitted(part) - data.base(part), data.weights(part)
