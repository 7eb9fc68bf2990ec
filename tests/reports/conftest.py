"""The record of a run without training: sample candles and chosen predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from models import Momentum

from atb_fast import TrainingConfig
from atb_fast.evaluation.diagnostics import evaluate, robustness
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.reports.charts import draw_charts
from atb_fast.training.device import decide
from atb_fast.training.engine import FitResult


@pytest.fixture(scope="session")
def config() -> TrainingConfig:
    return TrainingConfig(symbol="BTCUSDT", source="sample", sequence_length=12)


@pytest.fixture(scope="session")
def data(market: Market, config: TrainingConfig) -> WindowedData:
    """Windows of candles with a gap of three days."""
    candles = market.candles.head(600)
    candles = pl.concat([candles[:300], candles[303:]])
    prepared = prepare(Market(candles, market.sentiment), replace(config, force_sentiment=True))
    return split(prepared, config)


@pytest.fixture(scope="session")
def fitted() -> FitResult:
    history = {"loss": [3e8, 2e8], "val_loss": [4e8, 1e8]}
    history |= {f"{name[:-4]}rmse": [v**0.5 for v in loss] for name, loss in history.items()}
    return FitResult("keras", history, 2, 2, [1.5, 0.5])


MakeRecord = Callable[..., RunRecord]


@pytest.fixture(scope="session")
def make_record(data: WindowedData, config: TrainingConfig, fitted: FitResult) -> MakeRecord:
    """Make the record of a run from predictions; by default, they are 20% too high."""

    def made(predictions: Any = None, data: WindowedData = data) -> RunRecord:
        if predictions is None:
            predictions = data.targets(data.test) * 1.2
        names = data.prepared.matrix.names
        return RunRecord(
            config,
            data,
            decide([], engine="keras", mixed_precision=False, batch_size=None),
            fitted,
            evaluate(Momentum(data), data, predictions),
            robustness=robustness(Momentum(data), data, predictions),
            importance={name: float(i) for i, name in enumerate(names)},
            importance_deviation=dict.fromkeys(names, 0.5),
            onnx_difference={"1": 0.0, "7": 1.25e-7, "256": 2e-7},
        )

    return made


@pytest.fixture(scope="session")
def charts(make_record: MakeRecord, data: WindowedData) -> dict[str, str]:
    return draw_charts(make_record(), np.asarray(data.targets(data.test) * 1.2))
