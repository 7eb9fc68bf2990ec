"""Fast training pipeline."""
