"""Steps across several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.full
def test_lbfgs_steps_in_two_processes_and_refuses_batches_that_differ():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_processes", str(rank), port],
            cwd=Path(__file__).parents[1], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    one, other = ([line for line in out.splitlines() if not line.startswith("[")] for out, _ in results)
    assert one == other and len(one) == 4
    for line in (one[0], one[2]):
        losses = [float(value) for value in line.split()[1:]]
        assert losses[-1] < 1e-2 * losses[0]
    for line in (one[1], one[3]):
        assert line.startswith("LBFGS.step over 2 processes: the closure's arguments are other numbers in each (leaf 0")
