"""Fast training pipeline for crypto price models: candles in, ONNX bundles out.

The names below are imported when they are first used, so that `import atb_fast` is quick and needs
neither TensorFlow nor Polars.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atb_fast._core import (
        CandleMatrix,
        Feature,
        FeatureMatrix,
        FeaturePipeline,
        MinMaxScaler,
    )
    from atb_fast.config import TrainingConfig
    from atb_fast.errors import AtbFastError
    from atb_fast.features.prepared import PreparedData
    from atb_fast.features.windows import windows
    from atb_fast.ingestion.market import Market, load_market
    from atb_fast.recipes import prepare
    from atb_fast.runs.pipeline import TrainingResult, run_training_pipeline
    from atb_fast.serving.predictor import Bundle, load_bundle

__version__ = version("atb-fast")

_HOME = {
    "AtbFastError": "errors",
    "Bundle": "serving.predictor",
    "CandleMatrix": "_core",
    "Feature": "_core",
    "FeatureMatrix": "_core",
    "FeaturePipeline": "_core",
    "Market": "ingestion.market",
    "MinMaxScaler": "_core",
    "PreparedData": "features.prepared",
    "TrainingConfig": "config",
    "TrainingResult": "runs.pipeline",
    "load_bundle": "serving.predictor",
    "load_market": "ingestion.market",
    "prepare": "recipes",
    "run_training_pipeline": "runs.pipeline",
    "windows": "features.windows",
}

__all__ = [
    "AtbFastError",
    "Bundle",
    "CandleMatrix",
    "Feature",
    "FeatureMatrix",
    "FeaturePipeline",
    "Market",
    "MinMaxScaler",
    "PreparedData",
    "TrainingConfig",
    "TrainingResult",
    "load_bundle",
    "load_market",
    "prepare",
    "run_training_pipeline",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"atb_fast.{_HOME[name]}"), name)
    raise AttributeError(f"module 'atb_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
