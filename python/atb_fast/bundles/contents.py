"""The documents of a bundle: feature_schema.json and metadata.json."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from atb_fast._core import MinMaxScaler
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.prepared import PreparedData
from atb_fast.features.specs import FeatureSpec
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.documents import to_document
from atb_fast.recipes.networks import Linear
from atb_fast.serving import checksums
from atb_fast.storage import write_atomic
from atb_fast.training.environment import environment, git_state, versions


def input_names(record: RunRecord) -> list[str]:
    """Return the columns of the ONNX input, in channel order."""
    if record.config.onnx_input == "ohlcv":
        return list(CANDLE_COLUMNS)
    return list(record.data.prepared.specs)


def feature_schema(record: RunRecord) -> dict[str, Any]:
    """Return feature_schema.json: the columns of the ONNX input, in channel order.

    Each column has the expression that computes it and, as `scaler`, how it is scaled. The key must
    not be `normalization`: the columns are named after their scaled values, and an engine that
    finds that key would scale them again.
    """
    prepared = record.data.prepared
    features = computed_features(prepared)
    if record.config.onnx_input == "ohlcv":
        features = [{"name": name, "expression": name} for name in CANDLE_COLUMNS]
    made: dict[str, Any] = {
        "sequence_length": record.data.length,
        "features": [{"required": True} | feature for feature in features],
    }
    if prepared.join is not None and record.config.onnx_input == "features":
        made["sentiment"] = dict(prepared.join)
    return made


def computed_features(prepared: PreparedData) -> list[dict[str, Any]]:
    """Return the expression and the scaler of each feature."""
    fitted = prepared.pipeline.scalers if prepared.pipeline else [None] * len(prepared.specs)
    return [
        _computed(name, spec, scaler)
        for (name, spec), scaler in zip(prepared.specs.items(), fitted, strict=True)
    ]


def _computed(name: str, spec: FeatureSpec, scaler: MinMaxScaler | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "expression": str(spec.expression),
        "scaler": {"method": spec.scaler},
    }
    if spec.null_as is not None:
        made["null_as"] = spec.null_as
    if scaler is not None:
        ends = ("data_min", "data_max", "scale", "min")
        made["scaler"] |= {end: getattr(scaler, end) for end in ends}
    return made


def metadata(record: RunRecord, *, version: str, created: datetime) -> dict[str, Any]:
    """Return metadata.json without the results of verification. All numbers are finite."""
    config, data = record.config, record.data
    prepared = data.prepared
    times = prepared.timestamps
    # Strategies derive their confidence in a predicted return from it.
    sizes = record.target_distribution
    return {
        "symbol": config.symbol,
        "timeframe": config.timeframe,
        "model_type": prepared.model_type,
        "version_id": version,
        # Some engines read the first key, some the second.
        "created_at": created.isoformat(),
        "training_date": created.isoformat(),
        "sequence_length": data.length,
        "feature_names": input_names(record),
        "feature_count": len(input_names(record)),
        "onnx_input": config.onnx_input,
        **data.output.to_metadata(),
        **({"target_distribution": dict(sizes)} if sizes else {}),
        **config.definition.further_metadata,
        "framework": "onnx" if record.diagnostics["onnx"] else "keras",
        "model_file": "model.onnx" if record.diagnostics["onnx"] else "model.keras",
        "recipe": config.recipe,
        # The recipe itself, so that the run can be repeated without its file.
        "recipe_document": to_document(config.definition),
        "has_sentiment": prepared.has_sentiment,
        "training_params": _training(record),
        "evaluation_results": _evaluation(record),
        # The network before shrinkage; empty if the model is not shrunk.
        "unshrunk_results": dict(record.unshrunk or {}),
        "robustness_results": dict(record.robustness or {}),
        "permutation_importance": dict(record.importance or {}),
        # What a frame must have besides candles to be scored.
        "requirements": _requirements(prepared, config),
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
            "train_last": data.ends(data.train[-1:])[0].isoformat(),
            "validation_last": data.ends(data.validation[-1:])[0].isoformat(),
            "split": _split(record),
            "trained_until": _trained_until(record).isoformat(),
            "candles_first": prepared.frame["timestamp"][0].isoformat(),
            "candles_last": prepared.frame["timestamp"][-1].isoformat(),
            "train_windows": len(data.train),
            "validation_windows": len(data.validation),
            "test_windows": len(data.test),
        },
        # Without this key, a bundle that has lost the file would look like one of early versions.
        "checksums": checksums.NAME,
        "diagnostics": record.diagnostics,
        "diagnostic_failures": dict(record.failures),
        "onnx_difference": dict(record.onnx_difference or {}),
        # The input of the network, even if the ONNX graph computes it from candles.
        "computed_features": computed_features(prepared) if prepared.pipeline else [],
        "config": config.to_dict(),
        "versions": versions(),
        "environment": environment() | git_state(),
    }


def _split(record: RunRecord) -> dict[str, dict[str, str]]:
    """Return the open times of the first and the last bar of the windows of each part.

    `labels_until` is the close of the last bar that one of its labels depends on.
    """
    data, bar = record.data, timedelta(milliseconds=record.config.bar_ms)
    times, parts = data.prepared.timestamps, data.parts
    return {
        name: {
            "first": times[int(starts[0])].isoformat(),
            "last": times[int(starts[-1]) + data.length - 1].isoformat(),
            "labels_until": (data.ends(starts[-1:])[0] + bar).isoformat(),
        }
        for name, starts in (
            ("train", parts.train),
            ("validation", parts.validation),
            ("test", parts.test),
        )
    }


def _trained_until(record: RunRecord) -> datetime:
    """Return the close of the last bar that the model was fitted or selected on."""
    data, bar = record.data, timedelta(milliseconds=record.config.bar_ms)
    if record.config.definition.fit_scalers_on == "all":
        last: datetime = data.prepared.frame["timestamp"][-1]
        return last + bar
    ends: list[datetime] = [data.ends(part[-1:])[0] for part in (data.train, data.validation)]
    return max(ends) + bar


def _training(record: RunRecord) -> dict[str, Any]:
    config, fitted, policy = record.config, record.fitted, record.policy
    made: dict[str, Any] = {
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "shrinkage": fitted.shrinkage,
        "sequence_length": record.data.length,
        "seed": config.seed,
        "engine": fitted.engine,
        "dtype_policy": policy.dtype_policy,
        "loss": record.data.output.head.loss,
    }
    network = config.definition.trained_network
    if fitted.engine == "exact" and isinstance(network, Linear):
        return made | {"l2": network.l2}
    return made | {
        "max_epochs": config.epochs,
        "batch_size": policy.batch_size,
        "patience": config.patience,
        "optimizer": "adam",
    }


def _requirements(prepared: PreparedData, config: TrainingConfig) -> dict[str, Any]:
    names = prepared.further_columns
    made: dict[str, Any] = {
        "columns": {name: {"lag_ms": prepared.lags.get(name, 0)} for name in names}
    }
    # Columns that a class computes are columns that the scored frame must have.
    document = to_document(config.definition)
    return made | {key: document[key] for key in ("python",) if key in document}


def _evaluation(record: RunRecord) -> dict[str, float]:
    results = record.evaluation.to_dict()
    if record.candles_rmse is not None:
        results["test_rmse_from_candles"] = record.candles_rmse
    return results


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` as JSON.

    Raises:
        ValueError: It contains NaN or infinity. In that case, nothing is written.
        OSError: The file cannot be written; names `path`.
    """
    write_atomic(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
