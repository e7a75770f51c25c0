"""Averages of parameters over steps."""
