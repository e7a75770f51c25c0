"""Measure the torch face's cost on top of the compiled step: group writes, schedules. ``make bench-overhead``"""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import torch

from functorch_optim import optim

LEAVES, REPEATS, ROUNDS = 148, 300, 9
LONG = 10**9  # a scheduler whose schedule has ended does less
Pair = tuple[Callable[[], object], Callable[[], object]]
SCHEDULERS: dict[str, Callable[[Any, Any], Any]] = {
    "StepLR": lambda s, optimizer: s.StepLR(optimizer, step_size=10),
    "MultiStepLR": lambda s, optimizer: s.MultiStepLR(optimizer, milestones=[3, 7]),
    "ConstantLR": lambda s, optimizer: s.ConstantLR(optimizer),
    "LinearLR": lambda s, optimizer: s.LinearLR(optimizer, total_iters=LONG),
    "ExponentialLR": lambda s, optimizer: s.ExponentialLR(optimizer, gamma=0.999),
    "PolynomialLR": lambda s, optimizer: s.PolynomialLR(optimizer, total_iters=LONG),
    "CosineAnnealingLR": lambda s, optimizer: s.CosineAnnealingLR(optimizer, T_max=LONG),
    "CosineAnnealingWarmRestarts": lambda s, optimizer: s.CosineAnnealingWarmRestarts(optimizer, T_0=100),
    "LambdaLR": lambda s, optimizer: s.LambdaLR(optimizer, lambda epoch: 0.5),
    "MultiplicativeLR": lambda s, optimizer: s.MultiplicativeLR(optimizer, lambda epoch: 1.0),
    "CyclicLR": lambda s, optimizer: s.CyclicLR(optimizer, base_lr=0.01, max_lr=0.1),
    "OneCycleLR": lambda s, optimizer: s.OneCycleLR(optimizer, max_lr=0.1, total_steps=LONG),
    "ReduceLROnPlateau": lambda s, optimizer: s.ReduceLROnPlateau(optimizer),
    "SequentialLR": lambda s, optimizer: s.SequentialLR(
        optimizer, [s.LinearLR(optimizer, total_iters=3), s.CosineAnnealingLR(optimizer, T_max=LONG)], milestones=[3]
    ),
    "ChainedScheduler": lambda s, optimizer: s.ChainedScheduler(
        [s.LinearLR(optimizer, total_iters=3), s.ExponentialLR(optimizer, gamma=0.999)]
    ),
}


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


def optimizers() -> tuple[optim.Optimizer, torch.optim.Optimizer]:
    """Return ours and torch's, with gradients. The parameters have one entry each, so that only the calls cost time."""
    theirs = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1)) for _ in range(LEAVES)], lr=1e-3, fused=True)
    for param in theirs.param_groups[0]["params"]:
        param.grad = torch.ones(1)
    return optim.AdamW({str(index): jnp.ones(1) for index in range(LEAVES)}, lr=1e-3), theirs


def scheduler_step(library: Any, optimizer: Any, name: str) -> Callable[[], None]:
    """Return the step of a new scheduler."""
    step = SCHEDULERS[name](library.lr_scheduler, optimizer).step
    return (lambda: step(1.0)) if name == "ReduceLROnPlateau" else step


def contenders() -> dict[str, Pair]:
    """Return our call and torch's for each measurement."""
    ours, theirs = optimizers()
    grads = ours.params
    loose = optim.AdamW(grads, lr=1e-3, foreach=False)

    def read_step() -> None:
        ours.step(grads)
        _ = ours.params

    pairs: dict[str, Pair] = {'`group["lr"] = ...`': (write(ours), write(theirs))}
    for name in SCHEDULERS:
        one, other = optimizers()  # each scheduler has its own: they write into the groups
        pairs[f"`{name}.step()`"] = (scheduler_step(optim, one, name), scheduler_step(torch.optim, other, name))
    name = f"`AdamW.step`, {LEAVES} parameters of one entry"
    pairs[name] = (lambda: ours.step(grads), theirs.step)
    pairs[f"{name}, and all parameters read"] = (read_step, theirs.step)
    pairs[f"{name}, `foreach=False`"] = (lambda: loose.step(grads), theirs.step)
    return pairs


def main() -> None:
    warnings.simplefilter("ignore")  # the schedulers step without the optimizers
    print("| | ours, µs | torch, µs | ours / torch's |\n|---|---|---|---|")
    for name, pair in contenders().items():
        for call in pair:
            microseconds(call)  # compiles, and ends the short schedules
        rounds = [[microseconds(call) for call in pair] for _ in range(ROUNDS)]
        ours, theirs = map(statistics.median, zip(*rounds, strict=True))
        ratio = statistics.median(our / their for our, their in rounds)
        print(f"| {name} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
