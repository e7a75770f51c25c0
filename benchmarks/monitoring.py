"""Measure the cost of watching a run: clipped AdamW on GPT-2 small's shapes. ``make bench-monitoring``

Compares a step inside ``fo.monitor`` to the same step without it. The gradients are made inside the compiled step, as
in training, by a function that costs as little as it can. With ``--given`` they come in from outside; the compiler
then needs memory of its own for the updates that are measured, which on the CPU is new, and slow, at every step.

All update in place and take turns of 20 steps, so that each turn of ``every=20`` measures once; a ratio is the median
over turns of the ratio within a turn: of the time, and of the processor time, which other processes disturb less.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

import functorch_optim as fo
from benchmarks import results, shapes
from benchmarks.timing import jax_step, optimizer_step, ratio, take_turns

COMMAND = "make bench-monitoring"
STEPS = 20  # of a turn
COLUMNS = {
    "measured": ("measured", ""),
    "ms": ("ms", ".1f"),
    "over": ("over the step without", ".2f"),
    "over_processor": ("in processor time", ".2f"),
    "goal": ("goal", ".2f"),
}
GOALS = {"gradient norm": 1.03, "all norms": 1.30, "all norms, by layer": 1.30, "all norms, every=20": 1.03}


def training_step(tx: Any, is_given: bool) -> Callable[..., Any]:
    step = optimizer_step(tx, fo.apply_updates)

    def with_gradients(params: Any, state: Any, data: Any) -> Any:
        grads = jax.tree.map(lambda d, p: 0.5 * d + 0.1 * p, data, params)
        return step(params, state, jax.lax.optimization_barrier(grads))

    return step if is_given else with_gradients


def turn_of(run: Callable[[], None], processor: list[float]) -> Callable[[], None]:
    """Return a function that runs one turn, and appends its processor time."""

    def turn() -> None:
        start = time.process_time()
        for _ in range(STEPS):
            run()
        processor.append(time.process_time() - start)

    return turn


def main() -> None:
    parser = results.arguments(__doc__, rounds=5)
    parser.add_argument("--given", action="store_true", help="gradients come in from outside the step")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    params, data = (shapes.arrays(shapes.gpt2_small(), seed) for seed in range(2))
    tx = fo.chain(fo.clip_by_global_norm(1.0), fo.adamw(1e-3))
    contenders = {
        "without": tx,
        "gradient norm": fo.monitor(tx, every=None),
        "all norms": fo.monitor(tx),
        "all norms, by layer": fo.monitor(tx, prefixes=1),
        "all norms, every=20": fo.monitor(tx, every=20),
    }
    runs: dict[str, Callable[[], None]] = {}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for name, one in contenders.items():
        run, _, memory = jax_step(training_step(one, options.given), params, one.init(params), data)
        runs[name] = turn_of(run, processor[name])
        print(f"{name}: {memory['temporaries'] >> 20} MiB of temporaries", flush=True)
    times = take_turns(runs, options.rounds, warm_up=1)
    rows: list[tuple[Any, ...]] = []
    for name, values in times.items():
        over = [ratio(own[name][-options.rounds :], own["without"][-options.rounds :]) for own in (times, processor)]
        rows.append((name, 1e3 * statistics.median(values) / STEPS, *over, GOALS.get(name)))
    name, command = ("given", f"{COMMAND} ARGS=--given") if options.given else ("formed", COMMAND)
    results.finish("monitoring", {name: results.table(command, COLUMNS, rows)}, options.write)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
