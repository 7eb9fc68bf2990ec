"""samples.npz: training windows in a bundle, to detect train/serve skew."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.bundles.candle_graph import CandleFeatures
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.outputs import Return
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.storage import write_atomic
from atb_fast.training.predict import predict_batches
from atb_fast.training.tf_data import trained_windows

#: Number of windows in samples.npz.
SAMPLES = 16


def candle_windows(
    data: WindowedData, candles: NDArray[np.float64], starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the raw candles that end with each window, shape (windows, length, 5).

    The candles are consecutive, as in engines. A window of features skips candles that lack a
    feature, so it may start earlier.
    """
    lasts = data.prepared.matrix.rows[starts + data.length - 1]
    return np.asarray(candles[lasts[:, None] + np.arange(1 - data.length, 1)])


def output_scale(data: WindowedData) -> float:
    """Return the number that differences between outputs are divided by.

    It is the largest label if outputs are returns or prices. It is 1 for probabilities and scaled
    targets, which are on the order of 1 even if all labels are small.
    """
    output = data.output
    in_prices = isinstance(output, PriceScale) and output.kind == "linear"
    if not (in_prices or isinstance(output, Return)):
        return 1.0
    return float(np.nanmax(np.abs(data.labels.values))) or 1.0


def write_samples(model: Any, record: RunRecord, path: Path) -> None:
    """Write evenly spaced training windows and the candles they were computed from.

    `serving.skew` computes the same windows with the scoring code and compares them.
    `candles` has the rows that each window needs, window after window, with NaN for null. `ends`
    has the end of each window in it. `extras` has the extra columns that features read, in the
    order of `requirements`. `index` is the Fear & Greed index. `predictions` are forecasts, and
    `scale` is the number that differences from them are divided by.
    """
    data, prepared = record.data, record.data.prepared
    # Windows whose lookback begins before the first candle cannot be computed again.
    every = data.parts.every[prepared.matrix.rows[data.parts.every] >= prepared.lookback]
    starts = every[np.linspace(0, len(every) - 1, min(SAMPLES, len(every))).astype(np.int64)]
    rows = prepared.matrix.rows
    lasts = rows[starts + data.length - 1]
    firsts = rows[starts] - prepared.lookback
    candles = prepared.frame.select(CANDLE_COLUMNS).to_numpy()
    if record.config.onnx_input == "ohlcv":
        firsts, raw = lasts + 1 - data.length, candle_windows(data, candles, starts)
        windows = raw.astype(np.float32)
        features = CandleFeatures.of(prepared).of_windows(raw)
    else:
        windows = features = trained_windows(data, starts)
    predictions = data.forecasts(starts, predict_batches(model, [features]))
    in_prices = isinstance(data.output, PriceScale)
    slices = [np.arange(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]
    kept = np.concatenate(slices)
    arrays: dict[str, Any] = {
        "timestamps": prepared.frame["timestamp"].dt.epoch("ms").to_numpy()[kept],
        "candles": candles[kept],
        "ends": np.cumsum([len(part) for part in slices]),
        "windows": windows,
        "predictions": predictions,
        "scale": np.abs(predictions).max() if in_prices else output_scale(data),
    }
    if prepared.further_columns:
        arrays["extras"] = prepared.frame.select(prepared.further_columns).to_numpy()[kept]
    if prepared.index is not None:
        times = prepared.index["timestamp"].dt.epoch("ms").to_numpy()
        arrays["index"] = np.stack([times, prepared.index["value"].to_numpy()])
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_atomic(path, file.getvalue())
