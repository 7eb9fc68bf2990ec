"""HTTP clients that download candles and sentiment."""
