"""The store: downloaded candles and sentiment on disk."""
