"""Measure how long a step takes to trace and compile: at the first start, and from JAX's cache. ``make bench-compile``

Every measurement has a process of its own. At the first start the cache is empty; at the second it has the programs of
the first. A ratio is the median over rounds of our time over optax's in the same round.
"""

import argparse
import os
import statistics
import tempfile

import jax

from benchmarks.timing import ratio
from benchmarks.worker import Worker

ADAM = ["fo adam", "fo adam foreach", "fo adam flat", "optim Adam unread", "optax adam"]
SGD = [
    *("fo sgd momentum", "fo sgd momentum foreach", "fo sgd momentum flat"),
    *("optim SGD momentum unread", "optax sgd momentum"),
]
CASES = {"1000 leaves": ADAM, "4000 leaves": ADAM, "48 equal blocks": ADAM, "1500 leaves": SGD}


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="the cases in whose name this is found")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, load {os.getloadavg()[0]:.1f}")
    print("| shapes | step | first start, s | over optax | second start, s | over optax |\n|---|---|---|---|---|---|")
    for shapes, names in CASES.items():
        if options.only and options.only not in shapes:
            continue
        rounds = [{name: starts(name, shapes) for name in names} for _ in range(options.rounds)]
        for name in names:
            cells = []
            for start in range(2):
                ours, theirs = ([times[who][start] for times in rounds] for who in (name, names[-1]))
                cells += [f"{statistics.median(ours):.2f}", f"{ratio(ours, theirs):.2f}"]
            print(f"| {shapes} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
