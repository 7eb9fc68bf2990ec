"""Targets whose label follows from the bars after an anchor: directions, returns, barriers."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, triple_barrier
from atb_fast.config import ClassWeights, RecipeOptions
from atb_fast.errors import DataError, counted
from atb_fast.features.frames import epoch_ms
from atb_fast.features.heads import Head
from atb_fast.features.outputs import Classes, Return
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Labels, Parts
from atb_fast.ingestion.quality import bar_length
from atb_fast.recipes.keys import key
from atb_fast.recipes.targets.base import Target, log_left_out
from atb_fast.recipes.targets.labels import binary_direction, smoothed_return

log = logging.getLogger(__name__)

#: Largest horizon, in bars; that of `Output`.
_MOST_BARS = 1 << 20
#: A class with a larger weight has less than a tenth of its equal share of the windows.
_LARGE_WEIGHT = 10.0


@dataclass(frozen=True)
class Anchored(Target):
    """A target whose label depends only on the anchor and the bars after it.

    Windows whose label is not known are left out.

    Attributes:
        unknown: Why a label is not known if there is no gap, for messages: "windows with ...".
        horizon: Bars after the anchor that the label depends on.
    """

    unknown: ClassVar[str] = "a price that is missing, 0 or negative"

    horizon: int = key(1, minimum=1, maximum=_MOST_BARS)

    @abstractmethod
    def outcomes(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        """Return the label of each row of `prepared.frame` as an anchor; NaN if it is not known."""

    def usable(
        self,
        prepared: PreparedData,
        starts: NDArray[np.int64],
        options: RecipeOptions,
        lag: int = 0,
    ) -> NDArray[np.int64]:
        """Return the windows whose label is known; of raw candles, those that engines accept."""
        matrix, length, horizon = prepared.matrix, options.sequence_length, options.horizon
        every = len(starts)
        if isinstance(matrix, CandleMatrix):
            starts = np.intersect1d(starts, matrix.usable(length), assume_unique=True)
        anchors = matrix.rows[starts + length - 1 + lag]
        known = ~np.isnan(self.outcomes(prepared, options)[anchors])
        early = int(np.searchsorted(anchors, self.history(options)))
        unknown = anchors[early:][~known[early:]]
        steps = np.diff(epoch_ms(prepared.frame["timestamp"]))
        gaps = np.cumsum(np.append(0, steps != bar_length(prepared.frame)))
        gap = int((gaps[unknown] < gaps[unknown + horizon]).sum())
        price = len(unknown) - gap
        late = max(0, len(matrix) - length + 1) - every
        counts = {
            "too new to have a label": late,
            f"with fewer than {counted(horizon, 'bar')} before them": early,
            f"with a gap within the horizon of {counted(horizon, 'bar')}": gap,
            f"with {self.unknown}": price,
        }
        log_left_out(late + every, counts)
        if every - early >= 2 > known.sum():
            shorter = ", or a shorter --horizon" if horizon > 1 else " and with valid prices"
            raise DataError(
                f"only {known.sum():,} of {every:,} windows have a label: of the others, {gap:,} "
                f"have a gap within the horizon of {counted(horizon, 'bar')}, and {price:,} have "
                f"{self.unknown}; use candles without gaps{shorter}"
            )
        return starts[known]

    def _labelled(
        self, prepared: PreparedData, options: RecipeOptions, parts: Parts, lag: int
    ) -> NDArray[np.float64]:
        """Return the label of each window at the row after it, NaN in other rows."""
        starts, length = parts.every, options.sequence_length
        anchors = prepared.matrix.rows[starts + length - 1 + lag]
        values = np.full(len(prepared.close), np.nan)
        values[starts + length] = self.outcomes(prepared, options)[anchors]
        return values


@dataclass(frozen=True)
class Classifier(Anchored):
    """A target whose outcomes are classes, numbered from 0.

    Attributes:
        class_labels: What the classes mean; see `Classes`.
        remedy: What to do if all outcomes are of one class, for messages.
        class_weights: Weights of the classes in the loss: `none`, or `balanced`, which gives each
            class of the training windows the same total weight.
    """

    class_labels: ClassVar[tuple[int, ...]]
    remedy: ClassVar[str] = "use a longer range, or another --horizon"

    class_weights: ClassWeights = key("none")

    @property
    def head(self) -> Head:
        """A sigmoid or a softmax."""
        return Classes(self.class_labels).head

    def labels(
        self, prepared: PreparedData, options: RecipeOptions, parts: Parts, lag: int = 0
    ) -> Labels:
        """Return the classes, with the weights of those of the training windows.

        Raises:
            DataError: All training windows have the same class.
        """
        values = self._labelled(prepared, options, parts, lag)
        trained = values[parts.train + options.sequence_length].astype(np.int64)
        weights = self._weights(np.bincount(trained, minlength=len(self.class_labels)))
        by_row = np.full(len(values), np.nan)
        known = ~np.isnan(values)
        by_row[known] = weights[values[known].astype(np.int64)]
        return Labels(
            values,
            values,
            np.full(len(values), np.nan),
            Classes(self.class_labels, options.horizon, lag),
            None if self.class_weights == "none" else by_row,
        )

    def _weights(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the weight of each class, from its number of training windows."""
        total, found = int(counts.sum()), counts > 0
        if found.sum() < 2:
            raise DataError(
                f"all {total:,} training windows have the class "
                f"{self.class_labels[int(np.argmax(counts))]}, expected at least two classes; "
                f"{self.remedy}"
            )
        weights = np.ones(len(counts))
        if self.class_weights == "balanced":  # as in scikit-learn
            weights[found] = total / (found.sum() * counts[found])
        log.info(
            "classes of the %s: %s",
            counted(total, "training window"),
            ", ".join(
                f"{label} {count / total:.1%} (weight {weight:.3g})"
                for label, count, weight in zip(self.class_labels, counts, weights, strict=True)
            ),
        )
        for label, count, weight in zip(self.class_labels, counts, weights, strict=True):
            if weight > _LARGE_WEIGHT:
                log.warning(
                    "the class %d has %.1f%% of the training windows and the weight %.3g, so few "
                    "windows dominate the fit and the weighted log loss; pass "
                    "--target-class-weights none, or %s",
                    label,
                    100 * count / total,
                    weight,
                    self.remedy,
                )
            if not count:
                log.warning(
                    "no training window has the class %d, so the model cannot learn it; %s",
                    label,
                    self.remedy,
                )
        return weights


@dataclass(frozen=True)
class BinaryDirection(Classifier):
    """Whether the close is higher `horizon` bars later."""

    kind = "binary_direction"
    class_labels = (-1, 1)

    def outcomes(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        """Return 1 where the close is higher, else 0; see `labels.binary_direction`."""
        frame = prepared.frame
        return binary_direction(
            epoch_ms(frame["timestamp"]),
            frame["close"].to_numpy(),
            bar_ms=bar_length(frame),
            horizon=options.horizon,
        )


@dataclass(frozen=True)
class TripleBarrier(Classifier):
    """Which of two prices around the close is reached first, if any within `horizon` bars.

    Attributes:
        take_profit: Distance of the upper price, as a share of the close: 0.04 for 4%.
        stop_loss: Distance of the lower price, as a share of the close.
    """

    kind = "triple_barrier"
    class_labels = (-1, 0, 1)
    remedy = (
        "use a longer range, another --horizon, or other distances (--target-take-profit and "
        "--target-stop-loss)"
    )

    horizon: int = key(336, minimum=1, maximum=_MOST_BARS)
    take_profit: float = key(0.04, minimum=0.0001, maximum=10)
    stop_loss: float = key(0.05, minimum=0.0001, maximum=0.9999)

    def outcomes(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        """Return 0 for the lower price, 1 for none, 2 for the upper one; see `triple_barrier`."""
        frame = prepared.frame
        reached = triple_barrier(
            epoch_ms(frame["timestamp"]),
            *(frame[name].to_numpy() for name in ("high", "low", "close")),
            bar_ms=bar_length(frame),
            horizon=options.horizon,
            take_profit=self.take_profit,
            stop_loss=self.stop_loss,
        )
        return reached + 1.0


@dataclass(frozen=True)
class SmoothedReturn(Anchored):
    """The return to the mean of the next `horizon` closes."""

    kind = "smoothed_return"
    relative = True

    horizon: int = key(24, minimum=1, maximum=_MOST_BARS)

    def outcomes(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        """Return the returns; see `labels.smoothed_return`."""
        frame = prepared.frame
        return smoothed_return(
            epoch_ms(frame["timestamp"]),
            frame["close"].to_numpy(),
            bar_ms=bar_length(frame),
            horizon=options.horizon,
        )

    def labels(
        self, prepared: PreparedData, options: RecipeOptions, parts: Parts, lag: int = 0
    ) -> Labels:
        """Return the returns, for which persistence is 0."""
        values = self._labelled(prepared, options, parts, lag)
        unchanged = np.where(np.isnan(values), np.nan, 0.0)
        return Labels(values, values, unchanged, Return(options.horizon, lag))
