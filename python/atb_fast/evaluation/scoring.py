"""How forecasts of each kind are scored, and the baselines that they are compared with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast.evaluation import metrics, volatility
from atb_fast.evaluation.linear import least_squares, logistic
from atb_fast.evaluation.significance import diebold_mariano, mcnemar, verdict, wilson_interval
from atb_fast.features.frames import epoch_ms
from atb_fast.features.outputs import Classes, LogSigma, Return
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.targets.volatility import returns_after

_Arrays = Mapping[str, NDArray[np.float64]]

#: What the baselines are called in sentences, by the prefix of their figures.
NAMES = {
    "persistence": "persistence",
    "class_shares": "the class shares",
    "har": "HAR",
    "ewma": "EWMA",
    "linear": "the linear model",
}
#: Name of each label, unless the labels are 0 and 1.
_CLASSES = {-1: "down", 0: "flat", 1: "up"}
#: Of `Tested.further`, what is estimated for the forecasts of the model.
_OF_THE_MODEL = ("scaled", "bands")


@dataclass(frozen=True)
class Tested:
    """What a model and the baselines forecast for the test windows, and what happened.

    Attributes:
        times: Open times of the bars at which the forecasts are listed, UTC.
        horizon: Bars that a forecast covers.
        begins: When the horizon of each window begins, milliseconds since 1970, int64, shape
            (windows,).
        ends: When it ends.
        actual: What happened, in the unit of the forecasts; for classes, their indices; float64,
            shape (windows,).
        forecasts: Forecasts of the model, see `WindowedData.forecasts`.
        baselines: Those of each baseline, by name; the names are the keys of `NAMES`.
        further: Other arrays that figures are computed from, by name, shape (windows, ...).
    """

    times: pl.Series
    horizon: int
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    actual: NDArray[np.float64]
    forecasts: NDArray[np.float64]
    baselines: _Arrays
    further: _Arrays

    @cached_property
    def apart(self) -> NDArray[np.bool_]:
        """Whether each window belongs to a subset whose horizons do not overlap, see `apart`."""
        return _apart(self.begins, self.ends)

    @classmethod
    def together(cls, parts: Sequence[Tested]) -> Tested:
        """Return the windows of several parts, in order of time, as if they were one."""

        def joined(named: Sequence[_Arrays]) -> _Arrays:
            return {name: np.concatenate([each[name] for each in named]) for name in named[0]}

        return cls(
            pl.concat([part.times for part in parts]),
            parts[0].horizon,
            np.concatenate([part.begins for part in parts]),
            np.concatenate([part.ends for part in parts]),
            np.concatenate([part.actual for part in parts]),
            np.concatenate([part.forecasts for part in parts]),
            joined([part.baselines for part in parts]),
            joined([part.further for part in parts]),
        )


class Scoring(ABC):
    """How forecasts of one kind are scored. Figures that do not exist are left out.

    Attributes:
        kind: `prices`, `returns`, `classes` or `volatility`.
        key: The error as a name of a figure: `rmse`, or `log_loss` even if it is weighted.
        name: The error in sentences.
        unit: Unit of the error; empty if it has none.
        unchanged: The baseline whose error `ratio` divides by.
        references: Baselines in order of preference; a model has to beat the first that exists.
    """

    kind: ClassVar[str]
    key: ClassVar[str] = "rmse"
    name: ClassVar[str] = "RMSE"
    unit: ClassVar[str]
    unchanged: ClassVar[str] = "persistence"
    references: ClassVar[tuple[str, ...]] = ("persistence",)

    def losses(
        self, actual: NDArray[np.float64], forecasts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the loss of each forecast, here the squared error, shape (windows,)."""
        return np.square(forecasts - actual)

    def mean(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the error of forecasts with these losses: here, the root of their mean.

        Args:
            losses: Shape (..., windows).
        """
        return np.asarray(np.sqrt(np.mean(losses, axis=-1)))

    def error(self, actual: NDArray[np.float64], forecasts: NDArray[np.float64]) -> float:
        """Return the error of forecasts, in `unit`."""
        return float(self.mean(self.losses(actual, forecasts)))

    def loss(self, error: float) -> float:
        """Return the mean loss of forecasts with this error."""
        return error**2

    def tested(self, data: WindowedData, forecasts: NDArray[np.float64]) -> Tested:
        """Return the forecasts for the test windows, together with those of the baselines.

        Args:
            data: The windows.
            forecasts: Forecasts of the model for the test windows.
        """
        test = data.test
        baselines, further = self._others(data)
        made = Tested(
            data.times(test),
            data.horizon,
            *_horizons(data, test),
            data.targets(test),
            forecasts,
            baselines,
            further,
        )
        return self.with_forecasts(made, data, forecasts)

    def with_forecasts(
        self,
        tested: Tested,
        data: WindowedData,  # noqa: ARG002
        forecasts: NDArray[np.float64],
    ) -> Tested:
        """Return `tested` with other forecasts of a model."""
        return replace(tested, forecasts=forecasts)

    def of_network(
        self, tested: Tested, data: WindowedData, forecasts: NDArray[np.float64]
    ) -> Tested:
        """Return `tested` with the forecasts of the network of the model before shrinkage."""
        return self.with_forecasts(tested, data, forecasts)

    def reference(self, tested: Tested) -> str:
        """Return the name of the baseline that a model has to beat; see `NAMES`."""
        return next(name for name in self.references if name in tested.baselines)

    def verdict(self, tested: Tested, error: float, figures: Mapping[str, Any]) -> str:
        """Return how the model compares with the reference; see `significance.verdict`.

        Args:
            tested: The forecasts.
            error: Error of the model.
            figures: The other figures, see `figures`.
        """
        reference = self.reference(tested)
        other, statistic = figures[f"{reference}_{self.key}"], figures["diebold_mariano"]
        return verdict(error, other, statistic, NAMES[reference])

    def caveat(self, tested: Tested, error: float, figures: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Return which figures contradict the verdict significantly; empty if none does.

        Args:
            tested: The forecasts.
            error: Error of the model.
            figures: The other figures, see `figures`.

        Returns:
            A sentence.
        """
        return ""

    def figures(self, tested: Tested) -> dict[str, Any]:
        """Return all figures of the forecasts by name, as JSON values.

        The error is called `key`, and those of the baselines have their name as prefix. `ratio` and
        the ratios of the baselines are errors divided by that of `unchanged`. `diebold_mariano`
        compares the model with the reference; see `significance.diebold_mariano`.
        """
        of_baselines = {
            name: self.losses_of(tested, forecasts) for name, forecasts in tested.baselines.items()
        }
        own = self.losses_of(tested, tested.forecasts)
        error = float(self.mean(own))
        errors = {name: float(self.mean(losses)) for name, losses in of_baselines.items()}
        found: dict[str, Any] = {self.key: error}
        found |= {f"{name}_{self.key}": value for name, value in errors.items()}
        if unchanged := errors[self.unchanged]:
            found["ratio"] = error / unchanged
            others = (name for name in errors if name != self.unchanged)
            found |= {f"{name}_ratio": errors[name] / unchanged for name in others}
        reference = of_baselines[self.reference(tested)]
        found["diebold_mariano"] = diebold_mariano(own, reference, tested.horizon)
        found |= self._figures(tested)
        return {name: value for name, value in found.items() if value is not None}

    def losses_of(self, tested: Tested, forecasts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the loss of each of the forecasts for the windows of `tested`, shape (windows,).

        Args:
            tested: The windows, and what happened.
            forecasts: Those of the model or of a baseline.
        """
        return self.losses(tested.actual, forecasts)

    def hits(self, tested: Tested) -> NDArray[np.float64]:
        """Return whether the direction or the class of each window was forecast, shape (windows,).

        1 or 0. For classes, all windows count. For directions, windows that do not count are NaN:
        those whose horizon overlaps with that of an earlier window that counts (see
        `Tested.apart`), and those in which the prediction or the price does not move. All are NaN
        if a forecast has neither direction nor class.
        """
        return np.full(len(tested.actual), np.nan)

    @abstractmethod
    def _others(self, data: WindowedData) -> tuple[_Arrays, _Arrays]:
        """Return `Tested.baselines`, and the part of `Tested.further` that needs no model."""

    @abstractmethod
    def _figures(self, tested: Tested) -> dict[str, Any]:
        """Return the figures of this kind; None if one does not exist."""


class Returns(Scoring):
    """Returns.

    Figures: `rmse`, `persistence_rmse`, `linear_rmse`, `ratio`, `linear_ratio`, `diebold_mariano`;
    `directional_accuracy` with `_low`, `_high` and `directional_bars`, `directional_up_share`,
    `linear_directional_accuracy`, `contrarian_accuracy`: see `metrics.Direction`, on windows whose
    horizons do not overlap; `up_share`, the share of all bars that rose.
    """

    kind = "returns"
    unit = Return.unit

    def hits(self, tested: Tested) -> NDArray[np.float64]:
        """Return whether the direction of each window was forecast; see `Scoring.hits`."""
        unchanged = tested.baselines["persistence"]
        predicted, actual = (np.sign(x - unchanged) for x in (tested.forecasts, tested.actual))
        counts = tested.apart & (predicted != 0) & (actual != 0)
        return np.where(counts, predicted == actual, np.nan)

    def _others(self, data: WindowedData) -> tuple[_Arrays, _Arrays]:
        baselines = {"persistence": data.persistence(data.test), "linear": least_squares(data)}
        return baselines, {"contrarian": _contrarian(data)}

    def _figures(self, tested: Tested) -> dict[str, Any]:
        unchanged = tested.baselines["persistence"]
        linear, contrarian = tested.baselines["linear"], unchanged + tested.further["contrarian"]
        own, of_linear, opposite = (
            metrics.directional_accuracy(
                unchanged[tested.apart], tested.actual[tested.apart], forecasts[tested.apart]
            )
            for forecasts in (tested.forecasts, linear, contrarian)
        )
        return {
            "directional_accuracy": own and own.share,
            "directional_accuracy_low": own and own.low,
            "directional_accuracy_high": own and own.high,
            "directional_up_share": own and own.up_share,
            "directional_bars": own.bars if own else 0,
            "linear_directional_accuracy": of_linear and of_linear.share,
            "contrarian_accuracy": opposite and opposite.share,
            "up_share": float(np.mean(tested.actual > unchanged)),
        }


class Prices(Returns):
    """Prices.

    Figures: those of returns, with errors in quote currency, `mape` and `persistence_mape`.
    """

    kind = "prices"
    unit = PriceScale.unit

    def _figures(self, tested: Tested) -> dict[str, Any]:
        return {
            "mape": metrics.mape(tested.actual, tested.forecasts),
            "persistence_mape": metrics.mape(tested.actual, tested.baselines["persistence"]),
        } | super()._figures(tested)


@dataclass(frozen=True)
class ClassProbabilities(Scoring):
    """Probabilities of classes.

    The reference forecasts the share of each class in the training windows. Accuracies are measured
    on all test windows; intervals and `mcnemar` count only those whose horizons do not overlap.

    Figures: `log_loss`, `class_shares_log_loss`, `linear_log_loss`, `ratio`, `linear_ratio`,
    `diebold_mariano`; `accuracy` with `_low`, `_high` and `accuracy_bars`, `majority_accuracy` of
    the most frequent class of the training windows, `contrarian_accuracy` if the classes are
    directions, `linear_accuracy`, `balanced_accuracy`; `brier_score`, `class_shares_brier_score`;
    `mcnemar`, a comparison with the better of majority and contrarian, named `other`, see
    `significance.McNemar`; `confusion_matrix`, the windows by actual and most probable class.

    Attributes:
        labels: What the classes mean, ascending; see `Classes`.
    """

    kind = "classes"
    key = "log_loss"
    name = "log loss"
    unit = ""
    unchanged = "class_shares"
    references = ("class_shares",)

    labels: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels."""
        if self.labels == (0, 1):
            return "no", "yes"
        return tuple(_CLASSES[label] for label in self.labels)

    def losses(
        self, actual: NDArray[np.float64], forecasts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the negative logarithm of the probability of what happened."""
        return metrics.log_losses(actual.astype(np.int64), self._probabilities(forecasts))

    def mean(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean loss."""
        return np.asarray(np.mean(losses, axis=-1))

    def loss(self, error: float) -> float:
        """Return the error, which is the mean loss."""
        return error

    def hits(self, tested: Tested) -> NDArray[np.float64]:
        """Return whether the most probable class of each window occurred; see `Scoring.hits`."""
        return np.where(self._chosen(tested.forecasts) == tested.actual, 1.0, 0.0)

    def _probabilities(self, forecasts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of each class, shape (windows, classes)."""
        if forecasts.ndim > 1:
            return forecasts
        return np.column_stack([1.0 - forecasts, forecasts])

    def _chosen(self, forecasts: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the index of the most probable class; the first one of equals."""
        return np.asarray(np.argmax(self._probabilities(forecasts), axis=1))

    def _others(self, data: WindowedData) -> tuple[_Arrays, _Arrays]:
        trained = data.fitted(data.train).astype(np.int64)
        shares = np.bincount(trained, minlength=len(self.labels)) / len(trained)
        further = {"shares": np.tile(shares, (len(data.test), 1))}
        baselines = {"class_shares": self._constant(data, shares), "linear": logistic(data)}
        if self.labels[0] != -1:  # the classes are no directions
            return baselines, further
        # The index of the class of a reversal. Of two classes, the first one includes no move.
        opposite = _contrarian(data)
        contrarian = opposite + 1.0 if len(self.labels) > 2 else np.maximum(opposite, 0.0)
        return baselines, further | {"contrarian": contrarian}

    def _constant(self, data: WindowedData, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the forecast of these shares for the test windows."""
        of_all = np.tile(shares, (len(data.test), 1))
        return of_all if len(self.labels) > 2 else of_all[:, 1]

    def _figures(self, tested: Tested) -> dict[str, Any]:
        actual = tested.actual.astype(np.int64)
        chosen = self._chosen(tested.forecasts)
        right, count = chosen == actual, max(1, int(np.sum(tested.apart)))
        accuracy = float(np.mean(right))
        low, high = wilson_interval(accuracy, count)
        of_shares = tested.further["shares"]
        simple = {"majority": self._chosen(of_shares)}
        if "contrarian" in tested.further:
            simple["contrarian"] = tested.further["contrarian"].astype(np.int64)
        rights = {name: choices == actual for name, choices in simple.items()}
        best = max(rights, key=lambda name: float(np.mean(rights[name])))
        test = mcnemar(right[tested.apart], rights[best][tested.apart])
        briers = (
            float(np.mean(metrics.brier_losses(actual, self._probabilities(forecasts))))
            for forecasts in (tested.forecasts, of_shares)
        )
        return {
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "accuracy_bars": count,
            **{f"{name}_accuracy": float(np.mean(each)) for name, each in rights.items()},
            "linear_accuracy": float(np.mean(self._chosen(tested.baselines["linear"]) == actual)),
            "balanced_accuracy": metrics.balanced_accuracy(actual, chosen),
            **dict(zip(("brier_score", "class_shares_brier_score"), briers, strict=True)),
            "mcnemar": {"other": best} | asdict(test),
            "confusion_matrix": metrics.confusion_matrix(actual, chosen, len(self.labels)).tolist(),
        }


@dataclass(frozen=True)
class WeightedClasses(ClassProbabilities):
    """Probabilities of classes that the loss of the fit gives weights.

    `log_loss`, those of the baselines, ratios and `diebold_mariano` have these weights too, so that
    a model is judged by what it was fitted to. The reference is the best constant forecast under
    them: the share of each class in the total weight of the training windows. Accuracies and Brier
    scores have no weights.

    Attributes:
        weights: The weight of each class.
    """

    name = "weighted log loss"

    weights: tuple[float, ...]

    def verdict(self, tested: Tested, error: float, figures: Mapping[str, Any]) -> str:
        """Return the verdict with the name of the error: only this error is weighted."""
        return f"{super().verdict(tested, error, figures)} in {self.name}"

    def caveat(self, tested: Tested, error: float, figures: Mapping[str, Any]) -> str:
        """Return which of Brier score and accuracy contradict a significant verdict.

        A figure contradicts it if its own difference is significant: for the Brier score in a
        Diebold-Mariano test, for the accuracy in that of McNemar, as for all accuracies.
        """
        word = self.verdict(tested, error, figures).partition(" ")[0]
        other = {"better": "worse", "worse": "better"}.get(word)
        if other is None:
            return ""
        actual, both = tested.actual.astype(np.int64), (tested.forecasts, tested.further["shares"])
        own, of_shares = (metrics.brier_losses(actual, self._probabilities(each)) for each in both)
        brier, brier_of_shares = float(np.mean(own)), float(np.mean(of_shares))
        statistic = diebold_mariano(own, of_shares, tested.horizon)
        right, majority = (self._chosen(each) == actual for each in both)
        share, share_of_majority = float(np.mean(right)), float(np.mean(majority))
        test = mcnemar(right[tested.apart], majority[tested.apart])
        briers, shares = f"{brier:.5f}", f"{brier_of_shares:.5f}"
        accuracy, of_majority = f"{share:.1%}", f"{share_of_majority:.1%}"
        contrary = []
        # Figures that look equal contradict nothing.
        if verdict(brier, brier_of_shares, statistic, "").startswith(other) and briers != shares:
            contrary.append(f"Brier score {briers} (class shares {shares})")
        # The test counts fewer windows than the shares, which may differ in the other direction.
        same = test.word == other == ("better" if share > share_of_majority else "worse")
        if same and accuracy != of_majority:
            contrary.append(f"accuracy {accuracy} (majority class {of_majority})")
        if not contrary:
            return ""
        return f"Without class weights, the model is significantly {other}: {', '.join(contrary)}."

    def losses(
        self, actual: NDArray[np.float64], forecasts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the log losses times the weights of what happened."""
        weights = np.array(self.weights)[actual.astype(np.int64)]
        return np.asarray(weights * super().losses(actual, forecasts))

    def losses_of(self, tested: Tested, forecasts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the losses, with the weights of the fold of each window."""
        return tested.further["weights"] * super().losses(tested.actual, forecasts)

    def _others(self, data: WindowedData) -> tuple[_Arrays, _Arrays]:
        baselines, further = super()._others(data)
        weights = np.array(self.weights)[data.fitted(data.test).astype(np.int64)]
        return baselines, {**further, "weights": weights}

    def _constant(self, data: WindowedData, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        weighted = shares * self.weights
        return super()._constant(data, weighted / weighted.sum())


@dataclass(frozen=True)
class LogVolatility(Scoring):
    """Logarithms of volatility.

    QLIKE and the bands need the level of the variance, so a factor on the variance is estimated on
    the validation windows, for the model as for each baseline.

    Figures: `rmse`, `mse`, `r2` and `qlike`; the same of `persistence_`, `har_` and `ewma_`, and of
    `linear_` except for `qlike`; `ratio`, `har_ratio`, `ewma_ratio`, `linear_ratio`, of the RMSE,
    and their squares, `mse_ratio` and so on; `qlike_ratio`, over HAR; `diebold_mariano` and
    `qlike_diebold_mariano`, compared with HAR; and, with quantiles, those of
    `volatility.band_measures`.

    Attributes:
        levels: Levels of the quantiles of the bands, ascending; empty for no bands.
    """

    kind = "volatility"
    unit = LogSigma.unit
    references = ("har", "persistence")

    levels: tuple[float, ...] = ()

    def _others(self, data: WindowedData) -> tuple[_Arrays, _Arrays]:
        named = volatility.baselines(data)
        found = {name: named[text] for name, text in NAMES.items() if text in named}
        baselines = {name: each.values for name, each in found.items()}
        further = {f"{name}_scaled": each.scaled for name, each in found.items()}
        if self.levels:
            further["returns"] = returns_after(data, data.test)
            further["rolling"] = volatility.rolling_quantiles(data, self.levels)
        return baselines | {"linear": least_squares(data)}, further

    def with_forecasts(
        self, tested: Tested, data: WindowedData, forecasts: NDArray[np.float64]
    ) -> Tested:
        """Return `tested` with other forecasts of a model, and what follows from them."""
        output = data.output
        assert isinstance(output, LogSigma)
        scaled = forecasts + 0.5 * math.log(output.variance_factor)
        forecasts = _unrounded(forecasts, tested.baselines.get("har"))
        own = {"scaled": _unrounded(scaled, tested.further.get("har_scaled"))}
        if self.levels:
            with np.errstate(over="ignore"):  # no return is beyond an infinite quantile
                own["bands"] = np.outer(output.sigma(forecasts), list(output.quantiles.values()))
        return replace(tested, forecasts=forecasts, further={**tested.further, **own})

    def of_network(
        self, tested: Tested, data: WindowedData, forecasts: NDArray[np.float64]
    ) -> Tested:
        """Leave out what depends on the variance factor and the quantiles, those of the model."""
        made = self.with_forecasts(tested, data, forecasts)
        kept = {name: each for name, each in made.further.items() if name not in _OF_THE_MODEL}
        return replace(made, further=kept)

    def _figures(self, tested: Tested) -> dict[str, Any]:
        found: dict[str, Any] = {}
        losses = {}
        unchanged = float(np.mean(self.losses(tested.actual, tested.baselines[self.unchanged])))
        # Figures that are not finite are left out.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for name, forecasts in {"": tested.forecasts, **tested.baselines}.items():
                prefix = f"{name}_" if name else ""
                found[f"{prefix}mse"] = float(np.mean(self.losses(tested.actual, forecasts)))
                found[f"{prefix}r2"] = volatility.r_squared(tested.actual, forecasts)
                if f"{prefix}scaled" in tested.further:
                    scaled = tested.further[f"{prefix}scaled"]
                    losses[name] = volatility.qlike(tested.actual, scaled)
                    found[f"{prefix}qlike"] = float(np.mean(losses[name]))
                if unchanged and name != self.unchanged:
                    found[f"{prefix}mse_ratio"] = found[f"{prefix}mse"] / unchanged
            if "" in losses:
                reference = losses[self.reference(tested)]
                found["qlike_ratio"] = float(found["qlike"] / np.mean(reference))
                found["qlike_diebold_mariano"] = diebold_mariano(
                    losses[""], reference, tested.horizon
                )
            if "bands" in tested.further:
                arrays = (tested.further[name] for name in ("returns", "bands", "rolling"))
                found |= volatility.band_measures(self.levels, *arrays)
        return {name: value if math.isfinite(value) else None for name, value in found.items()}


def scoring_of(data: WindowedData) -> Scoring:
    """Return how the forecasts of a model of `data` are scored."""
    output = data.output
    if isinstance(output, PriceScale):
        return Prices()
    if isinstance(output, Classes):
        weights = data.labels.weights
        if weights is None:
            return ClassProbabilities(output.labels)
        trained, of_classes = data.fitted(data.train).astype(np.int64), np.ones(len(output.labels))
        for each in np.unique(trained):
            # A recipe in Python may weight windows of a class unequally.
            of_classes[each] = np.mean(weights[data.train + data.length][trained == each])
        return WeightedClasses(output.labels, tuple(of_classes.tolist()))
    if isinstance(output, LogSigma):
        return LogVolatility(tuple(output.quantiles))
    return Returns()


def _unrounded(values: NDArray[np.float64], har: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return `values`, or those of HAR if they differ from these by rounding only.

    A model with a shrinkage factor of 0 is HAR, computed in float32.
    """
    if har is not None and np.allclose(values, har, rtol=1e-5, atol=1e-5):
        return har
    return values


def apart(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each window is one of those whose horizons do not overlap, in time.

    The first one is, and then each that begins when the horizon of the one before has ended. Rows
    may be far apart, so they cannot be counted.

    Args:
        data: The windows.
        starts: Their starts, ascending.
    """
    return _apart(*_horizons(data, starts))


def _horizons(
    data: WindowedData, starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the open times of the bars that the horizon of each window begins and ends with."""
    anchors_at = data.prepared.timestamps.gather(starts + data.length - 1 + data.output.lag)
    return epoch_ms(anchors_at), epoch_ms(data.ends(starts))


def _apart(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    following = np.searchsorted(begins, ends).tolist()
    found, number = np.zeros(len(begins), bool), 0
    while number < len(begins):
        found[number] = True
        number = max(number + 1, following[number])
    return found


def _contrarian(data: WindowedData) -> NDArray[np.float64]:
    """Return the direction of a reversal for each test window: minus the sign of the last return.

    That is the return of the anchor, which a model with a lag has not seen. Hourly returns of
    liquid markets tend to reverse, so a model has to be right more often.
    """
    rows = data.prepared.matrix.rows[data.test + data.length - 1 + data.output.lag]
    close = data.prepared.frame["close"].to_numpy()
    return np.asarray(-np.sign(close[rows] - close[rows - 1]))
