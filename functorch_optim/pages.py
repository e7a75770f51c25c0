"""The pages of the documentation that messages name: the one place that knows how."""

from typing import Literal, get_args

Page = Literal[
    "averaging",
    "checkpoints",
    "clipping-and-constraints",
    "fast-loop",
    "faq",
    "from-optax",
    "from-torch",
    "groups-and-masks",
    "networks",
]
PAGES: tuple[Page, ...] = get_args(Page)


def see(page: Page) -> str:
    """Refer to a page of the documentation at the end of a message.

    Example:
        >>> see("networks")
        'see docs/networks.md'
    """
    return f"see docs/{page}.md"
