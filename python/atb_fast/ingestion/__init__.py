"""Candles and sentiment from files, the exchange or the sample market."""
