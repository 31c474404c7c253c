"""Measurements of a model on this machine, and advice from them."""
