"""The columns that candles and sentiment have everywhere."""

import polars as pl

#: Open time (UTC), four prices in quote currency, volume in base currency.
CANDLE_SCHEMA = pl.Schema(
    [("timestamp", pl.Datetime("ms", "UTC"))]
    + [(name, pl.Float64()) for name in ("open", "high", "low", "close", "volume")]
)

#: UTC midnight, and the index from 0 (extreme fear) to 100 (extreme greed).
SENTIMENT_SCHEMA = pl.Schema([("timestamp", pl.Datetime("ms", "UTC")), ("value", pl.Float64())])

#: To be shown wherever sentiment is.
ATTRIBUTION = "Source: alternative.me"
