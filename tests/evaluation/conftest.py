"""Windows of the sample market."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atb_fast import TrainingConfig
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split


@pytest.fixture(scope="session")
def data(market: Market) -> WindowedData:
    config = TrainingConfig(symbol="BTCUSDT", source="sample", sequence_length=12)
    some = Market(market.candles.head(600), market.sentiment)
    return split(prepare(some, replace(config, force_sentiment=True)), config)
