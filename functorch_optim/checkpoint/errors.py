"""The one error of this package."""


class CheckpointError(ValueError):
    """A file cannot be read, or a tree not be written; the message says what was refused and where."""


def shown(text: object) -> str:
    """What a file says, fit for a message: in ASCII, and not long."""
    line = ascii(str(text)[:200])[1:-1]
    return line if len(line) <= 100 else f"{line[:97]}..."
