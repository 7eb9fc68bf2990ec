"""The extension accepts what expressions are lowered to."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from random_expressions import expressions

from atb_fast import Feature, FeaturePipeline
from atb_fast.features.expressions import Expr, call, col
from atb_fast.features.parser import parse
from atb_fast.features.signatures import FUNCTIONS, Operator, Parameter

HOUR = 3_600_000


def values(parameter: Parameter) -> list[object]:
    """Return the values of an argument at its limits."""
    if parameter.kind == "style":
        return [*parameter.choices]
    if parameter.name == "q":
        return [0, 0.5, 1]
    if parameter.kind == "bars":
        return [int(parameter.minimum), 5, int(parameter.maximum)]
    return [{"lo": -1.5, "hi": 2, "value": 0}[parameter.name]]


@pytest.mark.parametrize(
    "function", [FUNCTIONS[name] for name in FUNCTIONS if name != "lead"], ids=str
)
def test_every_function_at_its_limits(function: Operator) -> None:
    choices = [values(each) for each in function.parameters]
    for number in range(max(map(len, choices), default=1)):
        params = [each[min(number, len(each) - 1)] for each in choices]
        expr = call(function.name, *map(col, function.operands), *params)
        feature = Feature("feature", expr.nodes(HOUR))
        assert feature.columns == list(function.operands)
        assert 0 <= feature.warmup <= feature.lookback


@settings(deadline=None, max_examples=200)
@given(expressions(without=("lead",)))
def test_any_expression_is_accepted(expr: Expr) -> None:
    feature = Feature("feature", expr.nodes(HOUR))
    assert set(feature.columns) == expr.columns
    assert pickle.loads(pickle.dumps(feature)) == feature


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """400 hourly candles over a turn of the year; some closes are equal, some volumes null."""
    random = np.random.default_rng(5)
    prices = np.sort(np.round(random.uniform(90, 110, size=(400, 3)), 1))
    frame = pd.DataFrame(prices, columns=["low", "close", "high"])
    frame["volume"] = random.uniform(0, 5, 400)
    frame.loc[[7, 200], "volume"] = np.nan
    frame["timestamp"] = pd.date_range("2023-12-28", periods=400, freq="h", tz="UTC")
    return frame


def rolled(values: Any, n: int, function: Callable[[Any], float]) -> Any:
    return values.rolling(n).apply(function, raw=True)


def fitted(window: Any) -> Any:
    return np.polyval(np.polyfit(range(len(window)), window, 1), range(len(window)))


def wilder(values: Any, n: int) -> Any:
    return values.dropna().ewm(alpha=1 / n, adjust=False).mean().reindex(values.index)


def rsi(values: Any, average: Callable[[Any], Any]) -> Any:
    moves = values.diff()
    gain, loss = average(moves.clip(lower=0)), average(-moves.clip(upper=0))
    return 100 * gain / (gain + loss)


def true_range(d: Any) -> Any:
    before = d.close.shift(1)
    spans = [d.high - d.low, (d.high - before).abs(), (d.low - before).abs()]
    return pd.concat(spans, axis=1).max(axis=1, skipna=False)


def later(d: Any, hours: int) -> Any:
    return (d.timestamp + pd.Timedelta(hours=hours)).dt


MEANING: dict[str, Callable[[Any], Any]] = {
    "close / lag(close, 3) - 1": lambda d: d.close.pct_change(3),
    "-close ** 2 / -volume": lambda d: -(d.close**2) / -d.volume,
    "2 ** -volume": lambda d: 2**-d.volume,
    "(close < lag(close, 1)) + 2 * (low == 95)": lambda d: (
        (d.close < d.close.shift()) + 2.0 * (d.low == 95)
    ),
    "where(close > 100, close, volume)": lambda d: d.close.where(d.close > 100, d.volume),
    "log(close) + log1p(low) - exp(volume)": lambda d: (
        np.log(d.close) + np.log1p(d.low) - np.exp(d.volume)
    ),
    "sqrt(high) * abs(-close) * sign(100 - close)": lambda d: (
        np.sqrt(d.high) * d.close * np.sign(100 - d.close)
    ),
    "tanh(clip(close - 100, -2, 3.5))": lambda d: np.tanh((d.close - 100).clip(-2, 3.5)),
    "minimum(close, 99) + maximum(low, 95)": lambda d: d.close.clip(None, 99) + d.low.clip(95),
    "fill(volume, -1)": lambda d: d.volume.fillna(-1),
    "diff(close, 4)": lambda d: d.close.diff(4),
    "sum(volume, 5)": lambda d: d.volume.rolling(5).sum(),
    "mean(close, 24) - median(close, 24)": lambda d: (
        d.close.rolling(24).mean() - d.close.rolling(24).median()
    ),
    "max(high, 6) / min(low, 6)": lambda d: d.high.rolling(6).max() / d.low.rolling(6).min(),
    "quantile(close, 9, 0.3)": lambda d: d.close.rolling(9).quantile(0.3),
    "rank(close, 20)": lambda d: d.close.rolling(20).rank(pct=True),
    "argmax(close, 7)": lambda d: rolled(d.close, 7, np.argmax),
    "argmin(close, 7)": lambda d: rolled(d.close, 7, np.argmin),
    "count(close > 100, 8)": lambda d: (d.close > 100).rolling(8).sum(),
    "std(close, 10)": lambda d: d.close.rolling(10).std(),
    "var(close, 10)": lambda d: d.close.rolling(10).var(),
    "zscore(close, 20)": lambda d: (
        (d.close - d.close.rolling(20).mean()) / d.close.rolling(20).std()
    ),
    "corr(close, high, 15)": lambda d: d.close.rolling(15).corr(d.high),
    "cov(close, high, 15)": lambda d: d.close.rolling(15).cov(d.high),
    "slope(close, 5)": lambda d: rolled(d.close, 5, lambda w: fitted(w)[1] - fitted(w)[0]),
    "rsquare(close, 5)": lambda d: rolled(
        d.close, 5, lambda w: np.corrcoef(w, range(5))[0, 1] ** 2
    ),
    "resid(close, 5)": lambda d: rolled(d.close, 5, lambda w: w[-1] - fitted(w)[-1]),
    "ema(close, 5)": lambda d: d.close.ewm(span=5, adjust=False).mean(),
    "wilder(close, 3)": lambda d: wilder(d.close, 3),
    "rsi(close, 3, wilder)": lambda d: rsi(d.close, lambda moves: wilder(moves, 3)),
    "rsi(close, 14, simple)": lambda d: rsi(
        d.close, lambda moves: moves.fillna(0).rolling(14).mean()
    ),
    "true_range(high, low, close)": true_range,
    "atr(high, low, close, 3)": lambda d: wilder(true_range(d), 3),
    "hour()": lambda d: later(d, 0).hour,
    "weekday(30)": lambda d: later(d, 30).day_of_week,
    "day_of_year(1, cos)": lambda d: np.cos(later(d, 1).day_of_year * 2 * np.pi / 365.25),
}


@pytest.mark.parametrize(("text", "meaning"), MEANING.items(), ids=MEANING)
def test_values_are_those_of_pandas(
    frame: pd.DataFrame, text: str, meaning: Callable[[Any], Any]
) -> None:
    feature = Feature("feature", parse(text).nodes(HOUR))
    candles = pl.from_pandas(frame).with_columns(pl.col("volume").fill_nan(None))
    values = FeaturePipeline([feature]).evaluate(candles)[:, 0]
    expected = np.array(meaning(frame), dtype=float)
    expected[: feature.warmup] = np.nan
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)
    assert np.isfinite(values).sum() > 200


def test_every_function_has_a_meaning() -> None:
    used = {part.op for text in MEANING for part in parse(text).walk()}
    assert used >= FUNCTIONS.keys() - {"lead"}
