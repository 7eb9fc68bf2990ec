"""The target of meta-labeling: whether following a signal of another model pays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import RecipeOptions
from atb_fast.errors import ArgumentError
from atb_fast.features.meta_label import Exits
from atb_fast.features.prepared import PreparedData
from atb_fast.recipes.keys import key
from atb_fast.recipes.targets.anchored import Classifier

#: Column of `PreparedData.frame` with the outcome of the signal of a bar; null if there is none.
OUTCOME = "meta_label"


@dataclass(frozen=True)
class MetaLabel(Classifier):
    """Whether the trade of a signal earns more than it costs; only for the meta_label recipe.

    Attributes:
        horizon: Bars after which a trade ends at the latest.
        take_profit: Gain at which it ends, relative to the entry: 0.04 for 4%.
        stop_loss: Loss at which it ends.
        cost: Cost of entry and exit together, relative to the entry.
    """

    kind = "meta_label"
    class_labels = (0, 1)
    remedy = "use a longer range, or another primary model"

    horizon: int = key(336, minimum=1, maximum=1 << 20)
    take_profit: float = key(0.04, minimum=1e-6, maximum=100.0)
    stop_loss: float = key(0.05, minimum=1e-6, maximum=0.999)
    cost: float = key(0.002, minimum=0.0, maximum=1.0)

    @property
    def exits(self) -> Exits:
        """When a trade ends, and what it costs."""
        return Exits(self.take_profit, self.stop_loss, self.horizon, self.cost)

    def outcomes(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        """Return 1 where the trade earned more than it cost, else 0.

        Raises:
            ArgumentError: Another recipe prepared the data.
        """
        if OUTCOME not in prepared.frame.columns:
            raise without_signals()
        return prepared.frame[OUTCOME].to_numpy()


def without_signals() -> ArgumentError:
    """Return the error for a recipe that has this target but no signals."""
    return ArgumentError(
        "the target meta_label needs the signals of the basic model, which only the meta_label "
        "recipe computes; use --recipe meta_label, or another target",
        options=["recipe"],
    )
