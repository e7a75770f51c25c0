"""Measure what variants of Muon bring: a character-level GPT, and the time to orthogonalize. ``make bench-muon``

The GPT is the transformer of ``make demo-sharded`` on one device, on the sources of Python's standard library, with one
schedule for all. Each variant takes the better of two peak rates, on a seed of its own, and then runs with the seeds.
The loss is of a module that the training does not see. The times are medians of calls that take turns.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import functorch_optim as fo
from benchmarks import results
from benchmarks.timing import take_turns
from functorch_optim.demo.sharded.network import Config, init_params, loss_fn
from functorch_optim.demo.sharded.text import HELD_OUT, MODULES, batch_of, load_tokens
from functorch_optim.newton_schulz import POLAR_EXPRESS, orthogonalize

COMMAND = "make bench-muon"
CONFIG = Config(width=128, layers=2, heads=4, length=64)
STEPS, BATCH = 300, 16
KEPT = (3.4445, -4.7750, 2.0315)
VARIANTS = {
    "`muon`": (fo.muon, {}),
    '`muon(ns_polynomials="polar_express")`': (fo.muon, {"ns_polynomials": "polar_express"}),
    "`muon(gram=True)`": (fo.muon, {"gram": True}),
    "`normuon`": (fo.normuon, {}),
}
SHAPES = ((768, 3072), (768, 768), (256, 1024))
WAYS = {
    "as `muon`": (KEPT, False),
    "`polar_express`": (POLAR_EXPRESS[:5], False),
    "`gram`": (KEPT, True),
}


def optimizer(name: str, peak: float) -> fo.GradientTransformation:
    """The hidden matrices to the variant, and the rest to AdamW, at a rate that does well alone."""

    def schedule(peak: float) -> fo.schedules.Schedule:
        return fo.schedules.warmup_stable_decay(peak, STEPS // 10, STEPS // 2, STEPS - STEPS // 10 - STEPS // 2)

    adamw = fo.adamw(lr=schedule(0.01), betas=(0.9, 0.95), weight_decay=0.1)
    if name == "`adamw`":
        return fo.adamw(lr=schedule(peak), betas=(0.9, 0.95), weight_decay=0.1)
    make, options = VARIANTS[name]
    own = make(lr=schedule(peak), weight_decay=0.1, reshape="out_last", **options)
    hidden = ("layers.", ".kernel")
    return fo.partition({"own": own, "adamw": adamw}, lambda path: "own" if all(map(path.count, hidden)) else "adamw")


def held_out_loss(name: str, peak: float, seed: int, texts: Any) -> float:
    """Train, and return the loss of the module that is held out."""
    train, other = texts
    tx = fo.chain(fo.clip_by_global_norm(1.0), optimizer(name, peak))
    params = init_params(CONFIG, jax.random.key(seed))

    @jax.jit
    def step(params: Any, state: Any, tokens: jax.Array) -> Any:
        grads = jax.grad(lambda params: loss_fn(CONFIG, params, tokens))(params)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    state = tx.init(params)
    for number in range(STEPS):
        params, state = step(params, state, batch_of(1_000_000 * seed + number, train, BATCH, CONFIG.length))
    starts = np.arange(128) * ((len(other) - CONFIG.length) // 128)
    windows = other[starts[:, None] + np.arange(CONFIG.length + 1)]
    return float(jax.jit(lambda params: loss_fn(CONFIG, params, windows))(params))


def training_table(seeds: int) -> results.Table:
    """Return the losses of the variants after equal steps."""
    columns = {"variant": ("optimizer of the hidden matrices", ""), "rate": ("peak rate", ".2g")}
    columns |= {"mean": (f"loss after {STEPS} steps, mean", ".3f"), "least": ("least", ".3f"), "most": ("most", ".3f")}
    texts = load_tokens(MODULES), load_tokens(HELD_OUT)
    rows = []
    for name in ("`adamw`", *VARIANTS):
        peaks = (0.005, 0.01) if name == "`adamw`" else (0.02, 0.04)
        rate = min(peaks, key=lambda peak: held_out_loss(name, peak, 100, texts))
        losses = [held_out_loss(name, rate, seed, texts) for seed in range(seeds)]
        print(name, rate, losses, flush=True)
        rows.append((name, rate, statistics.mean(losses), min(losses), max(losses)))
    return results.table(COMMAND, columns, rows)


def timed(matrix: jax.Array, coefficients: Any, gram: bool) -> Callable[[], Any]:
    function = jax.jit(lambda x: orthogonalize(x, coefficients, 5, 1e-7, gram))
    return lambda: jax.block_until_ready(function(matrix))


def time_table(rounds: int) -> results.Table:
    """Return the time to orthogonalize a matrix."""
    columns = {"way": ("five iterations", ""), "shape": ("matrix", "")}
    columns |= {"ms": ("ms", ".1f"), "over": ("of `muon`'s", ".2f")}
    rows = []
    for shape in SHAPES:
        runs = {name: timed(jax.random.normal(jax.random.key(0), shape), *way) for name, way in WAYS.items()}
        times = {name: statistics.median(each) for name, each in take_turns(runs, rounds, warm_up=2).items()}
        for name, each in times.items():
            rows.append((name, " x ".join(map(str, shape)), 1e3 * each, each / times["as `muon`"]))
    return results.table(COMMAND, columns, rows)


def main() -> None:
    parser = results.arguments(__doc__, rounds=15, seeds=3)
    options = parser.parse_args()
    jnp.zeros(())  # start the devices
    tables = {"time": time_table(options.rounds), "training": training_table(options.seeds)}
    results.finish("muon", tables, options.write)


if __name__ == "__main__":
    main()
