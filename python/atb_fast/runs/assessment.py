"""Evaluation of a trained model, and the diagnostics that were not skipped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.evaluation.diagnostics import (
    before_shrinkage,
    evaluate,
    permutation_importance,
    robustness,
)
from atb_fast.evaluation.record import RunRecord, portable
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.config import TrainingConfig
from atb_fast.reports.charts import draw_charts
from atb_fast.reports.picture import plot_training
from atb_fast.runs.timing import StageTimer
from atb_fast.training.device import DevicePolicy
from atb_fast.training.engine import FitResult
from atb_fast.training.predict import predict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained model and everything it was trained with."""

    model: Any
    config: TrainingConfig
    data: WindowedData
    policy: DevicePolicy
    fitted: FitResult


def assess(
    trained: Trained, directory: Path, timer: StageTimer
) -> tuple[RunRecord, NDArray[np.float64]]:
    """Return the record of the run so far, and the forecasts for the test windows.

    Also draws training.png into `directory`. If a diagnostic fails, the error is logged and
    recorded.
    """
    model, config, data = trained.model, trained.config, trained.data
    with timer.stage("evaluation"):
        predictions = predict(model, data, data.test)
        evaluation = evaluate(model, data, predictions)
        outputs = trained.fitted.unshrunk
        network = None if outputs is None else before_shrinkage(evaluation, data, outputs)
    unshrunk, errors = network or (None, None)
    failures: dict[str, str] = {}
    record = RunRecord(
        portable(config), data, trained.policy, trained.fitted, evaluation, unshrunk=errors
    )
    with timer.stage("diagnostics"):
        if config.skip_robustness:
            log.info("robustness: skipped")
        else:
            with optional("robustness", failures, directory):
                record = replace(record, robustness=robustness(model, data, predictions))
        if config.skip_plots:
            log.info("plots: skipped")
        else:
            with optional("plots", failures, directory):
                importance, deviation = permutation_importance(model, data, config.seed)
                drawn = replace(record, importance=importance, importance_deviation=deviation)
                plot_training(directory / "training.png", _title(trained), drawn, unshrunk)
                record = drawn
            with optional("report", failures, directory):
                record = replace(record, charts=draw_charts(record, unshrunk))
    return replace(record, failures=failures), predictions


def _title(trained: Trained) -> str:
    config, model_type = trained.config, trained.data.prepared.model_type
    synthetic = ", synthetic sample market" if config.source == "sample" else ""
    return f"{config.symbol} {config.timeframe}, {model_type} model{synthetic}"


@contextmanager
def optional(step: str, failures: dict[str, str], directory: Path) -> Iterator[None]:
    """If an optional step fails, log the error and add it to `failures`.

    The name of `directory` is removed from the message: the failures are written into the bundle,
    which must not name directories of this machine.
    """
    try:
        yield
    except Exception as error:
        failures[step] = f"{type(error).__name__}: {str(error).replace(f'{directory}/', '')}"
        log.warning("%s failed; the model is not affected: %s", step, error)
