"""Record torch's trajectories on the shared cases: ``python -m tests.reference.record [algorithm ...]``.

It needs torch==2.13.0 and writes one file per algorithm. For every combination of flags it records float64 at each of
50 steps with options that change from step to step; float32, bfloat16 and complex128 at 12 steps (the synchronized
states that the tests start from); and, for the torch face, float64 at some of 50 steps with missing gradients ("gaps")
and at some of 200 steps ("long"). "nonfinite" holds runs with one NaN or infinite entry, "1200" some of the 1200 steps
of one small parameter, in float64 and float32. The file "sparse" has the runs with row-sparse gradients, "lbfgs" those
of L-BFGS, "distance" those of Prodigy and D-Adapt Adam, "soap" those of SOAP, "cautious" and "sam" those of two
wrappers, and "schedules" the values that torch's schedulers write.
"""

import functools
import pathlib
import sys

import numpy as np
import torch

from tests import (
    cases,
    cautious_cases,
    distance_cases,
    nonfinite_cases,
    quasi_newton_cases,
    sam_cases,
    schedule_cases,
    soap_cases,
    sparse_cases,
    torch_run,
)
from tests.algorithms import ALGORITHMS, FULL, Options, label

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


def record_cautious() -> None:
    arrays = {case: torch_run.run_cautious(case) for case in cautious_cases.CASES}
    np.savez_compressed(FOLDER / "cautious.npz", torch_version=np.array(torch.__version__), **arrays)


def record_sam() -> None:
    arrays = {case: torch_run.run_sam(case) for case in sam_cases.CASES}
    np.savez_compressed(FOLDER / "sam.npz", torch_version=np.array(torch.__version__), **arrays)


def record_schedules() -> None:
    arrays = {case: torch_run.run_schedule(case) for case in schedule_cases.ALL}
    np.savez_compressed(FOLDER / "schedules.npz", torch_version=np.array(torch.__version__), **arrays)


def record_distance() -> None:
    arrays = {}
    for name, options in distance_cases.CASES:
        for dtype in distance_cases.STEPS:
            for key, rows in torch_run.run_distance((name, options), dtype).items():
                arrays[f"{label((name, options))}/{dtype}/{key}"] = rows
    np.savez_compressed(FOLDER / "distance.npz", torch_version=np.array(torch.__version__), **arrays)


def record_soap() -> None:
    arrays = {}
    for options in soap_cases.CASES:
        for kind in soap_cases.STEPS:
            for key, rows in torch_run.run_soap(options, kind).items():
                arrays[f"{label(('soap', options))}/{kind}/{key}"] = rows
    np.savez_compressed(FOLDER / "soap.npz", torch_version=np.array(torch.__version__), **arrays)


OTHERS = {
    "soap": record_soap,
    "distance": record_distance,
    "sparse": record_sparse,
    "lbfgs": record_lbfgs,
    "cautious": record_cautious,
    "sam": record_sam,
    "schedules": record_schedules,
}


def record(name: str) -> None:
    """Write the file with all recordings of an algorithm."""
    arrays = {}

    def keep(options: Options, kind: str, run: torch_run.Trajectory) -> None:
        arrays.update({f"{label((name, options))}/{kind}/{slot}": rows for slot, rows in run.items()})

    for options in ALGORITHMS[name].cases:
        for dtype, steps in RUNS.items():
            if dtype != "complex128" or ALGORITHMS[name].takes_complex:
                keep(options, dtype, torch_run.run((name, options), dtype, steps))
        for kind, steps in (("gaps", cases.GAPS_AT), ("long", cases.LONG_AT)):
            keep(options, kind, torch_run.run_with_gaps((name, options), steps, kind == "gaps"))
    for case in nonfinite_cases.cases_of(name, every=True):
        keep(case[1], "nonfinite", torch_run.run_nonfinite(case))
    for options in ALGORITHMS[name].long:
        for dtype in ("float64", "float32"):
            keep(options, f"1200 {dtype}", torch_run.run_long((name, options), dtype))
    np.savez_compressed(FOLDER / f"{name}.npz", torch_version=np.array(torch.__version__), **arrays)


def main() -> None:
    for name in sys.argv[1:] or [*ALGORITHMS, *OTHERS]:
        OTHERS.get(name, functools.partial(record, name))()


if __name__ == "__main__":
    main()
