"""One of two processes that take L-BFGS steps together: ``python -m tests.two_processes RANK PORT``."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from functorch_optim import optim


def loss(params, x, y):
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def placed(array, sharding):
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def main():
    rank, port = int(sys.argv[1]), sys.argv[2]
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    y = x @ np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    params = {"w": placed(np.zeros((4, 1), np.float32), split), "b": placed(np.zeros(1, np.float32), whole)}
    for line_search in (None, "strong_wolfe"):
        optimizer = optim.LBFGS(params, lr=0.5, max_iter=4, line_search_fn=line_search)
        values = [float(optimizer.step(loss, placed(x, split), placed(y, split))) for _ in range(4)]
        print(line_search, *[f"{value:.6e}" for value in values], flush=True)
        try:
            optimizer.step(loss, x + rank, y)
        except ValueError as error:
            print(error, flush=True)


if __name__ == "__main__":
    main()
