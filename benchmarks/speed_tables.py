"""The tables of the speed runs, formed from the cases in ``benchmarks/results/speed.json``."""

from typing import Any

from benchmarks.results import Table

FUSED = "+"  # prefix of contenders that run in the process with the one-pass fusion
COMMAND = "make bench"
PAIRS = {
    "shapes": ["shapes", ""],
    "ours": ["ours", ""],
    "theirs": ["theirs", ""],
    "ratio": ["ours / theirs", ".2f"],
    "goal": ["goal", ".2f"],
    "our_ms": ["our ms", ".1f"],
    "their_ms": ["their ms", ".1f"],
}
ADAMS = ("fo adam", "fo adamw", "fo sgd momentum")
OTHERS = tuple(f"fo {name}" for name in ("adadelta", "adagrad", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop"))
# The tables of pairs: which cases they show, by shapes and first contender.
CHOSEN = {
    "dense": [(shapes, first) for first in ADAMS for shapes in ("GPT-2 small", "ResNet-50")],
    "algorithms": [
        *(("GPT-2 small", first) for first in (*OTHERS, "fo adafactor")),
        ("GPT-2 matrices", "fo muon"),
    ],
    "leaves": [("1000 leaves", "fo adam foreach"), ("1500 leaves", "fo sgd momentum foreach")],
    "loops": [("500 small layers", "optim Adam closure"), ("transformer of 12 blocks", "optim AdamW closure")],
}
# The tables of one network's loops: the case, and what each contender is called beside the first.
LOOPS = {
    "small_layers": (
        ("500 small layers", "optim Adam closure"),
        {
            "optax adam": "optax by hand",
            "fo adam": "this library by hand",
            "fo adam foreach": "by hand, `foreach=True`",
            "fo adam flat": "by hand, `flat_params`",
            "vector adam": "Adam written out on one vector",
            "optim Adam closure": "`step(closure)`",
            "optim Adam backward": "`backward` and `step`",
            "torch Adam fused": "torch, `fused=True`",
        },
    ),
    "transformer": (
        ("transformer of 12 blocks", "optim AdamW closure"),
        {
            "optax adamw": "optax by hand",
            "fo adamw": "this library by hand",
            "optim AdamW closure": "`step(closure)`",
            "+fo adamw": "this library by hand, one pass",
            "+optim AdamW closure": "`step(closure)`, one pass",
        },
    ),
}


def key(case: dict[str, Any]) -> tuple[str, str]:
    """Return what identifies a case: its shapes and its first contender."""
    return case["shapes"], next(iter(case["milliseconds"]))


def moved(memory: dict[str, int]) -> int:
    """Return the bytes that a step must move: it reads all arguments and writes those it updates."""
    return memory["arguments"] + memory["aliased"]


def tables(results: dict[str, Any]) -> dict[str, Table]:
    """Return the tables of the cases that were measured."""
    cases = {key(case): case for case in results["cases"]}
    found = {}
    for name, chosen in CHOSEN.items():
        measured = [cases[each] for each in chosen if each in cases]
        if measured:
            found[name] = _table(measured, PAIRS, [row for case in measured for row in _pairs(case)])
    for name, (chosen, labels) in LOOPS.items():
        if chosen in cases:
            found[name] = _loops(cases[chosen], labels)
    facts = _facts(cases)
    return found | ({"facts": facts} if facts else {})


def label(name: str) -> str:
    return f"{name.removeprefix(FUSED)}, one pass" if name.startswith(FUSED) else name


def _table(cases: list[dict[str, Any]], columns: dict[str, list[str]], rows: list[dict[str, Any]]) -> Table:
    """Return a table of cases; those that were measured on another day or machine than the first say so."""
    (first, *_) = runs = [{"date": case["date"], "machine": case["machine"], "command": COMMAND} for case in cases]
    also = [{"of": ", ".join(key(case)), **run} for case, run in zip(cases, runs, strict=True) if run != first]
    return {**first, "also": also, "columns": columns, "rows": rows}


def _pairs(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pairs that have a goal or that the case names, and what one pass gains over optax."""
    milliseconds = case["milliseconds"]
    goals = {(one, other): goal for one, other, goal in case["goals"]}
    rows = []
    for one, others in case["ratios"].items():
        for other, value in others.items():
            if (one, other) not in goals and not (one.startswith(FUSED) and other.startswith("optax")):
                continue  # only in the JSON
            values = case["shapes"], label(one), label(other), value, goals.get((one, other))
            rows.append(dict(zip(PAIRS, (*values, milliseconds[one], milliseconds[other]), strict=True)))
    return rows


def _loops(case: dict[str, Any], labels: dict[str, str]) -> Table:
    """Return the times of a network's loops, over those of the first."""
    first = next(iter(labels))
    rows = []
    for name, title in labels.items():
        over = 1.0 if name == first else _over(case, name, first)
        rows.append({"loop": title, "ms": case["milliseconds"][name], "over": over})
    columns = {"loop": ["loop", ""], "ms": ["ms a step", ".1f"], "over": [f"over {labels[first]}", ".2f"]}
    return _table([case], columns, rows)


def _over(case: dict[str, Any], name: str, first: str) -> float:
    """Return the median ratio if it was formed, which it is for our contenders, or the ratio of the medians."""
    times = case["milliseconds"]
    return case["ratios"].get(name, {}).get(first, times[name] / times[first])


def _facts(cases: dict[tuple[str, str], dict[str, Any]]) -> Table | None:
    """Return what else was measured: bandwidth, compilation, and how a step grows with the number of leaves."""
    keys = (("GPT-2 small", "fo adam"), ("1000 leaves", "fo adam foreach"), ("4000 leaves", "fo adam foreach"))
    if not all(each in cases for each in keys):
        return None
    dense, thousand, more = measured = [cases[each] for each in keys]
    reached = moved(dense["bytes"]) / dense["milliseconds"]["+fo adam"] * 1e3
    compiling = thousand["compile_seconds"]
    growth = more["milliseconds"]["fo adam foreach"] / thousand["milliseconds"]["fo adam foreach"]
    floors = [moved(case["bytes"]) / case["copy_bytes_per_second"] for case in (more, thousand)]
    rows = [
        ("Adam in one pass on GPT-2 small, GB/s", reached / 1e9, None),
        ("the same over an XLA copy into a donated buffer", reached / dense["copy_bytes_per_second"], 0.85),
        ("to trace and compile 1000 leaves, by leaf, over optax", compiling["fo adam"] / compiling["optax adam"], 0.75),
        ("the same, packed", compiling["fo adam foreach"] / compiling["optax adam"], 2.0),
        ("a packed leaf of 4000 over a leaf of 1000", growth / 4, None),
        ("the same over copies of as many bytes", growth / (floors[0] / floors[1]), 1.15),
    ]
    columns = {"fact": ["measured", ""], "value": ["value", ".2f"], "goal": ["goal", ".2f"]}
    return _table(measured, columns, [dict(zip(columns, row, strict=True)) for row in rows])
