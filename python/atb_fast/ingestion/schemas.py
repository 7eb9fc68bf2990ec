"""The columns and dtypes of candles and sentiment."""

import polars as pl

from atb_fast.config import CANDLE_COLUMNS

#: Open time (UTC), four prices in quote currency, volume in base currency.
CANDLE_SCHEMA = pl.Schema(
    [("timestamp", pl.Datetime("ms", "UTC"))] + [(name, pl.Float64()) for name in CANDLE_COLUMNS]
)

#: UTC midnight, and the index from 0 (extreme fear) to 100 (extreme greed).
SENTIMENT_SCHEMA = pl.Schema([("timestamp", pl.Datetime("ms", "UTC")), ("value", pl.Float64())])

#: The publisher requires this attribution wherever the index is shown.
ATTRIBUTION = "Source: alternative.me"
