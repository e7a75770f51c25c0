"""Watch a run: measure what people log."""
