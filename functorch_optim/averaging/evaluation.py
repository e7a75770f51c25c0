"""Schedule-Free methods train at one point and are evaluated at another: from the one to the other."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim import trees
from functorch_optim.algorithms.schedule_free import CARRIED
from functorch_optim.averaging.average import mix
from functorch_optim.core.packing import ForeachState
from functorch_optim.hyperparams import Beta
from functorch_optim.transforms.master_weights import MasterWeightsState, whole_of
from functorch_optim.transforms.quantized import Quantized
from functorch_optim.typing import Array, PyTree


def eval_params(state: PyTree, params: PyTree) -> PyTree:
    """Return the parameters to evaluate, those that a Schedule-Free method averages.

    With y the parameters that are trained, z the slot and beta the momentum of the last update, they are
    ``x = y / beta + (1 - 1 / beta) * z``. Training goes on with y: keep it.

    Args:
        state: the state of a Schedule-Free method, however nested; several of them if a partition has several. The
            groups of :meth:`functorch_optim.optim.Optimizer.from_transform` have states of their own: pass
            ``state.states["group0"]`` with ``params[0]``, and so on.
        params: the parameters that are trained.

    Returns:
        A tree like ``params``, in their dtypes. A parameter that no such method trains is returned as it is. Within
        :func:`functorch_optim.master_weights` it is computed from the float32 parameters, and rounded once.

    Raises:
        KeyError: no such method is in the state. ValueError: the momentum is 0 (known only outside ``jax.jit``), the
            structures or shapes differ, the state is of several runs, z is in few bits, or a part of the parameters is
            packed.

    Example:
        >>> import functorch_optim as fo
        >>> tx, y = fo.schedule_free_sgd(lr=1.0, momentum=0.5), jnp.array([1.0])
        >>> state = tx.init(y)
        >>> for _ in range(2):
        ...     updates, state = tx.update(y, state, y)
        ...     y = fo.apply_updates(y, updates)
        >>> y.tolist(), state.z.tolist(), eval_params(state, y).tolist()
        ([0.0], [0.0], [0.0])
    """
    return _moved(state, params, to_average, trained=True)


def train_params(state: PyTree, params: PyTree) -> PyTree:
    """Return the parameters to train, from those that were evaluated: the inverse of :func:`eval_params`.

    You need it for a checkpoint that has only the evaluated parameters beside the state. They are
    ``y = beta * x + (1 - beta) * z``, up to rounding.

    Args:
        state: as for :func:`eval_params`.
        params: the parameters that were evaluated.

    Returns:
        A tree like ``params``. Within :func:`functorch_optim.master_weights` it comes from the state alone.

    Raises:
        KeyError, ValueError: as from :func:`eval_params`.

    Example:
        >>> import functorch_optim as fo
        >>> tx, y = fo.schedule_free_adamw(lr=0.1), jnp.array([1.0])
        >>> updates, state = tx.update(y, tx.init(y), y)
        >>> y = fo.apply_updates(y, updates)
        >>> round(train_params(state, eval_params(state, y)).item() - y.item(), 6)
        0.0
    """
    return _moved(state, params, to_trained, trained=False)


def _moved(state: PyTree, params: PyTree, keep: Callable[[PyTree], Beta], trained: bool) -> PyTree:
    """Mix each parameter with its z; with ``trained``, the parameters are those that are trained."""
    found = _nodes(state, _is_schedule_free)
    found += [_unpacked(node, params) for node in _nodes(state, _is_packed)]
    if not found:
        raise KeyError("no state of a Schedule-Free method, such as fo.ScheduleFreeAdamWState")
    names, models, treedef = trees.named_leaves(params)
    leaves = jax.tree.leaves(_whole(state, params, trained))
    known = [not trained and leaf is not model for leaf, model in zip(leaves, models, strict=True)]
    for one in found:
        if jnp.ndim(one.momentum):
            raise ValueError("the state is of several runs, as from jax.vmap: evaluate them inside jax.vmap too")
        share = keep(one.momentum)
        for index, z in enumerate(trees.align(params, one.z, "the slots z")):
            if known[index] or not jax.tree.leaves(z):  # a mask has left it out
                continue
            if not hasattr(z, "dtype"):
                raise ValueError(_unlike(names[index], z))
            trees.check_like(names[index], z, models[index], "the slot z")
            leaves[index] = mixed(leaves[index], z, share)
    pairs = zip(leaves, models, strict=True)
    return treedef.unflatten([jnp.array(leaf, model.dtype, copy=True) for leaf, model in pairs])


def _unlike(name: str, z: PyTree) -> str:
    """Say why a slot z is no array."""
    if isinstance(z, Quantized):
        return f"the slot z of the parameter {trees.quote(name)} is kept in few bits: leave z out of fo.quantized"
    return f"the slots z do not have the structure of the parameters: at {trees.quote(name)} they have {z!r:.100}"


def _unpacked(state: ForeachState, params: PyTree) -> PyTree:
    try:
        return state.unpack(params)
    except ValueError as error:
        raise ValueError(
            "the slots z of foreach=True are joined, and do not tell which of the parameters a mask or a partition has "
            f"left out: leave foreach out there ({error})"
        ) from error


def to_average(momentum: PyTree) -> Beta:
    """Return the share of y in x; raise if the momentum is known to be 0."""
    if not isinstance(momentum, Tracer) and bool(jnp.any(momentum == 0)):
        raise ValueError("the momentum, or betas[0], is 0: then y is z, and the average cannot be computed from them")
    return Beta(1 / momentum, 1 - 1 / momentum)


def to_trained(momentum: PyTree) -> Beta:
    """Return the share of x in y."""
    return Beta(momentum, 1 - momentum)


def mixed(param: Array, z: Array, share: Beta) -> jax.Array:
    """Return ``share * param + (1 - share) * z`` in the parameter's dtype, computed in the wider one of the two."""
    dtype = trees.compute_dtype(param, z)
    return mix(param.astype(dtype), z.astype(dtype), share).astype(param.dtype)


def _whole(state: PyTree, params: PyTree, trained: bool) -> PyTree:
    """The parameters that are trained in float32, where :func:`functorch_optim.master_weights` has them so.

    A correction of eight bits belongs to the parameter that is trained, and says nothing of another.
    """
    for node in _nodes(state, _has_masters):
        whole = jax.tree.map(lambda own: own if trained or own.dtype != jnp.int8 else None, node.master)
        params = whole_of(params, whole)
    return params


def _is_schedule_free(node: object) -> bool:
    return {"z", *CARRIED} <= set(getattr(node, "_fields", ()))


def _is_packed(node: object) -> bool:
    return isinstance(node, ForeachState) and _is_schedule_free(node.leaves)


def _has_masters(node: object) -> bool:
    return isinstance(node, MasterWeightsState)


def _nodes(state: PyTree, wanted: Callable[[object], bool]) -> list[PyTree]:
    """The outermost parts of a state that are wanted; a packed state is no plain one."""
    leaves = jax.tree.leaves(state, is_leaf=lambda node: wanted(node) or _is_packed(node))
    return [leaf for leaf in leaves if wanted(leaf)]
