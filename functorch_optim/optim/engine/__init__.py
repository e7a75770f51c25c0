"""Engines hold an optimizer's state and make its steps: one protocol, two engines, by parameter and by tree."""
