"""Whether a loss uses the parameters that it gets, and no random keys that it does not get."""

from collections.abc import Iterable, Sequence

import jax
from jax.extend.core import Literal

from functorch_optim.optim.engine.closures import Data
from functorch_optim.optim.places import original
from functorch_optim.pages import see
from functorch_optim.typing import PyTree
from functorch_optim.variables import is_random_key, opened

_JIT = ("jit", "pjit", "closed_call", "core_call")  # whose jaxpr has the equation's arguments
_MERGE = (
    "merge the parameters into the module, nnx.merge(graph, params, rest, copy=True)(x); "
    'eqx.combine(params, static)(x); model.apply({"params": params}, x)'
)


def ignores_parameters(closed: PyTree, args: tuple[PyTree, ...]) -> bool:
    """Whether the first result of a traced function, the loss, depends on no parameter among ``args``.

    The parameters are the first argument, and with :class:`Data` for the loss, everything else that it cannot get from
    there. The results of an equation depend on each of its arguments, and what is compiled is looked into: in doubt the
    loss uses the parameters.
    """
    return not _depends(closed.jaxpr, _marks(args))[0]


def _depends(jaxpr: PyTree, marks: Sequence[bool]) -> list[bool]:
    """Whether each result of a jaxpr depends on an argument that is marked."""
    used = {variable for variable, mark in zip(jaxpr.invars, marks, strict=True) if mark}
    for equation in jaxpr.eqns:
        given = [not isinstance(one, Literal) and one in used for one in equation.invars]
        if any(given):
            inner = getattr(equation.params.get("jaxpr"), "jaxpr", None) if equation.primitive.name in _JIT else None
            results = [True] * len(equation.outvars) if inner is None else _depends(inner, given)
            used |= {variable for variable, result in zip(equation.outvars, results, strict=True) if result}
    return [not isinstance(variable, Literal) and variable in used for variable in jaxpr.outvars]


def _marks(args: tuple[PyTree, ...]) -> list[bool]:
    """For each array of ``args``, whether the loss may take parameters from it."""
    nodes, treedef = jax.tree.flatten(args, is_leaf=_is_data)
    with_data = any(map(_is_data, nodes))
    count = len(jax.tree.leaves(args[0]))
    marks = treedef.unflatten(
        [
            jax.tree.map(lambda _: False, node) if _is_data(node) else with_data or i < count
            for i, node in enumerate(nodes)
        ]
    )
    return jax.tree.leaves(marks)


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
