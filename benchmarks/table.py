"""Measure the speed table in one run; write it to ``benchmarks/results/`` as JSON and a plot, and into the README.

``make bench`` runs it. In every round each contender of a case makes one step, in rotating order. A ratio is our time
over theirs in the same round; the table shows the median over all rounds and processes. Contenders with and without
the one-pass fusion live in two processes that take turns (XLA reads its flags once); everything is repeated in fresh
processes.
"""

import argparse
import datetime
import json
import pathlib
import platform
import statistics
import sys
from typing import Any, NamedTuple

from benchmarks.worker import Worker

RESULTS = pathlib.Path(__file__).parent / "results"
README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"
FUSED = "+"  # prefix of contenders that run in the process with the one-pass fusion


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
        bandwidth = memory and workers[False].ask(do="bandwidth", name="", moved=_moved(memory))["bytes_per_second"]
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


def _moved(memory: dict[str, int]) -> int:
    """Return the bytes that a step must move: it reads all arguments and writes those it updates."""
    return memory["arguments"] + memory["aliased"]


def ratio(runs: list[dict[str, Any]], ours: str, theirs: str) -> float:
    pairs = [pair for run in runs for pair in zip(run["seconds"][ours], run["seconds"][theirs], strict=True)]
    return statistics.median(one / other for one, other in pairs)


def summary(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of a case for the table; ``runs`` has those of each process."""
    own = [name for name in case.contenders if name.removeprefix(FUSED).startswith(("fo ", "optim "))]
    return {
        "date": datetime.date.today().isoformat(),
        "processes": len(runs),
        "machine": machine(),
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


def machine() -> dict[str, Any]:
    import importlib.metadata as metadata
    import os

    facts = pathlib.Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor()
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax", "torch", "numpy")}
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def table(results: dict[str, Any]) -> str:
    """Format the results as Markdown, a table for each run."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for case in results["cases"]:
        runs.setdefault(_about(case), []).append(case)
    tables = ["\n".join([about, "", *_rows(cases)]) for about, cases in runs.items()]
    return "\n\n".join([*tables, "\n".join(_facts(results))])


def _about(case: dict[str, Any]) -> str:
    about = case["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{case['date']}; {about['processor']}, {about['cores']} cores; Python {about['python']}, {versions}; "
        f"processes: {case['processes']}."
    )


def _rows(cases: list[dict[str, Any]]) -> list[str]:
    lines = ["| shapes | ours | theirs | ours / theirs | goal | our ms | their ms |", "|---|---|---|---|---|---|---|"]
    for case in cases:
        milliseconds = case["milliseconds"]
        goals = {(one, other): goal for one, other, goal in case["goals"]}
        for one, others in case["ratios"].items():
            for other, value in others.items():
                goal = goals.get((one, other))
                if (one, other) not in goals and not (one.startswith(FUSED) and other.startswith("optax")):
                    continue  # only in the JSON
                lines.append(
                    f"| {case['shapes']} | {_label(one)} | {_label(other)} | {value:.2f} | "
                    f"{'' if goal is None else f'{goal:.2f}'} | {milliseconds[one]:.1f} | {milliseconds[other]:.1f} |"
                )
    return lines


def _label(name: str) -> str:
    return f"{name.removeprefix(FUSED)}, one pass" if name.startswith(FUSED) else name


def _facts(results: dict[str, Any]) -> list[str]:
    """Return the results other than ratios of two steps."""
    cases = {_key(case): case for case in results["cases"]}
    lines = []
    dense = cases.get(("GPT-2 small", "fo adam"))
    if dense:
        reached = _moved(dense["bytes"]) / dense["milliseconds"]["+fo adam"] * 1e3
        lines.append(
            f"- {dense['date']}: Adam in one pass on GPT-2 small moves {reached / 1e9:.1f} GB/s, "
            f"{reached / dense['copy_bytes_per_second']:.2f} of an XLA copy into a donated buffer (goal 0.85)."
        )
    thousand, more = cases.get(("1000 leaves", "fo adam foreach")), cases.get(("4000 leaves", "fo adam foreach"))
    if thousand:
        seconds = thousand["compile_seconds"]
        lines.append(
            f"- {thousand['date']}: to trace and compile 1000 leaves takes "
            f"{seconds['fo adam'] / seconds['optax adam']:.2f} of optax's time by leaf (goal 0.75), "
            f"{seconds['fo adam foreach'] / seconds['optax adam']:.2f} packed (goal 2.0)."
        )
    if thousand and more:
        times = [case["milliseconds"]["fo adam foreach"] for case in (more, thousand)]
        floors = [_moved(case["bytes"]) / case["copy_bytes_per_second"] for case in (more, thousand)]
        lines.append(
            f"- {more['date']}: a leaf of 4000 costs {times[0] / times[1] / 4:.2f} of a leaf of 1000; over what an XLA "
            f"copy of as many bytes takes, which leave the caches, "
            f"{times[0] / times[1] / (floors[0] / floors[1]):.2f} (goal 1.15)."
        )
    return lines


def plot(results: dict[str, Any], path: pathlib.Path) -> None:
    """Plot the ratios, one bar per pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = []
    for case in results["cases"]:
        for one, others in case["ratios"].items():
            for other, value in others.items():
                if other.startswith(("optax", "torch")):
                    bars.append((f"{case['shapes']}: {_label(one)} / {other}", value))
    figure, axis = pyplot.subplots(figsize=(10, 0.22 * len(bars) + 1))
    axis.barh([label for label, _ in bars], [value for _, value in bars])
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set(xlabel="our time / theirs", xscale="log")
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def write(results: dict[str, Any]) -> None:
    """Write the results as JSON, as a plot and into the README."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, RESULTS / "speed.png")
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--only", help="the cases in whose shapes or contenders this is found")
    parser.add_argument("--scale", type=float, default=1.0, help="times the rounds of every case")
    parser.add_argument("--write", action="store_true", help="into benchmarks/results/ and the README")
    parser.add_argument("--again", action="store_true", help="measure nothing: write what was written before")
    options = parser.parse_args()
    if options.again:
        write(json.loads((RESULTS / "speed.json").read_text()))
        return
    chosen = [c for c in CASES if not options.only or options.only in " ".join([c.shapes, *c.contenders])]
    runs: dict[int, list[dict[str, Any]]] = {index: [] for index in range(len(chosen))}
    for process in range(options.processes):
        for index, case in enumerate(chosen):
            print(f"process {process + 1}: {case.shapes}, {case.contenders[0]}", file=sys.stderr, flush=True)
            runs[index].append(measure(case, max(1, round(case.rounds * options.scale))))
    measured = [summary(case, runs[index]) for index, case in enumerate(chosen)]
    print(table({"cases": measured}))
    if options.write:
        write({"cases": _updated(json.loads((RESULTS / "speed.json").read_text())["cases"], measured)})


def _key(case: dict[str, Any]) -> tuple[str, str]:
    return case["shapes"], next(iter(case["milliseconds"]))


def _updated(before: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the written cases with those that were measured again in their place."""
    new = {_key(case): case for case in measured}
    return [new.pop(_key(case), case) for case in before] + list(new.values())


if __name__ == "__main__":
    main()
