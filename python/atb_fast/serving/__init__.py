"""Scoring and verifying bundles. Imports only `features` and the base modules."""
