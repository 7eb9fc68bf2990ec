"""The causal recipe, compared with pandas and scikit-learn."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import linregress
from sklearn.preprocessing import StandardScaler

from atb_fast import TrainingConfig, rsi, sma
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import ArgumentError, DataError
from atb_fast.features.price import PriceScale
from atb_fast.features.sentiment import index_columns
from atb_fast.features.specs import INDEX_COLUMNS, compiled, unscaled
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import library, prepare, split

CAUSAL = library.get("causal")
NAMES = list(CAUSAL.specs)
INDEX = [name for name in NAMES if name in INDEX_COLUMNS]
#: Rows until Wilder's RSI has settled.
WARMUP = max(feature.warmup for feature in compiled(CAUSAL.specs, TIMEFRAMES["1d"]))


def config(**options: Any) -> TrainingConfig:
    given = {"symbol": "BTCUSDT", "source": "sample", "recipe": "causal", "sequence_length": 30}
    return TrainingConfig(**{**given, **options})


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    return split(prepare(market, config()), config())


def test_price_columns_equal_pandas(market: Market) -> None:
    features = compiled(CAUSAL.used(index=False), TIMEFRAMES["1d"])
    values = unscaled(features).evaluate(market.candles)
    made = {feature.name: values[:, i] for i, feature in enumerate(features)}
    frame = market.candles.to_pandas()
    close, volume = frame["close"], frame["volume"]
    expected = {
        "return_1": np.log(close / close.shift()),
        "open_to_close": np.log(close / frame["open"]),
        "high_to_close": np.log(close / frame["high"]),
        "low_to_close": np.log(close / frame["low"]),
        **{f"close_to_sma_{n}": close / close.rolling(n).mean() - 1 for n in (7, 14, 30)},
        "volume_to_sma_30": np.log(1 + volume / volume.rolling(30).mean()),
    }
    for name, column in expected.items():
        np.testing.assert_allclose(made[name], column, rtol=1e-9, atol=1e-12)
    gain, loss = (close.diff().clip(lower=0), -close.diff().clip(upper=0))
    strength = [part.ewm(alpha=1 / 14, adjust=False).mean() for part in (gain, loss)]
    wilder = (1 - 1 / (1 + strength[0] / strength[1]))[WARMUP:]  # wherever they begin
    np.testing.assert_allclose(made["rsi_14"][WARMUP:], wilder, rtol=1e-9)
    assert np.isnan(made["rsi_14"][:WARMUP]).all()
    assert set(made) == {*expected, "rsi_14"}


def test_features_equal_the_formulas_of_0_1_0(market: Market) -> None:
    """With NumPy, as version 0.1.0 computed them."""
    columns = ("open", "high", "low", "close", "volume")
    opened, high, low, close, volume = (market.candles[name].to_numpy() for name in columns)
    logs, usual = np.log(close), sma(volume, 30)
    expected = {
        "return_1": np.diff(logs, prepend=np.nan),
        "open_to_close": logs - np.log(opened),
        "high_to_close": logs - np.log(high),
        "low_to_close": logs - np.log(low),
        **{f"close_to_sma_{n}": close / sma(close, n) - 1.0 for n in (7, 14, 30)},
        "volume_to_sma_30": np.log1p(volume / usual),
        "rsi_14": rsi(close, 14, method="wilder") / 100.0,
    }
    features = compiled(CAUSAL.used(index=False), TIMEFRAMES["1d"])
    values = unscaled(features).evaluate(market.candles)
    for i, feature in enumerate(features):
        # The first value of Wilder's averages, whose weight is below 1e-13, may be large.
        atol = 5e-12 if feature.name == "rsi_14" else 1e-12
        np.testing.assert_allclose(
            values[WARMUP:, i], expected[feature.name][WARMUP:], rtol=0, atol=atol
        )


def test_sentiment_equals_pandas(market: Market) -> None:
    assert market.sentiment is not None
    index = market.sentiment.filter(pl.col("timestamp").dt.day() != 17)
    primary = index["value"].to_pandas() / 100
    made = pd.DataFrame(
        {
            "time": index["timestamp"].to_pandas().astype("datetime64[ms, UTC]"),
            "sentiment_primary": primary,
            "sentiment_momentum": primary.pct_change().replace([np.inf, -np.inf], 0).fillna(0),
            "sentiment_volatility": primary.rolling(7, min_periods=2).std().fillna(0),
            **{f"sentiment_ma_{n}": primary.rolling(n, min_periods=1).mean() for n in (3, 7, 14)},
            "sentiment_extreme_positive": (primary > 0.8).astype(float),
            "sentiment_extreme_negative": (primary < 0.2).astype(float),
        }
    )
    for lag in (0, 1, 3):
        made["known"] = made["time"] + pd.Timedelta(days=lag)
        times = market.candles["timestamp"].to_pandas()
        candles = pd.DataFrame({"known": times.astype(made["known"].dtype)})
        expected = pd.merge_asof(candles, made, on="known")
        columns = index_columns(market.candles, index, lag_days=lag)
        got = {column.name: column for column in columns}
        first = int(expected["time"].notna().argmax())
        for name in INDEX[:-1]:
            np.testing.assert_allclose(
                got[name].to_numpy()[first:], expected[name][first:], rtol=1e-9, atol=1e-7
            )
        due = (candles["known"] - pd.Timedelta(days=lag)).dt.floor("D")
        late = (due > expected["time"]).to_numpy()
        assert late[first:].sum() > 50
        np.testing.assert_array_equal(got["sentiment_missing"].to_numpy()[first:], late[first:])


def test_candles_before_the_index_have_a_neutral_one(market: Market) -> None:
    assert market.sentiment is not None
    late = market.sentiment.tail(300)
    made = prepare(Market(market.candles, late), config())
    # Only the candles of the warm-up are left out.
    np.testing.assert_array_equal(made.matrix.rows, np.arange(WARMUP, len(market.candles)))
    before = made.frame.filter(pl.col("timestamp") <= late["timestamp"][0])
    assert len(before) > 1000
    assert set(before["sentiment_missing"]) == {1.0}
    columns = index_columns(market.candles, "neutral", lag_days=1)
    neutral = {column.name: column for column in columns}
    for name in INDEX[:-1]:
        assert set(before[name]) == set(neutral[name]), name
    assert set(neutral["sentiment_missing"]) == {0.0}


def test_an_index_without_a_day_of_the_candles_is_rejected(market: Market) -> None:
    assert market.sentiment is not None
    later = market.sentiment.with_columns(pl.col("timestamp") + timedelta(days=20_000))
    with pytest.raises(
        DataError, match="no day in the range of the candles; use sentiment of that range"
    ):
        prepare(Market(market.candles, later), config())


def test_age_of_the_index_is_measured_from_the_end_date(market: Market) -> None:
    made = prepare(market, config(end_date=date(2020, 6, 1)), now=datetime(2050, 1, 1, tzinfo=UTC))
    assert made.assessment is not None
    assert made.assessment.freshness_days == 0
    assert made.assessment.assessed_at.startswith("2020-06-01")


def test_unused_days_of_the_index_change_nothing(market: Market) -> None:
    assert market.sentiment is not None
    last = market.candles["timestamp"][-1]
    later = pl.DataFrame(
        {"timestamp": [last + timedelta(days=n) for n in (1, 2)], "value": [50.0, 60.0]},
        schema=market.sentiment.schema,
    )
    longer = Market(market.candles, pl.concat([market.sentiment, later]))
    # A repeated run has the same end date, but the index has grown.
    made = [prepare(market, config(end_date=last.date())), prepare(longer, config())]
    made.append(prepare(longer, config(end_date=last.date())))
    assert made[0].sha256 == made[1].sha256 == made[2].sha256
    assert made[0].assessment == made[1].assessment == made[2].assessment


def test_missing_days_of_sentiment_are_counted(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    """The index begins a month after the candles and is known a day later."""
    with caplog.at_level("INFO", logger="atb_fast"):
        prepare(market, config())
    assert " 32 of 2,557 candles have no sentiment of their day" in caplog.text


def test_features_do_not_depend_on_the_level_of_prices(market: Market) -> None:
    prices = ("open", "high", "low", "close")
    dearer = market.candles.with_columns(pl.col(*prices) * 1000.0, volume=pl.col("volume") * 7.0)
    one, other = (
        prepare(Market(candles, None), config(force_price_only=True)).matrix.values
        for candles in (market.candles, dearer)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_scalers_are_fitted_on_the_training_rows(data: WindowedData) -> None:
    assert data.prepared.pipeline is not None
    pipeline = unscaled(data.prepared.pipeline.features)
    frame = pipeline.evaluate(data.prepared.frame)[WARMUP:]
    seen = frame[: data.train[-1] + data.length]
    assert data.train[0] == 0
    expected = StandardScaler().fit(seen).transform(frame)
    flags = [i for i, name in enumerate(NAMES) if "extreme" in name or "missing" in name]
    assert len(flags) == 3
    expected[:, flags] = frame[:, flags]
    np.testing.assert_allclose(data.prepared.matrix.values, expected, rtol=1e-4, atol=1e-5)


def test_parts_share_no_row(data: WindowedData) -> None:
    def rows(part: np.ndarray[Any, np.dtype[np.int64]]) -> set[int]:
        covered = np.arange(part[0], part[-1] + data.length + data.horizon)
        return set(covered.tolist())

    train, validation, test = (rows(part) for part in (data.train, data.validation, data.test))
    embargo = int(len(data.prepared.matrix) * 0.01)
    assert embargo == 21
    assert min(validation) - max(train) == embargo + 1
    assert min(test) - max(validation) == embargo + 1
    assert max(test) == len(data.prepared.matrix) - 1
    assert len(data.test) / len(data.prepared.matrix) == pytest.approx(0.2, abs=0.01)
    shares = len(data.validation) / (len(data.train) + len(data.validation))
    assert shares == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("horizon", [1, 5])
def test_targets_are_log_returns(market: Market, horizon: int) -> None:
    given = config(horizon=horizon, embargo=0)
    data = split(prepare(market, given), given)
    close = market.candles["close"].to_numpy()[WARMUP:]
    for starts in (data.train, data.validation, data.test):
        last = starts + 29
        np.testing.assert_array_equal(data.persistence(starts), close[last])
        np.testing.assert_array_equal(data.targets(starts), close[last + horizon])
        returns = np.log(close[last + horizon] / close[last])
        labels, scale = data.labels.values[starts + data.length], data.output
        assert isinstance(scale, PriceScale)
        np.testing.assert_allclose(labels * scale.scale, returns, rtol=1e-9, atol=1e-12)
        # The outputs of a perfect model become the actual prices.
        np.testing.assert_allclose(
            data.forecasts(starts, labels), close[last + horizon], rtol=1e-12
        )
    trained = data.labels.values[data.train + data.length]
    assert np.mean(trained**2) == pytest.approx(1.0)
    assert data.times(data.test)[-1] == market.candles["timestamp"][-1]


def test_an_untrained_model_is_persistence(data: WindowedData) -> None:
    from atb_fast.training.predict import predict

    model = CAUSAL.build(data.length, len(NAMES))
    unchanged = data.persistence(data.test)
    np.testing.assert_array_equal(predict(model, data, data.test), unchanged)


@pytest.mark.parametrize(
    ("signal", "noise", "low", "high"),
    [
        (1.0, 0.0, 0.99, 1.0),  # it is right
        (3.0, 0.0, 0.33, 0.34),  # right, but three times too large
        (-1.0, 0.0, 0.0, 0.0),  # the opposite is right
        (0.0, 0.0, 0.0, 0.0),  # it predicts no move
        (0.0, 0.3, 0.0, 0.3),  # it has learned noise
    ],
)
def test_shrinkage(
    data: WindowedData,
    signal: float,
    noise: float,
    low: float,
    high: float,
) -> None:
    rng = np.random.default_rng(5)
    returns = data.labels.values[data.validation + data.length]
    outputs = signal * returns + noise * rng.standard_normal(len(returns))
    factor = CAUSAL.shrinkage(data, lambda _: outputs)
    assert low <= factor <= high


def test_shrinkage_is_two_standard_errors_below_least_squares(data: WindowedData) -> None:
    rng = np.random.default_rng(6)
    returns = data.labels.values[data.validation + data.length]
    outputs = 0.5 * returns + 0.2 * rng.standard_normal(len(returns))
    # With scipy: a regression through the origin is one of the data and their mirror image.
    line = linregress(
        np.tile(outputs, 2) * np.repeat([1, -1], len(outputs)),
        np.tile(returns, 2) * np.repeat([1, -1], len(outputs)),
    )
    count = len(outputs)
    error = line.stderr * np.sqrt((2 * count - 2) / (count - 1))
    factor = CAUSAL.shrinkage(data, lambda _: outputs)
    assert factor == pytest.approx(min(1.0, line.slope - 2 * error), rel=1e-6)


def test_bars_without_trades(market: Market) -> None:
    quiet = market.candles.with_columns(volume=pl.lit(0.0))
    feature = CAUSAL.specs["volume_to_sma_30"].compiled("volume", TIMEFRAMES["1d"])
    assert set(unscaled([feature]).evaluate(quiet)[29:, 0]) == {0.0}
    given = config(force_price_only=True)
    values = split(prepare(Market(quiet, None), given), given).prepared.matrix.values
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"recipe": "legacy", "horizon": 2},
            r"--horizon 2 does not apply to the legacy recipe; .* causal",
        ),
        (
            {"recipe": "legacy", "sentiment_lag_days": 0},
            "--sentiment-lag-days 0 does not apply to the legacy",
        ),
        (
            {"recipe": "basic", "sequence_length": 120, "force_sentiment": True},
            "--force-sentiment does not apply to the basic recipe",
        ),
        ({"onnx_input": "ohlcv"}, "--onnx-input ohlcv does not apply to the causal recipe"),
        ({"horizon": 0}, "horizon is 0, expected at least 1"),
        ({"embargo": -1}, "embargo is -1, expected at least 0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        config(**options)
