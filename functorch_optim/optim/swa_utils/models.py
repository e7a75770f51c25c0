"""Models that can be averaged: trees of arrays with a separate tree of buffers, and flax nnx modules."""

import copy
import weakref
from collections.abc import Callable

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.callers import warn_caller
from functorch_optim.foreign_models import instead_in
from functorch_optim.optim.ownership import own
from functorch_optim.pages import see
from functorch_optim.typing import PyTree
from functorch_optim.variables import fitted, is_nnx, nnx, other_variables


class Parts:
    """A model's named leaves; the first ``count`` of them are parameters."""

    def __init__(self, params: PyTree, buffers: PyTree) -> None:
        names, leaves, treedef = trees.named_leaves(params)
        buffer_names, buffer_leaves, buffers_treedef = trees.named_leaves(buffers)
        self.structures = trees.Structure(treedef), trees.Structure(buffers_treedef)
        self.names, self.leaves, self.count = names + buffer_names, leaves + buffer_leaves, len(names)

    def trees(self, leaves: list[PyTree]) -> tuple[PyTree, PyTree]:
        """Put other leaves into the structures of the parameters and the buffers."""
        params, buffers = self.structures
        return params.unflatten(leaves[: self.count]), buffers.unflatten(leaves[self.count :])

    def aligned(self, params: PyTree, buffers: PyTree) -> list[PyTree]:
        """Return the leaves of another such model in this order, with None for buffers that are not given."""
        params_here, buffers_here = self.trees(self.leaves)
        found = trees.align(params_here, fitted(params, params_here), "the model's parameters", "the average")
        if buffers is None:
            return found + [None] * (len(self.leaves) - self.count)
        return found + trees.align(buffers_here, buffers, "the model's buffers", "the average's")


class Tree:
    """Parameters and buffers as trees, and the function that applies them."""

    def __init__(self, params: PyTree, buffers: PyTree, apply_fn: Callable[..., PyTree] | None) -> None:
        others = other_variables(params)
        if others:
            raise TypeError(
                f"the average is one of all variables, among them {others}: use AveragedModel(module) for nnx, or "
                'AveragedModel(variables["params"], buffers=variables["batch_stats"]) for linen, to keep '
                "the statistics apart"
            )
        self.apply_fn = apply_fn
        self.has_buffers = buffers is not None
        if not callable(params):  # in a callable tree a number is an option, elsewhere a parameter
            params = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, int | float) else leaf, params)
        self.parts = Parts(params, buffers)
        if not any(map(is_array, self.parts.leaves[: self.parts.count])):
            raise TypeError(f"there are no parameters to average in {type(params).__name__}{instead_in(params)}")

    def read(self) -> Parts:
        return self.parts

    def write(self, leaves: list[PyTree]) -> None:
        self.parts.leaves = leaves

    def snapshot(self) -> "Tree":
        """Return a copy with the current arrays, which later updates do not change."""
        twin = copy.copy(self)
        twin.parts = copy.copy(self.parts)
        twin.parts.leaves = list(self.parts.leaves)  # counts as a holder: updates overwrite only unshared arrays
        return twin

    def split(self, model: PyTree, buffers: PyTree) -> tuple[PyTree, PyTree]:
        """Split a model of the same kind into parameters and buffers; buffers that are not given are None."""
        if buffers is not None and not self.has_buffers:
            raise ValueError("this average was created without buffers: AveragedModel(params, buffers=buffers)")
        return model, buffers

    @property
    def module(self) -> PyTree:
        return self.parts.trees(self.parts.leaves)[0]

    def __call__(self, *inputs: object, **options: object) -> PyTree:
        params, buffers = self.parts.trees(self.parts.leaves)
        if self.apply_fn is not None:
            held = (params, buffers) if self.has_buffers else (params,)
            return self.apply_fn(*held, *inputs, **options)
        if callable(params):
            return params(*inputs, **options)
        raise TypeError("a tree of parameters cannot be called: AveragedModel(params, apply_fn=...) sets what to call")


class Module:
    """A flax nnx module: ``Param`` variables are parameters, others buffers, except random keys and intermediates."""

    def __init__(self, module: PyTree) -> None:
        self.module = nnx().clone(module)
        self._last: list[weakref.ref[PyTree]] = []  # the arrays of the last update

    def read(self) -> Parts:
        return Parts(*self._states(self.module))

    def write(self, leaves: list[PyTree]) -> None:
        for state in self.read().trees(leaves):
            nnx().update(self.module, state)

    def snapshot(self) -> "Module":
        """Return this module: the arrays in its variables are never overwritten."""
        return self

    def split(self, model: PyTree, buffers: PyTree) -> tuple[PyTree, PyTree]:
        """Split a module, or its ``nnx.state(module, nnx.Param)``, into parameters and buffers."""
        if not is_nnx(model):
            return model, buffers
        if buffers is not None:
            raise ValueError("a module already holds its buffers")
        params, statistics = self._states(model)
        self._check_changed(jax.tree.leaves((params, statistics)))
        return params, statistics

    def _check_changed(self, leaves: list[PyTree]) -> None:
        """Warn if the module has the very arrays of the last update."""
        if self._last and all(last() is leaf for last, leaf in zip(self._last, leaves, strict=False)):
            warn_caller(
                "update_parameters: the module has the parameters of the last update. An optimizer keeps the trained "
                "ones: write them into the module first, nnx.update(model, optimizer.params, rest), with the rest that "
                f"the loss returned ({see('averaging')})"
            )
        self._last = [weakref.ref(leaf) for leaf in leaves if isinstance(leaf, jax.Array)]

    def _states(self, module: PyTree) -> tuple[PyTree, PyTree]:
        passing = (nnx().RngState, nnx().Intermediate)  # belong to the module alone, not to an average or state_dict
        _, params, _, buffers = nnx().split(module, nnx().Param, passing, ...)
        return params, buffers

    def __call__(self, *inputs: object, **options: object) -> PyTree:
        return self.module(*inputs, **options)

    def __deepcopy__(self, memo: object) -> "Module":
        return copy.copy(self)._cloned()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_last": []}

    def _cloned(self) -> "Module":
        self.module = nnx().clone(self.module)
        return self


def is_array(leaf: PyTree) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def owned(leaf: PyTree) -> PyTree:
    """Copy an array, also a random key; return anything else as it is."""
    if not is_array(leaf):
        return leaf
    return leaf.copy() if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else own(leaf)


def wrapped(model: PyTree, buffers: PyTree, apply_fn: Callable[..., PyTree] | None) -> Tree | Module:
    """Wrap a model for averaging."""
    if not is_nnx(model):
        return Tree(model, buffers, apply_fn)
    if buffers is not None or apply_fn is not None:
        raise ValueError("a module already holds its buffers and its function: AveragedModel(module)")
    return Module(model)


def on_device(tree: PyTree, device: PyTree) -> PyTree:
    """Move the arrays of a tree to ``device``, if one is given; keep what is not an array."""
    if device is None:
        return tree
    device = jax.devices(device)[0] if isinstance(device, str) else device
    return jax.tree.map(lambda leaf: jax.device_put(leaf, device) if is_array(leaf) else leaf, tree)
