"""The record of a training run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atb_fast.evaluation.diagnostics import Evaluation
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.config import TrainingConfig
from atb_fast.training.device import DevicePolicy
from atb_fast.training.engine import FitResult


@dataclass(frozen=True)
class RunRecord:
    """Everything known about a run. A stage that adds to it returns a new record.

    Attributes:
        config: The options of the run, with the paths that `portable` returns.
        data: What the model was trained and tested on.
        policy: The device and the precision.
        fitted: The result of the fit.
        evaluation: The errors of the model.
        unshrunk: The results of the network before shrinkage, see `diagnostics.before_shrinkage`;
            None if the model is not shrunk.
        robustness: See `diagnostics.robustness`; None if it was not measured.
        importance: See `diagnostics.permutation_importance`; None if it was not measured.
        importance_deviation: Standard deviation of each value in `importance`.
        charts: See `charts.draw_charts`; empty if they were not drawn.
        onnx_difference: See `Exported`; None if there is no checked model.onnx.
        candles_rmse: See `Exported`.
        target_distribution: See `Exported`.
        failures: The error message of each optional step that failed, by step.
    """

    config: TrainingConfig
    data: WindowedData
    policy: DevicePolicy
    fitted: FitResult
    evaluation: Evaluation
    unshrunk: Mapping[str, Any] | None = None
    robustness: Mapping[str, float] | None = None
    importance: Mapping[str, float] | None = None
    importance_deviation: Mapping[str, float] = field(default_factory=dict)
    charts: Mapping[str, str] = field(default_factory=dict)
    onnx_difference: Mapping[str, float] | None = None
    candles_rmse: float | None = None
    target_distribution: Mapping[str, list[float]] | None = None
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def diagnostics(self) -> dict[str, bool]:
        """Whether each optional step ran."""
        return {
            "plots": self.importance is not None,
            "robustness": self.robustness is not None,
            "onnx": self.onnx_difference is not None,
        }


def portable(config: TrainingConfig) -> TrainingConfig:
    """Return `config` with paths that reveal nothing about the machine.

    A path in the working directory becomes relative to it. Any other absolute path is reduced to
    its file name.
    """
    made = copy.copy(config)
    for name, value in vars(config).items():
        if isinstance(value, Path):
            # Not by `replace`, which would take a file called ~x for a home directory.
            object.__setattr__(made, name, _portable(value))
    if config.extra:
        extra = {name: _portable(path) for name, path in config.extra.items()}
        object.__setattr__(made, "extra", extra)
    return made


def _portable(path: Path) -> Path:
    if not path.is_absolute():
        return path
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else Path(path.name or ".")
