"""Transformations to combine with an algorithm in a chain."""
