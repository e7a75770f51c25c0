"""Measure how long a step takes to trace and compile: at the first start, and from JAX's cache. ``make bench-compile``

Every measurement has a process of its own. At the first start the cache is empty; at the second it has the programs of
the first. A ratio is the median over rounds of our time over optax's in the same round.
"""

import os
import statistics
import tempfile
from typing import Any

from benchmarks import results
from benchmarks.timing import ratio
from benchmarks.worker import Worker

ADAM = ["fo adam", "fo adam foreach", "fo adam flat", "optim Adam unread", "optax adam"]
SGD = [
    *("fo sgd momentum", "fo sgd momentum foreach", "fo sgd momentum flat"),
    *("optim SGD momentum unread", "optax sgd momentum"),
]
CASES = {"1000 leaves": ADAM, "4000 leaves": ADAM, "48 equal blocks": ADAM, "1500 leaves": SGD}

COLUMNS = {
    "shapes": ("shapes", ""),
    "step": ("step", ""),
    "first": ("first start, s", ".2f"),
    "first_over": ("over optax", ".2f"),
    "second": ("second start, s", ".2f"),
    "second_over": ("over optax", ".2f"),
}


def starts(name: str, shapes: str) -> tuple[float, float]:
    """Return the seconds of the first start and of the second."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = []
        for _ in range(2):
            worker = Worker(fused=False, cache=cache)
            seconds.append(worker.ask(do="build", name=name, shapes=shapes)["compile"])
            worker.stop()
    return seconds[0], seconds[1]


def main() -> None:
    parser = results.arguments(__doc__, rounds=3)
    parser.add_argument("--only", help="the cases in whose name this is found")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    for shapes, names in CASES.items():
        if options.only and options.only not in shapes:
            continue
        rounds = [{name: starts(name, shapes) for name in names} for _ in range(options.rounds)]
        rows = []
        for name in names:
            row: list[Any] = [shapes, name]
            for start in range(2):
                ours, theirs = ([times[who][start] for times in rounds] for who in (name, names[-1]))
                row += [statistics.median(ours), ratio(ours, theirs)]
            rows.append(row)
        results.finish("compiling", {shapes: results.table("make bench-compile", COLUMNS, rows)}, options.write)


if __name__ == "__main__":
    main()
