"""The one error of this package."""


class CheckpointError(ValueError):
    """A file cannot be read, or a tree not be written; the message says what was refused and where."""
