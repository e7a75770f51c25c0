"""Records torch's trajectories on the shared cases: ``python -m tests.reference.record [algorithm ...]`` (needs
torch==2.13.0).

One file an algorithm. For every combination of flags: float64 at all of 50 steps with options that change from step to
step; float32, bfloat16 and complex128 at 12 steps (the rows are the synchronised states the tests start from); for the
stateful face, float64 at some of 50 steps in which gradients are missing ("gaps"), and at some of 200 steps ("long").
"sparse" has the runs with row-sparse gradients, "lbfgs" those of L-BFGS,
"schedules" what torch's schedulers write. "nonfinite" has runs with one entry that is NaN or infinite, "long" some of
the 1200 steps of one small parameter, in float64 and float32.
"""

import pathlib
import sys

import numpy as np
import torch

from tests import cases, long_cases, nonfinite_cases, quasi_newton_cases, schedule_cases, sparse_cases, torch_run
from tests.algorithms import ALGORITHMS, FULL, label

assert FULL, "what is recorded is all of it: FULL=1"
FOLDER = pathlib.Path(__file__).parent
RUNS = {"float64": cases.STEPS, "float32": 12, "complex128": 12, "bfloat16": 12}


def record_sparse() -> None:
    arrays = {}
    for case in sparse_cases.CASES:
        for kind, dtype, steps in (
            ("float64", "float64", sparse_cases.STEPS),
            ("gaps", "float64", sparse_cases.STEPS),
            ("float32", "float32", sparse_cases.NARROW_STEPS),
        ):
            for slot, values in torch_run.run_sparse(case, dtype, steps, kind == "gaps").items():
                arrays[f"{label(case)}/{kind}/{slot}"] = values
    np.savez_compressed(FOLDER / "sparse.npz", torch_version=np.array(torch.__version__), **arrays)


def record_lbfgs() -> None:
    arrays = {}
    for case in quasi_newton_cases.LBFGS:
        arrays |= {f"{case}/{key}": values for key, values in torch_run.run_lbfgs(case).items()}
    np.savez_compressed(FOLDER / "lbfgs.npz", torch_version=np.array(torch.__version__), **arrays)


def record_schedules() -> None:
    arrays = {case: torch_run.run_schedule(case) for case in schedule_cases.ALL}
    np.savez_compressed(FOLDER / "schedules.npz", torch_version=np.array(torch.__version__), **arrays)


def record_nonfinite() -> None:
    arrays = {}
    for case in nonfinite_cases.CASES:
        arrays |= {f"{label(case)}/{slot}": rows for slot, rows in torch_run.run_nonfinite(case).items()}
    np.savez_compressed(FOLDER / "nonfinite.npz", torch_version=np.array(torch.__version__), **arrays)


def record_long() -> None:
    arrays = {}
    for case in long_cases.CASES:
        for dtype in ("float64", "float32"):
            prefix = f"{label(case)}/{dtype}/"
            arrays |= {f"{prefix}{slot}": rows for slot, rows in torch_run.run_long(case, dtype).items()}
    np.savez_compressed(FOLDER / "long.npz", torch_version=np.array(torch.__version__), **arrays)


OTHERS = {
    "sparse": record_sparse,
    "lbfgs": record_lbfgs,
    "schedules": record_schedules,
    "nonfinite": record_nonfinite,
    "long": record_long,
}


def main() -> None:
    for name in sys.argv[1:] or [*ALGORITHMS, *OTHERS]:
        if name in OTHERS:
            OTHERS[name]()
            continue
        arrays = {}
        for options in ALGORITHMS[name].cases:
            for dtype, steps in RUNS.items():
                if dtype == "complex128" and not ALGORITHMS[name].takes_complex:
                    continue
                trajectory = torch_run.run((name, options), dtype, steps)
                for slot, values in trajectory.items():
                    arrays[f"{label((name, options))}/{dtype}/{slot}"] = values
            for kind, steps in (("gaps", cases.GAPS_AT), ("long", cases.LONG_AT)):
                trajectory = torch_run.run_with_gaps((name, options), steps, kind == "gaps")
                for slot, values in trajectory.items():
                    arrays[f"{label((name, options))}/{kind}/{slot}"] = values
        np.savez_compressed(FOLDER / f"{name}.npz", torch_version=np.array(torch.__version__), **arrays)


if __name__ == "__main__":
    main()
