"""Frames in, from files or the sample market."""
