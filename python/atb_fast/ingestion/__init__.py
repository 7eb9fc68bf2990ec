"""Candles and sentiment from the exchange, files or the sample market."""
