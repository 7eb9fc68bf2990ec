"""The local store of fetched candles and sentiment."""
