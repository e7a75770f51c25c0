"""Weight decay as a link of a chain."""

from typing import Any, ClassVar

import jax

from functorch_optim import trees
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.core.numerics import coefficient
from functorch_optim.effects import Effects, Kind, Leaves, for_each
from functorch_optim.hyperparams import Hyperparameter, WeightDecay, known
from functorch_optim.option_names import explains_names
from functorch_optim.selection import masked
from functorch_optim.transforms.scaling import Scheduled, with_params
from functorch_optim.typing import PyTree


class AddDecayedWeights(Scheduled):
    entrywise: ClassVar[bool] = True

    weight_decay: WeightDecay

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        updates, params = with_params("add_decayed_weights", updates, params)

        def add(update: jax.Array, param: jax.Array) -> jax.Array:
            dtype = trees.compute_dtype(update, param)
            decay = coefficient(values.weight_decay, dtype)
            return (update.astype(dtype) + decay * param.astype(dtype)).astype(update.dtype)

        return trees.map_dense(add, "add_decayed_weights", updates, params)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return for_each(at, ()) if known(self.weight_decay) == 0 else self.effect(Kind.DECAYS, at)


@explains_names
def add_decayed_weights(weight_decay: Hyperparameter, mask: PyTree = None) -> GradientTransformation:
    """Add ``weight_decay * p`` to the updates; ``update`` needs ``params``.

    Before an algorithm it is L2 regularization. An algorithm's updates are already negated, so after one it would make
    the weights grow, and :func:`functorch_optim.chain` raises. Decoupled decay is an option of the algorithms:
    ``fo.adamw(weight_decay=...)``, or ``decoupled_weight_decay=True``, with ``decay_mask`` for where to decay. If the
    learning rate is a separate link, decoupled decay goes between the two::

        fo.chain(fo.scale_by_adam(), fo.add_decayed_weights(0.1), fo.scale_by_learning_rate(1e-3))

    Args:
        weight_decay: at least 0; a number, a scalar array or a schedule.
        mask: where to decay, as in :func:`functorch_optim.masked`; everywhere by default.

    Raises:
        ValueError: from :func:`functorch_optim.chain`, it comes after an algorithm, or after what stops a parameter or
            pauses, such as :func:`functorch_optim.set_to_zero` or :func:`functorch_optim.accumulate`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = add_decayed_weights(0.1, mask=lambda path: "bias" not in path)
        >>> params = {"bias": jnp.ones(()), "kernel": jnp.ones(())}
        >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
        >>> updates["bias"].item(), round(updates["kernel"].item(), 6)
        (0.0, 0.1)
    """
    tx = transformation(AddDecayedWeights(weight_decay))
    return tx if mask is None else masked(tx, mask)
