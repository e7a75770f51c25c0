"""L-BFGS on a logistic regression: this library's one compiled step against SciPy's L-BFGS-B. ``make bench-lbfgs``

Both start at zeros, keep ten pairs, and stop at the same gradient tolerance; SciPy calls the same compiled
value-and-gradient function. Times are wall times of a whole minimization, without compilation; the ratio is the median
over rounds, in which the two take turns.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import functorch_optim as fo
from benchmarks import results

HISTORY, TOLERANCE = 10, 1e-7
COLUMNS = {
    "minimizer": ("minimizer", ""),
    "evaluations": ("evaluations", "d"),
    "iterations": ("iterations", "d"),
    "loss": ("loss", ".12f"),
    "ms": ("ms", ".1f"),
    "over_scipy": ("over SciPy's time", ".2f"),
}


def problem(features: int, samples: int) -> tuple[Any, Any]:
    """Return the loss and its data, in float64."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((samples, features)) / np.sqrt(features)
    labels = np.sign(inputs @ rng.standard_normal(features) + 0.1 * rng.standard_normal(samples))

    def loss(weights: Any, inputs: Any, labels: Any) -> Any:
        return jnp.mean(jnp.logaddexp(0, -labels * (inputs @ weights))) + 1e-4 * jnp.sum(weights**2)

    return loss, (jnp.asarray(inputs), jnp.asarray(labels))


def main() -> None:
    options = results.arguments(__doc__, features=1000, samples=2000, rounds=15).parse_args()
    jax.config.update("jax_enable_x64", True)
    loss, data = problem(options.features, options.samples)
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    tx = fo.lbfgs(
        max_iter=500,
        history_size=HISTORY,
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    @jax.jit
    def minimise(weights: Any, *data: Any) -> Any:
        def value_fn(weights: Any) -> Any:
            return loss(weights, *data)

        value, grads = jax.value_and_grad(value_fn)(weights)
        updates, state = tx.update(grads, tx.init(weights), weights, value=value, value_fn=value_fn)
        return weights + updates, state

    start = jnp.zeros(options.features)

    def ours() -> Any:
        return jax.block_until_ready(minimise(start, *data))

    def scipys() -> Any:
        return scipy.optimize.minimize(
            lambda w: tuple(np.asarray(x) for x in value_and_grad(jnp.asarray(w), *data)),
            np.zeros(options.features),
            jac=True,
            method="L-BFGS-B",
            options={"maxcor": HISTORY, "gtol": TOLERANCE, "ftol": 1e-16, "maxiter": 500},
        )

    times: dict[str, list[float]] = {"ours": [], "scipy": []}
    for index in range(options.rounds + 1):
        for name, run in (("ours", ours), ("scipy", scipys)):
            begin = time.perf_counter()
            run()
            if index:
                times[name].append(time.perf_counter() - begin)
    (weights, state), found = ours(), scipys()
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["scipy"], strict=True))
    mine, theirs = (1e3 * statistics.median(times[name]) for name in ("ours", "scipy"))
    value = float(loss(weights, *data))
    rows = [
        ("`fo.lbfgs`", int(state.func_evals), int(state.n_iter), value, mine, ratio),
        ("SciPy's L-BFGS-B", int(found.nfev), int(found.nit), float(found.fun), theirs, 1.0),
    ]
    results.finish("lbfgs", {"logistic": results.table("make bench-lbfgs", COLUMNS, rows)}, options.write)


if __name__ == "__main__":
    main()
