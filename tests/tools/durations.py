"""A pytest plugin that records how long each test file takes: ``make durations`` writes ``durations.json``.

``tests/test_durations.py`` checks the record against the budget of ``make test``.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

RECORD = Path(__file__).parent / "durations.json"
_seconds: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a test's setup, call or teardown to its file's time; the library's doctests count as one file."""
    file = report.nodeid.partition("::")[0]
    _seconds[file if file.startswith("tests/test_") else "doctests"] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the times, except in a worker, which has only seen a part."""
    if not hasattr(session.config, "workerinput"):
        RECORD.write_text(json.dumps({file: round(_seconds[file], 1) for file in sorted(_seconds)}, indent=1) + "\n")
