"""Robustness without sentiment."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from models import Momentum

from atb_fast.evaluation.diagnostics import robustness
from atb_fast.evaluation.metrics import rmse
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
