"""The contenders in the speed table: a step of this library, of optax or of torch, by name.

A name has up to three parts: who (``fo``: the functional face; ``optim``: the torch face; ``optax``; ``torch``), the
algorithm as its library calls it, and options: ``"torch Adam fused"``, ``"fo sgd momentum"``, ``"optim Adam foreach"``.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import functorch_optim as fo
from benchmarks import loops, networks, shapes
from benchmarks.timing import jax_step, optimizer_step, torch_kind
from functorch_optim import optim

LR = 1e-3


class Contender(NamedTuple):
    """A function that runs one step, the seconds to trace and compile it, and its memory analysis."""

    run: Callable[[], None]
    compile_seconds: float | None
    memory: dict[str, int] | None = None


def build(name: str, case: str) -> Contender:
    """Return the contender of this name; ``case`` names shapes, or a network to train."""
    who, algorithm, *options = name.split(" ")
    if case in networks.ALL:
        return Contender(*loops.build(who, algorithm, options, networks.ALL[case]()))
    of = shapes.ALL[case]()
    return {"fo": _functional, "optim": _face, "optax": _optax, "torch": _torch}[who](algorithm, options, of)


def _keywords(options: list[str]) -> dict[str, Any]:
    known = {
        "momentum": {"momentum": 0.9},
        "foreach": {"foreach": True},
        "leaves": {"foreach": False},
        "unread": {},
        "flat": {},
        "centered": {"centered": True},
    }
    return {key: value for option in options for key, value in known[option].items()}


def _compiled(step: Callable[..., Any], params: Any, state: Any, grads: Any) -> Contender:
    run, seconds, memory = jax_step(step, params, state, grads)
    return Contender(run, seconds, memory)


def _functional(algorithm: str, options: list[str], of: shapes.Shapes) -> Contender:
    tx = getattr(fo, algorithm)(lr=LR, **_keywords(options))
    params, grads = shapes.arrays(of, 0), shapes.arrays(of, 1)
    if "flat" in options:
        params, grads = fo.flat_params(params), fo.flat_params(grads)
    return _compiled(optimizer_step(tx, fo.apply_updates), params, tx.init(params), grads)


def _optax(algorithm: str, options: list[str], of: shapes.Shapes) -> Contender:
    import optax

    params, grads = shapes.arrays(of, 0), shapes.arrays(of, 1)
    make = optax.contrib.muon if algorithm == "muon" else getattr(optax, algorithm)
    more = {"multiply_by_parameter_scale": True} if algorithm == "adafactor" else {}
    tx = make(LR, **more, **_keywords(options))
    return _compiled(optimizer_step(tx, optax.apply_updates), params, tx.init(params), grads)


def copy_bandwidth(moved: int) -> float:
    """Return the bytes per second of an in-place XLA pass that reads and writes ``moved`` bytes (at most 512 MiB)."""
    array = jnp.zeros(min(moved // 8, 2**26))
    compiled = jax.jit(lambda x: x + 1, donate_argnums=0).lower(array).compile()
    times = []
    for _ in range(25):
        start = time.perf_counter()
        array = jax.block_until_ready(compiled(array))
        times.append(time.perf_counter() - start)
    return 2 * array.nbytes / statistics.median(times)


def _face(algorithm: str, options: list[str], of: shapes.Shapes) -> Contender:
    grads = shapes.arrays(of, 1)
    optimizer = getattr(optim, algorithm)(shapes.arrays(of, 0), lr=LR, **_keywords(options))
    start = time.perf_counter()
    optimizer.step(grads)
    seconds = time.perf_counter() - start

    def run() -> None:
        optimizer.step(grads)
        if "unread" in options:  # the step alone: packed parameters are cut only when read
            jax.block_until_ready([pack.param for pack in optimizer._engine._known.packs])
        else:
            jax.block_until_ready(optimizer.params)

    return Contender(run, seconds)


def _torch(algorithm: str, options: list[str], of: shapes.Shapes) -> Contender:
    import torch

    rest = _keywords([option for option in options if option not in ("for-loop", "foreach", "fused", "default")])
    torch.manual_seed(0)
    params = [torch.randn(shapes.torch_layout(shape)).requires_grad_() for shape in of.values()]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = getattr(torch.optim, algorithm)(params, lr=LR, **torch_kind(options), **rest)
    return Contender(lambda: optimizer.step(), None)
