"""Freeze parameters: leave some of them unchanged."""

from typing import ClassVar

import jax.numpy as jnp

from functorch_optim import rows, trees
from functorch_optim.base import EmptyState, GradientTransformation, Transform, effects_of, transformation
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.labels import as_mask
from functorch_optim.option_names import explains_names
from functorch_optim.selection import Masked
from functorch_optim.typing import PyTree


def zero_update(leaf: PyTree) -> PyTree:
    """Return an update that changes nothing: adding -0.0 leaves every number unchanged, 0.0 and -0.0 included."""
    if trees.is_absent(leaf) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return None
    return rows.map_values(lambda x: jnp.full_like(x, -0.0), leaf)


class SetToZero(Transform):
    entrywise: ClassVar[bool] = True

    def update(
        self, updates: PyTree, state: EmptyState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, EmptyState]:
        del params, extra
        return trees.map_arrays(zero_update, updates, "set_to_zero: the gradient"), state

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effect(Kind.STOPS, at)


def set_to_zero() -> GradientTransformation:
    """Set all updates to zero, even NaN and infinity; None where there is no floating gradient.

    Example:
        >>> tx = set_to_zero()
        >>> updates, _ = tx.update({"a": jnp.array([jnp.nan]), "b": None}, tx.init(None))
        >>> updates["a"].item() == 0.0, updates["b"]
        (True, None)
    """
    return transformation(SetToZero())


class Selective(Masked):
    elsewhere: ClassVar[GradientTransformation] = set_to_zero()

    def effects(self, at: Leaves | None) -> list[Effects]:
        return effects_of(self.inner, None) if at is None else super().effects(at)


class Freeze(Selective):
    inside: ClassVar[bool] = False


@explains_names
def selective(inner: GradientTransformation, mask: PyTree) -> GradientTransformation:
    """Apply ``inner`` where ``mask`` is True; the other parameters stay unchanged. The complement of :func:`freeze`.

    With :func:`functorch_optim.masked` the others' updates would be their gradients; here they are zero.

    Args:
        inner: a transformation, usually the whole chain. It sees neither the other parameters nor their gradients.
        mask: a pytree of booleans, a function of the dotted path, or a compiled regular expression, as for
            :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`functorch_optim.MaskedState`.

    Raises:
        TypeError: the mask holds something other than booleans. ValueError, from ``init``: it does not have the
            parameters' structure.

    Example:
        >>> import functorch_optim as fo, re
        >>> tx = selective(fo.sgd(lr=0.5), re.compile("head"))
        >>> params = {"body": jnp.ones(2), "head": jnp.ones(1)}
        >>> updates, _ = tx.update(params, tx.init(params), params)
        >>> moved = fo.apply_updates(params, updates)
        >>> moved["body"].tolist(), moved["head"].tolist()
        ([1.0, 1.0], [0.5])
    """
    return transformation(Selective(inner, as_mask("selective", mask)))


@explains_names
def freeze(inner: GradientTransformation, frozen: PyTree) -> GradientTransformation:
    """Freeze the parameters where ``frozen`` is True, and apply ``inner`` to the others.

    ``inner`` sees neither the frozen parameters nor their gradients. So it keeps no state for them, does not decay
    them, and leaves them out of averages and of the norm for clipping; their NaN gradients do no harm. Wrap the whole
    chain. :func:`functorch_optim.averaged_params` takes frozen parameters from the ``params`` given to it.

    Args:
        inner: a transformation, usually the whole chain.
        frozen: a pytree of booleans with the parameters' structure (one may stand for a subtree), a function from a
            parameter's dotted path (``"layers.0.weight"``) to a boolean, or a compiled regular expression, which is
            True where it is found in the path.

    Returns:
        A transformation with the state :class:`functorch_optim.MaskedState`; the updates of frozen parameters are zero,
        or None where the gradient is None.

    Raises:
        TypeError: the mask holds something other than booleans. ValueError, from ``init``: it does not have the
            parameters' structure.

    Example:
        >>> import functorch_optim as fo, re
        >>> tx = freeze(fo.adam(lr=0.5), re.compile("^body"))
        >>> params = {"body": jnp.ones(2), "head": jnp.ones(1)}
        >>> state = tx.init(params)
        >>> updates, state = tx.update({"body": jnp.full(2, jnp.nan), "head": jnp.ones(1)}, state, params)
        >>> fo.apply_updates(params, updates)["body"].tolist(), fo.find_state(state, fo.AdamState).exp_avg["body"]
        ([1.0, 1.0], None)
    """
    return transformation(Freeze(inner, as_mask("freeze", frozen)))
