"""The loops in the speed table: one step of training a network, loss and gradients included.

Names are as in :mod:`benchmarks.contenders`, with more options: ``fo adam flat`` (parameters in flat buffers),
``optim Adam closure`` (``step(closure)``) and ``optim Adam backward`` (``backward`` and ``step``). ``vector adam`` is
the floor: parameters and moments in one vector, Adam written out. All wait for the new parameters; those of the torch
face are not read.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import functorch_optim as fo
from benchmarks.networks import Network
from benchmarks.timing import torch_kind
from functorch_optim import optim

LR = 1e-3


class Loop(NamedTuple):
    """A function that makes one step, and the seconds until it is compiled."""

    run: Callable[[], None]
    compile_seconds: float


def build(who: str, algorithm: str, options: list[str], network: Network) -> Loop:
    if who == "torch":
        return torch_loop(algorithm, options, network)
    if who == "optim":
        return face(algorithm, options, network)
    if who == "vector":
        return vector(network)
    if who == "optax":
        return by_hand(getattr(optax, algorithm)(LR), optax.apply_updates, network.params, lambda p: p, network)
    tx = getattr(fo, algorithm)(lr=LR, foreach="foreach" in options)
    if "flat" in options:
        return by_hand(tx, fo.apply_updates, fo.flat_params(network.params), lambda p: p.tree(), network)
    return by_hand(tx, fo.apply_updates, network.params, lambda p: p, network)


def by_hand(tx: Any, apply: Any, params: Any, view: Callable[[Any], Any], network: Network) -> Loop:
    """Return a compiled step with donated arguments, as a user writes it."""

    def step(params: Any, state: Any, batch: jax.Array) -> Any:
        grads = jax.grad(lambda params: network.loss(view(params), batch))(params)
        updates, state = tx.update(grads, state, params)
        return apply(params, updates), state

    return compiled(step, params, tx.init(params), network.batch)


def compiled(step: Callable[..., Any], params: Any, state: Any, batch: jax.Array) -> Loop:
    held = [jax.tree.map(jnp.array, params), state]
    call = jax.jit(step, donate_argnums=(0, 1))

    def run() -> None:
        held[:] = call(*held, batch)
        jax.block_until_ready(held[0])

    return Loop(run, _seconds(run))


def vector(network: Network) -> Loop:
    """Adam on one vector, which the loss splits."""
    start, tree = ravel_pytree(network.params)

    def step(params: jax.Array, state: Any, batch: jax.Array) -> Any:
        count, mean, square = state
        grads = jax.grad(lambda params: network.loss(tree(params), batch))(params)
        count, mean, square = count + 1, 0.9 * mean + 0.1 * grads, 0.999 * square + 0.001 * grads**2
        size = jnp.sqrt(square / (1 - 0.999**count)) + 1e-8
        return params - LR / (1 - 0.9**count) * mean / size, (count, mean, square)

    return compiled(step, start, (jnp.zeros(()), jnp.zeros_like(start), jnp.zeros_like(start)), network.batch)


def face(algorithm: str, options: list[str], network: Network) -> Loop:
    optimizer = getattr(optim, algorithm)(network.params, lr=LR)

    def run() -> None:
        if "closure" in options:
            optimizer.step(network.loss, network.batch)
        else:
            optimizer.backward(network.loss, network.batch)
            optimizer.step()
            optimizer.zero_grad()
        jax.block_until_ready(optimizer._engine.arrays())

    return Loop(run, _seconds(run))


def torch_loop(algorithm: str, options: list[str], network: Network) -> Loop:
    """The many small layers in torch."""
    import torch

    layers = [{name: torch.tensor(np.asarray(array)) for name, array in layer.items()} for layer in network.params]
    params = [array.requires_grad_() for layer in layers for array in layer.values()]
    optimizer = getattr(torch.optim, algorithm)(params, lr=LR, **torch_kind(options))
    batch = torch.tensor(np.asarray(network.batch))

    def run() -> None:
        optimizer.zero_grad()
        x = batch
        for each in layers:
            x = x + 0.05 * torch.tanh(x @ each["kernel"] + each["bias"])
        torch.mean(x**2).backward()
        optimizer.step()

    return Loop(run, _seconds(run))


def _seconds(run: Callable[[], None]) -> float:
    """Return how long the first two steps take: some compile twice."""
    start = time.perf_counter()
    run()
    run()
    return time.perf_counter() - start
