"""Windows whose model predicts something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from atb_fast.features.heads import Output
from atb_fast.features.outputs import Classes, LogSigma, Return
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import Labels, WindowedData


def relabelled(data: WindowedData, scale: PriceScale, values: Any = None) -> WindowedData:
    """Return `data` with another price scale and, if given, other labels."""
    values = data.labels.values if values is None else values
    return replace(data, labels=Labels.of_prices(data.prepared.close, values, scale))


def of_kind(data: WindowedData, kind: str) -> WindowedData:
    """Return `data` with labels of another kind, computed from the candles.

    Args:
        data: Windows.
        kind: `prices`, `returns`, `two` or `three` classes, or `volatility`.
    """
    close = data.prepared.close
    later = np.append(np.diff(np.log(close)), np.nan)  # the return after each row
    labels = np.full(len(close), np.nan)
    labels[1:] = later[:-1]  # the label of a window is at the row after it
    unchanged, base = np.full(len(close), np.nan), None
    output: Output
    if kind == "prices":
        return relabelled(data, PriceScale.log_return(0.03), labels / 0.03)
    if kind == "returns":
        output, unchanged = Return(), np.zeros(len(close))
    elif kind == "two":
        output, labels = Classes((-1, 1)), np.where(labels > 0, 1.0, 0.0)
    elif kind == "three":
        output = Classes((-1, 0, 1))
        labels = np.digitize(labels, [-0.01, 0.02]).astype(np.float64)
    else:
        output = LogSigma(1, 1.2, {0.1: -1.3, 0.5: 0.05, 0.9: 1.4})
        frame = data.prepared.frame
        ranges = np.log(frame["high"].to_numpy() / frame["low"].to_numpy())
        sigma = ranges / (2 * np.sqrt(np.log(2)))
        now = np.log(sigma[data.prepared.matrix.rows])
        labels, unchanged = now.copy(), np.append(np.nan, now[:-1])
        base = np.linspace(-0.3, 0.4, data.prepared.matrix.shape[1]), -3.5
    labels[0] = np.nan
    return replace(data, labels=Labels(labels, labels, unchanged, output, base=base))
