"""Measures of volatility forecasts, and the baselines that they are compared with.

Forecasts and actual values are logarithms of volatility, float64, shape (windows,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atb_fast.features.frames import epoch_ms
from atb_fast.features.functions import col, lag, log, quantile
from atb_fast.features.specs import FeatureSpec, compiled, unscaled
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.quality import bar_length
from atb_fast.recipes.targets.base import Predict
from atb_fast.recipes.targets.volatility import variance_factor

#: Weight of the previous variance in that of RiskMetrics (J.P. Morgan, RiskMetrics Technical
#: Document, 1996).
EWMA_DECAY = 0.94
#: Period of the returns whose quantiles the bands are compared with, in milliseconds.
_MONTH_MS = 30 * 24 * 3_600_000


def qlike(actual: NDArray[np.float64], forecast: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the QLIKE loss of each forecast: `a / f - log(a / f) - 1`, with variances a and f.

    Unlike the squared error, its expectation is least for the right variance even though the actual
    variance is measured with noise (A. Patton, Volatility Forecast Comparison Using Imperfect
    Volatility Proxies, 2011).
    """
    ratio = 2.0 * (actual - forecast)
    return np.asarray(np.exp(ratio) - ratio - 1.0)


def r_squared(actual: NDArray[np.float64], forecast: NDArray[np.float64]) -> float:
    """Return R²: 1 for perfect forecasts, 0 for those that are as good as the mean of `actual`."""
    spread = float(np.mean(np.square(actual - np.mean(actual))))
    error = float(np.mean(np.square(actual - forecast)))
    return 1.0 - error / spread if spread else math.nan


def pinball(
    values: NDArray[np.float64], quantiles: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """Return the pinball loss of each forecast of a quantile (R. Koenker and G. Bassett, 1978).

    Args:
        values: Actual values, shape (windows,).
        quantiles: Forecasts of their quantile, shape (windows,).
        level: The share of values that should be below, 0..1.
    """
    above = values - quantiles
    return np.maximum(level * above, (level - 1.0) * above)


def coverage(
    values: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> float:
    """Return the share of `values` from `low` to `high`."""
    return float(np.mean((values >= low) & (values <= high)))


def ewma(returns: NDArray[np.float64], decay: float = EWMA_DECAY) -> NDArray[np.float64]:
    """Return the exponentially weighted mean of the squared returns up to each bar.

    It starts at the first squared return. Bars without a return (NaN) leave it unchanged.

    Args:
        returns: Log returns by bar, shape (bars,).
        decay: Weight of the previous mean, 0..1.

    Returns:
        Variances, shape (bars,); NaN before the first return.
    """
    found = np.full(len(returns), np.nan)
    variance = math.nan
    for bar, square in enumerate(np.square(returns).tolist()):
        if not math.isnan(square):
            first = math.isnan(variance)
            variance = square if first else decay * variance + (1.0 - decay) * square
        found[bar] = variance
    return found


@dataclass(frozen=True)
class Forecast:
    """A forecast of the test windows.

    Attributes:
        values: Log volatility.
        variance_factor: Factor on the variance, estimated on the validation windows.
    """

    values: NDArray[np.float64]
    variance_factor: float = 1.0

    @property
    def scaled(self) -> NDArray[np.float64]:
        """Log volatility with the factor, for losses that depend on the level of the variance."""
        return self.values + 0.5 * math.log(self.variance_factor)


def baselines(data: WindowedData) -> dict[str, Forecast]:
    """Return the forecasts that a model is compared with on its test windows, by name.

    `persistence`: the volatility of the last bars, over as many as the horizon. `EWMA`: that of
    RiskMetrics; its mean error on the training windows is subtracted, because it is computed from
    returns rather than from ranges. `HAR`: least squares on the columns of the recipe whose names
    begin with `har_` (F. Corsi, A Simple Approximate Long-Memory Model of Realized Volatility,
    2009).

    Each has a variance factor that is estimated like that of the model.
    """
    found = {"persistence": _estimated(data, data.persistence), "EWMA": _ewma(data)}
    return found | ({"HAR": _estimated(data, data.base)} if data.labels.base else {})


def band_measures(
    levels: Sequence[float],
    returns: NDArray[np.float64],
    bands: NDArray[np.float64],
    rolling: NDArray[np.float64],
) -> dict[str, float]:
    """Return the coverage and loss of forecast quantiles, and of quantiles of earlier returns.

    Args:
        levels: Levels of the quantiles, ascending.
        returns: Log returns, shape (windows,).
        bands: Forecasts of their quantiles, shape (windows, levels).
        rolling: Quantiles of earlier returns, see `rolling_quantiles`. Windows without them do not
            count.

    Returns:
        `coverage`, the share of returns between the lowest and the highest quantile; `band`, what
        it should be; `pinball`, the mean pinball loss of all levels; and `rolling_coverage` and
        `rolling_pinball`, those of the earlier returns. If no window counts, only `band`.
    """
    known = ~np.isnan(rolling).any(axis=1)
    found = {"band": levels[-1] - levels[0]}
    if not known.any():
        return found
    values = returns[known]
    for prefix, quantiles in (("", bands[known]), ("rolling_", rolling[known])):
        losses = [pinball(values, quantiles[:, i], level) for i, level in enumerate(levels)]
        found[f"{prefix}coverage"] = coverage(values, quantiles[:, 0], quantiles[:, -1])
        found[f"{prefix}pinball"] = float(np.mean(losses))
    return found


def rolling_quantiles(data: WindowedData, levels: Sequence[float]) -> NDArray[np.float64]:
    """Return the quantiles of the returns of the 30 days before each test window.

    Returns:
        Of log returns over the horizon, shape (windows, levels); NaN where one of them is missing.
    """
    frame = data.prepared.frame
    bar_ms, close = bar_length(frame), col("close")
    returns = log(close / lag(close, data.horizon + data.output.lag))
    bars = max(2, _MONTH_MS // bar_ms)
    specs = {str(level): FeatureSpec(quantile(returns, bars, level), "none") for level in levels}
    return unscaled(compiled(specs, bar_ms)).evaluate(frame)[_last_rows(data, data.test)]


def _ewma(data: WindowedData) -> Forecast:
    frame = data.prepared.frame
    close = frame["close"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        returns = np.diff(np.log(close), prepend=np.nan)
        returns[~np.isfinite(returns)] = np.nan
        # A return over a gap is not that of a bar.
        returns[1:][np.diff(epoch_ms(frame["timestamp"])) != bar_length(frame)] = np.nan
        # Without a trade since the first candle, the variance is 0.
        level = 0.5 * np.log(np.maximum(ewma(returns), np.finfo(float).tiny))
    error = np.mean(level[_last_rows(data, data.train)] - data.targets(data.train))
    return _estimated(data, lambda starts: level[_last_rows(data, starts)] - error)


def _estimated(data: WindowedData, forecast: Predict) -> Forecast:
    """Return a forecast with the variance factor of the validation windows."""
    actual, found = data.targets(data.validation), forecast(data.validation)
    return Forecast(forecast(data.test), variance_factor(actual, found))


def _last_rows(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of the candles that each window ends with."""
    return data.prepared.matrix.rows[starts + data.length - 1]
