"""The meta-label recipe: its windows, and what it requires of its primary model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from atb_fast import Extra, TrainingConfig, find_leaks, load_market, meta_label_features
from atb_fast.errors import ArgumentError, DataError
from atb_fast.features.meta_label import FEATURES
from atb_fast.ingestion import sample
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.documents import from_document, to_document
from atb_fast.recipes.library import get
from atb_fast.recipes.meta_label import MetaLabelRecipe
from atb_fast.recipes.targets.meta_label import MetaLabel

CANDLES = sample.candles("BTCUSDT", "1h").tail(4000)


def primary(folds: int = 4, **changes: pl.Expr) -> pl.DataFrame:
    """What a basic model could have predicted for the newer half of the candles."""
    half = CANDLES.tail(2000)
    rng = np.random.default_rng(0)
    return half.select(
        "timestamp",
        fold=pl.Series(np.repeat(np.arange(1.0, folds + 1), 2000 // folds)),
        last_close=pl.col("close").shift(1, fill_value=1.0),
        prediction=pl.col("close") * pl.Series(1 + rng.normal(0, 0.002, 2000)),
    ).with_columns(**changes)


def series(values: pl.DataFrame, *, lag_ms: int = 0, name: str = "primary") -> Extra:
    columns = {column: f"{name}_{column}" for column in values.columns if column != "timestamp"}
    return Extra(name, values.rename(columns), lag_ms)


def config(**options: Any) -> TrainingConfig:
    return TrainingConfig(symbol="BTCUSDT", source="sample", recipe="meta_label", **options)


def test_the_recipe_is_declared_like_the_others() -> None:
    recipe = get("meta_label")
    assert isinstance(recipe, MetaLabelRecipe)
    assert tuple(recipe.specs) == FEATURES
    assert {spec.scaler for spec in recipe.specs.values()} == {"none"}
    assert recipe.target == MetaLabel()
    assert from_document(to_document(recipe)) == recipe
    assert (config().timeframe, config().sequence_length, config().horizon) == ("1h", 1, 336)
    assert config().force_price_only


def test_a_row_is_a_fire(caplog: pytest.LogCaptureFixture) -> None:
    given, predictions = config(), primary()
    with caplog.at_level(logging.INFO):
        prepared = prepare(Market(CANDLES, None, (series(predictions),)), given)
    expected = meta_label_features(CANDLES, predictions)
    fired = expected.with_row_index("row").filter(pl.col("primary_side") != 0)
    assert prepared.matrix.rows.tolist() == fired["row"].to_list()
    values = fired.select(FEATURES).to_numpy().astype(np.float32)
    np.testing.assert_array_equal(prepared.matrix.values, values)
    counts = fired["primary_side"].value_counts(sort=True)
    assert f"on 2,000 candles with a prediction: {len(fired):,}, " in caplog.text
    assert all(f"{count:,}" in caplog.text for count in counts["count"])
    assert prepared.lags.keys() == {f"primary_{n}" for n in ("fold", "last_close", "prediction")}

    data = split(prepared, given)
    # A fire is labeled with its own outcome, and fires whose trades overlap the next part are
    # left out.
    rows = prepared.matrix.rows
    outcomes = prepared.frame["meta_label"].to_numpy()
    for part in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(data.fitted(part), outcomes[rows[part]])
        assert {*data.fitted(part)} == {0.0, 1.0}
    assert rows[data.train[-1]] + 336 < rows[data.validation[0]]
    assert rows[data.validation[-1]] + 336 < rows[data.test[0]]


def test_no_look_ahead() -> None:
    report = find_leaks(Market(CANDLES, None, (series(primary()),)), config(), cuts=4)
    assert report.leaks == ()


@pytest.mark.parametrize(
    ("extras", "error", "message"),
    [
        (
            (),
            ArgumentError,
            "needs the predictions of the basic model; write them with atb-fast ev",
        ),
        ((series(primary(), lag_ms=1),), ArgumentError, "is known when the bar opens; remove it"),
        (
            (series(primary()), Extra("funding", primary().select("timestamp", x="fold"))),
            ArgumentError,
            "--extra funding has no effect: the meta_label recipe reads only primary",
        ),
        ((series(primary().drop("fold")),), DataError, "no column fold .*that it was trained on"),
        ((series(primary().drop("prediction")),), DataError, "no column prediction .found: fold"),
        ((series(primary(fold=-pl.col("fold"))),), DataError, "column fold .* never decrease"),
        ((series(primary(fold=pl.lit(None, pl.Float64))),), DataError, "a number in every row"),
        ((series(primary(folds=1)),), DataError, "fold is 1 in every row, expected at least two"),
        (
            (series(primary(sigma=pl.lit(0.02))),),
            DataError,
            "has a column sigma, so its model does not predict prices; write them with atb-fast",
        ),
        (
            (series(primary(timestamp=pl.col("timestamp").dt.offset_by("1m"))),),
            DataError,
            "no prediction has the timestamp of a candle",
        ),
        (
            (series(primary(prediction=pl.lit(-5.0))),),
            DataError,
            r"column primary_prediction, row 0 .timestamp 2024.*: found -5, expected a price above",
        ),
        (
            (series(primary(prediction=pl.col("last_close") * 0)),),
            DataError,
            "row 0 .*: found 0, expected a price above 0",
        ),
        (
            (series(primary(prediction=pl.lit(None, pl.Float64))),),
            DataError,
            "no prediction has the timestamp of a candle",
        ),
    ],
)
def test_predictions_that_cannot_be_used(
    extras: tuple[Extra, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(Market(CANDLES, None, extras), config())


def test_a_model_that_never_fires() -> None:
    closes = CANDLES.select("timestamp", at="close")
    same = primary().join(closes, on="timestamp").select("timestamp", "fold", prediction="at")
    with pytest.raises(DataError, match="on 2,000 candles with a prediction: 0, 0 long and"):
        prepare(Market(CANDLES, None, (series(same),)), config())


def test_the_predictions_are_read_from_a_file(tmp_path: Path) -> None:
    predictions = primary().with_columns(
        pl.col("fold").cast(pl.Int64), made_at="timestamp", target_time="timestamp"
    )
    found = []
    for name, write in (
        ("primary.parquet", predictions.write_parquet),
        ("primary.feather", predictions.write_ipc),
        ("primary.csv", predictions.write_csv),
    ):
        write(tmp_path / name)
        given = config(extra={"primary": tmp_path / name}, start_date="2024-08-01")
        found.append(prepare(load_market(given), given).matrix.values)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert len(found[0]) > 1000


def test_features_for_a_backtest() -> None:
    predictions = primary()
    made = meta_label_features(CANDLES, predictions)
    assert made.columns == [*CANDLES.columns, "primary_side", *FEATURES]
    assert len(made) == len(CANDLES)
    assert made["rolling_hit_rate_20"].null_count() == 0
    assert made["predicted_return_magnitude"].null_count() == 2000
    frames: list[Any] = [
        (CANDLES.to_arrow(), predictions.to_arrow()),
        (CANDLES.to_pandas(), predictions.to_pandas()),
        (
            CANDLES.to_pandas().set_index("timestamp"),
            predictions.to_pandas().set_index("timestamp"),
        ),
    ]
    for candles, given in frames:
        assert meta_label_features(candles, given).select(FEATURES).equals(made.select(FEATURES))
    # Other exits and costs have other outcomes.
    rates = [
        meta_label_features(CANDLES, predictions, target=target)["rolling_hit_rate_20"].to_numpy()
        for target in (MetaLabel(horizon=5), MetaLabel(horizon=5, cost=0.0))
    ]
    assert rates[1].mean() > rates[0].mean()


@pytest.mark.parametrize(
    ("candles", "predictions", "options", "message"),
    [
        (CANDLES, primary(), {"timeframe": "7h"}, "timeframe is '7h', expected one of 1m"),
        (CANDLES, primary(), {"timeframe": "1d"}, "candles are not at least 1d apart"),
        (CANDLES.reverse(), primary(), {}, "candles are not at least 1h apart; sort them"),
        (CANDLES.drop("low"), primary(), {}, "column 'low' is missing"),
        (CANDLES, primary().drop("prediction"), {}, "no column prediction .found: timestamp, fold"),
        (CANDLES, pl.concat([primary(), primary()]), {}, "a timestamp has two predictions"),
        (
            CANDLES,
            primary(prediction=pl.when(pl.int_range(pl.len()) == 7).then(-5.0).otherwise(1.0)),
            {},
            r"column prediction, row 7 .timestamp 2024.*: found -5, expected a price above 0",
        ),
        (CANDLES, primary(prediction=pl.lit(np.inf)), {}, "row 0 .*: found inf, expected a price"),
        (CANDLES, primary(prediction=pl.lit(np.nan)), {}, "found no number .* 2,000 rows of pred"),
        (
            CANDLES,
            primary(sigma=pl.lit(0.02)),
            {},
            "have a column sigma, so their model does not predict prices; pass those of the basic",
        ),
        (CANDLES.head(99), primary(), {}, "2,000 rows of predictions and 99 candles; expected at"),
        ([1.0], primary(), {}, "got list, expected a Polars, pyarrow or pandas frame"),
        (CANDLES, pd.Series([1.0]), {}, "expected a frame with named columns"),
    ],
)
def test_frames_that_cannot_be_used(
    candles: Any, predictions: Any, options: Any, message: str
) -> None:
    with pytest.raises((ArgumentError, DataError), match=message):
        meta_label_features(candles, predictions, **options)
