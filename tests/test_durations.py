"""The tests that contributors wait for stay within their time budget."""

import json
from pathlib import Path

from tests.tools.durations import RECORD

BUDGET = 970  # seconds of two workers together, with an empty compilation cache: eight minutes or more
LONGEST = 80  # seconds of one file; part of a longer one belongs in `make test-all`


def test_the_recorded_durations_keep_to_the_budget():
    seconds = json.loads(RECORD.read_text())
    files = {f"tests/{path.name}" for path in Path(__file__).parent.glob("test_*.py")}
    missing = {*files, "doctests"} - set(seconds) - {"tests/test_processes.py"}  # which only runs in full
    assert not missing, "record them: make durations"
    assert sum(seconds.values()) <= BUDGET
    assert not {file: taken for file, taken in seconds.items() if taken > LONGEST}
