"""The features and labels of meta-labeling: is a signal of another model worth acting on?

The primary model predicts a close from the bars before it. When that bar closes, its prediction is
compared with the actual close. It fires, that is, it gives a signal: long if the prediction is
higher, and short if it is lower by more than a threshold. A signal is profitable if its trade earns
more than it costs. See M. Lopez de Prado, Advances in Financial Machine Learning, 2018, section
3.6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast.errors import DataError
from atb_fast.features.frames import epoch_ms
from atb_fast.features.parser import parse
from atb_fast.features.specs import FeatureSpec, compiled, unscaled

#: The features in the order in which engines pass them, under the names that engines have for them.
FEATURES = (
    "realized_vol_48",
    "rolling_hit_rate_20",
    "session_sin",
    "session_cos",
    "regime_trend_encoded",
    "regime_volatility_encoded",
    "regime_confidence",
    "predicted_return_magnitude",
)

#: The columns of forecasts that are not prices, see `Output.columns`.
NOT_PRICES = ("direction", "predicted_return", "sigma")
#: The primary fires long above the first and short below the second predicted return.
_LONG_ABOVE, _SHORT_BELOW = 0.0, -0.0005
#: Number of outcomes in the hit rate, and its value before the first outcome.
_OUTCOMES, _NO_OUTCOME = 20, 0.5
#: A trend lasts until so many bars have agreed with it and then so many in a row contradict it.
_DWELL, _CONTRARY = 12, 3

_SCORE = (
    # A flat window has no R squared.
    "where(slope(log(close), 50) == 0, 0, where(rsquare(log(close), 50) < 0.2, 0, "
    "slope(log(close), 50) * rsquare(log(close), 50)))"
)
_ATR = "mean(true_range(high, low, close), 14)"
#: What the core computes for every bar. The standard deviation of the scores divides by 252.
_EXPRESSIONS = {
    "volatility": "std(close / lag(close, 1) - 1, 48)",
    "sin": "hour(0, sin)",
    "cos": "hour(0, cos)",
    "score": _SCORE,
    "high_volatility": f"{_ATR} >= quantile({_ATR}, 252, 0.7)",
    "surprise": f"where(std({_SCORE}, 252) == 0, 0, "
    f"abs({_SCORE} - mean({_SCORE}, 252)) / (std({_SCORE}, 252) * {(251 / 252) ** 0.5!r}))",
}


@dataclass(frozen=True)
class Exits:
    """When the trade of a signal ends, and what it costs.

    Attributes:
        take_profit: Gain at which it ends, relative to the entry, 0.04 for 4%.
        stop_loss: Loss at which it ends.
        bars: Bars after which it ends at the latest.
        cost: Cost of entry and exit together, relative to the entry.
    """

    take_profit: float = 0.04
    stop_loss: float = 0.05
    bars: int = 336
    cost: float = 0.002


@dataclass(frozen=True)
class Fires:
    """The signals of a primary model on candles, and what became of them; arrays are (bars,).

    Attributes:
        predicted: Return from the close of a bar to the close predicted for it, 0.01 for 1%,
            float64; NaN without a prediction.
        sides: 1 for a long signal, -1 for a short one, 0 for none, int8.
        returns: Return of the trade before costs, float64; NaN unless it is resolved.
        ends: Bar at whose close or within which the trade ended, int64; -1 unless it is resolved.
        cost: See `Exits`.
    """

    predicted: NDArray[np.float64]
    sides: NDArray[np.int8]
    returns: NDArray[np.float64]
    ends: NDArray[np.int64]
    cost: float

    @property
    def outcomes(self) -> NDArray[np.float64]:
        """1 where the trade earned more than it cost, 0 where it did not; NaN unless resolved."""
        return np.where(np.isnan(self.returns), np.nan, self.returns - self.cost > 0.0)


def fires(
    candles: pl.DataFrame, predictions: NDArray[np.float64], exits: Exits, bar_ms: int
) -> Fires:
    """Return the signals of a primary model and how their trades end.

    A trade begins at the close of its bar. The stop is filled at the extreme of the bar that
    reaches it, even if the same bar reaches the profit; the profit is filled at its level; after
    `exits.bars` bars the trade ends at the close. A trade is not resolved if the candles end
    before it does, or if a bar in it is missing or lacks a positive price.

    Args:
        candles: timestamp, high, low and close. Null is a missing value.
        predictions: Predicted close of each bar, quote currency, NaN for none.
        exits: The exits of a trade.
        bar_ms: Length of a bar in milliseconds.
    """
    high, low, close = (_prices(candles[name]) for name in ("high", "low", "close"))
    predicted = (predictions - close) / close
    sides = (predicted > _LONG_ABOVE).astype(np.int8) - (predicted < _SHORT_BELOW).astype(np.int8)
    # Whether a bar follows the one before it and is complete.
    follows = np.diff(epoch_ms(candles["timestamp"]), prepend=0) == bar_ms
    follows &= ~np.isnan(high + low + close)
    returns, ends = np.full(len(close), np.nan), np.full(len(close), -1)
    bars = np.flatnonzero(sides)
    for age in range(1, exits.bars + 1):
        bars = bars[bars + age < len(close)]
        bars = bars[follows[bars + age]]
        side, entry, now = sides[bars].astype(np.float64), close[bars], bars + age
        worst = np.where(side > 0, low[now], high[now])
        best = np.where(side > 0, high[now], low[now])
        stopped = side * (worst - entry * (1.0 - side * exits.stop_loss)) <= 0.0
        profit = entry * (1.0 + side * exits.take_profit)
        reached = side * (best - profit) >= 0.0
        price = np.where(stopped, worst, np.where(reached, profit, close[now]))
        over = stopped | reached | (age == exits.bars)
        returns[bars[over]] = (side * (price / entry - 1.0))[over]
        ends[bars[over]] = now[over]
        bars = bars[~over]
    return Fires(predicted, sides, returns, ends, exits.cost)


def features(candles: pl.DataFrame, found: Fires, bar_ms: int) -> pl.DataFrame:
    """Return `FEATURES` of each bar, float64, null where one is not known at its close.

    - `realized_vol_48`: sample standard deviation of the last 48 simple returns.
    - `rolling_hit_rate_20`: mean of the last 20 outcomes that are known, in the order in which they
      became known; 0.5 if there are none.
    - `session_sin`, `session_cos`: of the hour at which the bar opens, UTC.
    - `regime_trend_encoded`: -1, 0 or 1; see `_trend`. The score is the slope times R squared of a
      line through the logarithms of the last 50 closes, or 0 if R squared is below 0.2.
    - `regime_volatility_encoded`: 1 if the mean of the last 14 true ranges is at or above the 70th
      percentile of its last 252 values, else 0.
    - `regime_confidence`: distance of the score from the mean of its last 252 values, in standard
      deviations (divisor 252), at most 3, divided by 3; plus 0.2 once the trend has lasted 10
      bars, times 0.8 in its first two bars; at most 1.
    - `predicted_return_magnitude`: absolute value of the predicted return.

    Args:
        candles: timestamp, open, high, low, close and volume. Null is a missing value.
        found: The signals on these candles.
        bar_ms: Length of a bar in milliseconds.
    """
    specs = {name: FeatureSpec(parse(text)) for name, text in _EXPRESSIONS.items()}
    columns = unscaled(compiled(specs, bar_ms)).evaluate(candles).T
    value = dict(zip(specs, columns, strict=True))
    trend, lasted = _trend(value["score"])
    # The bonus min(0.2, bars / 50) is 0.2 from the tenth bar on.
    confidence = np.minimum(value["surprise"], 3.0) / 3.0 + np.where(lasted >= 10, 0.2, 0.0)
    confidence = np.minimum(np.where(lasted < 3, 0.8 * confidence, confidence), 1.0)
    made = (
        value["volatility"],
        _hit_rate(found),
        value["sin"],
        value["cos"],
        trend,
        value["high_volatility"],
        confidence,
        np.abs(found.predicted),
    )
    series = zip(FEATURES, made, strict=True)
    return pl.DataFrame([pl.Series(name, values, nan_to_null=True) for name, values in series])


def _trend(score: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the trend of each bar, and for how many bars it has lasted, from 1.

    The trend is the sign of the score, but it changes only after 12 bars that agree with it,
    followed by 3 in a row that do not. Bars without a score have no trend and do not count.
    """
    trend, lasted = np.full(len(score), np.nan), np.zeros(len(score), np.int64)
    known = np.flatnonzero(~np.isnan(score))
    signs = np.sign(score[known]).tolist()
    state = signs[0] if signs else 0.0
    agreed = contrary = age = 0
    for bar, sign in zip(known.tolist(), signs, strict=True):
        age += 1
        if sign == state:
            agreed, contrary = agreed + 1, 0
        else:
            contrary += 1
            if agreed >= _DWELL and contrary >= _CONTRARY:
                state, agreed, contrary, age = sign, 1, 0, 1
        trend[bar], lasted[bar] = state, age
    return trend, lasted


def _hit_rate(found: Fires) -> NDArray[np.float64]:
    """Return the mean of the newest outcomes that are known at the close of each bar."""
    bars = np.flatnonzero(found.ends >= 0)
    # Signals whose trades end on the same bar are in the order of their own bars.
    bars = bars[np.argsort(found.ends[bars], kind="stable")]
    total = np.concatenate([[0.0], np.cumsum(found.outcomes[bars])])
    known = np.searchsorted(found.ends[bars], np.arange(len(found.ends)), side="right")
    counted = np.minimum(known, _OUTCOMES)
    mean = (total[known] - total[known - counted]) / np.maximum(counted, 1)
    return np.where(counted == 0, _NO_OUTCOME, mean)


def _prices(column: pl.Series) -> NDArray[np.float64]:
    """Return prices with NaN for those that are missing or not above 0."""
    values = column.to_numpy()
    return np.where(np.isfinite(values) & (values > 0.0), values, np.nan)


def aligned(
    candles: pl.DataFrame, predictions: pl.DataFrame, column: str = "prediction"
) -> NDArray[np.float64]:
    """Return the prediction for each bar of `candles`, NaN for none, float64, shape (bars,).

    A prediction applies only to the bar with exactly its timestamp, never to a later one.

    Args:
        candles: With `timestamp`.
        predictions: timestamp of the predicted bar, unique, and `column`.
        column: Name of the predictions. Null or NaN is none.

    Raises:
        DataError: A prediction is not a price above 0.
    """
    keys = pl.DataFrame({"at": epoch_ms(candles["timestamp"])})
    values = predictions[column].cast(pl.Float64).fill_nan(None)
    bad = (~(values.is_finite() & (values > 0.0))).arg_true()
    if len(bad):
        raise DataError(
            f"column {column}, row {bad[0]} (timestamp {predictions['timestamp'][bad[0]]}): found "
            f"{values[bad[0]]:g}, expected a price above 0; pass the closes that the basic model "
            "predicts"
        )
    given = pl.DataFrame({"at": epoch_ms(predictions["timestamp"]), "value": values})
    joined = keys.join(given, on="at", how="left", maintain_order="left")
    return joined["value"].fill_null(np.nan).to_numpy()
