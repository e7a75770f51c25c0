"""A pytest plugin that records which test runs which line of the library, with or without pytest-xdist.

Load it with ``-p contexts``; the environment variable ``MUTANTS_DATA`` names the data folder, one file per worker.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

_measuring: list[Any] = []


def pytest_configure(config: pytest.Config) -> None:
    """Start measuring, except in the process that only distributes the tests."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None and getattr(config.option, "dist", "no") != "no":
        return
    import coverage

    path = os.path.join(os.environ["MUTANTS_DATA"], f"coverage.{worker or 'main'}")
    measured = coverage.Coverage(data_file=path, source=["functorch_optim"], config_file=False)
    measured.start()
    _measuring.append(measured)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Set the test's name as the context for its lines."""
    for measured in _measuring:
        measured.switch_context(item.nodeid)
    yield


def pytest_unconfigure() -> None:
    """Write the data."""
    while _measuring:
        measured = _measuring.pop()
        measured.stop()
        measured.save()
