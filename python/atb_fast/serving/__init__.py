"""Scoring a bundle; imports `features` and the modules beside this package only."""
