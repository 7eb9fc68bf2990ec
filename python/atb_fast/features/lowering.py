"""Lowering: from the operators that users write to those that the extension evaluates."""

from __future__ import annotations

import math
from collections.abc import Callable

#: One node: the operator, the indices of its operands (earlier nodes), and its parameters.
Node = tuple[str, tuple[int, ...], tuple[float | str, ...]]

_PERIODS = {"hour": 24, "weekday": 7, "day_of_year": 365.25}


class Graph:
    """Nodes in topological order; equal parts are stored once.

    Attributes:
        nodes: The nodes; operands come before the nodes that use them.
        bar_ms: Length of a bar in milliseconds.
    """

    def __init__(self, bar_ms: int) -> None:
        self.nodes: list[Node] = []
        self.bar_ms = bar_ms
        self._index: dict[Node, int] = {}

    def add(self, op: str, *operands: int, params: tuple[float | str, ...] = ()) -> int:
        """Return the index of a node, which is appended unless an equal one exists."""
        numbers = tuple(each if isinstance(each, str) else float(each) for each in params)
        node = (op, operands, numbers)
        if node not in self._index:
            self._index[node] = len(self.nodes)
            self.nodes.append(node)
        return self._index[node]

    def lower(self, op: str, operands: tuple[int, ...], params: tuple[float | str, ...]) -> int:
        """Return the index of the node with the value of an operator that users write."""
        if op in _COMPOSITES:
            return _COMPOSITES[op](self, *operands, *params)
        if op in _PERIODS:
            return _time(self, op, *params)  # type: ignore[arg-type]
        if op == "rsi":
            bars, style = params
            return self.add(f"rsi_{style}", *operands, params=(bars,))
        return self.add(op, *operands, params=params)


def _diff(graph: Graph, x: int, n: float) -> int:
    return graph.add("sub", x, graph.add("lag", x, params=(n,)))


def _zscore(graph: Graph, x: int, n: float) -> int:
    mean, std = (graph.add(op, x, params=(n,)) for op in ("mean", "std"))
    return graph.add("div", graph.add("sub", x, mean), std)


def _true_range(graph: Graph, high: int, low: int, close: int) -> int:
    before = graph.add("lag", close, params=(1,))
    up, down = (graph.add("abs", graph.add("sub", each, before)) for each in (high, low))
    return graph.add("maximum", graph.add("maximum", graph.add("sub", high, low), up), down)


def _atr(graph: Graph, high: int, low: int, close: int, n: float) -> int:
    return graph.add("wilder", _true_range(graph, high, low, close), params=(n,))


def _time(graph: Graph, op: str, k: int, style: str) -> int:
    value = graph.add(op, params=(k * graph.bar_ms,))
    if style == "plain":
        return value
    turn = graph.add("mul", graph.add("number", params=(2 * math.pi,)), value)
    return graph.add(style, graph.add("div", turn, graph.add("number", params=(_PERIODS[op],))))


_COMPOSITES: dict[str, Callable[..., int]] = {
    "diff": _diff,
    "zscore": _zscore,
    "true_range": _true_range,
    "atr": _atr,
}
