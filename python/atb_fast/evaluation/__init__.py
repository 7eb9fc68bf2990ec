"""How good a model is, and whether the figures can be trusted."""
