"""Writes and checks the model.onnx of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.bundles import onnx_export
from atb_fast.bundles.candle_graph import CandleFeatures
from atb_fast.bundles.contents import input_names
from atb_fast.bundles.distribution import target_distribution
from atb_fast.bundles.samples import candle_windows, output_scale
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.evaluation.metrics import rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.outputs import Return
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.storage import write_atomic
from atb_fast.training.predict import predict, predict_batch, predict_batches


@dataclass(frozen=True)
class Exported:
    """The results of checking model.onnx.

    Attributes:
        difference: Largest difference from Keras by batch size, relative to the largest label.
        candles_rmse: Test RMSE of a graph that takes raw candles, quote currency; None if the graph
            takes features, or the model does not predict prices.
        target_distribution: See `distribution.target_distribution`; None unless the model predicts
            returns.
    """

    difference: dict[str, float]
    candles_rmse: float | None = None
    target_distribution: dict[str, list[float]] | None = None


def export_onnx(model: Any, record: RunRecord, path: Path) -> Exported:
    """Write `model` as ONNX, run the file on real windows, and return the differences from Keras.

    Raises:
        ExportError: The conversion failed, or the outputs differ from those of Keras.
    """
    data, config = record.data, record.config
    prepared = data.prepared
    names = input_names(record)
    properties = {
        "schema_version": "1",
        "symbol": config.symbol,
        "timeframe": config.timeframe,
        "model_type": prepared.model_type,
        "sequence_length": str(data.length),
        "feature_names": json.dumps(names),
        "data_sha256": json.dumps(prepared.sha256, sort_keys=True),
    }
    starts = np.concatenate([data.test, data.train[::-1]])[: max(onnx_export.GATE_BATCHES)]
    inputs, tolerance = data.windows(starts), onnx_export.TOLERANCE
    expected = predict_batch(model, inputs)
    computed = candles_rmse = sizes = None
    if config.onnx_input == "ohlcv":
        computed, tolerance = CandleFeatures.of(prepared), onnx_export.CANDLES_TOLERANCE
        candles = prepared.frame.select(CANDLE_COLUMNS).to_numpy()
        raw = candle_windows(data, candles, starts)
        inputs = raw.astype(np.float32)
        expected = predict_batch(model, computed.of_windows(raw))
        if isinstance(data.output, PriceScale):
            candles_rmse = _rmse_from_candles(model, data, candles, computed)
    write_atomic(path, onnx_export.convert(model, properties=properties, candles=computed))
    difference = onnx_export.check(
        path,
        inputs,
        expected,
        output=data.output,
        scale=output_scale(data),
        tolerance=tolerance,
    )
    if isinstance(data.output, Return):
        sizes = target_distribution(predict(model, data, data.train))
    return Exported(difference, candles_rmse, sizes)


def _rmse_from_candles(
    model: Any,
    data: WindowedData,
    candles: NDArray[np.float64],
    computed: CandleFeatures,
) -> float:
    parts = np.array_split(data.test, -(-len(data.test) // 256))
    windows = (candle_windows(data, candles, part) for part in parts)
    features = (computed.of_windows(window) for window in windows)
    return rmse(data.targets(data.test), predict_batches(model, features))
