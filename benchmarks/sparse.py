"""Measure row-sparse steps on tables of two sizes: both faces of this library, and torch. ``make bench-sparse``

A step touches 4096 rows of a table with 64 columns. Every contender updates its own table in place from the same
gradients; in each round all of them run, in rotating order. "Growth" is the time on the larger table over that on the
smaller.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import functorch_optim as fo
from benchmarks import results
from benchmarks.timing import jax_step, optimizer_step, ratio, take_turns
from functorch_optim import optim, rows

SIZES, COLUMNS, TOUCHED = (100_000, 1_000_000), 64, 4096
TITLES = {
    "algorithm": ("algorithm", ""),
    "contender": ("contender", ""),
    "small": ("ms, 100 k rows", ".1f"),
    "large": ("ms, 1 M rows", ".1f"),
    "growth": ("growth", ".2f"),
    "over_torch": ("over torch's, 1 M rows", ".2f"),
}
ALGORITHMS = {"SparseAdam": fo.sparse_adam, "SGD": fo.sgd, "Adagrad": fo.adagrad}


def functional(make: Callable[..., Any], size: int, indices: Any, values: Any) -> Callable[[], None]:
    tx, table = make(lr=1e-3), jnp.zeros((size, COLUMNS))
    grads = rows.make(values, indices, table.shape)
    return jax_step(optimizer_step(tx, fo.apply_updates), table, tx.init(table), grads)[0]


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
    options = results.arguments(__doc__, rounds=40).parse_args()
    found: list[tuple[Any, ...]] = []
    rng = np.random.default_rng(0)
    for name, make in ALGORITHMS.items():
        contenders: dict[tuple[str, int], Callable[[], None]] = {}
        for size in SIZES:
            indices = jnp.asarray(rng.integers(0, size, TOUCHED), jnp.int32)
            values = jnp.asarray(rng.standard_normal((TOUCHED, COLUMNS)), jnp.float32)
            contenders["functional", size] = functional(make, size, indices, values)
            contenders["optimizer.step(grads)", size] = face(name, size, indices, values)
            contenders["torch", size] = torchs(name, size, indices, values)
        times = take_turns(contenders, options.rounds)
        small, large = SIZES
        for who in ("functional", "optimizer.step(grads)", "torch"):
            one, other = (1e3 * statistics.median(times[who, size]) for size in SIZES)
            growth = ratio(times[who, large], times[who, small])
            over = ratio(times[who, large], times["torch", large])
            found.append((name, who, one, other, growth, over))
    results.finish("sparse", {"tables": results.table("make bench-sparse", TITLES, found)}, options.write)


if __name__ == "__main__":
    main()
