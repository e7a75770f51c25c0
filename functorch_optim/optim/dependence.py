"""Whether a loss uses the parameters that it gets: one that does not trains nothing."""

import jax
from jax.extend.core import Literal

from functorch_optim.optim.engine.closures import Data
from functorch_optim.pages import see
from functorch_optim.typing import PyTree


def ignores_parameters(closed: PyTree, args: tuple[PyTree, ...]) -> bool:
    """Whether the first result of a traced function, the loss, depends on no parameter among ``args``.

    The parameters are the first argument, and with :class:`Data` for the loss, everything else that it cannot get from
    there. An equation's results depend on each of its arguments: in doubt the loss uses the parameters.
    """
    used: set[object] = set(_parameters(closed.jaxpr.invars, args))
    for equation in closed.eqns:
        if not used.isdisjoint(one for one in equation.invars if not isinstance(one, Literal)):
            used.update(equation.outvars)
    value = closed.jaxpr.outvars[0]
    return isinstance(value, Literal) or value not in used


def _parameters(variables: list[object], args: tuple[PyTree, ...]) -> list[object]:
    nodes, treedef = jax.tree.flatten(args, is_leaf=_is_data)
    with_data = any(map(_is_data, nodes))
    count = len(jax.tree.leaves(args[0]))
    marks = treedef.unflatten(
        [
            jax.tree.map(lambda _: False, node) if _is_data(node) else with_data or i < count
            for i, node in enumerate(nodes)
        ]
    )
    return [variable for variable, mark in zip(variables, jax.tree.leaves(marks), strict=True) if mark]


def _is_data(node: object) -> bool:
    return isinstance(node, Data)


def ignored(name: str) -> str:
    """Say what to write instead of a loss that does not use the parameters."""
    return (
        f"{name}: the loss does not use its first argument, the parameters, so all gradients are zero and nothing "
        "trains. A module that it reads from elsewhere (self.model) is a constant to it: merge the parameters into the "
        "module, nnx.merge(graph, params, rest, copy=True)(x); eqx.combine(params, static)(x); "
        f'model.apply({{"params": params}}, x) ({see("networks")})'
    )
