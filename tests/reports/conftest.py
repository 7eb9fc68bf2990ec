"""The record of a run without training: sample candles and chosen predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from models import Momentum
from relabelling import of_kind

from atb_fast import TrainingConfig
from atb_fast.evaluation.diagnostics import evaluate, robustness
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.heads import LINEAR
from atb_fast.features.outputs import Classes
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
def charts(make_record: MakeRecord) -> dict[str, str]:
    return draw_charts(make_record())


class Constant:
    """A model that gives the same outputs for every window."""

    def __init__(self, *outputs: float) -> None:
        self.outputs = outputs

    def predict_on_batch(self, windows: Any) -> Any:
        return np.tile(self.outputs, (len(windows), 1))


#: Outputs of a model of each kind; see `of_kind`.
OUTPUTS = {"returns": (0.0,), "two": (0.4,), "three": (0.3, 0.2, 0.5), "volatility": (-4.0,)}

RecordOf = Callable[..., RunRecord]


@pytest.fixture(scope="session")
def record_of(data: WindowedData, config: TrainingConfig) -> RecordOf:
    """Make the record of a run of another kind from forecasts; by default, from useful ones."""

    def made(kind: str, forecasts: Any = None, data: WindowedData = data) -> RunRecord:
        data = of_kind(data, kind) if data.output.unit == "quote currency" else data
        if forecasts is None:
            forecasts = useful(data)
        history = {"loss": [0.9, 0.7, 0.6], "val_loss": [0.95, 0.65, 0.7]}
        if data.output.head == LINEAR:
            for name in ("loss", "val_loss"):
                history[name.replace("loss", "rmse")] = [v**0.5 for v in history[name]]
        names, model = data.prepared.matrix.names, Constant(*OUTPUTS[kind])
        return RunRecord(
            config,
            data,
            decide([], engine="keras", mixed_precision=False, batch_size=None),
            FitResult("keras", history, 3, 2, [1.5, 0.5, 0.5]),
            evaluate(model, data, np.asarray(forecasts)),
            robustness=robustness(model, data, np.asarray(forecasts)),
            importance={name: 0.01 * i for i, name in enumerate(names)},
            importance_deviation=dict.fromkeys(names, 0.005),
            onnx_difference={"1": 0.0, "7": 1.25e-7, "256": 2e-7},
        )

    return made


def useful(data: WindowedData, seed: int = 5) -> Any:
    """Return forecasts for the test windows that know a little of what happens."""
    rng, actual = np.random.default_rng(seed), data.targets(data.test)
    if isinstance(data.output, Classes):
        scores = rng.normal(0, 0.5, (len(actual), len(data.output.labels)))
        scores[np.arange(len(actual)), actual.astype(int)] += 0.6
        found = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return found[:, 1] if found.shape[1] == 2 else found
    known = data.base(data.test) if data.labels.base else data.persistence(data.test)
    return known + 0.5 * (actual - known) * rng.normal(1, 0.5, len(actual))
