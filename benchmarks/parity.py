"""Measure the parity table: how far every algorithm is from torch's recorded trajectories. ``make parity``

``--write`` puts the table into README.md, between its markers. The numbers are maxima over every combination of flags
and every step.
"""

import argparse
import pathlib
import re
from collections.abc import Iterable

import jax

from tests import comparison, quasi_newton_cases, quasi_newton_comparison, sparse_cases, sparse_comparison
from tests.algorithms import ALGORITHMS

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- parity -->", "<!-- /parity -->"


def table() -> str:
    rows = [
        "| algorithm | flag combinations | float64, 50 steps (relative) | complex128, 12 steps (relative) "
        "| float32 step: parameters, slots (ulp) | bfloat16 step: parameters, slots (ulp) "
        "| torch face: float64, missing gradients (relative) | torch face: float32 step: parameters, slots (ulp) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ALGORITHMS.items():
        own = [(name, options) for options in row.cases]
        with jax.enable_x64(True):
            wide = comparison.largest(comparison.trajectory_errors(own, "float64").values())
            paired = (
                comparison.largest(comparison.trajectory_errors(own, "complex128").values())
                if row.takes_complex
                else None
            )
            face = comparison.largest(comparison.face_trajectory_errors(own, "gaps").values())
        narrow = _worst(comparison.synchronised_ulps(own).values())
        # torch normalizes a bfloat16 buffer in place unless Muon's Nesterov copies it first.
        sound = [case for case in own if case[1].get("nesterov") or name != "muon"]
        half = _worst(comparison.synchronised_ulps(sound, "bfloat16").values())
        face_narrow = _worst(comparison.face_synchronised_ulps(own).values())
        pair = "none" if paired is None else f"{paired:.1e}"
        rows.append(f"| `{name}` | {len(own)} | {wide:.1e} | {pair} | {narrow} | {half} | {face:.1e} | {face_narrow} |")
    return "\n".join(rows)


def other_tables() -> str:
    """Return the tables of the row-sparse runs and of L-BFGS."""
    rows = [
        "| row-sparse gradients | flag combinations | float64, 40 steps (relative) "
        "| float32 step: parameters, slots (ulp) | torch face: float64, missing gradients (relative) |",
        "|---|---|---|---|---|",
    ]
    for name in sparse_cases.CLASSES:
        own = sparse_cases.cases_of(name)
        with jax.enable_x64(True):
            wide = comparison.largest(sparse_comparison.trajectory_errors(own).values())
            face = comparison.largest(sparse_comparison.face_trajectory_errors(own).values())
        stored = [case for case in own if case in sparse_comparison.WITH_RECORDED_STATE]
        narrow = _worst(sparse_comparison.synchronised_ulps(stored).values())
        rows.append(f"| `{name}` | {len(own)} | {wide:.1e} | {narrow} | {face:.1e} |")
    rows += [
        "",
        "| `lbfgs`, float64 | problems | functional face (relative) | torch face (relative) "
        "| evaluations and iterations |",
        "|---|---|---|---|---|",
    ]
    for title, start in (("fixed steps", "plain"), ("strong Wolfe", "wolfe")):
        labels = [label for label in quasi_newton_cases.LBFGS if label.startswith(start)]
        with jax.enable_x64(True):
            errors = [quasi_newton_comparison.trajectory_errors(label) for label in labels]
        functional, face = (max(column) for column in zip(*errors, strict=True))
        rows.append(f"| {title} | {len(labels)} | {functional:.1e} | {face:.1e} | equal |")
    return "\n".join(rows)


def _worst(pairs: Iterable[tuple[float, float]]) -> str:
    """Format the largest parameter error and the largest slot error."""
    params, slots = zip(*pairs, strict=True)
    return f"{max(params):.1f}, {max(slots):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    text = f"{table()}\n\n{other_tables()}"
    print(text)
    if options.write:
        readme = README.read_text()
        pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
        if not pattern.search(readme):
            raise SystemExit(f"{README} has no {BEGIN} ... {END}")
        README.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", readme))


if __name__ == "__main__":
    main()
