"""What to pass instead of a model, or of another library's arrays: told by the library that they are from."""

import types
from collections.abc import Iterator

import jax

from functorch_optim.pages import Page, see
from functorch_optim.typing import PyTree

# The module of a class -> what to pass instead of its objects, and the page. The longest name that fits decides.
_INSTEAD: dict[str, tuple[str, Page]] = {
    "torch": (
        "this is torch's: pass the parameters of the JAX network, and take torch's weights over with "
        "fo.checkpoint.TorchLayout(params, torch_model.state_dict())",
        "checkpoints",
    ),
    "equinox": ("of an equinox module pass eqx.filter(model, eqx.is_inexact_array)", "networks"),
    "flax.linen": ('of a linen module pass variables["params"], where variables = module.init(key, x)', "networks"),
    "flax.training": ("of a TrainState pass state.params", "networks"),
    "flax.nnx": ("of an nnx module pass nnx.state(model, nnx.Param)", "networks"),
    "haiku": ("of a haiku function pass the parameters that its init(key, x) returns", "networks"),
    "keras": ("of a keras model pass [variable.value for variable in model.trainable_variables]", "networks"),
}


def origin(node: object) -> str:
    """Return the library in :data:`_INSTEAD` that an object's class is from, or is derived from; empty if none is.

    Example:
        >>> origin({"w": 1.0})
        ''
    """
    if isinstance(node, jax.Array):
        return ""
    for base in type(node).__mro__:
        found = [name for name in _INSTEAD if f"{base.__module__}.".startswith(f"{name}.")]
        if found:
            return max(found, key=len)
    return ""


def is_array(node: object) -> bool:
    """Whether a node is an array, or stands for one by its shape and dtype; those of torch and keras are not."""
    return isinstance(node, jax.Array) or (hasattr(node, "shape") and hasattr(node, "dtype") and not origin(node))


def kind(node: object) -> str:
    """Name a node's class for a message, and the library of an array that is not JAX's."""
    library = origin(node)
    return f"{library}'s {type(node).__name__}" if library in ("torch", "keras") else type(node).__name__


def instead_of(node: object) -> str:
    """Say what to pass instead of what is not an array; starts with the punctuation, empty if nothing is known."""
    if isinstance(node, type):
        return f"; it is a class: create the model, and pass its parameters ({see('networks')})"
    if library := origin(node):
        text, page = _INSTEAD[library]
        return f"; {text} ({see(page)})"
    if isinstance(node, types.GeneratorType):
        return (
            "; the functional face takes a tree: list(...) makes one of a generator, and of torch's "
            f"parameters fo.checkpoint.TorchLayout(params, torch_model.state_dict()) ({see('checkpoints')})"
        )
    if isinstance(node, int | float | complex) and not isinstance(node, bool):
        return f"; make it an array, jnp.asarray({node!r})"
    if callable(node):
        return (
            "; pass a tree of arrays, not a function; of an equinox module pass "
            f"eqx.filter(model, eqx.is_inexact_array) ({see('networks')})"
        )
    return ""


def instead_in(tree: PyTree) -> str:
    """Say what to pass instead of a tree in which some leaves are not arrays; as :func:`instead_of`."""
    for node in _nodes(tree):
        if origin(node):
            return instead_of(node)
    odd = [leaf for leaf in jax.tree.leaves(tree) if not is_array(leaf)]
    return instead_of(odd[0]) if odd else ""


def _nodes(tree: PyTree) -> Iterator[PyTree]:
    """Yield a tree's nodes, each before the nodes inside it."""
    yield tree
    children = jax.tree.leaves(tree, is_leaf=lambda node: node is not tree)
    if len(children) != 1 or children[0] is not tree:
        for child in children:
            yield from _nodes(child)
