"""Every operator of an expression, compared with NumPy, pandas, Polars and scipy."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from core_features import of_column
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import stats

from atb_fast import _core
from atb_fast.errors import ArgumentError, DataError

UNTYPED: Any = _core
Values = NDArray[np.float64]
ROWS = 3000
WINDOWS = (2, 5, 14, 61, 300, 1500)


def operation(op: str, *columns: str, params: tuple[float, ...] = ()) -> _core.Feature:
    """The feature of an operator and the columns that are its arguments."""
    leaves = [("column", (), (name,)) for name in columns]
    return _core.Feature(op, [*leaves, (op, tuple(range(len(columns))), params)])


def evaluated(frame: Any, *features: _core.Feature, **options: Any) -> Values:
    """Shape (rows, features)."""
    numbered = [_core.Feature(str(i), f.nodes) for i, f in enumerate(features)]
    return _core.FeaturePipeline(numbered).evaluate(frame, **options)


def value_of(frame: Any, op: str, *columns: str, params: tuple[float, ...] = ()) -> Values:
    return evaluated(frame, operation(op, *columns, params=params))[:, 0]


def assert_equal(got: Values, expected: Any, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(got, np.asarray(expected), rtol=rtol, atol=1e-9)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Prices x and y with ties, signs in s, zeros in z; NaN is null."""
    rng = np.random.default_rng(5)
    x = 100 * np.exp(np.cumsum(rng.standard_normal(ROWS) * 1e-2)).round(3)
    frame = pd.DataFrame(
        {
            "x": x,
            "y": x * rng.uniform(0.9, 1.1, ROWS),
            "s": rng.integers(-2, 3, ROWS) / 2.0,
            "z": rng.uniform(-3, 3, ROWS),
        }
    )
    frame.loc[[1700, 1703, 2500], "x"] = np.nan
    frame.loc[[1701], "y"] = np.nan
    return frame


@pytest.fixture(scope="module")
def frame(table: pd.DataFrame) -> pl.DataFrame:
    """The same with nulls and times."""
    start = datetime(2023, 12, 25, tzinfo=UTC)
    times = [start + timedelta(hours=7 * i) for i in range(ROWS)]
    return pl.from_pandas(table).with_columns(timestamp=pl.Series(times).cast(pl.Datetime("ms")))


BINARY: dict[str, Callable[[Values, Values], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "minimum": np.minimum,
    "maximum": np.maximum,
}
COMPARE: dict[str, Callable[[Values, Values], Any]] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}
UNARY: dict[str, Callable[[Values], Any]] = {
    "log": np.log,
    "log1p": np.log1p,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sign": np.sign,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "neg": np.negative,
}


def finite(values: Any) -> Values:
    return np.where(np.isfinite(values), values, np.nan)


@pytest.mark.parametrize("op", BINARY)
def test_arithmetic_equals_numpy(op: str, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    for a, b in (("x", "s"), ("z", "s"), ("s", "s")):
        with np.errstate(all="ignore"):
            expected = finite(BINARY[op](table[a].to_numpy(), table[b].to_numpy()))
        if op == "pow":  # NumPy's NaN ** 0 is 1
            expected[table[[a, b]].isna().any(axis=1)] = np.nan
        assert_equal(value_of(frame, op, a, b), expected, rtol=1e-14)


@pytest.mark.parametrize("op", COMPARE)
def test_comparisons_equal_numpy(op: str, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    for a, b in (("x", "y"), ("s", "z"), ("s", "s")):
        expected = COMPARE[op](table[a].to_numpy(), table[b].to_numpy()).astype(float)
        expected[table[[a, b]].isna().any(axis=1)] = np.nan
        assert_equal(value_of(frame, op, a, b), expected)


@pytest.mark.parametrize("op", UNARY)
def test_functions_equal_numpy(op: str, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    for name in table.columns:
        with np.errstate(all="ignore"):
            expected = finite(UNARY[op](table[name].to_numpy()))
        np.testing.assert_allclose(value_of(frame, op, name), expected, rtol=1e-14, atol=0)


def test_a_result_that_is_not_finite_is_null() -> None:
    frame = pl.DataFrame({"x": [0.0, -1.0, 1e308, 800.0, -0.0], "y": [0.0, 0.5, 1e308, 1e308, 2.0]})
    nan = np.nan
    for op, columns, expected in (
        ("div", "xy", [nan, -2.0, 1.0, 800.0 / 1e308, -0.0]),
        ("add", "xy", [0.0, -0.5, nan, 1e308, 2.0]),
        ("mul", "xy", [0.0, -0.5, nan, nan, -0.0]),
        ("pow", "xy", [1.0, nan, nan, nan, 0.0]),
        ("log", "x", [nan, nan, np.log(1e308), np.log(800.0), nan]),
        ("exp", "x", [1.0, np.exp(-1.0), nan, nan, 1.0]),
        ("sqrt", "x", [0.0, nan, np.sqrt(1e308), np.sqrt(800.0), -0.0]),
    ):
        np.testing.assert_allclose(value_of(frame, op, *columns), expected, rtol=1e-15)
    huge = pl.DataFrame({"x": [1e308] * 4})
    for op in ("sum", "mean", "std", "var", "resid", "slope", "ema"):
        got = value_of(huge, op, "x", params=(2,))
        assert np.isnan(got).all() or np.isfinite(got[1:]).any()
        assert not np.isinf(got).any()


def test_a_choice_needs_only_the_chosen_value() -> None:
    frame = pl.DataFrame(
        {
            "c": [1.0, 0.0, 1.0, 0.0, None, -2.0],
            "a": [1.0, None, None, 4.0, 5.0, 6.0],
            "b": [None, 20.0, 30.0, None, 50.0, 60.0],
        }
    )
    expected = [1.0, 20.0, np.nan, np.nan, np.nan, 6.0]
    np.testing.assert_array_equal(value_of(frame, "where", "c", "a", "b"), expected)


def test_clip_and_fill(frame: pl.DataFrame) -> None:
    clipped = frame["z"].clip(-1.0, 0.5).to_numpy()
    np.testing.assert_array_equal(value_of(frame, "clip", "z", params=(-1, 0.5)), clipped)
    filled = frame["x"].fill_null(7.0).to_numpy()
    np.testing.assert_array_equal(value_of(frame, "fill", "x", params=(7,)), filled)


def test_fill_leaves_the_warm_up() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0, None, 4.0, 5.0]})
    nodes: Any = [("column", (), ("x",)), ("lag", (0,), (1,)), ("fill", (1,), (0.0,))]
    got = evaluated(frame, _core.Feature("a", nodes))[:, 0]
    np.testing.assert_array_equal(got, [np.nan, 1.0, 2.0, 0.0, 4.0])
    mean = _core.Feature("b", [*nodes, ("mean", (2,), (2,))])
    assert mean.warmup == 2
    np.testing.assert_array_equal(evaluated(frame, mean)[:, 0], [np.nan, np.nan, 1.5, 1.0, 2.0])


@pytest.mark.parametrize("n", [0, 1, 30, 2 * ROWS])
def test_lag_equals_polars(n: int, frame: pl.DataFrame) -> None:
    expected = frame["x"].shift(n).to_numpy()
    np.testing.assert_array_equal(value_of(frame, "lag", "x", params=(n,)), expected)


ROLLING: dict[str, Callable[[Any, int], Any]] = {
    "sum": lambda r, _: r.sum(),
    "mean": lambda r, _: r.mean(),
    "min": lambda r, _: r.min(),
    "max": lambda r, _: r.max(),
    "median": lambda r, _: r.median(),
    "std": lambda r, _: r.std(),
    "var": lambda r, _: r.var(),
    "rank": lambda r, _: r.rank(pct=True),
    "argmax": lambda r, _: r.apply(np.argmax, raw=True),
    "argmin": lambda r, _: r.apply(np.argmin, raw=True),
    "count": lambda r, _: r.apply(np.count_nonzero, raw=True),
}


@pytest.mark.parametrize("op", ROLLING)
@pytest.mark.parametrize("n", WINDOWS)
def test_windows_equal_pandas(op: str, n: int, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    for name in ("x", "s", "z"):
        expected = ROLLING[op](table[name].rolling(n), n)
        got = value_of(frame, op, name, params=(n,))
        # pandas carries its sums from row to row, so small deviations are wrong from the 7th digit.
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-7 if op == "std" else 1e-9)


@pytest.mark.parametrize("op", ["sum", "mean", "min", "max", "median", "rank", "argmax", "count"])
def test_a_window_of_one(op: str, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    expected = ROLLING[op](table["x"].rolling(1), 1)
    assert_equal(value_of(frame, op, "x", params=(1,)), expected)


@pytest.mark.parametrize("n", WINDOWS)
@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.999, 1.0])
def test_quantiles_equal_pandas(q: float, n: int, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    for name in ("x", "s"):
        expected = table[name].rolling(n).quantile(q, interpolation="linear")
        assert_equal(value_of(frame, "quantile", name, params=(n, q)), expected)


@pytest.mark.parametrize("n", WINDOWS)
def test_two_series_equal_pandas(n: int, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    for a, b in (("x", "y"), ("y", "z")):
        rolling = table[a].rolling(n)
        assert_equal(value_of(frame, "cov", a, b, params=(n,)), rolling.cov(table[b]), rtol=1e-7)
        corr = value_of(frame, "corr", a, b, params=(n,))
        # Where x is constant, pandas up to 3.0 returns infinity or zero; pandas 3.1 has no value.
        expected = rolling.corr(table[b]).mask(rolling.min() == rolling.max())
        np.testing.assert_allclose(corr, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("n", [2, 5, 14, 61, 300])
def test_lines_equal_scipy(n: int, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    features = [operation(op, "x", params=(n,)) for op in ("slope", "rsquare", "resid")]
    got = evaluated(frame, *features)
    x = table["x"].to_numpy()
    assert np.isnan(got[: n - 1]).all()
    for row, window in list(enumerate(sliding_window_view(x, n), start=n - 1))[::37]:
        if np.isnan(window).any() or np.ptp(window) == 0:
            continue
        fit = stats.linregress(np.arange(n), window)
        expected = [fit.slope, fit.rvalue**2, window[-1] - (fit.intercept + fit.slope * (n - 1))]
        np.testing.assert_allclose(got[row], expected, rtol=1e-7, atol=1e-9)


def test_windows_in_which_nothing_moves() -> None:
    frame = pl.DataFrame({"x": [0.1] * 50, "y": np.arange(50.0)})
    params = (7,)
    for op in ("std", "var", "slope", "resid"):
        np.testing.assert_array_equal(value_of(frame, op, "x", params=params)[6:], 0.0)
    assert np.isnan(value_of(frame, "rsquare", "x", params=params)).all()
    assert np.isnan(value_of(frame, "corr", "x", "y", params=params)).all()
    assert np.isnan(value_of(frame, "rsi_simple", "x", params=params)).all()
    settled = operation("rsi_wilder", "x", params=(2,)).warmup
    np.testing.assert_array_equal(value_of(frame, "rsi_wilder", "x", params=(2,))[settled:], 50.0)


def settled(alpha: float) -> int:
    return math.ceil(math.log(1e-13) / math.log1p(-alpha))


@pytest.mark.parametrize("n", [2, 12, 26, 40])
@pytest.mark.parametrize("op", ["ema", "wilder"])
def test_averages_equal_pandas(op: str, n: int, table: pd.DataFrame, frame: pl.DataFrame) -> None:
    alpha = 2 / (n + 1) if op == "ema" else 1 / n
    feature = operation(op, "x", params=(n,))
    assert (feature.lookback, feature.warmup) == (settled(alpha), settled(alpha))
    expected = table["x"].copy()
    # The recursion starts again after a null.
    for _, run in table["x"].groupby(table["x"].isna().cumsum()):
        known = run.dropna()
        average = known.ewm(alpha=alpha, adjust=False).mean()
        average[: settled(alpha)] = np.nan
        expected[known.index] = average
    assert expected.notna().any()
    assert_equal(evaluated(frame, feature)[:, 0], expected, rtol=1e-11)


def test_rsi_equals_the_function(table: pd.DataFrame, frame: pl.DataFrame) -> None:
    x = table["x"].to_numpy()
    simple = operation("rsi_simple", "x", params=(14,))
    assert (simple.lookback, simple.warmup) == (14, 13)
    np.testing.assert_array_equal(evaluated(frame, simple)[:, 0], _core.rsi(x, 14))
    wilder = operation("rsi_wilder", "x", params=(14,))
    assert wilder.lookback == wilder.warmup == settled(1 / 14) + 1
    got, expected = evaluated(frame, wilder)[:, 0], _core.rsi(x, 14, method="wilder")
    known = ~np.isnan(got)
    assert known.sum() == 1700 - wilder.warmup + 2500 - 1704 - wilder.warmup + 94
    np.testing.assert_allclose(got[known], expected[known], rtol=0, atol=1e-9)


def test_the_rsi_of_an_expression_starts_with_its_first_value(frame: pl.DataFrame) -> None:
    nodes: Any = [("column", (), ("y",)), ("mean", (0,), (7,)), ("rsi_simple", (1,), (14,))]
    feature = _core.Feature("x", nodes)
    assert (feature.lookback, feature.warmup) == (20, 19)
    mean = frame["y"].to_pandas().rolling(7).mean().to_numpy()
    expected = np.concatenate([np.full(6, np.nan), _core.rsi(mean[6:], 14)])
    np.testing.assert_allclose(evaluated(frame, feature)[:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("hours", [0, 1, 30])
@pytest.mark.parametrize("unit", ["ms", "us", "ns", "int64"])
def test_times_equal_polars(hours: int, unit: str, frame: pl.DataFrame) -> None:
    offset = hours * 3_600_000
    later = frame["timestamp"] + timedelta(hours=hours)
    expected = {
        "hour": later.dt.hour(),
        "weekday": later.dt.weekday() - 1,
        "day_of_year": later.dt.ordinal_day(),
    }
    kind = pl.Int64 if unit == "int64" else pl.Datetime(unit)  # type: ignore[arg-type]
    cast = frame.with_columns(pl.col("timestamp").cast(kind))
    for op, wanted in expected.items():
        got = value_of(cast, op, params=(offset,))
        np.testing.assert_array_equal(got, wanted.to_numpy())
    nodes: Any = [("hour", (), (offset,)), ("lag", (0,), (1,))]
    got = evaluated(cast, _core.Feature("x", nodes))[:, 0]
    np.testing.assert_array_equal(got, expected["hour"].shift(1).to_numpy())


def test_times_are_needed_only_if_they_are_used(frame: pl.DataFrame) -> None:
    without = frame.drop("timestamp")
    assert len(value_of(without, "neg", "x")) == ROWS
    with pytest.raises(DataError, match="column 'timestamp' is missing"):
        value_of(without, "hour", params=(0,))
    assert _core.FeaturePipeline([operation("hour", params=(0,))]).columns == []


def everything() -> list[_core.Feature]:
    names = [*ROLLING, "slope", "rsquare", "resid", "ema", "wilder", "rsi_simple", "rsi_wilder"]
    features = [operation(op, "x", params=(n,)) for op in names for n in (5, 30)]
    features += [operation(op, "x", "y", params=(20,)) for op in ("corr", "cov")]
    features += [operation("quantile", "y", params=(20, q)) for q in (0.2, 0.8)]
    macd: Any = [
        ("column", (), ("y",)),
        ("ema", (0,), (12,)),
        ("ema", (0,), (26,)),
        ("sub", (1, 2), ()),
        ("log", (0,), ()),
        ("mul", (3, 4), ()),
        ("std", (5,), (40,)),
        ("hour", (), (0,)),
        ("add", (6, 7), ()),
    ]
    return [*features, operation("log", "z"), _core.Feature("macd", macd)]


@pytest.fixture(scope="module")
def long(frame: pl.DataFrame) -> pl.DataFrame:
    """Enough rows for several tasks."""
    several = pl.concat([frame] * 40).with_columns(timestamp=pl.int_range(pl.len()) * 3_600_000)
    return several.with_columns(timestamp=pl.col("timestamp").cast(pl.Datetime("ms")))


def test_no_result_depends_on_threads_or_chunks(long: pl.DataFrame) -> None:
    features = everything()
    expected = evaluated(long, *features, threads=1)
    for threads in (2, 3):
        assert evaluated(long, *features, threads=threads).tobytes() == expected.tobytes()
    edges = [0, 1, 2, 500, 32_768, 33_000, 65_537, len(long)]
    pieces = [long[a:b] for a, b in pairwise(edges)]
    chunked = pl.concat(pieces, rechunk=False)
    assert evaluated(chunked, *features, threads=2).tobytes() == expected.tobytes()
    assert evaluated(long.to_arrow(), *features).tobytes() == expected.tobytes()


@pytest.mark.parametrize("start", [1, 1234, 32_767, 90_001])
def test_no_result_depends_on_rows_before_its_lookback(start: int, long: pl.DataFrame) -> None:
    features = everything()
    whole, part = evaluated(long, *features), evaluated(long[start:], *features)
    for i, feature in enumerate(features):
        rows = slice(feature.lookback, None)
        assert part[rows, i].tobytes() == whole[start:][rows, i].tobytes(), feature
        assert np.isnan(part[: feature.warmup, i]).all(), feature
    # One row of live scoring.
    lookback = max(feature.lookback for feature in features)
    last = evaluated(long[-lookback - 1 :], *features)[-1]
    assert last.tobytes() == whole[-1].tobytes()


def test_transform_is_evaluate_scaled(long: pl.DataFrame) -> None:
    numbered = [_core.Feature(str(i), f.nodes) for i, f in enumerate(everything())]
    pipeline = _core.FeaturePipeline(numbered)
    values = pipeline.evaluate(long)
    matrix = pipeline.fit(long, threads=2).transform(long, threads=3)
    complete = ~np.isnan(values).any(axis=1)
    assert 0 < complete.sum() < len(long) - pipeline.warmup
    np.testing.assert_array_equal(matrix.rows, np.flatnonzero(complete))
    scaled = [s.transform(values[complete, i]) for i, s in enumerate(pipeline.scalers)]
    np.testing.assert_array_equal(matrix.values, np.stack(scaled, axis=1).astype(np.float32))
    ends = np.array([(s.data_min, s.data_max) for s in pipeline.scalers])
    np.testing.assert_array_equal(ends[:, 0], np.nanmin(values, axis=0))
    np.testing.assert_array_equal(ends[:, 1], np.nanmax(values, axis=0))


def test_nulls_are_counted_by_reason(long: pl.DataFrame, frame: pl.DataFrame) -> None:
    numbered = [_core.Feature(str(i), f.nodes) for i, f in enumerate(everything())]
    pipeline = _core.FeaturePipeline(numbered)
    counts = pipeline.nulls(long, threads=2)
    missing = np.isnan(pipeline.evaluate(long)).sum(axis=0)
    found = [count["warmup"] + count["input"] + count["undefined"] for count in counts]
    assert found == missing.tolist()
    for feature, count in zip(pipeline.features, counts, strict=True):
        assert count["warmup"] == feature.warmup
    assert counts == pipeline.nulls(long, threads=1)

    log = operation("log", "z")
    mean = operation("mean", "x", params=(3,))
    undefined, input_ = _core.FeaturePipeline([log, mean]).nulls(frame)
    negative = int((frame["z"] < 0).sum())
    assert undefined == {"warmup": 0, "input": 0, "undefined": negative}
    assert input_ == {"warmup": 2, "input": 6 + 3, "undefined": 0}
    short = _core.FeaturePipeline([mean]).nulls(frame[:1])
    assert short == [{"warmup": 1, "input": 0, "undefined": 0}]


def test_parts_of_the_market_without_values() -> None:
    empty = pl.DataFrame({"x": []}, schema={"x": pl.Float64})
    assert evaluated(empty, operation("mean", "x", params=(3,))).shape == (0, 1)
    short = pl.DataFrame({"x": [1.0, 2.0]})
    features = [operation("mean", "x", params=(n,)) for n in (2, 3, 2**20)]
    got = evaluated(short, *features)
    np.testing.assert_array_equal(got, [[np.nan] * 3, [1.5, np.nan, np.nan]])


def test_attributes() -> None:
    nodes: Any = [
        ("column", (), ("y",)),
        ("column", (), ("x",)),
        ("column", (), ("unused",)),
        ("mean", (1,), (7.0,)),
        ("div", (0, 3), ()),
        ("clip", (4,), (0, 2)),
        ("lag", (5,), (3,)),
    ]
    feature = _core.Feature("a", nodes, null_as=1)
    assert feature.nodes[3] == ("mean", (1,), (7,))
    assert isinstance(feature.nodes[3][2][0], int)
    assert feature.nodes[5] == ("clip", (4,), (0.0, 2.0))
    assert feature.columns == ["y", "x"]
    assert (feature.lookback, feature.warmup) == (9, 9)
    assert feature == _core.Feature("a", nodes, null_as=1)
    assert feature != _core.Feature("a", nodes)
    assert feature != _core.Feature("a", nodes[:5], null_as=1)
    for again in (pickle.loads(pickle.dumps(feature)), copy.deepcopy(feature)):
        assert again == feature
        assert again.nodes == feature.nodes
    other = of_column("b", "z", "rsi_simple", 30)
    pipeline = _core.FeaturePipeline([feature, other])
    assert pipeline.columns == ["y", "x", "z"]
    assert (pipeline.lookback, pipeline.warmup) == (30, 29)
    assert pickle.loads(pickle.dumps(pipeline)).features == [feature, other]


X = ("column", (), ("x",))
MALFORMED: list[tuple[Any, str]] = [
    ([], "nodes is a list of 0, expected 1 to 10000 nodes"),
    ([X] * 10_001, "nodes is a list of 10001, expected 1 to 10000 nodes"),
    (None, r"nodes is None, expected a list of \(operator, arguments, parameters\)"),
    ([("column", ("x",))], r"nodes is .*, expected a list of \(operator, arguments, parameters\)"),
    ([X, ("neg", (-1,), ())], "expected a list of"),
    ([X, ("neg", (0.5,), ())], "expected a list of"),
    ([X, ("mean", (0,), (None,))], "expected a list of"),
    ([("volme", (), ())], r"nodes\[0\], volme: there is no such operator"),
    ([("x" * 1_000_000, (), ())], r"nodes\[0\], x{40}: there is no such operator"),
    ([("column", (), ())], r"nodes\[0\], column: the parameter name is missing"),
    ([("column", (), (3,))], "the name is 3, expected a string"),
    ([("number", (), ("3",))], 'the value is "3", expected a finite number'),
    ([("number", (), (np.inf,))], "the value is inf, expected a finite number"),
    ([X, ("neg", (1,), ())], r"nodes\[1\], neg: its argument is node 1, expected an earlier one"),
    ([X, ("neg", (2**62,), ())], "its argument is node 4611686018427387904"),
    ([X, ("add", (0,), ())], r"nodes\[1\], add: it has 1 arguments, expected 2"),
    ([X, ("neg", (0, 0), ())], "it has 2 arguments, expected 1"),
    ([X, ("neg", (0,), (3,))], "it has 1 parameters too many"),
    *(
        ([X, (op, (0,), (n,))], f"the window is {n}, expected an integer from {least} to 1048576")
        for op, least in (("mean", 1), ("std", 2), ("slope", 2), ("lag", 0), ("rsi_simple", 1))
        for n in (least - 1, 0.5, 2**20 + 1, -3)
    ),
    ([X, ("mean", (0,), (np.nan,))], "the window is NaN, expected an integer"),
    ([X, ("quantile", (0,), (5, 1.5))], "the quantile is 1.5, expected a number from 0 to 1"),
    ([X, ("clip", (0,), (2, 1))], "the bounds are 2 and 1, expected the lower one first"),
    ([("hour", (), (-1,))], "the offset is -1, expected an integer from 0"),
]


@pytest.mark.parametrize(("nodes", "message"), MALFORMED)
def test_malformed_expressions(nodes: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        UNTYPED.Feature("f", nodes)
    assert len(str(caught.value)) < 300


def test_the_largest_expressions() -> None:
    deep: Any = [X, *(("ema", (i,), (2**20,)) for i in range(9_999))]
    feature = _core.Feature("deep", deep)
    assert feature.lookback > 2**30
    frame = pl.DataFrame({"x": [1.0] * 100})
    assert np.isnan(evaluated(frame, feature)).all()
    wide: Any = [X, *(("add", (i, i), ()) for i in range(9_999))]
    assert np.isnan(evaluated(frame, _core.Feature("wide", wide))).all()
    sines: Any = [X, *(("sin", (i,), ()) for i in range(9_999))]
    assert np.isfinite(evaluated(frame, _core.Feature("sines", sines))).all()


def test_operators_do_not_drift() -> None:
    """Against an exact evaluation over 1.3M rows, in which one value is a billion times larger."""
    rows = 1_300_000
    x = ((np.arange(rows) * 7919) % 1_000_003 + 1) / 64.0  # sums of these are exact
    x[600_000] = 1e12
    y = ((np.arange(rows) * 104_729) % 999_983 + 1) / 64.0
    frame = pl.DataFrame({"x": x, "y": y})
    n = 30
    ops = ("sum", "mean", "var", "std", "slope", "resid", "ema")
    features = [operation(op, "x", params=(n,)) for op in ops]
    features += [operation(op, "x", "y", params=(n,)) for op in ("cov", "corr")]
    got = evaluated(frame, *features)
    positions = [i - (n - 1) / 2 for i in range(n)]
    squares = math.fsum(p * p for p in positions)
    for row in range(602_000, rows, 9973):
        window, other = x[row + 1 - n : row + 1].tolist(), y[row + 1 - n : row + 1].tolist()
        mean = math.fsum(window) / n
        spread = [v - mean for v in window]
        other_mean = math.fsum(other) / n
        other_spread = [v - other_mean for v in other]
        var = math.fsum(v * v for v in spread) / (n - 1)
        slope = math.fsum(v * p for v, p in zip(spread, positions, strict=True)) / squares
        cov = math.fsum(a * b for a, b in zip(spread, other_spread, strict=True)) / (n - 1)
        other_var = math.fsum(b * b for b in other_spread) / (n - 1)
        alpha = 2 / (n + 1)
        past = x[row - 600 : row + 1][::-1].tolist()
        ema = math.fsum(alpha * (1 - alpha) ** age * v for age, v in enumerate(past))
        expected = [
            *(mean * n, mean, var, math.sqrt(var), slope, spread[-1] - slope * positions[-1], ema),
            *(cov, cov / math.sqrt(var * other_var)),
        ]
        np.testing.assert_allclose(got[row], expected, rtol=1e-9, atol=0)
