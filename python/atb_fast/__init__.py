"""Fast training pipeline for crypto price models: candles in, ONNX bundles out.

Each public name is imported on first use, so `import atb_fast` is fast and needs neither TensorFlow
nor Polars.
"""

from __future__ import annotations

import os
from importlib import import_module

# By default, onnxruntime sends usage statistics to its vendor. This must be set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

TYPE_CHECKING = False  # as in typing, which takes longer to import than all the rest
if TYPE_CHECKING:  # the same names as in _MODULES, for type checkers and editors
    from atb_fast._core import CandleMatrix as CandleMatrix
    from atb_fast._core import Feature as Feature
    from atb_fast._core import FeatureMatrix as FeatureMatrix
    from atb_fast._core import FeaturePipeline as FeaturePipeline
    from atb_fast._core import MinMaxScaler as MinMaxScaler
    from atb_fast._core import merge as merge
    from atb_fast._core import rsi as rsi
    from atb_fast._core import sma as sma
    from atb_fast.callbacks import Listener as Listener
    from atb_fast.errors import ArgumentError as ArgumentError
    from atb_fast.errors import AtbFastError as AtbFastError
    from atb_fast.errors import BundleError as BundleError
    from atb_fast.errors import DataError as DataError
    from atb_fast.errors import ExportError as ExportError
    from atb_fast.errors import ExpressionError as ExpressionError
    from atb_fast.errors import FetchError as FetchError
    from atb_fast.errors import InSampleWarning as InSampleWarning
    from atb_fast.errors import LeakError as LeakError
    from atb_fast.errors import MissingExtraError as MissingExtraError
    from atb_fast.errors import StorageError as StorageError
    from atb_fast.errors import TrainingError as TrainingError
    from atb_fast.evaluation.leak import LeakReport as LeakReport
    from atb_fast.evaluation.leak import find_leaks as find_leaks
    from atb_fast.evaluation.walk_forward import Fold as Fold
    from atb_fast.evaluation.walk_forward import WalkForward as WalkForward
    from atb_fast.evaluation.walk_forward import evaluate as evaluate
    from atb_fast.evaluation.walk_forward import walk_forward as walk_forward
    from atb_fast.experiments.sharpe import deflated_sharpe as deflated_sharpe
    from atb_fast.experiments.study import Study as Study
    from atb_fast.experiments.study import sweep as sweep
    from atb_fast.features.expressions import Expr as Expr
    from atb_fast.features.frames import ArrowFrame as ArrowFrame
    from atb_fast.features.prepared import PreparedData as PreparedData
    from atb_fast.features.price import PriceScale as PriceScale
    from atb_fast.features.windows import windows as windows
    from atb_fast.ingestion.extras import Extra as Extra
    from atb_fast.ingestion.market import Market as Market
    from atb_fast.ingestion.market import load_market as load_market
    from atb_fast.recipes import prepare as prepare
    from atb_fast.recipes.base import BaseRecipe as BaseRecipe
    from atb_fast.recipes.config import TrainingConfig as TrainingConfig
    from atb_fast.recipes.meta_label import meta_label_features as meta_label_features
    from atb_fast.recipes.recipe import Recipe as Recipe
    from atb_fast.runs.pipeline import run_training_pipeline as run_training_pipeline
    from atb_fast.runs.repeat import RecordedRun as RecordedRun
    from atb_fast.runs.repeat import read_run as read_run
    from atb_fast.runs.result import TrainingResult as TrainingResult
    from atb_fast.serving.predictor import Bundle as Bundle
    from atb_fast.serving.predictor import load_bundle as load_bundle

    __version__: str

#: The public names, by the module that defines them.
_MODULES = {
    "_core": (
        "CandleMatrix",
        "Feature",
        "FeatureMatrix",
        "FeaturePipeline",
        "MinMaxScaler",
        "merge",
        "rsi",
        "sma",
    ),
    "callbacks": ("Listener",),
    "errors": (
        "ArgumentError",
        "AtbFastError",
        "BundleError",
        "DataError",
        "ExportError",
        "ExpressionError",
        "FetchError",
        "InSampleWarning",
        "LeakError",
        "MissingExtraError",
        "StorageError",
        "TrainingError",
    ),
    "evaluation.leak": (
        "LeakReport",
        "find_leaks",
    ),
    "evaluation.walk_forward": (
        "Fold",
        "WalkForward",
        "evaluate",
        "walk_forward",
    ),
    "experiments.sharpe": ("deflated_sharpe",),
    "experiments.study": ("Study", "sweep"),
    "features.expressions": ("Expr",),
    "features.frames": ("ArrowFrame",),
    "features.prepared": ("PreparedData",),
    "features.price": ("PriceScale",),
    "features.windows": ("windows",),
    "ingestion.extras": ("Extra",),
    "ingestion.market": (
        "Market",
        "load_market",
    ),
    "recipes": ("prepare",),
    "recipes.base": ("BaseRecipe",),
    "recipes.config": ("TrainingConfig",),
    "recipes.meta_label": ("meta_label_features",),
    "recipes.recipe": ("Recipe",),
    "runs.pipeline": ("run_training_pipeline",),
    "runs.repeat": ("RecordedRun", "read_run"),
    "runs.result": ("TrainingResult",),
    "serving.predictor": (
        "Bundle",
        "load_bundle",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name in _HOME:
        found = getattr(import_module(f"atb_fast.{_HOME[name]}"), name)
    elif name == "__version__":
        from importlib.metadata import version  # takes longer than all the rest

        found = version("atb-fast")
    else:
        raise AttributeError(f"module 'atb_fast' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "__version__"})
