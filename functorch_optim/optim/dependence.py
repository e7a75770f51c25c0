"""Whether a loss uses the parameters that it gets, and no random keys that it does not get."""

from collections.abc import Iterable

import jax
from jax.extend.core import Literal

from functorch_optim.optim.engine.closures import Data
from functorch_optim.optim.places import original
from functorch_optim.pages import see
from functorch_optim.typing import PyTree
from functorch_optim.variables import is_random_key, opened

_MERGE = (
    "merge the parameters into the module, nnx.merge(graph, params, rest, copy=True)(x); "
    'eqx.combine(params, static)(x); model.apply({"params": params}, x)'
)


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


def misread(
    name: str, closed: PyTree, args: tuple[PyTree, ...], passed: Iterable[object], captured: Iterable[object]
) -> str:
    """Say what to write instead of a traced loss that does not use the parameters, or reads random keys elsewhere.

    ``passed`` are the objects through which it reads its surroundings, and ``captured`` the arrays that it takes from
    there. Empty if nothing is wrong.
    """
    if ignores_parameters(closed, args):
        return (
            f"{name}: the loss does not use its first argument, the parameters, so all gradients are zero and nothing "
            f"trains. A module that it reads from elsewhere (self.model) is a constant to it: {_MERGE} "
            f"({see('networks')})"
        )
    arrays = {id(original(array)) for array in captured}
    if any(is_random_key(node) and id(original(opened(node))) in arrays for node in passed):
        return (
            f"{name}: the loss reads random keys of a module that it does not get as an argument, so every step draws "
            "the same numbers, such as the same dropout mask. Pass the rest of the module, and return what becomes of "
            "it: graph, params, rest = nnx.split(model, nnx.Param, ...) before the loop; in the loss module = "
            "nnx.merge(graph, params, rest, copy=True), and return value, nnx.state(module, nnx.Not(nnx.Param)); "
            f"step(loss, rest, x, has_aux=True) ({see('networks')})"
        )
    return ""
