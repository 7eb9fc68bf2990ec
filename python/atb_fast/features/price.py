"""Converts the outputs of a model to prices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, FeatureMatrix
from atb_fast.errors import BundleError
from atb_fast.features.heads import Output

#: Largest horizon and window, in bars.
_MOST_BARS = 1 << 20
#: Upper bound for the scale of log returns: a log return of 100 is a factor of 1e43.
_LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class PriceScale(Output):
    """How outputs of a model are converted to prices; `price_normalization` in metadata.json.

    Use `linear`, `rolling_minmax` or `log_return` to create one.

    Attributes:
        kind: `linear`: the price is `output * std + mean`. `rolling_minmax`: it is `low + output *
            (high - low)`, with the lowest and highest close of the window. `log_return`: it is
            `last * exp(output * scale)`, with the last close of the window.
        mean: Offset of `linear`, quote currency.
        std: Factor of `linear`, quote currency.
        window: Rows in a window, for `rolling_minmax`.
        scale: Log return of an output of 1, for `log_return`.
        horizon: Bars from the last bar of the window to the bar whose close is predicted.
    """

    unit: ClassVar[str] = "quote currency"

    kind: Literal["linear", "rolling_minmax", "log_return"]
    mean: float = 0.0
    std: float = 1.0
    window: int = 0
    scale: float = 1.0
    horizon: int = 1

    @classmethod
    def linear(cls, mean: float = 0.0, std: float = 1.0, *, horizon: int = 1) -> PriceScale:
        """Return the scale of a model that predicts prices, by default in quote currency."""
        return cls("linear", mean=mean, std=std, horizon=horizon)

    @classmethod
    def rolling_minmax(cls, window: int, *, horizon: int = 1) -> PriceScale:
        """Return the scale of a model that predicts positions in the range of a window."""
        return cls("rolling_minmax", window=window, horizon=horizon)

    @classmethod
    def log_return(cls, scale: float, *, horizon: int = 1) -> PriceScale:
        """Return the scale of a model that predicts log returns in units of `scale`."""
        return cls("log_return", scale=scale, horizon=horizon)

    @property
    def offset(self) -> int:
        """Bars from the last bar of a window to the bar whose close is predicted."""
        return self.horizon

    def forecasts(
        self,
        outputs: NDArray[np.float64],
        matrix: FeatureMatrix | CandleMatrix,
        starts: NDArray[np.int64],
        last: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the predicted prices in quote currency, float64, shape (windows,).

        Args:
            outputs: Outputs of the model, shape (windows,).
            matrix: The matrix that the windows are cut from; a `CandleMatrix` for `rolling_minmax`.
            starts: First row of each window in `matrix`.
            last: Last close of each window, quote currency.
        """
        with np.errstate(over="ignore"):  # callers check for infinite prices
            if self.kind == "rolling_minmax":
                assert isinstance(matrix, CandleMatrix)
                low, high = matrix.ranges("close", starts, self.window)
                return np.asarray(low + outputs * (high - low))
            if self.kind == "log_return":
                return np.asarray(last * np.exp(outputs * self.scale))
            return np.asarray(outputs * self.std + self.mean)

    def columns(
        self,
        forecasts: NDArray[np.float64],
        last: NDArray[np.float64],  # noqa: ARG002
    ) -> dict[str, NDArray[np.float64]]:
        """Return the prices as `prediction`, quote currency."""
        return {"prediction": forecasts}

    def to_metadata(self) -> dict[str, Any]:
        """Return the keys of metadata.json."""
        return {"task_type": "regression", "price_normalization": self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Return `price_normalization` of metadata.json."""
        if self.kind == "log_return":
            return {"method": self.kind, "scale": self.scale, "horizon": self.horizon}
        made: dict[str, Any] = {"mean": self.mean, "std": self.std}
        if self.kind == "rolling_minmax":
            made = {"method": self.kind, "window": self.window, "target_feature": "close"}
        return made if self.horizon == 1 else made | {"horizon": self.horizon}

    @classmethod
    def from_dict(cls, given: Any) -> PriceScale:
        """Return the scale that `price_normalization` of metadata.json describes.

        Raises:
            BundleError: A key is missing or has an invalid value.
        """
        if not given:
            raise BundleError(
                "the model's output cannot be converted to a price: metadata.json has no "
                "price_normalization; retrain the model"
            )
        if not isinstance(given, Mapping):
            raise BundleError(f"price_normalization is {given!r:.200}, expected an object")
        try:
            return cls._read(given)
        except BundleError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise BundleError(
                f"price_normalization is {dict(given)!r:.200}, which cannot be read "
                f"({type(error).__name__}: {error}); expected mean and std, or the method "
                "rolling_minmax with window and target_feature, or log_return with scale and "
                "horizon"
            ) from error

    @classmethod
    def _read(cls, given: Mapping[str, Any]) -> PriceScale:
        method = given.get("method")
        horizon = given["horizon"] if method == "log_return" else given.get("horizon", 1)
        _check_bars("horizon", horizon)
        if method == "rolling_minmax":
            _check_bars("window", given["window"])
            if given["target_feature"] != "close":
                raise BundleError(
                    f"target_feature is {given['target_feature']!r:.80}, expected 'close'"
                )
            return cls.rolling_minmax(given["window"], horizon=horizon)
        if method == "log_return":
            scale = float(given["scale"])
            if not 0.0 < scale < _LARGEST_SCALE:  # also if it is NaN
                raise BundleError(
                    f"scale is {scale}, expected a number above 0 and below {_LARGEST_SCALE:g}"
                )
            return cls.log_return(scale, horizon=horizon)
        mean, std = float(given["mean"]), float(given["std"])
        if not (math.isfinite(mean) and math.isfinite(std)):
            raise BundleError(f"mean is {mean} and std is {std}, expected finite numbers")
        return cls.linear(mean, std, horizon=horizon)


def _check_bars(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= _MOST_BARS:
        raise BundleError(f"{name} is {value!r:.80}, expected an integer from 1 to {_MOST_BARS}")
