"""Outputs that are not prices, and the output that the metadata of a bundle describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from atb_fast.errors import BundleError
from atb_fast.features.heads import SIGMOID, Head, Output
from atb_fast.features.price import PriceScale

#: Largest horizon, in bars.
_MOST_BARS = 1 << 20
#: Largest difference of the sum of the probabilities of all classes from 1 that engines accept.
_SUM_TOLERANCE = 1e-2
#: Upper bound for the size of factors and quantiles, which are about 1.
_LARGEST_NUMBER = 1e6
#: The labels that each kind of classification may have.
_CLASS_LABELS = {
    "binary_classification": ((-1, 1), (0, 1)),
    "ternary_classification": ((-1, 0, 1),),
}


@dataclass(frozen=True)
class Classes(Output):
    """The probability of each class.

    A sigmoid head gives that of the second of two classes, shape (windows,); a softmax head gives
    all of them, shape (windows, classes).

    Attributes:
        labels: What the classes mean, ascending: -1 down, 0 flat, 1 up; or 0 no, 1 yes.
        horizon: Bars after the anchor within which the class is decided.
        lag: Bars from the last bar of a window to the anchor.
    """

    unit: ClassVar[str] = ""

    labels: tuple[int, ...]
    horizon: int = 1
    lag: int = 0

    @property
    def head(self) -> Head:
        """A sigmoid for two classes, a softmax for three."""
        return SIGMOID if len(self.labels) == 2 else Head("softmax", len(self.labels))

    def problem(self, outputs: NDArray[Any]) -> str | None:
        """Also reject numbers that are not probabilities: engines would ignore every forecast."""
        found = super().problem(outputs)
        if found is None and not ((outputs >= 0.0) & (outputs <= 1.0)).all():
            low, high = outputs.min(), outputs.max()
            found = f"values from {low:.4g} to {high:.4g}, expected probabilities from 0 to 1"
        if found is None and self.head.units > 1:
            sums = outputs.sum(axis=1)
            if (np.abs(sums - 1.0) > _SUM_TOLERANCE).any():
                low, high = sums.min(), sums.max()
                found = f"probabilities that sum to {low:.4g} up to {high:.4g}, expected 1"
        return found

    def columns(
        self,
        forecasts: NDArray[np.float64],
        last: NDArray[np.float64],  # noqa: ARG002
    ) -> dict[str, NDArray[np.float64]]:
        """Return the probabilities and the most probable label.

        For two classes, `probability` is that of the second one; the label is the second one if its
        probability is above 0.5. For three, there are `probability_down`, `probability_flat` and
        `probability_up`; the first of equal probabilities wins.
        """
        named = np.array(self.labels, np.float64)
        known = ~np.isnan(forecasts)
        if forecasts.ndim == 1:
            chosen = np.where(known, named[(forecasts > 0.5).astype(int)], np.nan)
            return {"probability": forecasts, "direction": chosen}
        names = ("down", "flat", "up")
        found = {f"probability_{name}": forecasts[:, i] for i, name in enumerate(names)}
        chosen = named[np.argmax(np.where(known, forecasts, -1.0), axis=1)]
        return found | {"direction": np.where(known.all(axis=1), chosen, np.nan)}

    def to_metadata(self) -> dict[str, Any]:
        """Return the keys of metadata.json."""
        kind = "binary" if len(self.labels) == 2 else "ternary"
        return {
            "task_type": f"{kind}_classification",
            "class_labels": list(self.labels),
            "output": {"kind": "classes", "horizon": self.horizon, "lag": self.lag},
        }


@dataclass(frozen=True)
class Return(Output):
    """A simple return from the close of the anchor, 0.01 for 1%.

    Attributes:
        horizon: Bars after the anchor that the return covers.
        lag: Bars from the last bar of a window to the anchor.
    """

    unit: ClassVar[str] = "return"

    horizon: int = 1
    lag: int = 0

    def columns(
        self,
        forecasts: NDArray[np.float64],
        last: NDArray[np.float64],  # noqa: ARG002
    ) -> dict[str, NDArray[np.float64]]:
        """Return the returns as `predicted_return`."""
        return {"predicted_return": forecasts}

    def to_metadata(self) -> dict[str, Any]:
        """Return the keys of metadata.json."""
        return {
            "task_type": "regression",
            "output": {"kind": "return", "horizon": self.horizon, "lag": self.lag},
        }


@dataclass(frozen=True)
class LogSigma(Output):
    """The logarithm of the volatility over the next bars.

    Attributes:
        horizon: Bars that the volatility covers.
        variance_factor: Factor on the variance, so that its forecasts are right on average.
        quantiles: Quantiles of `return / sigma`, by level, ascending; empty for no bands.
        lag: Bars from the last bar of a window to the anchor.
    """

    unit: ClassVar[str] = "log sigma"

    horizon: int = 1
    variance_factor: float = 1.0
    quantiles: Mapping[float, float] = field(default_factory=dict)
    lag: int = 0

    def sigma(self, forecasts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the volatility: the standard deviation of the log return over the horizon."""
        return np.exp(forecasts) * math.sqrt(self.variance_factor)

    def columns(
        self, forecasts: NDArray[np.float64], last: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return `sigma` and, for each level, a price, quote currency.

        The name of a price is its level in percent: `price_q05` for 0.05, `price_q02.5` for 0.025.
        """
        sigma = self.sigma(forecasts)
        bands = {
            _band(level): last * np.exp(quantile * sigma)
            for level, quantile in self.quantiles.items()
        }
        return {"sigma": sigma} | bands

    def to_metadata(self) -> dict[str, Any]:
        """Return the keys of metadata.json."""
        return {
            "task_type": "regression",
            "output": {
                "kind": "log_sigma",
                "horizon": self.horizon,
                "lag": self.lag,
                "variance_factor": self.variance_factor,
                "quantiles": {str(level): value for level, value in self.quantiles.items()},
            },
        }


def _band(level: float) -> str:
    """Return the name of the price at a level; no two levels have the same."""
    percent = Decimal(str(level)) * 100  # 100 * 0.07 is 7.000000000000001
    return f"price_q{'0' if percent < 10 else ''}{percent.normalize():f}"


def read(metadata: Mapping[str, Any]) -> Output:
    """Return the output that the metadata of a bundle describes.

    Raises:
        BundleError: A key is missing or has an invalid value, or keys contradict each other.
    """
    price, given, labels, sizes = (
        metadata.get(key)
        for key in ("price_normalization", "output", "class_labels", "target_distribution")
    )
    if given is None and labels is None and (sizes is None or price is not None):
        return PriceScale.from_dict(price)
    if price is not None:
        raise BundleError(
            "metadata.json has a price_normalization, but the model does not predict prices; "
            "engines would convert its output to a price"
        )
    if given is None:  # a bundle of another trainer, made for strategies
        if labels is None:
            return Return(lag=1)
        named = _class_labels(metadata)
        # A meta-label, no or yes, belongs to the signal that is its window.
        return Classes(named, lag=0 if named == (0, 1) else 1)
    if not isinstance(given, Mapping):
        raise BundleError(f"output is {given!r:.200}, expected an object")
    horizon, lag = (_bars(given, name, least) for name, least in (("horizon", 1), ("lag", 0)))
    kind = given.get("kind")
    if kind == "classes":
        return Classes(_class_labels(metadata), horizon, lag)
    if labels is not None:
        raise BundleError(f"metadata.json has class_labels, but its output has kind {kind!r:.80}")
    if kind == "return":
        return Return(horizon, lag)
    if kind == "log_sigma":
        factor = _number(given.get("variance_factor"), "variance_factor")
        if not factor > 0.0:
            raise BundleError(f"variance_factor is {factor:g}, expected a number above 0")
        return LogSigma(horizon, factor, _quantiles(given.get("quantiles", {})), lag)
    raise BundleError(
        f"output has the kind {kind!r:.80}, expected classes, return or log_sigma; use a newer "
        "version of atb-fast"
    )


def kind_of(output: Output) -> str:
    """Return what a model with this output predicts, for messages."""
    if isinstance(output, PriceScale):
        return "prices"
    if isinstance(output, Classes):
        return f"the classes {', '.join(map(str, output.labels))}"
    return "volatility" if isinstance(output, LogSigma) else "returns"


def describe(output: Output) -> str:
    """Return what a model predicts and when; two models with the same text can replace each other.

    Engines and strategies read the outputs of both in the same way.
    """
    return f"{kind_of(output)} (horizon {output.horizon}, lag {output.lag})"


def _class_labels(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    task, labels = metadata.get("task_type"), metadata.get("class_labels")
    known = _CLASS_LABELS.get(task, ()) if isinstance(task, str) else ()
    for allowed in known:
        # True == 1 and 1.0 == 1, but engines compare the labels as they are.
        if isinstance(labels, list) and labels == list(allowed) and {*map(type, labels)} == {int}:
            return allowed
    raise BundleError(
        f"task_type is {task!r:.80} with the class_labels {labels!r:.80}, expected one of "
        + "; ".join(
            f"{name} with {list(own)}" for name, all_ in _CLASS_LABELS.items() for own in all_
        )
    )


def _bars(given: Mapping[str, Any], name: str, least: int) -> int:
    value = given.get(name)
    if type(value) is not int or not least <= value <= _MOST_BARS:
        raise BundleError(
            f"{name} is {value!r:.80}, expected an integer from {least} to {_MOST_BARS:,}"
        )
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER:
        raise BundleError(
            f"{name} is {value!r:.80}, expected a number from {-_LARGEST_NUMBER:,.0f} to "
            f"{_LARGEST_NUMBER:,.0f}"
        )
    return float(value)


def _quantiles(given: Any) -> dict[float, float]:
    """Return the quantiles by level, both ascending."""
    if not isinstance(given, Mapping):
        raise BundleError(f"quantiles is {given!r:.80}, expected an object")
    try:
        found = {float(level): _number(value, "a quantile") for level, value in given.items()}
    except (TypeError, ValueError) as error:
        raise BundleError(f"quantiles is {dict(given)!r:.200}, expected levels as keys") from error
    levels, values = list(found), list(found.values())
    inside = all(0.0 < level < 1.0 for level in levels)
    if not inside or levels != sorted(levels) or values != sorted(values):
        raise BundleError(
            f"quantiles is {dict(given)!r:.200}, expected ascending levels between 0 and 1 with "
            "ascending values"
        )
    return found
