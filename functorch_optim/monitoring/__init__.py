"""Watching a run: what to log of it."""
