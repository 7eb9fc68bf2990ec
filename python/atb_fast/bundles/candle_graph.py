"""Features that an ONNX graph computes from the raw candles of a window alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import MinMaxScaler
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.features.expressions import Expr
from atb_fast.features.frames import MOMENTUM
from atb_fast.features.prepared import PreparedData


@dataclass(frozen=True)
class CandleFeatures:
    """Scaled features of a window that are computed from its raw candles alone.

    In the first rows of a window, averages and the RSI are over the rows that exist, so these rows
    differ from `FeaturePipeline.transform`, which sees the candles before the window. The RSI is 50
    until the price first changes. Sentiment is neutral (momentum 0).

    Attributes:
        expressions: Each a column, the mean of one, or its simple RSI.
        scalers: One for each feature.
    """

    expressions: tuple[Expr, ...]
    scalers: tuple[MinMaxScaler, ...]

    @classmethod
    def of(cls, prepared: PreparedData) -> CandleFeatures:
        """Return the features of `prepared`, whose recipe must support a candle graph."""
        assert prepared.pipeline is not None  # TrainingConfig requires such a recipe
        expressions = tuple(spec.expression for spec in prepared.specs.values())
        return cls(expressions, tuple(prepared.pipeline.scalers))

    @property
    def uses_momentum(self) -> bool:
        """Whether a feature is computed from sentiment."""
        return any(MOMENTUM in expression.columns for expression in self.expressions)

    def of_windows(self, windows: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the features, shape (windows, length, features).

        Args:
            windows: open, high, low, close, volume, shape (windows, length, 5).
        """
        columns = {name: windows[:, :, i] for i, name in enumerate(CANDLE_COLUMNS)}
        columns[MOMENTUM] = np.zeros(windows.shape[:2])
        scaled = [
            _values(expression, columns) * scaler.scale + scaler.min
            for expression, scaler in zip(self.expressions, self.scalers, strict=True)
        ]
        return np.stack(scaled, axis=2).astype(np.float32)

    def add_to(self, graph: Any, fed: str, length: int) -> None:
        """Add nodes to an ONNX `graph` that compute its input `fed` from the input `candles`."""
        _Nodes(graph, length).add(self.expressions, self.scalers, fed)


def _values(expression: Expr, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the values of an expression on every row of every window."""
    if expression.op == "column":
        return columns[str(expression.params[0])]
    series, window = _values(expression.args[0], columns), int(expression.params[0])
    if expression.op == "mean":
        return _mean(series, window)
    steps = np.diff(series, axis=1, prepend=series[:, :1])
    up = _mean(np.maximum(steps, 0.0), window)
    both = up + _mean(np.maximum(-steps, 0.0), window)
    return 100.0 * np.divide(up, both, out=np.full_like(up, 0.5), where=both > 0)


def _mean(series: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    length = series.shape[1]
    return np.stack(
        [series[:, max(0, t + 1 - window) : t + 1].mean(axis=1) for t in range(length)], axis=1
    )


class _Nodes:
    """Adds nodes to an ONNX graph; series have the shape (batch, 1, length)."""

    def __init__(self, graph: Any, length: int) -> None:
        self.graph, self.length = graph, length
        self.nodes: list[Any] = []

    def add(self, expressions: Sequence[Expr], scalers: Sequence[MinMaxScaler], fed: str) -> None:
        """Add the nodes that compute `fed`."""
        from onnx import helper, numpy_helper

        self.nodes.append(
            helper.make_node("Split", ["candles"], [f"atb_{c}" for c in CANDLE_COLUMNS], axis=2)
        )
        scaled = []
        for expression, scaler in zip(expressions, scalers, strict=True):
            product = self._apply("Mul", self._raw(expression), self._constant(scaler.scale))
            scaled.append(self._apply("Add", product, self._constant(scaler.min)))
        self.nodes.append(helper.make_node("Concat", scaled, [fed], axis=2))
        self.graph.node.extend(self.nodes)
        if any(MOMENTUM in expression.columns for expression in expressions):
            neutral = np.zeros((1, self.length, 1), np.float32)
            self.graph.initializer.append(numpy_helper.from_array(neutral, MOMENTUM))

    def _raw(self, expression: Expr) -> str:
        """Return the name of the values of an expression, shape (batch, length, 1)."""
        if expression.op == "column":
            name = str(expression.params[0])
            if name == MOMENTUM:
                return self._apply("Expand", MOMENTUM, self._apply("Shape", "atb_close"))
            return f"atb_{name}"
        series = self._apply("Transpose", self._raw(expression.args[0]), perm=[0, 2, 1])
        made = self._mean if expression.op == "mean" else self._rsi
        return self._apply("Transpose", made(series, int(expression.params[0])), perm=[0, 2, 1])

    def _mean(self, series: str, window: int) -> str:
        # Padding does not count, so the first means are over the rows that exist.
        window = min(window, self.length)
        return self._apply(
            "AveragePool", series, kernel_shape=[window], pads=[window - 1, 0], count_include_pad=0
        )

    def _rsi(self, prices: str, window: int) -> str:
        first = self._part(prices, 0, 1)
        later, earlier = (
            self._part(prices, 1, self.length),
            self._part(prices, 0, self.length - 1),
        )
        steps = self._apply("Sub", later, earlier)
        steps = self._apply("Concat", self._apply("Sub", first, first), steps, axis=2)
        up = self._mean(self._apply("Relu", steps), window)
        down = self._mean(self._apply("Relu", self._apply("Neg", steps)), window)
        both = self._apply("Add", up, down)
        moved = self._apply("Greater", both, self._constant(0.0))
        share = self._apply("Where", moved, self._apply("Div", up, both), self._constant(0.5))
        return self._apply("Mul", share, self._constant(100.0))

    def _part(self, series: str, first: int, last: int) -> str:
        ends = (self._constant([value], np.int64) for value in (first, last, 2))
        return self._apply("Slice", series, *ends)

    def _constant(self, value: Any, kind: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"atb_c{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def _apply(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"atb_v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name
