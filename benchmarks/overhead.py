"""Measure the torch face's cost on top of the compiled step: group writes, schedules. ``make bench-overhead``"""

import functools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import torch

from benchmarks import results
from benchmarks.timing import torch_kind
from functorch_optim import optim

LEAVES, ROUNDS, TURN = 148, 9, 0.02  # TURN: seconds that a measurement takes at least
LONG = 10**9  # a scheduler whose schedule has ended does less
Pair = tuple[Callable[[], object], Callable[[], object]]
COLUMNS = {
    "call": ("call", ""),
    "ours": ("ours, µs", ".1f"),
    "torch": ("torch, µs", ".1f"),
    "over_torch": ("ours / torch's", ".2f"),
}
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


def microseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the mean time of a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats * 1e6


def params(leaves: int) -> dict[str, Any]:
    """Return parameters of one entry each, so that only the calls cost time."""
    return {str(index): jnp.ones(1) for index in range(leaves)}


def torch_optimizer(leaves: int = LEAVES, kind: str = "fused") -> torch.optim.Optimizer:
    """Return torch's optimizer for as many, with gradients."""
    tensors = [torch.nn.Parameter(torch.ones(1)) for _ in range(leaves)]
    for tensor in tensors:
        tensor.grad = torch.ones(1)
    return torch.optim.AdamW(tensors, lr=1e-3, **torch_kind([kind]))


def scheduler_step(library: Any, optimizer: Any, name: str) -> Callable[[], None]:
    """Return the step of a new scheduler."""
    step = SCHEDULERS[name](library.lr_scheduler, optimizer).step
    return (lambda: step(1.0)) if name == "ReduceLROnPlateau" else step


def schedulers() -> dict[str, Pair]:
    """Return our call and torch's for writing the learning rate: by hand, and by each scheduler."""
    ours, theirs = optim.AdamW(params(LEAVES), lr=1e-3), torch_optimizer()
    pairs: dict[str, Pair] = {'`group["lr"] = ...`': (write(ours), write(theirs))}
    for name in SCHEDULERS:
        one, other = optim.AdamW(params(LEAVES), lr=1e-3), torch_optimizer()  # their own: they write into the groups
        pairs[f"`{name}.step()`"] = (scheduler_step(optim, one, name), scheduler_step(torch.optim, other, name))
    return pairs


def steps() -> dict[str, Pair]:
    """Return our step and torch's, by the number of parameters and torch's implementation."""
    pairs: dict[str, Pair] = {}
    for leaves in (1, LEAVES, 1000):
        ours, grads = optim.AdamW(params(leaves), lr=1e-3), params(leaves)
        for kind in ("default", "foreach", "fused"):
            name = f"`AdamW.step`, {leaves} {'parameter' if leaves == 1 else 'parameters'}; torch {kind}"
            pairs[name] = (functools.partial(ours.step, grads), torch_optimizer(leaves, kind).step)
    ours, grads = optim.AdamW(params(LEAVES), lr=1e-3), params(LEAVES)
    loose, fused = optim.AdamW(grads, lr=1e-3, foreach=False), torch_optimizer().step

    def read_step() -> None:
        ours.step(grads)
        _ = ours.params

    pairs[f"`AdamW.step`, {LEAVES} parameters, and all read; torch fused"] = (read_step, fused)
    pairs[f"`AdamW.step`, {LEAVES} parameters, `foreach=False`; torch fused"] = (lambda: loose.step(grads), fused)
    return pairs


def main() -> None:
    options = results.arguments(__doc__).parse_args()
    warnings.simplefilter("ignore")  # the schedulers step without the optimizers
    for title, pairs in (("schedulers", schedulers()), ("steps", steps())):
        table = results.table("make bench-overhead", COLUMNS, measured(pairs))
        results.finish("overhead", {title: table}, options.write)


def measured(pairs: dict[str, Pair]) -> list[tuple[Any, ...]]:
    rows = []
    for name, pair in pairs.items():
        repeats = [max(5, int(TURN * 1e6 / [microseconds(call, 20) for _ in range(2)][1])) for call in pair]
        rounds = [[microseconds(*each) for each in zip(pair, repeats, strict=True)] for _ in range(ROUNDS)]
        ours, theirs = map(statistics.median, zip(*rounds, strict=True))
        ratio = statistics.median(our / their for our, their in rounds)
        rows.append((name, ours, theirs, ratio))
    return rows


if __name__ == "__main__":
    main()
