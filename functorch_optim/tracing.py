"""What an optimizer must know about JAX's tracing: whether it is inside a traced function, and what is traced."""

import functools

import jax
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from functorch_optim.typing import PyTree

TRACED = (
    "the optimizer keeps its parameters outside of a traced function: inside one, use functional(), or an optimizer "
    "that is made there with differentiable=True"
)


trace_state = functools.partial(get_opaque_trace_state, convention="functorch_optim")
"""Returns an object that is equal only within the same trace."""

OUTSIDE = trace_state()


def refuse_traced(leaves: PyTree) -> None:
    """Raise if a leaf is traced: what stays from step to step must be an array."""
    for leaf in jax.tree.leaves(leaves):
        if isinstance(leaf, Tracer):
            raise RuntimeError(TRACED)
