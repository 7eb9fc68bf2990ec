"""Sets of features written as expressions, and the same sets in Polars and pandas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import alpha
import numpy as np
import pandas as pd
import polars as pl
import pytest
from incumbents import Case, to_pandas
from numpy.typing import NDArray

from atb_fast import _core
from atb_fast.config import TIMEFRAMES
from atb_fast.features.parser import parse

#: Maximum error, relative to the value or to the median of the feature. Libraries that carry sums
#: from row to row need a larger tolerance; see docs/benchmarks.md.
TOLERANCE = 1e-9
DRIFT = {
    "polars": {"CORR": 1e-6, "CORD": 1e-6, "RSQR": 1e-8, "WVMA": 1e-7},
    "pandas": dict.fromkeys(("CORR", "CORD", "RSQR", "STD", "VSTD", "WVMA"), 1e-5),
}
#: Maximum share of other values: where nothing was traded, a carried sum is not exactly 0.
REMAINDERS = 1e-4
#: Maximum share of rows that only one library leaves out, for the same reason.
ROWS = 1e-3


def pipeline(case: Case, texts: Mapping[str, str]) -> _core.FeaturePipeline:
    """Return a pipeline of unscaled expressions."""
    bar_ms = TIMEFRAMES[case.timeframe]
    features = [_core.Feature(name, parse(text).nodes(bar_ms)) for name, text in texts.items()]
    return _core.FeaturePipeline(features, scalers=[_core.MinMaxScaler(0.0, 1.0)] * len(features))


def assert_same(
    way: str, found: Mapping[str, NDArray[np.float64]], expected: NDArray[np.float64]
) -> None:
    """Compare columns with those of atb-fast, in the rows after the warm-up."""
    for i, (name, column) in enumerate(found.items()):
        family = alpha.FAMILIES.get(name, name)
        tolerance = DRIFT[way].get(family, TOLERANCE)
        theirs, ours = column[alpha.WARMUP :], expected[alpha.WARMUP :, i]
        with np.errstate(invalid="ignore"):
            scale = np.maximum(np.abs(ours), np.nanmedian(np.abs(ours)))
            same = np.abs(theirs - ours) <= tolerance * scale
        same |= ~np.isfinite(theirs) & ~np.isfinite(ours)
        share = 1 - same.mean()
        assert share <= REMAINDERS, f"{way}, {name}: {share:.2%} of the values differ"


#: The price features of the causal recipe.
CAUSAL = {
    "return_1": "log(close) - log(lag(close, 1))",
    "open_to_close": "log(close) - log(open)",
    "high_to_close": "log(close) - log(high)",
    "low_to_close": "log(close) - log(low)",
    "close_to_sma_7": "close / mean(close, 7) - 1",
    "close_to_sma_14": "close / mean(close, 14) - 1",
    "close_to_sma_30": "close / mean(close, 30) - 1",
    "volume_to_sma_30": "log1p(where(mean(volume, 30) == 0, 0, volume / mean(volume, 30)))",
    "rsi_14": "rsi(close, 14, wilder) / 100",
}
#: Rows that the recipe leaves out: the RSI depends on where the candles begin.
SETTLED = 401


def causal_polars(candles: pl.DataFrame) -> NDArray[np.float32]:
    """Return the causal features from one lazy query."""
    opening, high, low, close, volume = map(pl.col, ("open", "high", "low", "close", "volume"))
    logs, usual, change = close.log(), volume.rolling_mean(30), close.diff().fill_null(0.0)
    gain, loss = (
        side.clip(lower_bound=0.0).ewm_mean(alpha=1 / 14, adjust=False)
        for side in (change, -change)
    )
    query = candles.lazy().select(
        logs - logs.shift(1),
        open_to_close=logs - opening.log(),
        high_to_close=logs - high.log(),
        low_to_close=logs - low.log(),
        **{f"close_to_sma_{n}": close / close.rolling_mean(n) - 1 for n in (7, 14, 30)},
        volume_to_sma_30=pl.when(usual == 0).then(0.0).otherwise(volume / usual).log1p(),
        rsi_14=1 - 1 / (1 + gain / loss),
    )
    return query.select(pl.all().cast(pl.Float32)).slice(SETTLED).collect().to_numpy(order="c")


def causal_pandas(candles: pd.DataFrame) -> NDArray[np.float32]:
    """Return the causal features from pandas."""
    close, volume = candles["close"], candles["volume"]
    logs, usual, change = np.log(close), volume.rolling(30).mean(), close.diff().fillna(0.0)
    gain, loss = (
        side.clip(lower=0.0).ewm(alpha=1 / 14, adjust=False).mean() for side in (change, -change)
    )
    columns = {
        "return_1": logs - logs.shift(1),
        **{f"{name}_to_close": logs - np.log(candles[name]) for name in ("open", "high", "low")},
        **{f"close_to_sma_{n}": close / close.rolling(n).mean() - 1 for n in (7, 14, 30)},
        "volume_to_sma_30": np.log1p((volume / usual).where(usual != 0, 0.0)),
        "rsi_14": 1 - 1 / (1 + gain / loss),
    }
    matrix: NDArray[np.float32] = pd.DataFrame(columns).iloc[SETTLED:].to_numpy(dtype=np.float32)
    return matrix


@pytest.mark.parametrize("way", ["atb_fast", "polars", "pandas"])
def test_causal(benchmark: Any, case: Case, way: str) -> None:
    """The price features of the causal recipe, without scaling."""
    benchmark.group = f"causal features {case}"
    candles = to_pandas(case.candles)
    ways: dict[str, Callable[[], Any]] = {
        "atb_fast": lambda: pipeline(case, CAUSAL).transform(case.candles).values,
        "polars": lambda: causal_polars(case.candles),
        "pandas": lambda: causal_pandas(candles),
    }
    result = benchmark.pedantic(ways[way], rounds=7, warmup_rounds=2)
    expected = ways["atb_fast"]()
    rows = min(len(result), len(expected))
    assert rows >= len(candles) - 2 * SETTLED
    np.testing.assert_allclose(result[-rows:], expected[-rows:], rtol=1e-4, atol=2e-6)


def rounds(case: Case, way: str) -> int:
    """Return the number of rounds."""
    return {"2k": 5, "64k": 3, "1.3M": 1 if way == "pandas" else 2}[case.size]


@pytest.mark.parametrize(
    "way", ["atb_fast", "polars", "polars_streaming", "polars_eager", "pandas"]
)
def test_alpha(benchmark: Any, case: Case, way: str) -> None:
    """158 features: from texts and a frame to the float32 matrix of the complete rows.

    The expressions of Polars are built beforehand.
    """
    benchmark.group = f"158 features {case}"
    candles = to_pandas(case.candles)
    ours = pipeline(case, alpha.texts())
    alpha.polars_expressions()
    ways: dict[str, Callable[[], Any]] = {
        "atb_fast": lambda: pipeline(case, alpha.texts()).transform(case.candles).values,
        "polars": lambda: alpha.polars_query(case.candles).collect().to_numpy(order="c"),
        "polars_streaming": lambda: (
            alpha.polars_query(case.candles).collect(engine="streaming").to_numpy(order="c")
        ),
        "polars_eager": lambda: alpha.polars_eager(case.candles).to_numpy(order="c"),
        "pandas": lambda: alpha.pandas_matrix(candles),
    }
    count = 7 if way == "atb_fast" else rounds(case, way)
    result = benchmark.pedantic(ways[way], rounds=count, warmup_rounds=int(case.size != "1.3M"))
    expected = ours.evaluate(case.candles)
    complete = int(np.isfinite(expected).all(axis=1).sum())
    assert result.shape[1] == len(ours.names) == 158
    assert abs(len(result) - complete) <= ROWS * complete
    del result
    if way == "polars":
        columns = alpha.polars_columns(case.candles)
    elif way == "pandas" and case.size != "1.3M":
        columns = {name: c.to_numpy() for name, c in alpha.pandas_columns(candles).items()}
    else:
        return
    assert_same(way, columns, expected)
