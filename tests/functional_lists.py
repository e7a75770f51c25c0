"""Runs of ``optim.functional``: the lists that a run begins with, and its arguments, for our functions and torch's."""

import functools
import importlib
import inspect
from typing import Any

import jax
import numpy as np

import functorch_optim as fo
from functorch_optim.optim import functional
from functorch_optim.optim.engine.lists import PAIRS
from functorch_optim.optim.list_functions import FIELDS

NAMES = functional.__all__
MODULES = {"muon": "_muon", "adafactor": "_adafactor", "sparse_adam": "_functional"}


def theirs(name: str) -> Any:
    """Return torch's function, which torch 2.13 has in the algorithm's module."""
    return getattr(importlib.import_module(f"torch.optim.{MODULES.get(name, name)}"), name)


@functools.cache
def arguments(name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(functional, name)).parameters)


def lists_of(name: str) -> list[str]:
    """Return the arguments that are lists of state, in order."""
    return [each for each in arguments(name) if each in FIELDS or each == "state_steps"]


def options_of(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return an algorithm's options as its function here takes them, with its defaults."""
    defaults = {key: p.default for key, p in inspect.signature(getattr(fo, name)).parameters.items()}
    whole, given = {**defaults, **options}, {}
    for key, value in whole.items():
        halves = PAIRS.get(key, ())
        if halves and halves[0] in arguments(name):
            given |= dict(zip(halves, value, strict=True))
        elif key in arguments(name) and key != "foreach":
            given[key] = value
    return {**given, **({"has_complex": False} if name == "muon" else {})}


def first_lists(name: str, options: dict[str, Any], params: list[Any]) -> dict[str, list[Any]]:
    """Return the state before the first update as torch's class begins it; steps and other scalars are float32."""
    state = getattr(fo, name)(**options).init(params)
    result: dict[str, list[Any]] = {}
    for each in lists_of(name):
        held = getattr(state, FIELDS.get(each, "step"))
        if each == "state_steps" or getattr(held, "ndim", None) == 0:
            result[each] = [np.float32(held) for _ in params]
        else:
            result[each] = [] if held is None else list(held)
    if name == "sgd" and options.get("momentum"):
        result["momentum_buffer_list"] = [None for _ in params]
    if name == "sparse_adam":
        result["state_steps"] = [1 for _ in params]
    return result


def stepped(name: str, params: list[Any], grads: list[Any], state: dict[str, list[Any]], **more: Any) -> Any:
    """Return the parameters and the state after one update by our function."""
    gradients = arguments(name)[1]
    new = getattr(functional, name)(params=params, **{gradients: grads}, **state, **more)._asdict()
    params = new.pop("params")
    if name == "sparse_adam":  # the caller counts
        new["state_steps"] = [step + 1 for step in state["state_steps"]]
    return params, new


def compiled(name: str, static: dict[str, Any]) -> Any:
    """Return :func:`stepped` compiled, with all numbers that are not ``static`` as data."""

    @jax.jit
    def step(params: Any, grads: Any, state: Any, numbers: dict[str, Any]) -> Any:
        return stepped(name, params, grads, state, **static, **numbers)

    return step
