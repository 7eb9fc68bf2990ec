"""Candles and sentiment on disk."""
