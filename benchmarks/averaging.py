"""Measure the cost of a parameter average: AdamW on GPT-2 small's shapes. ``make bench-averaging``

Compares a step with ``ema`` last in the chain to AdamW alone, and to optax's adamw followed by
``optax.incremental_update`` in the same compiled function. All update in place and take turns; a ratio is the median
over rounds of the ratio within a round.
"""

import argparse
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import optax

import functorch_optim as fo
from benchmarks import shapes
from benchmarks.timing import jax_step, optimizer_step, ratio, take_turns

LR, DECAY = 1e-3, 0.999


def optax_with_average() -> tuple[Any, Any]:
    tx = optax.adamw(LR)

    def init(params: Any) -> Any:
        return tx.init(params), jax.tree.map(jnp.copy, params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        own, average = state
        updates, own = tx.update(grads, own, params)
        params = optax.apply_updates(params, updates)
        return params, (own, optax.incremental_update(params, average, 1 - DECAY))

    return init, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    print(f"jax {jax.__version__}, optax {optax.__version__}")
    params, grads = (shapes.arrays(shapes.gpt2_small(), seed) for seed in range(2))
    alone, averaged, swa = fo.adamw(LR), fo.chain(fo.adamw(LR), fo.ema(DECAY)), fo.chain(fo.adamw(LR), fo.swa())
    contenders = {
        name: jax_step(optimizer_step(tx, fo.apply_updates), params, tx.init(params), grads)[0]
        for name, tx in (("adamw", alone), ("adamw, ema", averaged), ("adamw, swa", swa))
    }
    init, step = optax_with_average()
    contenders["optax adamw, incremental_update"] = jax_step(step, params, init(params), grads)[0]
    times = take_turns(contenders, options.rounds)
    print("| step | ms | over adamw alone | over optax's with an average |\n|---|---|---|---|")
    for name, values in times.items():
        over = [ratio(values, times[other]) for other in ("adamw", "optax adamw, incremental_update")]
        print(f"| {name} | {1e3 * statistics.median(values):.1f} | {over[0]:.2f} | {over[1]:.2f} |")


if __name__ == "__main__":
    main()
