"""What a bundle is made of: model.keras, model.onnx, feature_schema.json, metadata.json."""

from __future__ import annotations

import json
import platform
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast import _core
from atb_fast.config import TrainingConfig
from atb_fast.datasets import WindowedData
from atb_fast.device import DevicePolicy
from atb_fast.diagnostics import Evaluation
from atb_fast.engine import FitResult
from atb_fast.errors import ExportError, MissingExtraError

OPSET = 17
#: Engines with onnxruntime 1.17 read up to IR version 9; 8 is the one that goes with opset 17.
MAX_IR_VERSION = 8
#: Largest difference to Keras, relative to the largest target: float32 has 6e-8 of it.
ONNX_TOLERANCE = 1e-5
GATE_BATCHES = (1, 7, 256)


@dataclass
class RunRecord:
    """What is known of a run, filled in stage by stage.

    Attributes:
        config: What was asked for.
        data: What the model was trained and tested on.
        policy: Where and in which precision.
        fitted: How the fit went.
        evaluation: How good the model is.
        robustness: See `diagnostics.robustness`; None if it was not measured.
        importance: See `diagnostics.permutation_importance`; None if it was not measured.
        onnx_difference: See `export_onnx`; None if there is no checked model.onnx.
        failures: What went wrong in an optional step, by step.
    """

    config: TrainingConfig
    data: WindowedData
    policy: DevicePolicy
    fitted: FitResult
    evaluation: Evaluation
    robustness: dict[str, float] | None = None
    importance: dict[str, float] | None = None
    onnx_difference: dict[str, float] | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def diagnostics(self) -> dict[str, bool]:
        """Which optional steps ran."""
        return {
            "plots": self.importance is not None,
            "robustness": self.robustness is not None,
            "onnx": self.onnx_difference is not None,
        }


def check_export_packages() -> None:
    """Import nothing, but see that all that the export needs is there.

    Raises:
        MissingExtraError: A package is not installed.
    """
    missing = [name for name in ("onnx", "onnxruntime", "tf2onnx") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the ONNX export needs {', '.join(missing)}; install with pip install "
            "'atb-fast[train]', or leave the export out with --skip-onnx"
        )


def export_onnx(model: Any, path: Path, data: WindowedData) -> dict[str, float]:
    """Write `model` as ONNX and check the file by running it.

    Args:
        model: A float32 Keras model.
        path: Where to write.
        data: The windows the check takes its inputs from.

    Returns:
        The largest difference to Keras by batch size, relative to the largest target.

    Raises:
        ExportError: The conversion failed, or the file does not agree with the Keras model.
    """
    import onnx

    model(data.windows(data.test[:1]))  # Keras exports only a model that was called
    try:
        with warnings.catch_warnings():
            # Keras' exporter probes for np.object, which NumPy 2 warns about.
            warnings.simplefilter("ignore", FutureWarning)
            model.export(path, format="onnx", opset_version=OPSET, verbose=False)
        proto = onnx.load(path)
        proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
        onnx.save(proto, path)
    except OSError:
        raise
    except Exception as error:  # tf2onnx and Keras raise whatever they like
        raise ExportError(f"the conversion to ONNX failed: {error}") from error
    return check_onnx(model, path, data)


def check_onnx(model: Any, path: Path, data: WindowedData) -> dict[str, float]:
    """Run the ONNX file on real windows and compare with Keras; see `export_onnx`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no common base class
        raise ExportError(f"onnxruntime cannot load {path.name}: {error}") from error
    feed = session.get_inputs()[0]
    shape = (data.length, data.prepared.matrix.shape[1])
    if feed.type != "tensor(float)" or tuple(feed.shape[1:]) != shape:
        raise ExportError(
            f"{path.name} takes {feed.type} {feed.shape}, expected float32 [batch, {shape[0]}, "
            f"{shape[1]}]"
        )
    scale = float(np.abs(data.prepared.target).max())
    starts = np.concatenate([data.test, data.train[::-1]])
    differences = {}
    for size in GATE_BATCHES:
        windows = data.windows(np.resize(starts, size))
        try:
            got = np.asarray(session.run(None, {feed.name: windows})[0])
        except Exception as error:
            raise ExportError(f"onnxruntime cannot run {path.name}: {error}") from error
        expected = np.asarray(model.predict_on_batch(windows))
        differences[str(size)] = _difference(got, expected, scale, path.name)
    return differences


def _difference(
    got: NDArray[np.float32], expected: NDArray[np.float32], scale: float, name: str
) -> float:
    if got.shape != expected.shape:
        raise ExportError(f"{name} gives shape {got.shape}, Keras {expected.shape}")
    if not np.isfinite(got).all():
        raise ExportError(f"{name} gives values that are not finite")
    difference = float(np.abs(got - expected).max()) / scale
    if not difference <= ONNX_TOLERANCE:  # also when Keras itself gives NaN
        raise ExportError(
            f"{name} differs from Keras by {difference:.1e} of the largest target, expected at "
            f"most {ONNX_TOLERANCE:.0e}"
        )
    return difference


def feature_schema(pipeline: _core.FeaturePipeline, sequence_length: int) -> dict[str, Any]:
    """Return feature_schema.json: channel order, and how each feature is computed and scaled.

    The scaler stands under `scaler`, not `normalization`: the columns are named for their scaled
    values, and a reader that finds `normalization` would scale them again.
    """
    features = []
    for feature, scaler in zip(pipeline.features, pipeline.scalers, strict=True):
        computed: dict[str, Any] = {"column": feature.source}
        if feature.sma:
            computed |= {"transform": "sma", "window": feature.sma}
        if feature.rsi:
            computed |= {"transform": "rsi_simple_mean", "window": feature.rsi}
        features.append(
            {
                "name": feature.name,
                "required": True,
                "source": computed,
                "scaler": {
                    "method": "minmax",
                    "data_min": scaler.data_min,
                    "data_max": scaler.data_max,
                    "scale": scaler.scale,
                    "min": scaler.min,
                },
            }
        )
    return {"sequence_length": sequence_length, "features": features}


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
        "feature_names": prepared.matrix.names,
        "feature_count": len(prepared.matrix.names),
        "task_type": "regression",
        # The model predicts quote currency itself: an engine maps it with 1 and 0.
        "price_normalization": {"mean": 0.0, "std": 1.0},
        "framework": "onnx" if record.diagnostics["onnx"] else "keras",
        "model_file": "model.onnx" if record.diagnostics["onnx"] else "model.keras",
        "has_sentiment": prepared.model_type == "sentiment",
        "training_params": {
            "epochs": record.fitted.epochs,
            "best_epoch": record.fitted.best_epoch,
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
        "evaluation_results": record.evaluation.to_dict(),
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
            "train_windows": len(data.train),
            "test_windows": len(data.test),
        },
        "diagnostics": record.diagnostics,
        "diagnostic_failures": record.failures,
        "onnx_difference": record.onnx_difference or {},
        "config": config.to_dict(),
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in ("atb-fast", "tensorflow", "tensorflow-cpu", "keras", "numpy", "polars", "onnx"):
        try:
            found[package] = installed_version(package)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document`; a NaN or an infinity in it is a ValueError, never a file."""
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
