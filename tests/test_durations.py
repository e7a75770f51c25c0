"""The tests that a contributor waits for keep to their time."""

import json
from pathlib import Path

from tests.tools.durations import RECORD

BUDGET = 700  # seconds of two workers together, with nothing compiled before: six minutes
LONGEST = 80  # of one file; what is longer has a part that belongs to `make test-all`


def test_the_recorded_durations_keep_to_the_budget():
    seconds = json.loads(RECORD.read_text())
    files = {f"tests/{path.name}" for path in Path(__file__).parent.glob("test_*.py")}
    missing = {*files, "doctests"} - set(seconds) - {"tests/test_processes.py"}  # which is in the full run only
    assert not missing, "record them: make durations"
    assert sum(seconds.values()) <= BUDGET
    assert not {file: taken for file, taken in seconds.items() if taken > LONGEST}
