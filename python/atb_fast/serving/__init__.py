"""Scoring bundles. Imports only `features` and the modules next to this package."""
