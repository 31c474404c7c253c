"""Finds the file of a model by name, and downloads it."""
