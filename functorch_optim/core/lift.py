"""``lift`` makes a transformation over any pytree of a rule."""

from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.core.lifted import Lifted
from functorch_optim.core.packing import Packed
from functorch_optim.core.rule import Rule
from functorch_optim.core.rule_checks import check_once
from functorch_optim.selection import as_mask
from functorch_optim.typing import PyTree


def lift(rule: Rule, foreach: bool = False, decay_mask: PyTree = None) -> GradientTransformation:
    """The transformation that applies ``rule`` to every leaf of a pytree.

    With ``decay_mask``, a mask as in :func:`functorch_optim.masked`, the rule's weight decay acts only where that is
    True.

    With ``foreach`` the state of small leaves is packed in flat buffers, one for a slot and dtype, and they are updated
    together: a step of a thousand small leaves then costs less than half. The state is a
    :class:`functorch_optim.ForeachState`, and ``update`` needs ``params``.

    Raises:
        ValueError: ``foreach`` for a rule that is not ``elementwise``, ``decay_mask`` for one without weight decay.
        TypeError: the mask holds something else than booleans. The first time that a class of rules from outside of
            this library comes here, its slips raise too: updates of another form, and, as a ValueError,
            ``elementwise`` claimed wrongly.
    """
    if not type(rule).__module__.startswith("functorch_optim."):  # the library's own are checked by its tests
        check_once(rule)
    if foreach and not rule.elementwise:
        raise ValueError(f"foreach=True joins parameters, and {rule.title} does not update every entry for itself")
    if decay_mask is not None and not hasattr(rule, "weight_decay"):
        raise ValueError(f"decay_mask says where weights decay, but {rule.title} has no weight_decay")
    mask = None if decay_mask is None else as_mask("decay_mask", decay_mask)
    return transformation(Packed(rule, mask) if foreach else Lifted(rule, mask))
