"""The file with the losses of a run, one line a step: a killed run leaves those of its steps."""

import pathlib

import numpy as np

from functorch_optim.demo.errors import writing

Losses = dict[int, float]  # by step, from 1


def append(path: pathlib.Path, step: int, loss: float) -> None:
    with writing(path), path.open("a") as file:
        file.write(f"{step} {loss!r}\n")


def read(path: pathlib.Path) -> Losses:
    """Read the whole lines of a file; none if there is no file yet."""
    text = path.read_text() if path.exists() else ""
    lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return {int(step): float(loss) for step, loss in lines}


def largest_difference(some: Losses, others: Losses) -> float:
    """Return the largest difference at the steps that both have; NaN if one is."""
    return float(np.max([abs(some[step] - others[step]) for step in some.keys() & others.keys()]))
