"""Clients of the sources of candles and sentiment."""
