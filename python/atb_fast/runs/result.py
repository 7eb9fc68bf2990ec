"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atb_fast.evaluation.record import RunRecord
from atb_fast.runs.promotion import Promotion
from atb_fast.runs.timing import StageTimer


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        symbol: For example BTCUSDT.
        timeframe: Length of a bar, for example 1d.
        model_type: `sentiment`, `price` (also of the engine recipe), or the name of the recipe.
        recipe: Name of the recipe.
        horizon: Bars that a forecast covers.
        version_id: Version of the bundle.
        published: Whether the bundle was published. Without a checked model.onnx it is not.
        promoted: Whether the bundle is live: `latest` points to it.
        promotion: Why it is live or not, in one sentence.
        promote_command: The command that makes it live; empty if it is live or must not be.
        stages: Seconds by stage.
        total_seconds: Seconds of the whole run, including the time between stages (mostly the
            import of TensorFlow).
        engine: `compiled`, `keras` or `exact`.
        epochs: Number of epochs; 1 for `exact`.
        best_epoch: The epoch whose weights were kept, counted from 1.
        seconds_per_epoch: Median of the epochs after the first.
        first_epoch_seconds: Seconds of the first epoch, including compilation.
        test_rmse: RMSE on the test windows, in `unit`; None for classes.
        persistence_rmse: RMSE of persistence on the same windows; None for classes.
        mape: Mean absolute percentage error on the test windows, percent; None unless the model
            predicts prices.
        shrinkage: Shrinkage factor of the outputs. At 0 the model is persistence, or HAR.
        verdict: `better than` or `worse than` the reference if the difference is significant, else
            `statistically indistinguishable from` or `equal to` it.
        caveat: Which figures contradict the verdict significantly, in a sentence; empty if none
            does.
        diagnostics: Whether each optional step ran.
        paths: Paths of the `bundle` and of each file in it, by name.
        error: What the error is: `RMSE`; for classes, `log loss`, or `weighted log loss` if the
            target has class weights.
        unit: Unit of the error: `quote currency`, `return` or `log sigma`; empty for classes.
        test_error: The error on the test windows.
        reference: What the model has to beat: `persistence`, `the class shares` of the training
            windows, or `HAR`.
        reference_error: The error of the reference on the same windows.
        evaluation: All figures of the model and of baselines, by name, as in metadata.json.
        same_onnx: Whether model.onnx is identical to that of the repeated run; None if there is
            nothing to compare.
    """

    symbol: str
    timeframe: str
    model_type: str
    recipe: str
    horizon: int
    version_id: str
    published: bool
    promoted: bool
    promotion: str
    promote_command: str
    stages: dict[str, float]
    total_seconds: float
    engine: str
    epochs: int
    best_epoch: int
    seconds_per_epoch: float
    first_epoch_seconds: float
    test_rmse: float | None
    persistence_rmse: float | None
    mape: float | None
    shrinkage: float
    verdict: str
    caveat: str
    diagnostics: dict[str, bool]
    paths: dict[str, str]
    error: str
    unit: str
    test_error: float
    reference: str
    reference_error: float
    evaluation: dict[str, Any]
    same_onnx: bool | None = None


def result_of(
    record: RunRecord,
    bundle: Path,
    version: str,
    promotion: Promotion,
    *,
    timer: StageTimer,
    same_onnx: bool | None,
) -> TrainingResult:
    """Return the result of a run whose bundle has been written."""
    config, fitted, evaluation = record.config, record.fitted, record.evaluation
    return TrainingResult(
        symbol=config.symbol,
        timeframe=config.timeframe,
        model_type=record.data.prepared.model_type,
        recipe=config.recipe,
        horizon=config.horizon,
        version_id=version,
        published=record.diagnostics["onnx"],
        promoted=promotion.promoted,
        promotion=promotion.reason,
        promote_command=promotion.command(bundle, config.timeframe),
        stages=timer.seconds,
        total_seconds=timer.total,
        engine=fitted.engine,
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        seconds_per_epoch=fitted.seconds_per_epoch,
        first_epoch_seconds=fitted.epoch_seconds[0],
        test_rmse=evaluation.results.get("test_rmse"),
        persistence_rmse=evaluation.results.get("persistence_rmse"),
        mape=evaluation.results.get("mape"),
        shrinkage=fitted.shrinkage,
        verdict=evaluation.verdict,
        caveat=evaluation.caveat,
        diagnostics=record.diagnostics,
        paths={"bundle": str(bundle)} | {p.name: str(p) for p in sorted(bundle.iterdir())},
        error=evaluation.scoring.name,
        unit=evaluation.scoring.unit,
        test_error=evaluation.error,
        reference=evaluation.reference,
        reference_error=evaluation.reference_error,
        evaluation=evaluation.to_dict(),
        same_onnx=same_onnx,
    )
