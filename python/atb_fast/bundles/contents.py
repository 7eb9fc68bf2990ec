"""What a bundle is made of: model.keras, model.onnx, feature_schema.json, metadata.json."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import FeaturePipeline
from atb_fast.bundles import onnx_export
from atb_fast.bundles.samples import candle_windows
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.evaluation.metrics import rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import WindowedData
from atb_fast.training.environment import environment, git_state, versions
from atb_fast.training.predict import predict_batches


def export_onnx(model: Any, record: RunRecord, path: Path) -> dict[str, float]:
    """Write `model` as ONNX and check the file by running it on real windows.

    Returns:
        The largest difference to Keras by batch size, relative to the largest label.

    Raises:
        ExportError: The conversion failed, or the file does not agree with the Keras model.
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
    expected = np.asarray(model.predict_on_batch(inputs))
    pipeline = None
    if config.onnx_input == "ohlcv":
        assert prepared.pipeline is not None  # TrainingConfig saw to it
        pipeline, tolerance = prepared.pipeline, onnx_export.CANDLES_TOLERANCE
        candles = prepared.frame.select(CANDLE_COLUMNS).to_numpy()
        raw = candle_windows(data, candles, starts)
        inputs = raw.astype(np.float32)
        expected = np.asarray(model.predict_on_batch(onnx_export.window_features(raw, pipeline)))
        record.candles_rmse = _rmse_from_candles(model, data, candles, pipeline)
    path.write_bytes(onnx_export.convert(model, properties=properties, candles=pipeline))
    # Outputs that are scaled are about 1, whatever a single label is.
    scale = float(np.abs(data.labels).max()) if data.price_scale.kind == "linear" else 1.0
    return onnx_export.check(path, inputs, expected, scale=scale, tolerance=tolerance)


def _rmse_from_candles(
    model: Any,
    data: WindowedData,
    candles: NDArray[np.float64],
    pipeline: FeaturePipeline,
) -> float:
    parts = np.array_split(data.test, -(-len(data.test) // 256))
    windows = (candle_windows(data, candles, part) for part in parts)
    features = (onnx_export.window_features(window, pipeline) for window in windows)
    return rmse(data.targets(data.test), predict_batches(model, features))


def input_names(record: RunRecord) -> list[str]:
    """Return what the columns of the ONNX input are, in channel order."""
    if record.config.onnx_input == "ohlcv":
        return list(CANDLE_COLUMNS)
    return list(record.data.prepared.sources)


def feature_schema(record: RunRecord) -> dict[str, Any]:
    """Return feature_schema.json: the columns of the ONNX input, in channel order.

    Each has the column of the candles that it comes from and, under `scaler`, how it is scaled.
    That is not called `normalization`: the columns are named for their scaled values, and a reader
    that finds `normalization` would scale them again.
    """
    features = computed_features(record.data.prepared)
    if record.config.onnx_input == "ohlcv":
        features = [{"name": name, "source": {"column": name}} for name in CANDLE_COLUMNS]
    return {
        "sequence_length": record.data.length,
        "features": [{"required": True} | feature for feature in features],
    }


def computed_features(prepared: PreparedData) -> list[dict[str, Any]]:
    """Return how each feature is made, and how it is scaled if it is not by its window."""
    made: list[dict[str, Any]] = [
        {"name": name, "source": source} for name, source in prepared.sources.items()
    ]
    if prepared.pipeline is None:
        return made
    return [
        feature
        | {
            "scaler": {
                "method": "minmax",
                "data_min": scaler.data_min,
                "data_max": scaler.data_max,
                "scale": scaler.scale,
                "min": scaler.min,
            }
        }
        for feature, scaler in zip(made, prepared.pipeline.scalers, strict=True)
    ]


def metadata(record: RunRecord, *, version: str, created: datetime) -> dict[str, Any]:
    """Return metadata.json. Every number in it is finite."""
    config, data = record.config, record.data
    prepared = data.prepared
    times = prepared.timestamps
    return {
        "symbol": config.symbol,
        "timeframe": config.timeframe,
        "model_type": prepared.model_type,
        "version_id": version,
        # Different readers read different ones.
        "created_at": created.isoformat(),
        "training_date": created.isoformat(),
        "sequence_length": data.length,
        "feature_names": input_names(record),
        "feature_count": len(input_names(record)),
        "onnx_input": config.onnx_input,
        "task_type": "regression",
        "price_normalization": data.price_scale.to_dict(),
        "framework": "onnx" if record.diagnostics["onnx"] else "keras",
        "model_file": "model.onnx" if record.diagnostics["onnx"] else "model.keras",
        "recipe": config.recipe,
        "has_sentiment": prepared.has_sentiment,
        "training_params": {
            "epochs": record.fitted.epochs,
            "best_epoch": record.fitted.best_epoch,
            "shrinkage": record.fitted.shrinkage,
            "max_epochs": config.epochs,
            "batch_size": record.policy.batch_size,
            "sequence_length": data.length,
            "patience": config.patience,
            "seed": config.seed,
            "engine": record.fitted.engine,
            "dtype_policy": record.policy.dtype_policy,
            "optimizer": "adam",
            "loss": "mse",
        },
        "evaluation_results": _evaluation(record),
        "robustness_results": record.robustness or {},
        "permutation_importance": record.importance or {},
        "sentiment_assessment": prepared.assessment.to_dict() if prepared.assessment else {},
        "dataset": {
            "source": config.source,
            "synthetic": config.source == "sample",
            "sha256": prepared.sha256,
            "candles": prepared.candles,
            "gaps": prepared.gaps,
            "rows": len(prepared.matrix),
            "first": times[0].isoformat(),
            "last": times[-1].isoformat(),
            "train_last": data.times(data.train[-1:])[0].isoformat(),
            "candles_first": prepared.frame["timestamp"][0].isoformat(),
            "candles_last": prepared.frame["timestamp"][-1].isoformat(),
            "train_windows": len(data.train),
            "validation_windows": len(data.validation),
            "test_windows": len(data.test),
        },
        "diagnostics": record.diagnostics,
        "diagnostic_failures": record.failures,
        "onnx_difference": record.onnx_difference or {},
        # What the network itself sees, whatever the ONNX input is.
        "computed_features": computed_features(prepared) if prepared.pipeline else [],
        "config": config.to_dict(),
        "versions": versions(),
        "environment": environment() | git_state(),
    }


def _evaluation(record: RunRecord) -> dict[str, float]:
    results = record.evaluation.to_dict()
    if record.candles_rmse is not None:
        results["test_rmse_from_candles"] = record.candles_rmse
    return results


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document`; a NaN or an infinity in it is a ValueError, never a file."""
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
