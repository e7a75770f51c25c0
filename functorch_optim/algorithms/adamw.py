"""AdamW: Adam with decoupled weight decay."""

from functorch_optim.algorithms.adam import Adam
from functorch_optim.base import GradientTransformation
from functorch_optim.core.lift import lift
from functorch_optim.hyperparams import BetaOption, Hyperparameter
from functorch_optim.option_names import explains_names
from functorch_optim.typing import PyTree


@explains_names
def adamw(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Adam with weight decay on the parameter instead of the gradient, as in ``torch.optim.AdamW``.

    The update of :func:`functorch_optim.adam` plus ``p <- p - lr * weight_decay * p``; neither g nor the moments
    include the decay. The decay is scaled by the learning rate and thus follows its schedule.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        amsgrad: whether to divide by the largest second moment so far.
        maximize: whether to ascend; the decay still shrinks the parameter.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`functorch_optim.AdamState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adamw(lr=0.1, weight_decay=0.5)
        >>> params = jnp.array([2.0])
        >>> updates, state = tx.update(jnp.array([0.0]), tx.init(params), params)
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.1]
        >>> tx = adamw(decay_mask=lambda path: not path.endswith("bias"))
    """
    rule = Adam(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled_weight_decay=True,
    )
    return lift(rule, foreach, decay_mask)
