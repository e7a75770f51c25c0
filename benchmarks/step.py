"""One Adam step: this library, optax and torch side by side. ``make bench``

Every contender updates its own parameters in place (donated buffers) from the same gradients. In each round all of them
run, in an order that rotates; a ratio is the median over the rounds of one round's times, so that a slow spell of the
machine touches both sides. Times are the medians of the rounds; only ratios are claims.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import functorch_optim as fo
from benchmarks import shapes
from benchmarks.timing import jax_step, optimizer_step, ratio, take_turns
from functorch_optim import optim

LR = 1e-3


def face_step(params: Any, grads: Any) -> tuple[Callable[[], None], float]:
    """The same with the stateful face: ``optimizer.step(grads)``."""
    optimizer = optim.Adam(params, lr=LR)
    start = time.perf_counter()
    optimizer.step(grads)
    seconds = time.perf_counter() - start

    def run() -> None:
        optimizer.step(grads)
        jax.block_until_ready(optimizer.params)

    return run, seconds


def torch_step(sizes: shapes.Shapes, **kind: bool) -> Callable[[], None]:
    params = [torch.randn(shapes.torch_layout(shape)).requires_grad_() for shape in sizes.values()]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = torch.optim.Adam(params, lr=LR, **kind)
    return lambda: optimizer.step()


def copy_bandwidth() -> float:
    """GB/s (read plus written) of an XLA pass over 64 M floats into a donated buffer."""
    array = jnp.zeros(2**26)
    compiled = jax.jit(lambda x: x + 1, donate_argnums=0).lower(array).compile()
    times = []
    for _ in range(15):
        start = time.perf_counter()
        array = jax.block_until_ready(compiled(array))
        times.append(time.perf_counter() - start)
    return 2 * 4 * 2**26 / statistics.median(times) / 1e9


def measure(sizes: shapes.Shapes, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.standard_normal(shape, np.float32)) for name, shape in sizes.items()}
    grads = {name: jnp.asarray(rng.standard_normal(shape, np.float32)) for name, shape in sizes.items()}
    mine, optax_adam = fo.adam(lr=LR), optax.adam(LR)
    ours, ours_compile = jax_step(optimizer_step(mine, fo.apply_updates), params, mine.init(params), grads)
    face, face_compile = face_step(params, grads)
    theirs, theirs_compile = jax_step(
        optimizer_step(optax_adam, optax.apply_updates), params, optax_adam.init(params), grads
    )
    contenders = {
        "functorch_optim": ours,
        "optimizer.step(grads)": face,
        "optax": theirs,
        "torch for-loop": torch_step(sizes, foreach=False),
        "torch foreach": torch_step(sizes, foreach=True),
        "torch fused": torch_step(sizes, fused=True),
    }
    times = take_turns(contenders, rounds)
    ratios = {name: ratio(times["functorch_optim"], values) for name, values in times.items()}
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    compiles = {"functorch_optim": ours_compile, "optimizer.step(grads)": face_compile, "optax": theirs_compile}
    return {"ms": milliseconds, "ratio": ratios, "compile": compiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--shapes", choices=list(shapes.ALL), nargs="*", default=list(shapes.ALL))
    options = parser.parse_args()
    print(
        f"jax {jax.__version__}, optax {optax.__version__}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"XLA copy into a donated buffer: {copy_bandwidth():.1f} GB/s\n")
    print("| shapes | contender | our time / its time | its ms | compile s |\n|---|---|---|---|---|")
    for name in options.shapes:
        result = measure(shapes.ALL[name](), options.rounds)
        for contender, over in result["ratio"].items():
            compile_seconds = result["compile"].get(contender)
            seconds = "" if compile_seconds is None else f"{compile_seconds:.1f}"
            print(f"| {name} | {contender} | {over:.2f} | {result['ms'][contender]:.1f} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
