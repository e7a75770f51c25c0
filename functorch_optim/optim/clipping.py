"""Clip an optimizer's gradients: the bound, and errors that name the parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np

from functorch_optim.optim.engine.assembly import Grads
from functorch_optim.optim.options import is_traced
from functorch_optim.optim.utils import clip_grad_norm
from functorch_optim.typing import Numeric, PyTree


def as_clip_norm(clip_norm: Any, who: str) -> PyTree:
    """Return the largest norm, a known one as a Python float.

    Raises:
        TypeError: it is not a real number; ValueError: it is negative or NaN.
    """
    if is_traced(clip_norm):
        return clip_norm
    if np.ndim(clip_norm) or not np.isrealobj(clip_norm) or isinstance(clip_norm, str):
        raise TypeError(f"{who}: clip_norm must be a real number, but it is {clip_norm!r:.80}")
    number = float(clip_norm)
    if not number >= 0:
        raise ValueError(f"{who}: clip_norm must be at least 0, but it is {number}")
    return number


def by_name(
    clip: Callable[[PyTree], tuple[PyTree, PyTree]], names: list[str], grads: Grads | None
) -> tuple[PyTree, PyTree]:
    """Apply ``clip`` to gradients in leaf order, so that its errors name the parameters."""
    if not isinstance(grads, list) or not grads:
        return clip(grads)
    clipped, result = clip(dict(zip(names, grads, strict=True)))
    return [clipped[name] for name in names], result


def clipped(optimizer: Any, clip_norm: Numeric, grads: Grads) -> Grads:
    """Clip the gradients of a step, and keep their norm in the optimizer."""
    bound = as_clip_norm(clip_norm, f"{type(optimizer).__name__}.step")
    new, norm = by_name(lambda tree: clip_grad_norm(tree, bound), optimizer._layout.labels, grads)
    optimizer._refuse_traced([new, norm])
    optimizer._grad_norm = norm
    return new
