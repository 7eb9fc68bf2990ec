"""What is known of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from atb_fast.config import TrainingConfig
from atb_fast.evaluation.diagnostics import Evaluation
from atb_fast.features.windows import WindowedData
from atb_fast.training.device import DevicePolicy
from atb_fast.training.engine import FitResult


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
        importance_deviation: Standard deviation of each figure of `importance`.
        charts: See `charts.draw_charts`; empty if they were not drawn.
        onnx_difference: See `export_onnx`; None if there is no checked model.onnx.
        candles_rmse: Test RMSE of a graph that takes raw candles, quote currency; None if the
            graph does not.
        failures: What went wrong in an optional step, by step.
    """

    config: TrainingConfig
    data: WindowedData
    policy: DevicePolicy
    fitted: FitResult
    evaluation: Evaluation
    robustness: dict[str, float] | None = None
    importance: dict[str, float] | None = None
    importance_deviation: dict[str, float] = field(default_factory=dict)
    charts: dict[str, str] = field(default_factory=dict)
    onnx_difference: dict[str, float] | None = None
    candles_rmse: float | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def diagnostics(self) -> dict[str, bool]:
        """Which optional steps ran."""
        return {
            "plots": self.importance is not None,
            "robustness": self.robustness is not None,
            "onnx": self.onnx_difference is not None,
        }
