"""The columns that candles and sentiment have everywhere."""

import polars as pl

from atb_fast.config import CANDLE_COLUMNS

#: Open time (UTC), four prices in quote currency, volume in base currency.
CANDLE_SCHEMA = pl.Schema(
    [("timestamp", pl.Datetime("ms", "UTC"))] + [(name, pl.Float64()) for name in CANDLE_COLUMNS]
)

#: UTC midnight, and the index from 0 (extreme fear) to 100 (extreme greed).
SENTIMENT_SCHEMA = pl.Schema([("timestamp", pl.Datetime("ms", "UTC")), ("value", pl.Float64())])

#: To be shown wherever sentiment is.
ATTRIBUTION = "Source: alternative.me"
