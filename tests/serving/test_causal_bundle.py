"""Bundles of the causal recipe: their documents and their predictions."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from engine_contract import violations
from sealing import reseal

from atb_fast import TrainingConfig, load_bundle, load_market, run_training_pipeline
from atb_fast.errors import BundleError, DataError
from atb_fast.features.specs import compiled
from atb_fast.recipes import library, prepare, split
from atb_fast.recipes.recipe import Recipe
from atb_fast.serving.predictor import Bundle
from atb_fast.serving.verification import verify

HORIZON = 3
#: Rows until Wilder's RSI has settled.
SETTLED = max(f.warmup for f in compiled(library.get("causal").specs, 86_400_000))


def config(**options: Any) -> TrainingConfig:
    given: dict[str, Any] = {"symbol": "BTCUSDT", "source": "sample", "recipe": "causal"}
    given |= {"start_date": "2021-06-01", "end_date": "2024-12-01", "epochs": 1, "engine": "keras"}
    given |= {"sequence_length": 24, "horizon": HORIZON, "skip_plots": True, "promote": "always"}
    return TrainingConfig(**given | options)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("causal")
    with pytest.MonkeyPatch.context() as patch:
        # After one epoch, the shrinkage factor would be 0, and all predictions persistence.
        patch.setattr(Recipe, "shrinkage", lambda *_: 1.0)
        run_training_pipeline(config(registry=root))
    return root


@pytest.fixture(scope="module")
def bundle(registry: Path) -> Bundle:
    return load_bundle("BTCUSDT:1d:causal", registry=registry)


def test_contract(registry: Path, bundle: Bundle) -> None:
    assert violations(registry, "BTCUSDT", "causal") == set()
    report = verify(bundle.path)
    assert report.problems == report.unchecked == ()
    assert report.skew is not None
    assert report.skew < 1e-6
    document = bundle.metadata
    assert document["recipe"] == "causal"
    assert document["has_sentiment"] is True
    assert document["price_normalization"]["horizon"] == HORIZON
    assert {"train_windows", "validation_windows", "test_windows"} <= set(document["dataset"])


def test_trained_until_is_the_close_of_the_last_label_of_the_validation_part(
    bundle: Bundle,
) -> None:
    dataset = bundle.metadata["dataset"]
    data = split(prepare(load_market(config()), config()), config())
    days, day = data.prepared.timestamps, timedelta(days=1)
    last = int(data.validation[-1]) + bundle.sequence_length - 1 + HORIZON
    assert bundle.trained_until == days[last] + day
    parts = {name: dataset["split"][name] for name in ("train", "validation", "test")}
    for name, starts in zip(parts, (data.train, data.validation, data.test), strict=True):
        rows = int(starts[0]), int(starts[-1]) + 23, int(starts[-1]) + 23 + HORIZON
        first, newest, reach = (days[row] for row in rows)
        assert parts[name] == {
            "first": first.isoformat(),
            "last": newest.isoformat(),
            "labels_until": (reach + day).isoformat(),
        }
    # The embargo and purging separate the parts, so no test window has a bar that is in a label.
    assert bundle.trained_until < datetime.fromisoformat(parts["test"]["first"])


def test_predictions_equal_the_training_path(bundle: Bundle) -> None:
    """With windows cut as in training, plain onnxruntime, and the scale in the metadata."""
    market = load_market(config())
    data = split(prepare(market, config()), config())
    session = onnxruntime.InferenceSession(bundle.path / "model.onnx")
    feed = {session.get_inputs()[0].name: data.windows(data.test)}
    outputs = session.run(None, feed)[0].reshape(-1).astype(np.float64)
    scale = bundle.metadata["price_normalization"]["scale"]
    expected = data.persistence(data.test) * np.exp(outputs * scale)
    assert np.ptp(outputs) > 1e-3

    got = bundle.predict(market.candles, market.sentiment)
    assert got.columns == ["timestamp", "prediction"]
    times = data.times(data.test)
    scored = got.filter(pl.col("timestamp").is_in(times.implode()))["prediction"].to_numpy()
    np.testing.assert_allclose(scored, expected, rtol=1e-6)
    # Wilder's average must settle, then a window must fill, then the horizon must pass.
    assert got["prediction"].null_count() == SETTLED + 24 - 1 + HORIZON
    assert not got["prediction"][SETTLED + 24 - 1 + HORIZON :].has_nulls()


def test_predict_last_is_the_bar_of_the_horizon(bundle: Bundle) -> None:
    market = load_market(config())
    assert market.sentiment is not None
    every = bundle.predict(market.candles, market.sentiment)
    before = market.candles.head(len(market.candles) - HORIZON)
    last = bundle.predict_last(before.to_pandas(), market.sentiment.to_pandas())
    assert last == pytest.approx(every["prediction"][-1], rel=1e-9)


def test_only_the_newest_candles_decide_about_the_next_bar(bundle: Bundle) -> None:
    market = load_market(config())
    close = [-1.0, *market.candles["close"][1:]]
    spoilt = market.candles.with_columns(close=pl.Series(close))
    with pytest.raises(DataError, match=r"column 'close', row 0: found -1\.0"):
        bundle.predict(spoilt, market.sentiment)
    last = bundle.predict_last(market.candles, market.sentiment)
    assert bundle.predict_last(spoilt, market.sentiment) == last
    assert bundle.predict_last(market.candles.tail(2 * SETTLED + 24), market.sentiment) == last
    assert bundle.predict_last(
        market.candles.tail(SETTLED + 24), market.sentiment
    ) == pytest.approx(last, rel=1e-9)


def test_neutral_and_missing_sentiment(bundle: Bundle) -> None:
    market = load_market(config())
    with pytest.raises(DataError, match="this model uses sentiment"):
        bundle.predict_last(market.candles)
    neutral = bundle.predict_last(market.candles, "neutral")
    assert neutral != bundle.predict_last(market.candles, market.sentiment)
    fifty = market.sentiment.with_columns(value=pl.lit(50.0))  # type: ignore[union-attr]
    assert neutral == pytest.approx(bundle.predict_last(market.candles, fifty), rel=1e-6)


def test_an_index_stamped_during_the_day_counts_for_that_day(bundle: Bundle) -> None:
    market = load_market(config())
    assert market.sentiment is not None
    expected = bundle.predict_last(market.candles, market.sentiment)
    noon = market.sentiment.with_columns(pl.col("timestamp") + timedelta(hours=12))
    days = market.sentiment.with_columns(pl.col("timestamp").dt.date())
    seconds = market.sentiment.with_columns(pl.col("timestamp").dt.epoch("s"))
    for index in (noon, days, seconds):
        assert bundle.predict_last(market.candles, index) == expected
    later = market.sentiment.with_columns(pl.col("timestamp") + timedelta(days=20_000))
    for index in (later, market.sentiment.head(0)):
        with pytest.raises(DataError, match="covers no day of the candles"):
            bundle.predict_last(market.candles, index)
    ended = market.sentiment.head(len(market.sentiment) - 200)
    with pytest.raises(DataError, match="pass sentiment up to the last bar"):
        bundle.predict_last(market.candles, ended)
    with pytest.raises(DataError, match=r"sentiment, row 1: found .* expected one row per day"):
        bundle.predict_last(market.candles, market.sentiment.reverse())


def test_the_rsi_settles_again_after_a_missing_candle(bundle: Bundle) -> None:
    candles = load_market(config()).candles
    close = candles["close"].to_list()
    close[700] = None
    holed = candles.with_columns(close=pl.Series(close, dtype=pl.Float64))
    got = bundle.predict(holed, "neutral")["prediction"]
    nulls = np.flatnonzero(got.is_null().to_numpy())
    # The window of a bar ends HORIZON before it. Rows 700 to 1100 have no settled average, and are
    # skipped, like other rows that lack a feature.
    assert set(range(701 + HORIZON, 701 + SETTLED + HORIZON)) <= set(nulls.tolist())
    assert not got[701 + SETTLED + HORIZON :].has_nulls()


def test_columns_of_the_frame_that_are_not_candles_do_not_matter(bundle: Bundle) -> None:
    candles = load_market(config()).candles
    more = candles.with_columns(rsi_14=pl.lit(9.0), sentiment_momentum=pl.lit(9.0), x=pl.lit("y"))
    assert bundle.predict_last(more, "neutral") == bundle.predict_last(candles, "neutral")


def test_candles_in_another_order(bundle: Bundle) -> None:
    candles = load_market(config()).candles
    with pytest.raises(DataError, match=r"row 1: timestamp .* expected strictly ascending times"):
        bundle.predict(candles.reverse(), "neutral")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("close", 0.0, "column 'close', row 1000: found 0.0, expected a price above 0"),
        ("low", -1.0, "column 'low', row 1000: found -1.0, expected a price above 0"),
        ("close", float("nan"), "column 'close', row 1000: found nan, expected a price above 0"),
        ("volume", -1.0, "column 'volume', row 1000: found -1.0, expected a number from 0 up to"),
        ("close", 1e30, r"column 'close', row 1000: found 1e\+30, expected .*, up to 1e\+15"),
    ],
)
def test_invalid_candles(bundle: Bundle, column: str, value: float, message: str) -> None:
    candles = load_market(config()).candles
    values = candles[column].to_list()
    values[1000] = value
    with pytest.raises(DataError, match=message):
        bundle.predict(candles.with_columns(pl.Series(column, values)), "neutral")
    with pytest.raises(DataError, match=f"column '{column}' has dtype Utf8View, expected float64"):
        bundle.predict_last(candles.with_columns(pl.col(column).cast(pl.String)), "neutral")


def test_too_few_candles_say_how_many(bundle: Bundle) -> None:
    market = load_market(config())
    with pytest.raises(DataError, match=f"pass at least {SETTLED + 24} candles without missing"):
        bundle.predict_last(market.candles.tail(200), "neutral")
    with pytest.raises(DataError, match="column 'volume' is missing"):
        bundle.predict_last(market.candles.drop("volume"), "neutral")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, m: s["features"][0].update(expression="lead(close, 1)"), "looks into the fut"),
        (lambda s, m: s["features"][0].update(expression="close +"), "return_1"),
        (lambda s, m: s["features"][0].update(expression=["close"]), "expected a string"),
        (lambda s, m: s["features"][0].update(expression="mean(close, 0)"), "whole number of"),
        (lambda s, m: s["features"][0]["scaler"].update(method="window"), "expected all or none"),
        (lambda s, m: s["features"][0]["scaler"].update(data_max="much"), "data_max"),
        (lambda s, m: s["sentiment"].update(lag_days=-1), "lag_days from 0 to 365"),
        (lambda s, m: s["sentiment"].update(method="other"), "the method resampled"),
        (lambda s, m: m["price_normalization"].update(scale=-1.0), "scale is -1.0"),
        (
            lambda s, m: m.update(
                price_normalization={
                    "method": "rolling_minmax",
                    "window": 24,
                    "target_feature": "close",
                }
            ),
            "price_normalization is rolling_minmax, expected linear or log_return",
        ),
        (lambda s, m: m["price_normalization"].update(horizon=0), "horizon is 0"),
        (lambda s, m: m["price_normalization"].update(scale="much"), "could not convert"),
        (lambda s, m: m["price_normalization"].pop("scale"), "KeyError: .scale"),
    ],
)
def test_hostile_documents(bundle: Bundle, tmp_path: Path, change: Any, message: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    schema, metadata = copy / "feature_schema.json", copy / "metadata.json"
    documents = [json.loads(path.read_text()) for path in (schema, metadata)]
    change(*documents)
    for path, document in zip((schema, metadata), documents, strict=True):
        path.write_text(json.dumps(document))
    reseal(copy)
    with pytest.raises(BundleError, match=message):
        load_bundle(copy)


def test_price_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "shrinkage", lambda *_: 1.0)
    result = run_training_pipeline(
        config(registry=tmp_path, force_price_only=True, skip_robustness=True, horizon=1)
    )
    assert result.model_type == "causal"
    bundle = load_bundle("BTCUSDT:1d:causal", registry=tmp_path)
    assert bundle.metadata["has_sentiment"] is False
    market = load_market(config())
    given = config(force_price_only=True, horizon=1)
    data = split(prepare(market, given), given)
    outputs = bundle.run(data.windows(data.test[-1:]))[0].astype(np.float64)
    expected = data.forecasts(data.test[-1:], outputs)
    last = bundle.predict_last(market.candles.head(len(market.candles) - 1).drop("timestamp"))
    assert last == pytest.approx(expected[0], rel=1e-6)
    assert last != market.candles["close"][-2]
