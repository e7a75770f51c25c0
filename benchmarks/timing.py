"""Shared by the speed runs: contenders that take turns, and a compiled step that owns its arrays."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Key = TypeVar("Key", bound=Hashable)


def take_turns(contenders: Mapping[Key, Callable[[], None]], rounds: int, warm_up: int = 3) -> dict[Key, list[float]]:
    """Return every contender's seconds in every round; the order rotates from round to round."""
    times: dict[Key, list[float]] = {key: [] for key in contenders}
    order = list(contenders)
    for index in range(rounds + warm_up):
        for key in order[index % len(order) :] + order[: index % len(order)]:
            start = time.perf_counter()
            contenders[key]()
            if index >= warm_up:
                times[key].append(time.perf_counter() - start)
    return times


def ratio(times: list[float], others: list[float]) -> float:
    """Return the median over rounds of one time divided by the other."""
    return statistics.median(one / other for one, other in zip(times, others, strict=True))


def jax_step(step: Callable[..., Any], params: Any, state: Any, grads: Any) -> tuple[Callable[[], None], float, Any]:
    """Return a function that runs ``params, state = step(params, state, grads)`` in place, the seconds to trace and
    compile it, and the bytes of its buffers."""
    carry = [(jax.tree.map(jnp.copy, params), state)]
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry[0], grads).compile()
    seconds = time.perf_counter() - start

    def run() -> None:
        carry[0] = compiled(*carry[0], grads)
        jax.block_until_ready(carry[0])

    sizes = compiled.memory_analysis()
    memory = {
        "arguments": sizes.argument_size_in_bytes,
        "aliased": sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
    }
    return run, seconds, memory


def optimizer_step(tx: Any, apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return the step of a transformation of this library or of optax; ``apply`` adds updates to parameters."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return apply(params, updates), state

    return step


def torch_kind(options: list[str]) -> dict[str, bool]:
    """Return the keywords for one of torch's implementations; none for its default."""
    kinds = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    return {key: value for option in options for key, value in kinds.get(option, {}).items()}
