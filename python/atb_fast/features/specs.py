"""Declared features: the expression of each, and how its values are scaled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import Feature, FeaturePipeline, MinMaxScaler
from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import DataError
from atb_fast.features.expressions import Expr

if TYPE_CHECKING:
    import polars as pl

#: How a feature is scaled. `none`: not at all. `minmax`: to 0..1. `standard`: (x - mean) / standard
#: deviation. `robust`: (x - median) / interquartile range. `window`: each window by its own lowest
#: and highest values, see `CandleMatrix`.
Scaler = Literal["none", "minmax", "standard", "robust", "window"]
SCALERS: tuple[str, ...] = get_args(Scaler)

#: Columns of the Fear & Greed index; see `features.sentiment.index_columns`.
INDEX_COLUMNS = (
    *("fear_greed", "sentiment_primary", "sentiment_momentum", "sentiment_volatility"),
    *("sentiment_ma_3", "sentiment_ma_7", "sentiment_ma_14"),
    *("sentiment_extreme_positive", "sentiment_extreme_negative", "sentiment_missing"),
)

#: A scaler that leaves values as they are.
UNSCALED = MinMaxScaler(0.0, 1.0)
#: Number of values that are held in float64 while scalers are fitted.
_BLOCK = 1 << 25


@dataclass(frozen=True)
class FeatureSpec:
    """A feature.

    Attributes:
        expression: What is computed for each bar.
        scaler: How the values are scaled.
        null_as: A value that replaces missing ones while the scaler is fitted; None to skip them.
        timeframes: The timeframes that it exists for; empty for all.
    """

    expression: Expr
    scaler: Scaler = "standard"
    null_as: float | None = None
    timeframes: tuple[str, ...] = ()

    @property
    def uses_index(self) -> bool:
        """Whether it is computed from the Fear & Greed index."""
        return not self.expression.columns.isdisjoint(INDEX_COLUMNS)

    def compiled(self, name: str, bar_ms: int) -> Feature:
        """Return the feature that the extension evaluates, for bars of `bar_ms` milliseconds."""
        return Feature(name, self.expression.nodes(bar_ms), null_as=self.null_as)


#: The features of a model by name, in channel order.
Specs = Mapping[str, FeatureSpec]


def further_columns(columns: Collection[str]) -> tuple[str, ...]:
    """Return the names in `columns` that neither the candles nor the index have, in order."""
    return tuple(name for name in columns if name not in (*CANDLE_COLUMNS, *INDEX_COLUMNS))


def compiled(specs: Specs, bar_ms: int) -> list[Feature]:
    """Return the features that the extension evaluates, for bars of `bar_ms` milliseconds."""
    return [spec.compiled(name, bar_ms) for name, spec in specs.items()]


def unscaled(features: Sequence[Feature]) -> FeaturePipeline:
    """Return the pipeline of `features` that leaves their values as they are."""
    return FeaturePipeline(features, scalers=[UNSCALED] * len(features))


def fit_scalers(
    specs: Specs,
    features: Sequence[Feature],
    frame: pl.DataFrame,
    rows: NDArray[np.int64] | slice = slice(None),
) -> list[MinMaxScaler]:
    """Return the scaler of each feature, fitted on `rows` of `frame`.

    Raises:
        DataError: A feature has no value on these rows, or its values are too large.
    """
    methods = {spec.scaler for spec in specs.values()}
    if methods <= {"minmax"} and isinstance(rows, slice):
        return FeaturePipeline(features).fit(frame).scalers  # without a column in memory
    made: list[MinMaxScaler] = []
    names, count = list(specs), max(1, _BLOCK // max(1, len(frame)))
    for first in range(0, len(names), count):
        part = slice(first, first + count)
        values = unscaled(features[part]).evaluate(frame)[rows]
        made += [
            _fitted(name, specs[name], column)
            for name, column in zip(names[part], values.T, strict=True)
        ]
    return made


def _fitted(name: str, spec: FeatureSpec, values: NDArray[np.float64]) -> MinMaxScaler:
    if spec.scaler == "none":
        return UNSCALED
    if spec.null_as is not None:
        values = np.where(np.isnan(values), spec.null_as, values)
    known = values[~np.isnan(values)]
    if not len(known):
        raise DataError(
            f"feature {name} has no value on the rows that its scaler is fitted on; use a longer "
            "range"
        )
    # A min-max scaler from a to b computes (x - a) / (b - a).
    with np.errstate(over="ignore", invalid="ignore"):
        if spec.scaler == "minmax":
            low, high = float(known.min()), float(known.max())
        elif spec.scaler == "standard":
            low = float(known.mean())
            high = low + (float(known.std()) or 1.0)
        else:
            first, low, third = map(float, np.quantile(known, (0.25, 0.5, 0.75)))
            high = low + ((third - first) or 1.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(
            f"the values of feature {name} are too large to scale (up to "
            f"{float(np.abs(known).max()):.1e}); use a ratio or a logarithm"
        )
    return MinMaxScaler(low, high)
