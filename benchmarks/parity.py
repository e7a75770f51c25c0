"""Measure how far every algorithm is from torch's recorded trajectories. ``make parity``

The numbers are maxima over every combination of flags and every step. Beside them stands what the tests allow.
``docs/parity.md`` explains the columns.
"""

from collections.abc import Iterable
from typing import Any

import jax

from benchmarks import results
from tests import comparison, quasi_newton_cases, quasi_newton_comparison, sparse_cases, sparse_comparison
from tests.algorithms import ALGORITHMS

COMMAND = "make parity"
COUNT, RELATIVE, ULP = "d", ".1e", ".1f"
TESTED = "tests allow"


def functional() -> results.Table:
    """Return the functional face's distances, by algorithm."""
    rows = []
    for name, row in ALGORITHMS.items():
        own = [(name, options) for options in row.cases]
        with jax.enable_x64(True):
            wide = comparison.largest(comparison.trajectory_errors(own, "float64").values())
            paired = None
            if row.takes_complex:
                paired = comparison.largest(comparison.trajectory_errors(own, "complex128").values())
        narrow = _worst(comparison.synchronised_ulps(own).values())
        rows.append((f"`{name}`", len(own), wide, paired, row.tolerance, *narrow, comparison.ULPS[0]))
    columns = {
        "algorithm": ("algorithm", ""),
        "combinations": ("flag combinations", COUNT),
        "float64": ("float64, 50 steps", RELATIVE),
        "complex128": ("complex128, 12 steps", RELATIVE),
        "relative_limit": (TESTED, ".0e"),
        "float32_parameters": ("float32 step: parameters, ulp", ULP),
        "float32_slots": ("slots, ulp", ULP),
        "ulp_limit": (TESTED, COUNT),
    }
    return results.table(COMMAND, columns, rows)


def bfloat16() -> results.Table:
    """Return the functional face's distances in one bfloat16 step, by algorithm."""
    rows = []
    for name, row in ALGORITHMS.items():
        # torch normalizes a bfloat16 buffer in place unless Muon's Nesterov copies it first.
        own = [(name, options) for options in row.cases if options.get("nesterov") or name != "muon"]
        rows.append((f"`{name}`", len(own), *_worst(comparison.synchronised_ulps(own, "bfloat16").values())))
    columns = {
        "algorithm": ("algorithm", ""),
        "combinations": ("flag combinations", COUNT),
        "parameters": ("parameters, ulp", ULP),
        "slots": ("slots, ulp", ULP),
    }
    return results.table(COMMAND, columns, rows)


def torch_face() -> results.Table:
    """Return the torch face's distances, by algorithm."""
    rows = []
    for name, row in ALGORITHMS.items():
        own = [(name, options) for options in row.cases]
        with jax.enable_x64(True):
            wide = comparison.largest(comparison.face_trajectory_errors(own, "gaps").values())
        params, slots = _worst(comparison.face_synchronised_ulps(own).values())
        allowed = comparison.FACE_TOLERANCE, *comparison.FACE_ULPS
        rows.append((f"`{row.title}`", len(own), wide, allowed[0], params, allowed[1], slots, allowed[2]))
    columns = {
        "class": ("class", ""),
        "combinations": ("flag combinations", COUNT),
        "float64": ("float64, 50 steps, missing gradients", RELATIVE),
        "relative_limit": (TESTED, ".0e"),
        "float32_parameters": ("float32 step: parameters, ulp", ULP),
        "parameters_limit": (TESTED, COUNT),
        "float32_slots": ("slots, ulp", ULP),
        "slots_limit": (TESTED, COUNT),
    }
    return results.table(COMMAND, columns, rows)


def row_sparse() -> results.Table:
    """Return the distances of steps with row-sparse gradients."""
    rows = []
    for name in sparse_cases.CLASSES:
        own = sparse_cases.cases_of(name)
        with jax.enable_x64(True):
            wide = comparison.largest(sparse_comparison.trajectory_errors(own).values())
            face = comparison.largest(sparse_comparison.face_trajectory_errors(own).values())
        stored = [case for case in own if case in sparse_comparison.WITH_RECORDED_STATE]
        narrow = _worst(sparse_comparison.synchronised_ulps(stored).values())
        allowed = comparison.SPARSE_TOLERANCE, comparison.ULPS[0]
        rows.append((f"`{name}`", len(own), wide, face, allowed[0], *narrow, allowed[1]))
    columns = {
        "algorithm": ("algorithm", ""),
        "combinations": ("flag combinations", COUNT),
        "float64": ("float64, 40 steps", RELATIVE),
        "face": ("torch face, missing gradients", RELATIVE),
        "relative_limit": (TESTED, ".0e"),
        "float32_parameters": ("float32 step: parameters, ulp", ULP),
        "float32_slots": ("slots, ulp", ULP),
        "ulp_limit": (TESTED, COUNT),
    }
    return results.table(COMMAND, columns, rows)


def lbfgs() -> results.Table:
    """Return the distances of L-BFGS in float64, with and without its line search."""
    rows = []
    for title, start in (("fixed steps", "plain"), ("strong Wolfe", "wolfe")):
        labels = [label for label in quasi_newton_cases.LBFGS if label.startswith(start)]
        with jax.enable_x64(True):
            errors = [quasi_newton_comparison.trajectory_errors(label) for label in labels]
        allowed = max(quasi_newton_comparison.tolerance(label) for label in labels)
        rows.append((title, len(labels), *(max(column) for column in zip(*errors, strict=True)), allowed))
    columns = {
        "search": ("steps", ""),
        "problems": ("problems", COUNT),
        "float64": ("functional face", RELATIVE),
        "face": ("torch face", RELATIVE),
        "relative_limit": (TESTED, ".0e"),
    }
    return results.table(COMMAND, columns, rows)


def _worst(pairs: Iterable[tuple[float, float]]) -> list[float]:
    """Return the largest parameter error and the largest slot error."""
    return [comparison.largest(column) for column in zip(*pairs, strict=True)]


def main() -> None:
    options = results.arguments(__doc__).parse_args()
    tables: dict[str, Any] = {
        "functional": functional(),
        "bfloat16": bfloat16(),
        "torch_face": torch_face(),
        "row_sparse": row_sparse(),
        "lbfgs": lbfgs(),
    }
    results.finish("parity", tables, options.write)


if __name__ == "__main__":
    main()
