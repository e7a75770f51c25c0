"""Measure the cost of skipping bad updates: AdamW on GPT-2 small's shapes. ``make bench-skipping``

Compares a step inside each wrapper to the same step without it. The gradients come in from outside, and no update is
bad. The wrappers run AdamW under ``lax.cond``, so its updates need memory of their own, which on the CPU is new, and
slow, at every step. glibc keeps it with ``MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000``.

All update in place and take turns; a ratio is the median over rounds of the ratio within a round.
"""

import os
import statistics

import functorch_optim as fo
from benchmarks import results, shapes
from benchmarks.timing import jax_step, optimizer_step, ratio, take_turns

COMMAND = "make bench-skipping"
KEPT = "MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000"
COLUMNS = {"step": ("step", ""), "ms": ("ms", ".1f"), "over": ("over the step without", ".1f")}


def main() -> None:
    options = results.arguments(__doc__, rounds=9).parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    params, grads = (shapes.arrays(shapes.gpt2_small(), seed) for seed in range(2))
    tx = fo.adamw(lr=1e-3)
    contenders = {
        "without": tx,
        "skip_nonfinite": fo.skip_nonfinite(tx, 3),
        "skip_large_updates": fo.skip_large_updates(tx, 1e9, 3),
        "skip_spikes": fo.skip_spikes(tx, of="norm"),
    }
    runs = {}
    for name, one in contenders.items():
        runs[name], _, memory = jax_step(optimizer_step(one, fo.apply_updates), params, one.init(params), grads)
        print(f"{name}: {memory['temporaries'] >> 20} MiB of temporaries", flush=True)
    times = take_turns(runs, options.rounds)
    rows = [
        (name, 1e3 * statistics.median(values), None if name == "without" else ratio(values, times["without"]))
        for name, values in times.items()
    ]
    name, command = ("kept", f"{KEPT} {COMMAND}") if "MALLOC_MMAP_MAX_" in os.environ else ("new", COMMAND)
    results.finish("skipping", {name: results.table(command, COLUMNS, rows)}, options.write)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
