"""Training runs from start to finish."""
