"""Errors and diagnostics of every kind of model, and the network before shrinkage."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from models import Momentum
from relabelling import of_kind, relabelled

from atb_fast.evaluation.diagnostics import (
    before_shrinkage,
    evaluate,
    permutation_importance,
    robustness,
)
from atb_fast.evaluation.metrics import rmse
from atb_fast.evaluation.scoring import scoring_of
from atb_fast.features.outputs import Classes, LogSigma
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.training.predict import predict


def test_neutral_sentiment_is_a_momentum_of_zero(data: WindowedData) -> None:
    model = Momentum(data)
    starts, prepared = data.test, data.prepared
    predictions = model.predict_on_batch(data.windows(starts))[:, 0]
    results = robustness(model, data, predictions)
    assert prepared.pipeline is not None
    still = prepared.frame.with_columns(sentiment_momentum=pl.lit(0.0))
    rows = prepared.pipeline.transform(still)
    # Candles without sentiment are in this matrix, too.
    lasts = np.searchsorted(rows.rows, prepared.matrix.rows[starts + data.length - 1])
    expected = rmse(data.targets(starts), model.predict_on_batch(rows.values[lasts][:, None])[:, 0])
    assert results["test_rmse_neutral_sentiment"] == pytest.approx(expected, rel=1e-6)
    assert results["test_rmse_neutral_sentiment"] != results["test_rmse_without_sentiment"]


def test_a_network_is_evaluated_before_shrinkage(data: WindowedData) -> None:
    returns = relabelled(data, PriceScale.log_return(0.01))
    outputs = np.linspace(-1, 1, len(data.test))
    shrunk = evaluate(Momentum(data), returns, data.persistence(data.test))
    found = before_shrinkage(shrunk, returns, outputs)
    assert found is not None
    predictions, errors = found
    np.testing.assert_array_equal(predictions, data.persistence(data.test) * np.exp(outputs / 100))
    assert errors["test_rmse"] == rmse(data.targets(data.test), predictions)
    evaluation = evaluate(Momentum(data), returns, predictions).to_dict()
    assert errors.items() <= evaluation.items()


@pytest.mark.parametrize("output", [1e5, 3e4, np.nan])
def test_a_network_whose_prices_overflow_has_no_figures(data: WindowedData, output: float) -> None:
    returns = relabelled(data, PriceScale.log_return(0.01))
    shrunk = evaluate(Momentum(data), returns, data.persistence(data.test))
    assert before_shrinkage(shrunk, returns, np.full(len(data.test), output)) is None


def test_figures_of_the_level_belong_to_the_shrunk_volatility(data: WindowedData) -> None:
    some = of_kind(data, "volatility")
    har = some.base(some.test)
    model = evaluate(Outputs(some), some, har)
    found = before_shrinkage(model, some, har + 0.3)
    assert found is not None
    _, figures = found
    assert figures["test_rmse"] == pytest.approx(rmse(some.targets(some.test), har + 0.3))
    assert {"mse", "r2", "ratio", "diebold_mariano"} <= figures.keys()
    own = {"qlike", "qlike_ratio", "qlike_diebold_mariano", "coverage", "pinball", "band"}
    assert own <= model.to_dict().keys()
    assert not own & figures.keys()


class Outputs:
    """A model whose outputs are a function of the close of the last row."""

    def __init__(self, data: WindowedData) -> None:
        self.column = data.prepared.matrix.names.index("close_scaled")
        self.output = data.output

    def predict_on_batch(self, windows: Any) -> Any:
        close = windows[:, -1, self.column]
        if not isinstance(self.output, Classes):
            return (0.1 * close - (4 if isinstance(self.output, LogSigma) else 0))[:, None]
        shares = [0.2 + 0.3 * close, 0.8 - 0.3 * close]
        if len(self.output.labels) == 2:
            return shares[1][:, None]
        return np.column_stack([shares[0] / 2, shares[0] / 2, shares[1]])


@pytest.mark.parametrize("kind", ["prices", "returns", "two", "three", "volatility"])
def test_diagnostics_of_every_kind(data: WindowedData, kind: str) -> None:
    """Written out: the error of the model, and its increase if a feature is permuted."""
    some = of_kind(data, kind)
    model, scoring = Outputs(some), scoring_of(some)

    def error(starts: Any, rows: Any = None) -> float:
        windows = some.windows(starts if rows is None else rows)
        outputs = model.predict_on_batch(windows).astype(float)
        outputs = outputs[:, 0] if outputs.shape[1] == 1 else outputs
        return scoring.error(some.targets(starts), some.forecasts(starts, outputs))

    key = "log_loss" if kind in ("two", "three") else "rmse"
    found = evaluate(model, some, predict(model, some, some.test))
    assert found.results[f"train_{key}"] == pytest.approx(error(some.train))
    assert found.error == found.results[f"test_{key}"] == pytest.approx(error(some.test))
    assert found.results["test_loss"] == pytest.approx(
        found.error if key == "log_loss" else found.error**2
    )
    reference = {"two": "the class shares", "three": "the class shares", "volatility": "HAR"}
    assert found.reference == reference.get(kind, "persistence")
    assert found.verdict.endswith(found.reference)

    without = robustness(model, some, found.tested.forecasts)
    assert list(without) == [
        f"test_{key}{part}" for part in ("", "_without_sentiment", "_neutral_sentiment")
    ]
    # The model reads the close only.
    assert len({round(value, 12) for value in without.values()}) == 1

    step = -(-len(some.test) // 100)
    chosen = some.test[::step]
    rng = np.random.default_rng(3)
    orders = [rng.permutation(len(chosen)) for _ in range(5)]
    # Permuting the only column that is read is permuting the windows.
    rises = [error(chosen, chosen[order]) - error(chosen) for order in orders]
    mean, deviation = permutation_importance(model, some, seed=3)
    assert mean["close_scaled"] == pytest.approx(np.mean(rises), rel=1e-4)
    assert deviation["close_scaled"] == pytest.approx(np.std(rises, ddof=1), rel=1e-4)
    assert all(abs(mean[name]) < 1e-9 for name in mean if name != "close_scaled")
