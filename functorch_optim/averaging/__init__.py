"""Averages of the parameters over the steps."""
