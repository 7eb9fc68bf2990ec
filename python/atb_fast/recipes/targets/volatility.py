"""Volatility: how far the price moves over the next bars, not in which direction."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import sma
from atb_fast.config import RecipeOptions
from atb_fast.errors import ArgumentError
from atb_fast.features.frames import epoch_ms
from atb_fast.features.heads import Output
from atb_fast.features.outputs import LogSigma
from atb_fast.features.prepared import PreparedData
from atb_fast.features.specs import Specs
from atb_fast.features.windows import Labels, Parts, WindowedData
from atb_fast.ingestion.quality import bar_length
from atb_fast.recipes.keys import key
from atb_fast.recipes.targets.anchored import Anchored
from atb_fast.recipes.targets.base import Predict

log = logging.getLogger(__name__)

#: Features whose names begin with this are the columns of the HAR regression.
HAR_PREFIX = "har_"
#: Largest horizon, in bars.
_MOST_BARS = 10_000
#: In a random walk without jumps, the mean squared log range of a bar is 4 log 2 times its variance
#: (M. Parkinson, The Extreme Value Method for Estimating the Variance of the Rate of Return, 1980).
_LOG_RANGE = 2.0 * math.sqrt(math.log(2.0))


@dataclass(frozen=True)
class Volatility(Anchored):
    """The logarithm of the volatility over the next bars; see `log_volatility`.

    The model starts at HAR: least squares on the features whose names begin with `har_`, which
    should be means of earlier volatility over short and long periods (F. Corsi, A Simple
    Approximate Long-Memory Model of Realized Volatility, 2009). The network learns the error of
    HAR. With a shrinkage factor of 0, the model is HAR.

    Attributes:
        horizon: Bars that the volatility covers.
        quantiles: Levels of the quantiles of the return over the horizon that the model also
            predicts, as prices around the last close; ascending, 0..1.
    """

    kind = "volatility"
    relative = True
    unknown = "a volatility of 0 or a missing price"

    horizon: int = key(1, minimum=1, maximum=_MOST_BARS)
    quantiles: tuple[float, ...] = key((), minimum=0.001, maximum=0.999)

    def __post_init__(self) -> None:
        """Check the keys.

        Raises:
            ArgumentError: A value is invalid, or the quantiles are not ascending.
        """
        super().__post_init__()
        if any(high <= low for low, high in zip(self.quantiles, self.quantiles[1:], strict=False)):
            raise ArgumentError(
                f"volatility.quantiles: found {list(self.quantiles)}, expected ascending numbers; "
                "sort them and remove duplicates"
            )

    def check_features(self, features: Specs) -> None:
        """Raise ArgumentError unless there is a feature for HAR, and no scaler is `window`."""
        if any(spec.scaler == "window" for spec in features.values()):
            raise ArgumentError(
                "target: the volatility target does not support the scaler 'window'; use another "
                "scaler, such as standard"
            )
        if not any(name.startswith(HAR_PREFIX) for name in features):
            raise ArgumentError(
                f"features: found {', '.join(features):.200}, expected at least one whose name "
                f"begins with {HAR_PREFIX}, because the volatility target starts from a regression "
                "on these; name the means of earlier volatility har_1, har_7 and so on"
            )

    def history(self, options: RecipeOptions) -> int:
        """Return the length of the volatility that the label is compared with."""
        return options.horizon if options.horizon > 1 else 0

    def outcomes(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        """Return the log volatility of the bars after each row.

        NaN where it is not known, see `log_volatility`; where no earlier one is known to compare it
        with; or where the close at either end of the horizon is missing.
        """
        now, horizon = self._now(prepared, options), options.horizon
        times, close = epoch_ms(prepared.frame["timestamp"]), prepared.frame["close"].to_numpy()
        known = times[horizon:] - times[:-horizon] == horizon * bar_length(prepared.frame)
        known &= (close[horizon:] > 0) & (close[:-horizon] > 0)
        later = np.full(len(now), np.nan)
        later[:-horizon] = np.where(known, now[horizon:], np.nan)
        return np.where(np.isnan(_latest(now)), np.nan, later)

    def labels(
        self, prepared: PreparedData, options: RecipeOptions, parts: Parts, lag: int = 0
    ) -> Labels:
        """Return the log volatility; that of the bars before it, as persistence; and HAR."""
        values = self._labelled(prepared, options, parts, lag)
        starts, length = parts.every, options.sequence_length
        unchanged = np.full(len(values), np.nan)
        before = _latest(self._now(prepared, options))
        unchanged[starts + length] = before[prepared.matrix.rows[starts + length - 1]]
        rows = prepared.matrix.values[parts.train + length - 1].astype(np.float64)
        har = np.array([name.startswith(HAR_PREFIX) for name in prepared.matrix.names])
        columns = np.column_stack([rows[:, har], np.ones(len(rows))])
        fitted, *_ = np.linalg.lstsq(columns, values[parts.train + length], rcond=None)
        weights = np.zeros(len(har))
        weights[har] = fitted[:-1]
        output = LogSigma(options.horizon, lag=lag)
        return Labels(values, values, unchanged, output, base=(weights, float(fitted[-1])))

    def calibrated(self, data: WindowedData, predict: Predict) -> Output:
        """Return the output with a variance factor and, if asked for, quantiles.

        The factor is estimated on the validation windows; the quantiles are those of
        `return / sigma` on the training and validation windows.
        """
        assert isinstance(data.output, LogSigma)
        validation = predict(data.validation)
        factor = variance_factor(data.targets(data.validation), validation)
        output = replace(data.output, variance_factor=factor)
        if not self.quantiles:
            return output
        starts = np.concatenate([data.train, data.validation])
        sigma = output.sigma(np.concatenate([predict(data.train), validation]))
        scaled = returns_after(data, starts) / sigma
        values = np.nanquantile(scaled, self.quantiles)
        return replace(output, quantiles=dict(zip(self.quantiles, values.tolist(), strict=True)))

    def _now(self, prepared: PreparedData, options: RecipeOptions) -> NDArray[np.float64]:
        """Return the log volatility of the last `horizon` bars up to each row."""
        frame = prepared.frame
        return log_volatility(
            epoch_ms(frame["timestamp"]),
            *(frame[name].to_numpy() for name in ("high", "low", "close")),
            bar_ms=bar_length(frame),
            horizon=options.horizon,
        )


def log_volatility(
    timestamps: NDArray[np.int64],
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    close: NDArray[np.float64],
    *,
    bar_ms: int,
    horizon: int,
) -> NDArray[np.float64]:
    """Return the logarithm of the volatility over the last `horizon` bars up to each bar.

    The volatility of one bar is `log(high / low) / (2 sqrt(log 2))`. That of several bars is the
    square root of the sum of their squared log returns. It is not scaled to a year.

    Args:
        timestamps: Open times, milliseconds since 1970, shape (n,), strictly ascending.
        high: Highest prices, shape (n,).
        low: Lowest prices.
        close: Last prices.
        bar_ms: Length of a bar, milliseconds.
        horizon: Number of bars, at least 1.

    Returns:
        Shape (n,). NaN where it is not known: a price is missing or not above 0; the volatility is
        0; or, for several bars, the bar `horizon` rows earlier does not open `horizon` bars
        earlier.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if horizon == 1:
            sigma = np.where(low > 0, np.log(high / low) / _LOG_RANGE, np.nan)
        else:
            squares = np.square(np.diff(np.log(close), prepend=np.nan))
            squares[~np.isfinite(squares)] = np.nan
            # Unlike differences of a cumulative sum, this is exactly 0 if all returns are.
            sigma = np.sqrt(horizon * sma(squares, horizon))
            sigma[:horizon] = np.nan
            elapsed = timestamps[horizon:] - timestamps[:-horizon]
            sigma[horizon:][elapsed != horizon * bar_ms] = np.nan
        return np.where((sigma > 0) & np.isfinite(sigma), np.log(sigma), np.nan)


def returns_after(data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log return from the last close of each window to the end of its horizon."""
    close, last = data.prepared.frame["close"].to_numpy(), starts + data.length - 1
    ends = data.prepared.matrix.rows[last + data.output.lag] + data.horizon
    return np.asarray(np.log(close[ends] / data.last_close(starts)))


def variance_factor(actual: NDArray[np.float64], forecast: NDArray[np.float64]) -> float:
    """Return the factor on the variance that makes a forecast right on average.

    It minimizes the QLIKE loss: the mean of the actual variance divided by the forecast. The
    logarithm of the volatility has an error, so without it the variance would be too small.

    Args:
        actual: Log volatility, shape (windows,).
        forecast: Its forecast.
    """
    return float(np.mean(np.exp(2.0 * (actual - forecast))))


def _latest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `values` with the last known one in place of NaN."""
    known = ~np.isnan(values)
    latest = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return np.where(latest >= 0, values[latest], np.nan)
