"""L-BFGS in several processes: the same line search in all, and batches that differ are refused."""

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import optim
from tests.two_processes import world


def loss(params, x, y):
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def main(folder):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    y = x @ np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    params = {"w": world.placed(np.zeros((4, 1), np.float32), ("x", "y")), "b": world.placed(np.zeros(1, np.float32))}
    lines = []
    with jax.numpy_rank_promotion("allow"):
        for line_search in (None, "strong_wolfe"):
            optimizer = optim.LBFGS(params, lr=0.5, max_iter=4, line_search_fn=line_search)
            batch = world.placed(x, ("x", "y")), world.placed(y, ("x", "y"))
            values = [float(optimizer.step(loss, *batch)) for _ in range(4)]
            lines += [f"{line_search} {' '.join(f'{value:.6e}' for value in values)}"]
            lines += [world.refused(lambda: optimizer.step(loss, x + jax.process_index(), y))]  # noqa: B023 called here
    world.tell(folder, lines)
