"""The demo's only error."""


class DemoError(Exception):
    """An error that the user can fix; printed as one line."""
