"""Compare runs of L-BFGS with torch's; shared by the tests and the parity table."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from functorch_optim import optim
from tests import comparison, equality
from tests import quasi_newton_cases as problems


def recorded(label: str) -> dict[str, np.ndarray]:
    held = comparison.recorded("lbfgs")
    return {key: held[f"{label}/{key}"] for key in ("param", "counts", "loss")}


def tolerance(label: str) -> float:
    """Return what the tests allow, relative; the line search amplifies rounding."""
    return 1e-5 if "line_search_fn" in problems.LBFGS[label][2] else 1e-8


def loss_of(objective: Any) -> Any:
    return lambda leaves: objective(leaves, jnp)


def compiled_update(tx: Any, loss: Any) -> Any:
    """Return one compiled update of a transformation that needs the objective."""

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(jax.tree.map(jnp.conj, grads), state, params, value=value, value_fn=loss)
        return fo.apply_updates(params, updates), state, value

    return step


def flat(leaves: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in leaves])


def trajectory_errors(label: str) -> tuple[float, float]:
    """Return the parameters' worst relative difference from torch's, for the functional face and the torch face.

    It is infinite unless, after every step, the counts of evaluations and iterations are torch's and the losses near.
    """
    objective, size, options, steps = problems.LBFGS[label]
    expected, loss = recorded(label), loss_of(objective)
    params = [jnp.asarray(array) for array in problems.start(objective, size)]
    tx, optimizer = fo.lbfgs(**options), optim.LBFGS(params, **options)
    state, step = tx.init(params), compiled_update(tx, loss)
    errors: tuple[list[float], list[float]] = ([], [])
    for index in range(steps):
        params, state, value = step(params, state)
        losses = (value, optimizer.step(loss))
        entry = optimizer.state[0]
        counts = [[int(state.func_evals), int(state.n_iter)], [entry["func_evals"], entry["n_iter"]]]
        right = expected["param"][index]
        for face, leaves in enumerate((params, optimizer.params)):
            equal = np.allclose(losses[face], expected["loss"][index], rtol=1e-5, atol=1e-12)
            equal = equal and counts[face] == expected["counts"][index].tolist()
            errors[face].append(equality.relative(flat(leaves), right) if equal else float("inf"))
    return comparison.largest(errors[0]), comparison.largest(errors[1])
