"""Fitting a model; the only package that imports TensorFlow, with `recipes.networks`."""
