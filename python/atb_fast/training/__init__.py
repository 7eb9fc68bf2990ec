"""Fitting models. Only this package and `recipes.networks` import TensorFlow."""
