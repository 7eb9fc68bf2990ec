"""Scores a bundle of the five `basic` features with NumPy and onnxruntime alone, bar by bar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def scaled(values: Any) -> Any:
    """Scale a column by its lowest and highest value so far; 0.5 where they are equal. float64."""
    low, high = np.minimum.accumulate(values), np.maximum.accumulate(values)
    width = np.where(high == low, 1.0, high - low)
    return np.where(high == low, 0.5, (values - low) / width)


def window_before(candles: Mapping[str, Any], bar: int, columns: list[str], rows: int) -> Any:
    """Return the window of the bars before `bar`, (rows, columns) float32; None if one is bad."""
    raw = [np.asarray(candles[name][bar - rows : bar], np.float64) for name in columns]
    if not all(np.isfinite(values).all() and (values > 0).all() for values in raw):
        return None
    return np.stack([scaled(values) for values in raw], axis=1).astype(np.float32)


def outputs(bundle: Path, candles: Mapping[str, Any], bars: range) -> Any:
    """Return the output of model.onnx for each bar, float32, shape (bars, units).

    Args:
        bundle: The bundle's directory.
        candles: open, high, low, close, volume by name, each shape (rows,).
        bars: The bars to score, each from the window before it; NaN where that is rejected.
    """
    schema = json.loads((bundle / "feature_schema.json").read_text())
    columns = [feature["name"].removesuffix("_normalized") for feature in schema["features"]]
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    fed, units = session.get_inputs()[0].name, session.get_outputs()[0].shape[1]
    found = np.full((len(bars), units), np.nan, np.float32)
    for i, bar in enumerate(bars):
        window = window_before(candles, bar, columns, schema["sequence_length"])
        if window is not None:
            found[i] = session.run(None, {fed: window[None]})[0][0]
    return found
