"""A pytest plugin that records how long the tests of every file take: ``make durations`` writes ``durations.json``.

``tests/test_durations.py`` holds what was recorded to the budget of ``make test``.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

RECORD = Path(__file__).parent / "durations.json"
_seconds: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add the setup, the call or the teardown of a test to its file's; doctests are those of the library."""
    file = report.nodeid.partition("::")[0]
    _seconds[file if file.startswith("tests/test_") else "doctests"] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write them, but in a worker, which has seen a part only."""
    if not hasattr(session.config, "workerinput"):
        RECORD.write_text(json.dumps({file: round(_seconds[file], 1) for file in sorted(_seconds)}, indent=1) + "\n")
