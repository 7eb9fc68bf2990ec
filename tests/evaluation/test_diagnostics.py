"""Robustness without sentiment, and the network before shrinkage."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from models import Momentum
from relabelling import relabelled

from atb_fast.evaluation.diagnostics import before_shrinkage, evaluate, robustness
from atb_fast.evaluation.metrics import rmse
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData


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
    found = before_shrinkage(returns, outputs)
    assert found is not None
    predictions, errors = found
    np.testing.assert_array_equal(predictions, data.persistence(data.test) * np.exp(outputs / 100))
    assert errors["test_rmse"] == rmse(data.targets(data.test), predictions)
    evaluation = evaluate(Momentum(data), returns, predictions).to_dict()
    assert errors.items() <= evaluation.items()


@pytest.mark.parametrize("output", [1e5, 3e4, np.nan])
def test_a_network_whose_prices_overflow_has_no_figures(data: WindowedData, output: float) -> None:
    returns = relabelled(data, PriceScale.log_return(0.01))
    assert before_shrinkage(returns, np.full(len(data.test), output)) is None
