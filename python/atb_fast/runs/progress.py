"""Progress of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atb_fast.callbacks import Update
from atb_fast.config import TrainingConfig

if TYPE_CHECKING:
    from atb_fast.callbacks import WindowsCallback


#: Windows of an epoch that takes more than a few seconds.
_LONG_EPOCH = 20_000


#: What is left to do after the training, for minutes if there are millions of windows.
_LAST_STAGES = ("evaluation", "diagnostics", "onnx", "artifacts")


def long_epoch(update: Update) -> WindowsCallback:
    """Return what calls `update` with the windows of an epoch; a short one would only flicker."""

    def on_windows(done: int, windows: int) -> None:
        if windows > _LONG_EPOCH:
            update("epoch", done, windows, "windows", "")

    return on_windows


def training_callbacks(config: TrainingConfig, update: Update) -> dict[str, Any]:
    """Return the callbacks of `run_training_pipeline` that call `update` with every step."""
    trained = False
    update("training", 0, config.epochs, "epochs", "")

    def on_epoch(epoch: int, logs: dict[str, float]) -> None:
        note = f"RMSE {_short(logs['rmse'])}, val. {_short(logs['val_rmse'])}"
        update("training", epoch, config.epochs, "epochs", note)

    def on_stage(stage: str) -> None:
        nonlocal trained
        if stage == "evaluation":
            trained = True
            # It may have ended early.
            update("training", config.epochs, config.epochs, "epochs", "")
        if trained and stage in _LAST_STAGES:
            step = _LAST_STAGES.index(stage)
            update("finishing", step, len(_LAST_STAGES), "steps", stage)

    def on_fetch(name: str, done: int, total: int) -> None:
        update(name, done, total, "candles", "")

    return {
        "on_epoch": on_epoch,
        "on_windows": long_epoch(update),
        "on_stage": on_stage,
        "on_fetch": on_fetch,
    }


def _short(error: float) -> str:
    """Return an error of prices, which have thousands, or of windows scaled to about 1."""
    return f"{error:,.0f}" if error >= 1000 else f"{error:.4g}"
