"""Measure loops over many small layers: by hand, with flat parameters, in the torch face. ``make bench-loops``

The network has 500 layers, a kernel and a bias each, so that passing 1000 arrays in and out of the compiled step is
nearly all of the time. All loops use Adam and wait for the new parameters; the torch face's are not read. The loops
take turns; a ratio is the median over turns of the ratio within a turn.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import functorch_optim as fo
from benchmarks.timing import ratio, take_turns
from functorch_optim import optim

WIDTH, BATCH, STEPS = 32, 8, 5  # STEPS of a turn


def network(layers: int) -> tuple[Any, Any, jax.Array]:
    """Return parameters, a loss, and a batch."""
    rng = np.random.default_rng(0)

    def layer() -> Any:
        kernel = rng.standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5
        return {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(WIDTH)}

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for each in params:
            x = x + 0.05 * jnp.tanh(x @ each["kernel"] + each["bias"])
        return jnp.mean(x**2)

    return [layer() for _ in range(layers)], loss, jnp.asarray(rng.standard_normal((BATCH, WIDTH), np.float32))


def by_hand(
    tx: Any, apply: Any, params: Any, view: Callable[[Any], Any], loss: Any, x: jax.Array
) -> Callable[[], None]:
    """Return a compiled step with donated arguments, as a user writes it."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: jax.Array) -> Any:
        grads = jax.grad(lambda params: loss(view(params), x))(params)
        updates, state = tx.update(grads, state, params)
        return apply(params, updates), state

    held = [jax.tree.map(jnp.array, params), tx.init(params)]

    def run() -> None:
        held[:] = step(*held, x)
        jax.block_until_ready(held[0])

    return run


def waiting(optimizer: Any, step: Callable[[], object]) -> Callable[[], None]:
    """Return a step of the torch face that waits for what it changed, without splitting it."""

    def run() -> None:
        step()
        jax.block_until_ready(optimizer._engine.arrays())

    return run


def contenders(layers: int) -> dict[str, Callable[[], None]]:
    params, loss, x = network(layers)
    one, two = (optim.Adam(params, lr=1e-3) for _ in range(2))

    def backward_and_step() -> None:
        two.backward(loss, x)
        two.step()
        two.zero_grad()

    plain, flat = (lambda params: params), fo.flat_params(params)
    return {
        "optax by hand": by_hand(optax.adam(1e-3), optax.apply_updates, params, plain, loss, x),
        "by hand": by_hand(fo.adam(lr=1e-3), fo.apply_updates, params, plain, loss, x),
        "by hand, `foreach=True`": by_hand(fo.adam(lr=1e-3, foreach=True), fo.apply_updates, params, plain, loss, x),
        "by hand, `flat_params`": by_hand(fo.adam(lr=1e-3), fo.apply_updates, flat, lambda p: p.tree(), loss, x),
        "`step(closure)`": waiting(one, lambda: one.step(loss, x)),
        "`backward` and `step`": waiting(two, backward_and_step),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {2 * options.layers} arrays, load {os.getloadavg()[0]:.1f}")
    runs: dict[str, Callable[[], None]] = {}
    for name, run in contenders(options.layers).items():
        start = time.perf_counter()
        run()
        run()
        print(f"{name}: {time.perf_counter() - start:.1f} s for the first two steps", flush=True)

        def turn(run: Callable[[], None] = run) -> None:
            for _ in range(STEPS):
                run()

        runs[name] = turn
    times = take_turns(runs, options.rounds, warm_up=1)
    print("| loop | ms | over optax by hand | over by hand |\n|---|---|---|---|")
    for name, values in times.items():
        over = [ratio(values, times[other]) for other in ("optax by hand", "by hand")]
        print(f"| {name} | {1e3 * statistics.median(values) / STEPS:.1f} | {over[0]:.2f} | {over[1]:.2f} |")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
