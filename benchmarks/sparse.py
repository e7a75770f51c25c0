"""Row-sparse steps on tables of two sizes: this library, both faces, and torch. ``make bench-sparse``

A step touches 4096 rows of a table with 64 columns. Every contender updates its own table in place from the same
gradients; in each round all of them run, in an order that rotates. "Growth" is the time on the larger table over that
on the smaller.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import functorch_optim as fo
from functorch_optim import optim, rows

SIZES, COLUMNS, TOUCHED = (100_000, 1_000_000), 64, 4096
ALGORITHMS = {"SparseAdam": fo.sparse_adam, "SGD": fo.sgd, "Adagrad": fo.adagrad}


def functional(make: Callable[..., Any], size: int, indices: Any, values: Any) -> Callable[[], None]:
    tx, table = make(lr=1e-3), jnp.zeros((size, COLUMNS))
    grads = rows.make(values, indices, table.shape)

    def step(table: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, table)
        return fo.apply_updates(table, updates), state

    carry = [(table, tx.init(table))]
    compiled = jax.jit(step, donate_argnums=(0, 1))

    def run() -> None:
        carry[0] = jax.block_until_ready(compiled(*carry[0], grads))

    return run


def face(name: str, size: int, indices: Any, values: Any) -> Callable[[], None]:
    optimizer = getattr(optim, name)([jnp.zeros((size, COLUMNS))], lr=1e-3)
    grads = [rows.make(values, indices, (size, COLUMNS))]

    def run() -> None:
        optimizer.step(grads)
        jax.block_until_ready(optimizer.params)

    return run


def torchs(name: str, size: int, indices: Any, values: Any) -> Callable[[], None]:
    param = torch.nn.Parameter(torch.zeros(size, COLUMNS))
    places = torch.tensor(np.asarray(indices)[None].astype(np.int64))
    param.grad = torch.sparse_coo_tensor(
        places, torch.tensor(np.asarray(values)), (size, COLUMNS), check_invariants=False
    )
    optimizer = getattr(torch.optim, name)([param], lr=1e-3)
    return lambda: optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| algorithm | contender | ms, 100 k rows | ms, 1 M rows | growth | ours / torch's, 1 M rows |")
    print("|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for name, make in ALGORITHMS.items():
        contenders: dict[tuple[str, int], Callable[[], None]] = {}
        for size in SIZES:
            indices = jnp.asarray(rng.integers(0, size, TOUCHED), jnp.int32)
            values = jnp.asarray(rng.standard_normal((TOUCHED, COLUMNS)), jnp.float32)
            contenders["functional", size] = functional(make, size, indices, values)
            contenders["optimizer.step(grads)", size] = face(name, size, indices, values)
            contenders["torch", size] = torchs(name, size, indices, values)
        times: dict[tuple[str, int], list[float]] = {key: [] for key in contenders}
        order = list(contenders)
        for index in range(options.rounds + 3):
            for key in order[index % len(order) :] + order[: index % len(order)]:
                start = time.perf_counter()
                contenders[key]()
                if index >= 3:
                    times[key].append(time.perf_counter() - start)
        small, large = SIZES
        for who in ("functional", "optimizer.step(grads)", "torch"):
            one, other = (1e3 * statistics.median(times[who, size]) for size in SIZES)
            growth = statistics.median(b / a for a, b in zip(times[who, small], times[who, large], strict=True))
            pairs = zip(times[who, large], times["torch", large], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"| {name} | {who} | {one:.1f} | {other:.1f} | {growth:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
