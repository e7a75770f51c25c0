"""The one error of the demo."""


class DemoError(Exception):
    """What the user can mend; printed as one line."""
