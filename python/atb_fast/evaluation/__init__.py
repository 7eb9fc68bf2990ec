"""How good a model is, and whether that can be believed."""
