"""Algorithms without their learning rate: the direction of an update, for a chain that ends with the rate."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from functorch_optim import rows, trees
from functorch_optim.base import GradientTransformation, Transform, transformation
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.scalar_math import on_host
from functorch_optim.effects import Effects, Kind, Leaves, for_each
from functorch_optim.hyperparams import is_static_zero
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.scaling import multiply_all
from functorch_optim.typing import Numeric, PyTree


class Direction(Transform):
    """The direction of an algorithm: minus its update, divided by its learning rate. It keeps the algorithm's state."""

    of: Lifted

    def __repr__(self) -> str:
        return f"scale_by({self.of!r})"

    @classmethod
    def _call_name(cls) -> str:
        return "scale_by"

    @property
    def who(self) -> str:
        """Return the name for messages."""
        return f"scale_by({self.of.rule._call_name()})"

    def init(self, params: PyTree) -> PyTree:
        return self.of.init(params)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        updates, new = self.of.update(updates, state, params, **extra)
        if self.of.rule.rate_is_factor:  # scale_by has set the rate to 1
            return jax.tree.map(lambda x: rows.map_values(jnp.negative, x), updates, is_leaf=trees.is_sparse), new
        return multiply_all(updates, _minus_inverse(self.of.hyperparams(state)["lr"]), self.who), new

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        rule = self.of.rule
        gone = (*["lr"] * rule.rate_is_factor, *(() if rule.decays_direction else rule.decay_options))
        return {name: value for name, value in self.of.hyperparams(state).items() if name not in gone}

    def acts_by_leaf(self) -> bool:
        return self.of.acts_by_leaf()

    def needs(self) -> frozenset[str]:
        return self.of.needs()

    def effects(self, at: Leaves | None) -> list[Effects]:
        return for_each(at, self.of.effects_as(Kind.DIRECTS, self.who))


def _minus_inverse(lr: Numeric) -> Numeric:
    """Compute ``-1 / lr``; 0 where a schedule is at 0, because the last link then multiplies by 0 anyway."""
    if on_host(lr):
        return -1 / lr if lr != 0 else 0.0
    return jnp.where(lr == 0, 0.0, -1 / jnp.where(lr == 0, 1.0, lr))


@explains_names
def scale_by(tx: GradientTransformation) -> GradientTransformation:
    """Return the direction of an algorithm: minus its update, without learning rate and weight decay.

    It has the gradient's sign, so a later link must negate it, usually the last one:
    ``fo.chain(fo.scale_by(fo.adam()), fo.scale_by_learning_rate(lr))`` is ``fo.adam(lr)``. Between the two,
    put what the learning rate should multiply: decoupled weight decay (:func:`functorch_optim.add_decayed_weights`),
    factors of layers (:func:`functorch_optim.layerwise_decay`), another library's link.

    The learning rate of the algorithm has no effect, with some exceptions: Adafactor, ASGD, LaProp, LARS, MADGRAD,
    Rprop and the Schedule-Free methods use it for more than a factor. They keep it, and the direction is minus the
    update divided by that rate. A chain that ends with the same rate is the algorithm again.

    Args:
        tx: an algorithm as its function returns it, even with ``foreach=True``, or :func:`functorch_optim.lift` of your
            own rule, if it has an option ``lr``.

    Returns:
        A transformation whose state is the algorithm's own, such as :class:`functorch_optim.AdamState`.

    Raises:
        TypeError: ``tx`` is something else, such as a wrapper, L-BFGS or another library's transformation.
        ValueError: the algorithm was given ``weight_decay``, ``decay_mask`` or ``maximize``; the message says which
            links to use instead. An algorithm whose decay is part of the direction, such as LAMB, keeps it.

    Example:
        >>> import functorch_optim as fo
        >>> tx = scale_by(fo.adam())
        >>> updates, state = tx.update(jnp.array([0.5, -4.0]), tx.init(jnp.zeros(2)))
        >>> [round(x, 6) for x in updates.tolist()], type(state).__name__
        ([1.0, -1.0], 'AdamState')
    """
    of = getattr(getattr(tx, "update", None), "of", None)
    if not isinstance(of, Lifted):
        raise TypeError(
            "scale_by takes an algorithm as its function returns it, such as fo.adam(), or fo.lift of a rule, but it "
            f"got {tx!r}. Put wrappers and partitions around links: fo.freeze(fo.scale_by(fo.adam()), frozen)"
        )
    _check_options(of)
    if of.rule.rate_is_factor:
        return transformation(Direction(replace(of, rule=replace(of.rule, lr=1.0))))
    return transformation(Direction(of))


def _check_options(of: Lifted) -> None:
    """Raise if an algorithm has no learning rate to leave out, or does what other links do."""
    rule, who = of.rule, f"scale_by({of.rule._call_name()})"
    rate = vars(rule).get("lr")
    if rate is None:
        raise TypeError(f"{who}: {rule.title} has no option lr, so there is no learning rate to leave out")
    if (rule.has_decay or of.decay_mask is not None) and not rule.decays_direction:
        place = "right after it" if getattr(rule, "decoupled_weight_decay", False) else "before it"
        zeros = ", ".join(f"{name}=0" for name in rule.decay_options)
        raise ValueError(
            f"{who}: weight decay is a link of its own. Pass {zeros} and no decay_mask, and put "
            f"fo.add_decayed_weights(weight_decay, mask) {place}"
        )
    if getattr(rule, "maximize", False):
        raise ValueError(
            f"{who}: maximize is a link of its own. Leave it out, and put fo.scale(-1.0) first in the chain"
        )
    if not rule.rate_is_factor and is_static_zero(rate):
        raise ValueError(f"{who}: {rule.title} has no direction at a learning rate of 0: give lr a larger one")
