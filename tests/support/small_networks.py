"""Small networks of every kind, and windows whose labels need every kind of head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atb_fast.features.outputs import Classes, Return
from atb_fast.features.windows import Labels, WindowedData
from atb_fast.recipes.networks import CnnLstm, DLinear, Linear, Lstm, Mlp, Network, Tcn

NETWORKS: dict[str, Network] = {
    "linear": Linear(bars=3),
    "dlinear": DLinear(kernel=6),
    "mlp": Mlp(units=8),
    "tcn": Tcn(filters=6, blocks=2),
    "lstm": Lstm(units=6),
    "cnn_lstm": CnnLstm(filters=4, units=6),
}
HEADS = ("linear", "sigmoid", "softmax")
#: Every network with every head; each is compiled for seconds. `make test-long` has all of them,
#: `make test` one network with all heads, and one head of the others.
COMBINATIONS = [
    pytest.param(
        name, head, marks=() if name == "mlp" or HEADS[i % 3] == head else pytest.mark.long
    )
    for i, name in enumerate(NETWORKS)
    for head in HEADS
]


def with_head(data: WindowedData, activation: str, *, weighted: bool = True) -> WindowedData:
    """Return `data` with labels made of the next return, for a head with this activation.

    Args:
        data: Windows of a matrix.
        activation: `linear` for the return itself, in standard deviations; `sigmoid` for its sign;
            `softmax` for its tercile.
        weighted: Whether classes have weights.
    """
    returns = np.full(len(data.prepared.close), np.nan)
    returns[1:] = np.diff(np.log(data.prepared.close))
    returns /= np.nanstd(returns)
    known = np.isfinite(returns)
    nothing = np.full(len(returns), np.nan)
    if activation == "linear":
        return replace(data, labels=Labels(returns, returns, 0.0 * returns, Return()))
    edges = [0.0] if activation == "sigmoid" else list(np.nanquantile(returns, [1 / 3, 2 / 3]))
    classes = np.where(known, np.digitize(returns, edges), np.nan)
    output = Classes((-1, 1) if activation == "sigmoid" else (-1, 0, 1))
    # They neither have the mean 1, nor depend on the class alone.
    weights = np.where(known, 0.5 + classes + np.arange(len(classes)) % 3, np.nan)
    labels = Labels(classes, classes, nothing, output, weights if weighted else None)
    return replace(data, labels=labels)
