"""An evaluation run: a walk-forward evaluation, and its record for the ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from atb_fast.callbacks import SILENT, Listener
from atb_fast.evaluation.walk_forward import WalkForward, Window, walk_forward
from atb_fast.recipes.config import TrainingConfig
from atb_fast.runs import records
from atb_fast.training.environment import environment


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation run.

    Attributes:
        made: The evaluation.
        record: Its record, not yet added to the ledger.
    """

    made: WalkForward
    record: dict[str, Any]


def evaluation_run(
    config: TrainingConfig,
    *,
    folds: int,
    window: Window,
    embargo: int | None,
    listener: Listener = SILENT,
) -> Evaluated:
    """Return the evaluation of `config` and its record; see `walk_forward`."""
    began = time.perf_counter()
    made = walk_forward(config, folds=folds, window=window, embargo=embargo, listener=listener)
    further: dict[str, Any] = {} if embargo is None else {"embargo": embargo}
    record = records.of_config(
        "evaluate",
        config,
        data=made.sha256,
        metrics=made.pooled,
        seconds=time.perf_counter() - began,
        machine=environment(),
        folds=folds,
        window=window,
        **further,
    )
    return Evaluated(made, record)
