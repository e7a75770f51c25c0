"""The number of updates in an average."""

from typing import NoReturn

from functorch_optim.pages import see


class Count(int):
    """A Python int where torch has a tensor: the methods of a tensor raise, and say what to write.

    Example:
        >>> Count(3) + 1
        4
        >>> hasattr(Count(3), "fill_")
        False
    """

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # a protocol that an int does not have
            raise AttributeError(name)
        raise AttributeError(
            f"'int' object has no attribute {name!r}: it is a Python int. Read it as it is, and to set it write "
            f"averaged.n_averaged = 0 ({see('from-torch')})"
        )
