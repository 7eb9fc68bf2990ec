"""HTTP clients for candles and sentiment."""
