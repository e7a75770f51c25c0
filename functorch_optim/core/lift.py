"""``lift`` turns a rule into a transformation over any pytree."""

from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.packing import Packed
from functorch_optim.core.rule import Rule
from functorch_optim.core.rule_checks import check_once
from functorch_optim.labels import as_mask
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree


@explains_names
def lift(rule: Rule, foreach: bool = False, decay_mask: PyTree = None) -> GradientTransformation:
    """Return a transformation that applies ``rule`` to every leaf of a pytree.

    ``decay_mask``, a mask as in :func:`functorch_optim.masked`, limits the rule's weight decay to leaves where it is
    True.

    With ``foreach``, the state of small leaves is packed into flat buffers, one per slot and dtype, and the leaves are
    updated together: a step of a thousand small leaves then costs less than half. The state is a
    :class:`functorch_optim.ForeachState`, and ``update`` needs ``params``.

    Raises:
        ValueError: ``foreach`` for a rule that is not ``elementwise``, or ``decay_mask`` for one without weight decay.
        TypeError: the mask contains something other than booleans. The first lift of a rule class from outside this
            library also checks its ``update``, and raises if that is malformed or, as a ValueError, if
            ``elementwise`` is wrong.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim.algorithms.sgd import SGD
        >>> rule = SGD(lr=0.5, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False)
        >>> tx = lift(rule)
        >>> updates, _ = tx.update({"w": jnp.array([2.0])}, tx.init({"w": jnp.array([1.0])}))
        >>> updates["w"].tolist()
        [-1.0]
    """
    if not type(rule).__module__.startswith("functorch_optim."):  # tests check the library's own rules
        check_once(rule)
    if foreach and not rule.elementwise:
        raise ValueError(f"foreach=True joins parameters, and {rule.title} does not update each entry independently")
    if decay_mask is not None and not hasattr(rule, "weight_decay"):
        raise ValueError(f"decay_mask says where weights decay, but {rule.title} has no weight_decay")
    mask = None if decay_mask is None else as_mask("decay_mask", decay_mask)
    return transformation(Packed(rule, mask) if foreach else Lifted(rule, mask))
