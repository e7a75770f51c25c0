"""Measure the torch face's cost on top of the compiled step: group writes, schedules. ``make bench-overhead``"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import torch

from functorch_optim import optim

LEAVES, REPEATS, ROUNDS = 148, 300, 9


def write(optimizer: Any) -> Callable[[], None]:
    """Return a function that writes a number into a group."""
    group = optimizer.param_groups[0]
    return lambda: group.__setitem__("lr", 1e-3)


def microseconds(call: Callable[[], object]) -> float:
    """Return the mean time of a call."""
    start = time.perf_counter()
    for _ in range(REPEATS):
        call()
    return (time.perf_counter() - start) / REPEATS * 1e6


def contenders() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Return our call and torch's for each measurement.

    The 148 parameters have one entry each, so that only the calls cost time.
    """
    params = {str(index): jnp.ones(1) for index in range(LEAVES)}
    ours, loose = (optim.AdamW(params, lr=1e-3, foreach=foreach) for foreach in (None, False))
    theirs = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1)) for _ in range(LEAVES)], lr=1e-3, fused=True)
    grads = ours.params
    for group in theirs.param_groups:
        for param in group["params"]:
            param.grad = torch.ones(1)

    def read_step() -> None:
        ours.step(grads)
        _ = ours.params

    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        '`group["lr"] = ...`': (write(ours), write(theirs))
    }
    for name, options in {
        "StepLR": {"step_size": 10},
        "CosineAnnealingLR": {"T_max": 10**9},
        "OneCycleLR": {"max_lr": 0.1, "total_steps": 10**9},
    }.items():
        pair = [
            getattr(library.lr_scheduler, name)(optimizer, **options)
            for library, optimizer in ((optim, ours), (torch.optim, theirs))
        ]
        pairs[f"`{name}.step()`"] = (pair[0].step, pair[1].step)
    ours.step(grads)  # schedulers warn if they step before the optimizer does
    theirs.step()
    name = f"`AdamW.step`, {LEAVES} parameters of one entry"
    pairs[name] = (lambda: ours.step(grads), theirs.step)
    pairs[f"{name}, and all parameters read"] = (read_step, theirs.step)
    pairs[f"{name}, `foreach=False`"] = (lambda: loose.step(grads), theirs.step)
    return pairs


def main() -> None:
    print("| | ours, µs | torch, µs |\n|---|---|---|")
    for name, pair in contenders().items():
        rounds = [[microseconds(call) for call in pair] for _ in range(ROUNDS)]
        ours, theirs = map(statistics.median, zip(*rounds, strict=True))
        print(f"| {name} | {ours:.1f} | {theirs:.1f} |")


if __name__ == "__main__":
    main()
