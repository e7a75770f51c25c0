"""Measure the cost of a parameter average: AdamW on GPT-2 small's shapes. ``make bench-averaging``

Compares a step with ``ema`` last in the chain to AdamW alone, and to optax's adamw followed by
``optax.incremental_update`` in the same compiled function. All update in place and take turns; a ratio is the median
over rounds of the ratio within a round.
"""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import optax

import functorch_optim as fo
from benchmarks import results, shapes
from benchmarks.timing import jax_step, optimizer_step, ratio, take_turns

LR, DECAY = 1e-3, 0.999
OPTAX = "optax adamw, incremental_update"
COLUMNS = {
    "step": ("step", ""),
    "ms": ("ms", ".1f"),
    "over_alone": ("over adamw alone", ".2f"),
    "over_optax": ("over optax's with an average", ".2f"),
}


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
    options = results.arguments(__doc__, rounds=25).parse_args()
    params, grads = (shapes.arrays(shapes.gpt2_small(), seed) for seed in range(2))
    alone, averaged, swa = fo.adamw(LR), fo.chain(fo.adamw(LR), fo.ema(DECAY)), fo.chain(fo.adamw(LR), fo.swa())
    contenders = {
        name: jax_step(optimizer_step(tx, fo.apply_updates), params, tx.init(params), grads)[0]
        for name, tx in (("adamw", alone), ("adamw, ema", averaged), ("adamw, swa", swa))
    }
    init, step = optax_with_average()
    contenders[OPTAX] = jax_step(step, params, init(params), grads)[0]
    times = take_turns(contenders, options.rounds)
    rows = [
        (name, 1e3 * statistics.median(values), ratio(values, times["adamw"]), ratio(values, times[OPTAX]))
        for name, values in times.items()
    ]
    results.finish("averaging", {"gpt2": results.table("make bench-averaging", COLUMNS, rows)}, options.write)


if __name__ == "__main__":
    main()
