"""The parity table: how far every algorithm is from torch's recorded trajectories. ``make parity``

``--write`` puts the table into README.md, between its markers. The numbers are maxima over every combination of
flags and every step.
"""

import argparse
import pathlib
import re

import jax

from tests import cases, comparison

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- parity -->", "<!-- /parity -->"


def table() -> str:
    rows = [
        "| algorithm | flag combinations | float64, 50 steps (relative) | complex128, 12 steps (relative) "
        "| float32 step: parameters (ulp) | float32 step: slots (ulp) | bfloat16 step: parameters, slots (ulp) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (_, _, combinations) in cases.ALGORITHMS.items():
        own = [(name, options) for options in combinations]
        with jax.enable_x64(True):
            wide = max(comparison.trajectory_error(case, "float64") for case in own)
            paired = max(comparison.trajectory_error(case, "complex128") for case in own)
        narrow = [comparison.synchronised_ulps(case) for case in own]
        half = [comparison.synchronised_ulps(case, "bfloat16") for case in own]
        rows.append(
            f"| `{name}` | {len(own)} | {wide:.1e} | {paired:.1e} | {max(p for p, _ in narrow):.1f} "
            f"| {max(s for _, s in narrow):.1f} | {max(p for p, _ in half):.1f}, {max(s for _, s in half):.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    text = table()
    print(text)
    if options.write:
        readme = README.read_text()
        pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
        if not pattern.search(readme):
            raise SystemExit(f"{README} has no {BEGIN} ... {END}")
        README.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", readme))


if __name__ == "__main__":
    main()
