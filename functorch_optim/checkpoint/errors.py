"""The package's only exception."""


class CheckpointError(ValueError):
    """A file cannot be read, or a tree cannot be written; the message says what was refused and where."""


def shown(text: object) -> str:
    """Format text from a file for a message: as ASCII, shortened if long."""
    line = ascii(str(text)[:200])[1:-1]
    return line if len(line) <= 100 else f"{line[:97]}..."
