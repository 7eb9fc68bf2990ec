"""The last layer of a network, and how its outputs are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, FeatureMatrix

Loss = Literal["mse", "binary_crossentropy", "sparse_categorical_crossentropy"]


@dataclass(frozen=True)
class Head:
    """The last layer of a network. It follows from the target, so any network fits any target.

    Attributes:
        activation: Its activation.
        units: Number of outputs of a window.
    """

    activation: Literal["linear", "sigmoid", "softmax"]
    units: int = 1

    @property
    def loss(self) -> Loss:
        """The loss that a network with this head is fitted with, as Keras names it."""
        losses: dict[str, Loss] = {
            "linear": "mse",
            "sigmoid": "binary_crossentropy",
            "softmax": "sparse_categorical_crossentropy",
        }
        return losses[self.activation]


LINEAR = Head("linear")
SIGMOID = Head("sigmoid")


class Output(ABC):
    """How the outputs of a model are read. metadata.json stores it, so bundles are self-contained.

    Attributes:
        unit: Unit of the forecasts; empty for probabilities.
        horizon: Bars after the anchor that a forecast covers.
        lag: Bars from the last bar of a window to the anchor.
    """

    unit: ClassVar[str]
    horizon: int
    lag: int = 0

    @property
    def head(self) -> Head:
        """The last layer that such a model has."""
        return LINEAR

    @property
    def offset(self) -> int:
        """Bars from the last bar of a window to the bar at which its forecast is listed."""
        return 1

    def forecasts(
        self,
        outputs: NDArray[np.float64],
        matrix: FeatureMatrix | CandleMatrix,  # noqa: ARG002
        starts: NDArray[np.int64],  # noqa: ARG002
        last: NDArray[np.float64],  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Return the forecasts in `unit`, float64, in the shape of `outputs`.

        Args:
            outputs: Outputs of the model, shape (windows,), or (windows, units) if the head has
                several units.
            matrix: The matrix that the windows are cut from.
            starts: First row of each window in `matrix`.
            last: Last close of each window, quote currency.
        """
        return outputs

    def problem(self, outputs: NDArray[Any]) -> str | None:
        """Return why engines cannot use the outputs of a model; None if they can.

        Args:
            outputs: Outputs of the model, shape (windows, units of `head`).
        """
        if np.isfinite(outputs).all():
            return None
        return "NaN or infinite values, expected finite numbers"

    @abstractmethod
    def columns(
        self, forecasts: NDArray[np.float64], last: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return what `Bundle.predict` shows of the forecasts, by column, shape (windows,) each.

        Args:
            forecasts: See `forecasts`.
            last: Last close of each window, quote currency.
        """

    @abstractmethod
    def to_metadata(self) -> dict[str, Any]:
        """Return the keys of metadata.json that `outputs.read` reads."""
