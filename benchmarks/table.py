"""Measure the speed tables in one run; write them to ``benchmarks/results/``, as a plot and into the pages.

``make bench`` runs it. In every round each contender of a case makes one step, in rotating order. A ratio is our time
over theirs in the same round; the tables show the median over all rounds and processes. Contenders with and without
the one-pass fusion live in two processes that take turns (XLA reads its flags once); everything is repeated in fresh
processes.
"""

import datetime
import statistics
import sys
from typing import Any, NamedTuple

from benchmarks import pages, results, speed_plot
from benchmarks.speed_tables import FUSED, key, moved, tables
from benchmarks.worker import Worker


class Case(NamedTuple):
    """Our contenders and theirs on some shapes or network, and the pairs that the table shows, with a goal or None."""

    shapes: str
    contenders: list[str]
    goals: dict[tuple[str, str], float | None]
    rounds: int = 9
    warm_up: int = 2


def _dense(algorithm: str, name: str, shapes: str, against_optax: float, against_fused: float) -> Case:
    ours, fused, face = f"fo {algorithm}", f"{FUSED}fo {algorithm}", f"optim {name}"
    optax, torch = f"optax {algorithm}", f"torch {name}"
    return Case(
        shapes,
        [ours, fused, face, FUSED + face, optax, f"{torch} fused", f"{torch} foreach", f"{torch} for-loop"],
        {
            (ours, optax): 1.0,
            (fused, optax): against_optax,
            (fused, f"{torch} fused"): against_fused,
            (face, ours): 1.05,
            (FUSED + face, fused): 1.05,
        },
    )


def _other(algorithm: str, name: str, *torch_kinds: str) -> Case:
    ours, fused = f"fo {algorithm}", f"{FUSED}fo {algorithm}"
    goals = {(fused, f"torch {name} {kind}"): 0.30 for kind in ("foreach", "for-loop")}
    goals |= {(fused, f"torch {name} {kind}"): 1.35 for kind in torch_kinds}
    kinds = ["foreach", "for-loop", *torch_kinds]
    return Case("GPT-2 small", [ours, fused, *[f"torch {name} {kind}" for kind in kinds]], goals, 5)


CASES = [
    _dense("adam", "Adam", "GPT-2 small", 0.75, 1.05),
    _dense("adam", "Adam", "ResNet-50", 0.80, 1.20),
    _dense("adamw", "AdamW", "GPT-2 small", 0.75, 1.05),
    _dense("adamw", "AdamW", "ResNet-50", 0.80, 1.20),
    *[
        Case(
            shapes,
            ["fo sgd momentum", "+fo sgd momentum", "optax sgd momentum", "torch SGD momentum fused"],
            {("fo sgd momentum", "optax sgd momentum"): 1.0},
        )
        for shapes in ("GPT-2 small", "ResNet-50")
    ],
    _other("adadelta", "Adadelta"),
    _other("adagrad", "Adagrad", "fused"),
    _other("adamax", "Adamax"),
    _other("asgd", "ASGD"),
    _other("nadam", "NAdam"),
    _other("radam", "RAdam"),
    _other("rmsprop", "RMSprop"),
    _other("rprop", "Rprop"),
    Case(
        "1000 leaves",
        [
            *("fo adam foreach", "fo adam", "optim Adam", "optim Adam unread", "optim Adam leaves"),
            *("optax adam", "torch Adam fused", "torch Adam foreach", "torch Adam for-loop"),
        ],
        {
            ("fo adam foreach", "optax adam"): 0.45,
            ("optim Adam unread", "torch Adam fused"): 0.8,
            ("optim Adam unread", "torch Adam foreach"): 0.3,
            ("optim Adam", "torch Adam fused"): 0.8,
            ("optim Adam", "torch Adam foreach"): 0.3,
        },
        25,
    ),
    Case(
        "1500 leaves",
        [
            *("fo sgd momentum foreach", "fo sgd momentum flat", "fo sgd momentum", "optim SGD momentum unread"),
            "optax sgd momentum",
            *("torch SGD momentum fused", "torch SGD momentum foreach", "torch SGD momentum for-loop"),
        ],
        {
            ("fo sgd momentum foreach", "torch SGD momentum fused"): 0.7,
            ("fo sgd momentum flat", "torch SGD momentum fused"): 0.7,
            ("fo sgd momentum foreach", "optax sgd momentum"): None,
            ("optim SGD momentum unread", "torch SGD momentum fused"): 0.9,
            **{("optim SGD momentum unread", f"torch SGD momentum {kind}"): None for kind in ("foreach", "for-loop")},
        },
        25,
    ),
    Case(
        "500 small layers",
        [
            *("optim Adam closure", "optim Adam backward", "fo adam flat", "fo adam foreach", "fo adam"),
            *("vector adam", "optax adam", "torch Adam fused", "torch Adam foreach", "torch Adam for-loop"),
        ],
        {
            ("optim Adam closure", "fo adam"): 0.5,
            ("optim Adam closure", "optax adam"): 0.5,
            ("optim Adam closure", "torch Adam fused"): None,
            ("optim Adam closure", "torch Adam foreach"): None,
            ("optim Adam closure", "torch Adam for-loop"): None,
            ("optim Adam backward", "optax adam"): 0.6,
            ("fo adam flat", "optax adam"): 0.3,
            ("fo adam flat", "vector adam"): 1.1,
            ("fo adam foreach", "optax adam"): None,
            ("fo adam", "optax adam"): None,
        },
        25,
    ),
    Case(
        "transformer of 12 blocks",
        ["optim AdamW closure", "+optim AdamW closure", "fo adamw", "+fo adamw", "optax adamw"],
        {
            ("optim AdamW closure", "fo adamw"): 1.0,
            ("+optim AdamW closure", "+fo adamw"): 1.0,
            ("optim AdamW closure", "optax adamw"): None,
            ("+optim AdamW closure", "optax adamw"): 0.9,
        },
        25,
    ),
    Case("4000 leaves", ["fo adam foreach", "optax adam", "torch Adam fused"], {}, 15),
    Case(
        "GPT-2 matrices",
        ["fo muon", "optax muon", "torch Muon default"],
        {("fo muon", "optax muon"): 1.0, ("fo muon", "torch Muon default"): 1.0},
        1,
        1,
    ),
    Case(
        "GPT-2 small",
        ["fo adafactor", "+fo adafactor", "optax adafactor", "torch Adafactor default"],
        {("fo adafactor", "optax adafactor"): 1.0, ("fo adafactor", "torch Adafactor default"): 1.0},
        5,
    ),
]


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Return each contender's seconds in every round, its compile time and memory, and the copy bandwidth."""
    workers = {fused: Worker(fused) for fused in (False, True)}
    try:
        built = {
            name: workers[name.startswith(FUSED)].ask(do="build", name=name.removeprefix(FUSED), shapes=case.shapes)
            for name in case.contenders
        }
        memory = built[case.contenders[0]]["memory"]
        bandwidth = memory and workers[False].ask(do="bandwidth", name="", moved=moved(memory))["bytes_per_second"]
        seconds: dict[str, list[float]] = {name: [] for name in case.contenders}
        for index in range(rounds + case.warm_up):
            turn = index % len(case.contenders)
            for name in case.contenders[turn:] + case.contenders[:turn]:
                answer = workers[name.startswith(FUSED)].ask(do="run", name=name.removeprefix(FUSED))
                if index >= case.warm_up:
                    seconds[name].append(answer["seconds"])
        return {"seconds": seconds, "built": built, "bandwidth": bandwidth}
    finally:
        for worker in workers.values():
            worker.stop()


def ratio(runs: list[dict[str, Any]], ours: str, theirs: str) -> float:
    pairs = [pair for run in runs for pair in zip(run["seconds"][ours], run["seconds"][theirs], strict=True)]
    return statistics.median(one / other for one, other in pairs)


def summary(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of a case for the table; ``runs`` has those of each process."""
    own = [name for name in case.contenders if name.removeprefix(FUSED).startswith(("fo ", "optim "))]
    return {
        "date": datetime.date.today().isoformat(),
        "processes": len(runs),
        "machine": results.machine(),
        "shapes": case.shapes,
        "milliseconds": {
            name: 1e3 * statistics.median(second for run in runs for second in run["seconds"][name])
            for name in case.contenders
        },
        "ratios": {one: {name: ratio(runs, one, name) for name in case.contenders if name != one} for one in own},
        "goals": [[*pair, goal] for pair, goal in case.goals.items()],
        "compile_seconds": {
            name: statistics.median(run["built"][name]["compile"] for run in runs)
            for name in case.contenders
            if runs[0]["built"][name]["compile"] is not None
        },
        "memory": {name: runs[0]["built"][name]["memory"] for name in own if runs[0]["built"][name]["memory"]},
        "copy_bytes_per_second": runs[0]["bandwidth"] and statistics.median(run["bandwidth"] for run in runs),
        "bytes": runs[0]["built"][case.contenders[0]]["memory"],
    }


def write(cases: list[dict[str, Any]]) -> None:
    """Write the cases as JSON, as a plot and into the pages."""
    results.save("speed", {"cases": cases})
    speed_plot.draw(cases, results.FOLDER / "speed.svg")
    pages.rewrite()


def main() -> None:
    parser = results.arguments(__doc__, processes=3)
    parser.add_argument("--only", help="the cases in whose shapes or contenders this is found")
    parser.add_argument("--scale", type=float, default=1.0, help="times the rounds of every case")
    parser.add_argument("--again", action="store_true", help="measure nothing: write what was written before")
    options = parser.parse_args()
    if options.again:
        write(results.load("speed")["cases"])
        return
    chosen = [c for c in CASES if not options.only or options.only in " ".join([c.shapes, *c.contenders])]
    runs: dict[int, list[dict[str, Any]]] = {index: [] for index in range(len(chosen))}
    for process in range(options.processes):
        for index, case in enumerate(chosen):
            print(f"process {process + 1}: {case.shapes}, {case.contenders[0]}", file=sys.stderr, flush=True)
            runs[index].append(measure(case, max(1, round(case.rounds * options.scale))))
    measured = [summary(case, runs[index]) for index, case in enumerate(chosen)]
    results.finish("speed", tables({"cases": measured}), is_written=False)
    if options.write:
        write(_updated(results.load("speed")["cases"], measured))


def _updated(before: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the written cases with those that were measured again in their place."""
    new = {key(case): case for case in measured}
    return [new.pop(key(case), case) for case in before] + list(new.values())


if __name__ == "__main__":
    main()
