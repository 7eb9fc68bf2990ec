"""One training, start to finish."""
