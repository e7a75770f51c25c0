"""The time of a step of AdamW with its moments in 8 bits: ``python -m benchmarks.few_bits [rows] [columns]``."""

import statistics
import sys
import time

import jax
import jax.numpy as jnp

import functorch_optim as fo

BOTH = {"exp_avg": "dynamic8", "exp_avg_sq": "dynamic8"}
WAYS = {
    "float32": fo.adamw(),
    "8 bits": fo.quantized(fo.adamw(), BOTH),
    "second moment bfloat16, stochastic": fo.quantized(fo.adamw(), {"exp_avg_sq": "bfloat16_stochastic"}),
}


def median_ms(tx: fo.GradientTransformation, shape: tuple[int, int], count: int = 20) -> tuple[float, float]:
    """The median time of a step in milliseconds, and the bytes of the state for each parameter."""

    def step(params: jax.Array, state: object, grads: jax.Array) -> tuple[jax.Array, object]:
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    grads = jax.random.normal(jax.random.key(0), shape)
    params, state = jnp.ones(shape), jax.jit(tx.init)(grads)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / params.size
    times = []
    for _ in range(count + 3):
        start = time.perf_counter()
        params, state = jax.block_until_ready(compiled(params, state, grads))
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[3:]), size


def main() -> None:
    rows, columns = map(int, sys.argv[1:] or ("4096", "1024"))
    for name, tx in WAYS.items():
        milliseconds, size = median_ms(tx, (rows, columns))
        print(f"{name}: {milliseconds:.2f} ms, {size:.4f} bytes a parameter")


if __name__ == "__main__":
    main()
